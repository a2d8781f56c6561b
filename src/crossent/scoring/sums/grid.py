"""Probabilities and outcomes of every class, in the cells of a fixed grid: curves of each class against all.

A cell is a quarter of an octave wide, of q below one half and of 1 − q above it, and cut at the tenths. The cells do
not depend on the order of rows. A cell keeps Σ w, Σ w q, Σ w truth, Σ w q truth and the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from crossent.kernels import cpu
from crossent.scoring.sums.costs import as_float64
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.curve import BINS, Points

MOST = 100
"""Classes beyond which nothing is kept for each of them against all others."""
ELEMENTS = 1 << 15
_SHIFT = 50  # keeps 2 bits of the fraction of a float64
_FIRST = (1023 - 64) << 2
_LEAST = 2.0**-64
_HALF = (1022 << 2) - _FIRST
CELLS = 2 * _HALF + BINS + 1


class Piece(NamedTuple):
    """Some rows with the probabilities of all classes: which of the block's rows they are, and q, (n, V).

    Probabilities that are as the caller stored them may lie outside of [0, 1] by rounding.
    """

    rows: slice
    q: Any


def pieces(rows: CountedRows, *, normalize: bool) -> Iterator[Piece]:
    """Yield the probabilities of all classes of rows that are not of one number: all at once if as stored, else few."""
    batch, costs, places = rows.batch, rows.costs, rows.places
    begin, classes = int(places[0]), batch.values.shape[1]
    together = int(places[-1]) - begin + 1 == len(places)
    as_stored = batch.kind == "probs" and not normalize
    step = len(places) if as_stored and together else max(1, ELEMENTS // classes, 2 * CELLS)
    for first in range(0, len(places), step):
        part = slice(first, min(first + step, len(places)))
        q = batch.values[slice(begin + part.start, begin + part.stop) if together else places[part]]
        if batch.kind != "probs":
            z = as_float64(q)
            q = _exponentials(z, None if batch.kind == "logprobs" and not normalize else _normalisers(z))
        elif normalize:
            q = as_float64(q) / costs.total[part, None]
        yield Piece(part, q)


def _exponentials(z: Any, less: Any | None) -> Any:
    with np.errstate(invalid="ignore"):
        return np.exp(z if less is None else z - less)


def _normalisers(z: Any) -> Any:
    """Return the log-sum-exp of each row, (n, 1)."""
    peak = z.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        return peak + np.log(np.exp(z - peak).sum(axis=1, keepdims=True))


def cells(q: Any) -> Any:
    """Return the number of the cell of each probability in [0, 1], float64, which ascends with it."""
    near = np.clip(np.where(q < 0.5, q, 1.0 - q), _LEAST, None)
    place = np.minimum((near.view(np.int64) >> _SHIFT) - _FIRST, np.where(q < 0.5, _HALF, _HALF - 1))
    return np.where(q < 0.5, place, 2 * _HALF - 1 - place) + (q * BINS).astype(np.int64)


@cache
def _widths() -> Any:
    """Return the width of each cell, in probability."""
    powers = (np.arange(_FIRST, _FIRST + _HALF + 1) << _SHIFT).view(np.float64)
    ends = np.unique(np.concatenate([[0.0], powers[1:], 1.0 - powers[1:], np.arange(BINS + 1) / BINS]))
    widths = np.ones(CELLS)
    widths[cells((ends[:-1] + ends[1:]) / 2.0)] = np.diff(ends)
    return widths


class ClassGrid:
    """Σ w, Σ w q, Σ w truth, Σ w q truth and the number of rows of each class by cell, (V, cells)."""

    def __init__(self) -> None:
        self.sums: Any = np.zeros((4, 0, CELLS))
        self.count: Any = np.zeros((0, CELLS), np.int64)

    def add(self, q: Any, label: Any, weight: Any | None) -> Any:
        """Add rows with the probabilities q (n, V) of the classes, the number of the true one, and a weight.

        Returns the square losses Σ q² − 2 q_y + 1, (n,).
        """
        self._grow(q.shape[1])
        square = np.empty(len(label))
        cpu.class_cells(q, label, weight, self.sums, self.count, square)
        return square

    def merge(self, other: ClassGrid) -> None:
        """Add the cells of other rows."""
        if len(other.count):
            self._grow(len(other.count))
            self.sums, self.count = self.sums + other.sums, self.count + other.count

    def points(self, number: int) -> Points:
        """Return a point for each cell of a class that has rows."""
        filled = self.count[number] > 0
        weight, predicted, truth, _ = self.sums[:, number, filled]
        return Points(predicted / weight, weight, truth)

    def lead(self, number: int) -> Any:
        """Return how much likelier than not a row of the class has a larger q than another row of its cell, (K,).

        Where both densities are straight lines over the cell, it is the distance of their means over its width.
        """
        filled = self.count[number] > 0
        weight, predicted, truth, hoped = self.sums[:, number, filled]
        with np.errstate(divide="ignore", invalid="ignore"):
            away = (hoped / truth - (predicted - hoped) / (weight - truth)) / _widths()[filled]
        return np.clip(np.nan_to_num(away), -0.5, 0.5)

    def _grow(self, classes: int) -> None:
        if not len(self.count):
            self.sums, self.count = np.zeros((4, classes, CELLS)), np.zeros((classes, CELLS), np.int64)

    def __getstate__(self) -> dict[str, Any]:
        """Return the cells that have rows, which are few."""
        filled = np.flatnonzero(self.count)
        sums, count = self.sums.reshape(4, -1)[:, filled], self.count.reshape(-1)[filled]
        if (sums[0] == count).all():
            sums = sums[1:]
        return {"sums": sums, "count": count, "filled": filled.astype(np.int32), "classes": len(self.count)}

    def __setstate__(self, parts: dict[str, Any]) -> None:
        """Take the cells of `__getstate__`."""
        filled, classes = np.asarray(parts["filled"], np.int64), int(parts["classes"])
        if classes > MOST:
            raise ValueError(f"a grid has at most {MOST} classes")
        self.__init__()
        self._grow(classes)
        sums = parts["sums"] if len(parts["sums"]) == 4 else [parts["count"], *parts["sums"]]
        for mine, theirs in zip((*self.sums, self.count), (*sums, parts["count"]), strict=True):
            mine.reshape(-1)[filled] = theirs
