"""Row summaries of every instruction set, dtype and layout against NumPy in long doubles."""

from __future__ import annotations

import numpy as np
import pytest

from crossent.kernels import cpu

pytestmark = pytest.mark.usefixtures("isa")
LENGTHS = (1, 2, 31, 32, 33, 97, 512, 1025, 5000)


def summary(values, index=None, *, entropic=True):
    rows = len(values)
    result, place = np.full((5, rows), np.nan), np.full(rows, -1)
    cpu.row_summary(values, index, result, place, entropic=entropic)
    return result, place


def layouts(values):
    yield values
    yield np.asfortranarray(values)
    yield np.repeat(np.repeat(values, 2, 0), 3, 1)[::2, ::3]
    yield values[::-1, ::-1].copy()[::-1, ::-1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("columns", LENGTHS)
def test_summary_is_numpys(dtype, columns):
    rng = np.random.default_rng(columns)
    p = rng.random((67, columns)) ** 4 + 1e-6
    p = (p / p.sum(1, keepdims=True)).astype(dtype)
    index = rng.integers(0, columns, 67)
    wide = p.astype(np.longdouble)
    information = np.where(wide > 0, -wide * np.log(np.where(wide > 0, wide, 1)), 0)
    eps = np.finfo(np.float64 if dtype == np.float64 else np.float32).eps
    for values in layouts(p):
        result, place = summary(values, index)
        assert np.array_equal(result[0], wide[np.arange(67), index].astype(float))
        assert np.all(np.abs(result[1] - wide.sum(1)) <= columns * 2.0**-53 * wide.sum(1))
        assert np.array_equal(result[2], wide.max(1).astype(float))
        assert np.array_equal(result[3], wide.min(1).astype(float))
        # 3 ulp of the logarithm, 1 of the product, and sums of at most 64 numbers in the type of the arithmetic
        tiny = columns * 100.0 * np.finfo(np.float32).tiny  # denormal probabilities are not counted
        assert np.all(np.abs(result[4] - information.sum(1)) <= 36 * eps * np.abs(information).sum(1) + tiny)
        assert np.array_equal(place, p.argmax(1))


def test_first_of_equals_nan_in_the_sum_alone_and_columns_that_are_not_there():
    values = np.full((5, 100), 0.25, np.float32)
    values[0, 40] = np.nan
    values[1, [17, 60]] = 0.5
    values[2] = -np.inf
    values[3, 99] = np.inf
    result, place = summary(values, np.array([-1, 100, 2**40, 99, 3]))
    assert np.isnan(result[0, :3]).all()
    assert result[0, 3] == np.inf
    assert result[0, 4] == 0.25
    assert np.isnan(result[1, 0])
    assert result[2].tolist() == [0.25, 0.5, -np.inf, np.inf, 0.25]
    assert place.tolist() == [0, 17, 0, 99, 0]
    assert np.all(summary(values, entropic=False)[0][4] == 0)


@pytest.mark.parametrize(
    ("values", "index", "result", "place"),
    [
        (np.zeros((3, 4)), np.zeros(2, int), np.zeros((5, 3)), np.zeros(3, int)),
        (np.zeros((3, 4)), np.zeros(3), np.zeros((5, 3)), np.zeros(3, int)),
        (np.zeros((3, 4)), None, np.zeros((4, 3)), np.zeros(3, int)),
        (np.zeros((3, 4)), None, np.zeros((5, 3)), np.zeros(3, np.int32)),
        (np.zeros((3, 4)), None, np.zeros((5, 6))[:, ::2], np.zeros(3, int)),
        (np.zeros(3), None, np.zeros((5, 3)), np.zeros(3, int)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(values, index, result, place):
    with pytest.raises(ValueError, match=r"axes|dtype|shape"):
        cpu.row_summary(values, index, result, place, entropic=True)
