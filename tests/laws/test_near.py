"""Bounds of `near` hold for the same formula in float32, and notice an error of a few roundings more."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws.near import Near

U = 2.0**-24


def softmax_loss(x, one):
    """−log softmax of column 0, with the operations of either arithmetic."""
    d = x - x.max(1, keepdims=True) if isinstance(x, np.ndarray) else x - x.value.max(1, keepdims=True)
    total = np.exp(d).sum(1) if isinstance(d, np.ndarray) else d.exp().sum(1)
    log = np.log1p(total - one) if isinstance(total, np.ndarray) else (total - 1.0).log1p()
    return log - d[:, 0]


FORMULAS = {
    "sum": lambda x: x.sum(1),
    "product": lambda x: x[:, 0] * x[:, 1] * x[:, 2],
    "difference": lambda x: x[:, 0] * x[:, 1] - x[:, 2] * x[:, 1],
    "quotient": lambda x: x[:, 0] / (x[:, 1] * x[:, 1]),
    "softmax": lambda x: softmax_loss(x, np.float32(1)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_float32_stays_within_the_bound(name):
    x = np.random.default_rng(0).normal(0, 3, (2000, 5)).astype(np.float32)
    near, got = FORMULAS[name](Near.exact(x, U)), FORMULAS[name](x)
    np.testing.assert_allclose(near.value, FORMULAS[name](x.astype(np.float64)), rtol=1e-9, atol=1e-12)
    error = np.abs(got.astype(np.float64) - near.value)
    assert (error <= near.off).all()
    assert (error > near.off / 40).any()  # no bound is so wide that it says nothing


def test_zero_times_infinity_is_zero_and_infinities_have_no_error():
    zero, infinite = Near.exact([0.0, 2.0], U), Near.exact([np.inf, -np.inf], U).less_precise(3.0)
    with np.errstate(invalid="ignore"):
        product = zero * infinite
    assert product.value.tolist() == [0.0, -np.inf]
    assert product.off.tolist() == infinite.off.tolist() == [0.0, 0.0]
