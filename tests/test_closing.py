"""Closings of row losses: reductions as torch has them, and penalties with their textbook values and derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from crossent import closing

LOSS = np.array([0.0, 0.5, 2.0])


def test_closings_have_their_textbook_values():
    np.testing.assert_allclose(closing.z_loss(LOSS, 0.25), [0, 0.0625, 1.0], rtol=1e-15)
    np.testing.assert_allclose(closing.focal(LOSS, 0.0), LOSS, rtol=1e-15)
    np.testing.assert_allclose(closing.focal(LOSS, 2.0), (1 - np.exp(-LOSS)) ** 2 * LOSS, rtol=1e-14)


@pytest.mark.parametrize("wrong", ["average", "", "Mean", None, 3, ["mean"]])
def test_other_reductions_are_refused(wrong):
    with pytest.raises(ValueError, match="reduction"):
        closing.check_reduction(wrong)


def test_reductions_without_weights_are_sums_and_means():
    np.testing.assert_array_equal(closing.reduce(LOSS, "none"), LOSS)
    assert closing.reduce(LOSS, "sum") == 2.5
    assert closing.reduce(LOSS, "mean") == pytest.approx(2.5 / 3, rel=1e-15)


def test_weights_of_rows_count_in_the_mean_and_those_of_samples_everywhere():
    s, w = np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.5, 0.0])
    np.testing.assert_array_equal(closing.reduce(LOSS, "none", sample_weight=s, row_weight=w), [0, 1, 8])
    assert closing.reduce(LOSS, "sum", sample_weight=s, row_weight=w) == 9
    assert closing.reduce(LOSS, "mean", sample_weight=s, row_weight=w) == 9 / (1 + 1 + 0)
    assert closing.reduce(LOSS, "mean", sample_weight=s) == 9 / 7
    assert closing.reduce(LOSS, "mean", row_weight=w) == 2.5 / 1.5


def test_a_mean_over_nothing_is_nan_as_in_torch():
    with np.errstate(invalid="ignore"):
        assert np.isnan(closing.reduce(0 * LOSS, "mean", row_weight=np.zeros(3)))
    torch = pytest.importorskip("torch")
    nothing = torch.zeros(0)
    for ours in (closing.reduce(nothing, "mean"), closing.reduce(nothing, "mean", row_weight=nothing)):
        assert ours.isnan()


def test_each_framework_differentiates_them():
    torch = pytest.importorskip("torch")
    loss = torch.tensor([0.25, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    for call in (
        lambda x: closing.focal(x, 2.0),
        lambda x: closing.z_loss(x, 0.1),
        lambda x: closing.reduce(x, "mean"),
    ):
        assert torch.autograd.gradcheck(call, (loss,))
