"""The largest value of each row and its first column, of every instruction set, dtype and layout, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossent.kernels import cpu
from tests.conformance.test_summary import LENGTHS, layouts

pytestmark = pytest.mark.usefixtures("isa")


def peaks(values, rows):
    peak, place = np.full((1, rows), np.nan), np.full(rows, -1)
    cpu.row_peaks(values, peak, place)
    return peak[0], place


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("columns", LENGTHS)
def test_peaks_are_numpys(dtype, columns):
    rng = np.random.default_rng(columns)
    for spread in (1, 3):  # the second has many equal values
        drawn = rng.standard_normal((67, columns)) if spread == 1 else rng.integers(-3, 3, (67, columns))
        for values in layouts(drawn.astype(dtype)):
            peak, place = peaks(values, 67)
            assert np.array_equal(peak, values.max(1).astype(float))
            assert np.array_equal(place, values.argmax(1))


@pytest.mark.parametrize("columns", [1, 31, 100, 5000])
def test_peaks_of_bfloat16(columns):
    values = torch.randn(9, columns).bfloat16()
    peak, place = torch.empty(1, 9, dtype=torch.float64), torch.empty(9, dtype=torch.int64)
    cpu.row_peaks(values, peak, place)
    assert torch.equal(place, values.argmax(1))
    assert torch.equal(peak[0], values.amax(1).double())


@pytest.mark.parametrize("columns", [3, 100, 3000])
def test_nan_is_no_value_and_nothing_is_above_minus_infinity(columns):
    values = np.zeros((4, columns), np.float32)
    values[0] = -np.inf
    values[1] = np.nan
    values[2, 0], values[2, -1] = np.nan, 1
    values[3, 1] = np.inf
    peak, place = peaks(values, 4)
    assert peak.tolist() == [-np.inf, -np.inf, 1, np.inf]
    assert place.tolist() == [0, 0, columns - 1, 1]


def test_no_rows_and_no_columns():
    assert peaks(np.zeros((0, 5)), 0)[1].tolist() == []
    peak, place = peaks(np.zeros((2, 0)), 2)
    assert (peak.tolist(), place.tolist()) == ([-np.inf, -np.inf], [0, 0])


def test_arrays_that_do_not_fit_are_refused():
    good = np.zeros((3, 4)), np.zeros((1, 3)), np.zeros(3, np.int64)
    for bad in (
        (np.zeros(3), *good[1:]), (good[0], np.zeros(3), good[2]), (good[0], np.zeros((1, 2)), good[2]),
        (*good[:2], np.zeros(3, np.int32)), (*good[:2], np.zeros(2, np.int64)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must"):
            cpu.row_peaks(*bad)
