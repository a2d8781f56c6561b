"""The cells of classes, on every instruction set, dtype and layout, against sums of NumPy by the cells of the grid."""

from __future__ import annotations

import numpy as np
import pytest

from crossent.kernels import cpu
from crossent.scoring.sums.grid import CELLS, cells
from tests.conformance.test_summary import layouts

pytestmark = pytest.mark.usefixtures("isa")


def edges(dtype):
    """Return probabilities at and beside the ends of cells, and some outside of [0, 1]."""
    at = np.concatenate([np.arange(11) / 10, 2.0 ** -np.arange(1, 70), 1 - 2.0 ** -np.arange(1, 54), [1e-300, 0.75]])
    at = at.astype(dtype)
    return np.concatenate([at, np.nextafter(at, dtype(0)), np.nextafter(at, dtype(2)), [-1e-7, 1.0000002]]).astype(
        dtype
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 3, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_cells_are_numpys(dtype, classes, weighted):
    rng = np.random.default_rng(classes)
    known = edges(dtype)
    q = np.concatenate([known, rng.random(200).astype(dtype) ** 4])[:, None].repeat(classes, 1)
    q = np.stack([np.roll(column, k) for k, column in enumerate(q.T)], 1)
    rows, label = len(q), rng.integers(0, classes, len(q))
    weight = rng.gamma(1.0, 1.0, rows) if weighted else None
    each, wide = np.ones(rows) if weight is None else weight, np.clip(q.astype(float), 0.0, 1.0)
    for values in layouts(q):
        sums, count, square = np.zeros((4, classes, CELLS)), np.zeros((classes, CELLS), np.int64), np.empty(rows)
        cpu.class_cells(values, label, weight, sums, count, square)
        for k in range(classes):
            place, true = cells(np.ascontiguousarray(wide[:, k])), label == k
            assert np.array_equal(count[k], np.bincount(place, minlength=CELLS))
            parts = (each, each * wide[:, k], each * true, each * wide[:, k] * true)
            for found, part in zip(sums[:, k], parts, strict=True):
                np.testing.assert_allclose(found, np.bincount(place, part, CELLS), rtol=rows * 2.0**-52)
        wanted = (wide**2).sum(1) - 2.0 * wide[np.arange(rows), label] + 1.0
        np.testing.assert_allclose(square, wanted, rtol=0, atol=(classes + 4) * 2.0**-52 * (1 + (wide**2).sum(1).max()))


def test_a_class_that_is_not_there_has_no_square_and_nan_is_zero():
    sums, count, square = np.zeros((4, 2, CELLS)), np.zeros((2, CELLS), np.int64), np.empty(3)
    cpu.class_cells(np.array([[np.nan, 1.0]] * 3), np.array([-1, 2, 1]), None, sums, count, square)
    assert np.isnan(square[:2]).all()
    assert square[2] == 0.0
    assert count[0, 0] == 3
    assert sums[2].sum() == 1.0


@pytest.mark.parametrize(
    ("shape", "counts", "squares"),
    [((4, 2, CELLS), (3, CELLS), 3), ((3, 2, CELLS), (2, CELLS), 3), ((4, 2, CELLS), (2, CELLS), 2)],
)
def test_arrays_that_do_not_fit_are_refused(shape, counts, squares):
    with pytest.raises(ValueError, match="shape"):
        cpu.class_cells(
            np.zeros((3, 2)), np.zeros(3, int), None, np.zeros(shape), np.zeros(counts, int), np.empty(squares)
        )
