"""Binary cross-entropy on a GPU beside what all backends share (tests/conformance/test_binary.py)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.triton.calls import INF, NAN, backend


def test_what_is_no_probability_has_loss_and_gradient_nan_and_its_neighbours_have_not():
    p = np.array([0.5, -0.1, 1.1, NAN, INF, -INF, 0.25], np.float32)
    loss, grad = np.zeros(7, np.float32), np.zeros(7, np.float32)
    total = backend.binary_loss("probabilities", (p, np.ones_like(p), None, None), loss)
    backend.binary_grad("probabilities", (p, np.ones_like(p), None, None), np.ones_like(p), grad)
    assert np.isnan(total)
    for got, want in ((loss, -np.log(p[[0, -1]])), (grad, -1 / p[[0, -1]])):
        assert np.isnan(got[1:-1]).all()
        np.testing.assert_allclose(got[[0, -1]], want, rtol=1e-6)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_one_axis_and_two_give_the_same_bits(kind):
    rng = np.random.default_rng(0)
    x, t, w = (rng.random((40, 50)).astype(np.float32) for _ in range(3))
    apart = np.zeros((40, 51), np.float32)
    apart[:, :50] = t
    flat, split = (np.zeros((40, 50), np.float32) for _ in range(2))
    assert backend.binary_loss(kind, (x, t, w, None), flat) == backend.binary_loss(
        kind, (x, apart[:, :50], w, None), split
    )
    np.testing.assert_array_equal(flat, split)
