"""Probabilities of every class beside what came true, in the cells of a fixed grid: curves of each class against all.

A cell is a quarter of an octave wide, of q below one half and of 1 − q above it, and cut at the tenths. The cells do
not depend on the order of rows. A cell keeps Σ w, Σ w q, Σ w truth, Σ w q truth and the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from crossent.scoring.sums.costs import as_float64
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.curve import BINS, Points

MOST = 100
"""Classes beyond which nothing is kept for each of them against all others."""
ELEMENTS = 1 << 15
_SHIFT = 50  # keeps 2 bits of the fraction of a float64
_FIRST = (1023 - 64) << 2
_HALF = (1022 << 2) - _FIRST
CELLS = 2 * _HALF + BINS + 1


_PARTS = ("weight", "predicted", "truth", "hoped", "count")


class Piece(NamedTuple):
    """Some rows with the probabilities of all classes: which of the block's rows they are, and q, (n, V) float64."""

    rows: slice
    q: Any


def pieces(rows: CountedRows, *, normalize: bool) -> Iterator[Piece]:
    """Yield the probabilities of all classes, in [0, 1], of rows that are not of one number, a few at a time."""
    batch, costs, places = rows.batch, rows.costs, rows.places
    begin, classes = int(places[0]), batch.values.shape[1]
    together = int(places[-1]) - begin + 1 == len(places)
    step = max(1, max(ELEMENTS, 2 * classes * CELLS if classes <= MOST else 0) // classes)
    clean = batch.kind == "probs" and costs.least.min() >= 0.0 and costs.confidence.max() <= 1.0
    for first in range(0, len(places), step):
        part = slice(first, min(first + step, len(places)))
        chosen = slice(begin + part.start, begin + part.stop) if together else places[part]
        q = as_float64(batch.values[chosen])
        if batch.kind != "probs":
            q = _exponentials(q, None if batch.kind == "logprobs" and not normalize else _normalisers(q))
        elif normalize:
            q = q / costs.total[part, None]
        yield Piece(part, q if clean else np.clip(q, 0.0, 1.0))


def _exponentials(z: Any, less: Any | None) -> Any:
    with np.errstate(invalid="ignore"):
        return np.exp(z if less is None else z - less)


def _normalisers(z: Any) -> Any:
    """Return the log-sum-exp of each row, (n, 1)."""
    peak = z.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        return peak + np.log(np.exp(z - peak).sum(axis=1, keepdims=True))


def cells(q: Any) -> Any:
    """Return the number of the cell of each probability in [0, 1], which ascends with it; q is contiguous."""
    place = q.view(np.int64) >> _SHIFT
    place -= _FIRST
    np.maximum(place, 0, out=place)
    flat, found = q.reshape(-1), place.reshape(-1)
    high = np.flatnonzero(flat >= 0.5)
    rest = ((1.0 - flat[high]).view(np.int64) >> _SHIFT) - _FIRST
    found[high] = 2 * _HALF - 1 - np.clip(rest, 0, _HALF - 1)
    place += (q * BINS).astype(np.int64)
    return place


@cache
def _widths() -> Any:
    """Return the width of each cell, in probability."""
    powers = (np.arange(_FIRST, _FIRST + _HALF + 1) << _SHIFT).view(np.float64)
    ends = np.unique(np.concatenate([[0.0], powers[1:], 1.0 - powers[1:], np.arange(BINS + 1) / BINS]))
    widths = np.ones(CELLS)
    widths[cells(ends[:-1])] = np.diff(ends)
    return widths


class ClassGrid:
    """Σ w, Σ w q, Σ w truth, Σ w q truth and the number of rows of each class by cell, (V, cells)."""

    def __init__(self) -> None:
        self.weight: Any = np.zeros((0, CELLS))
        self.predicted: Any = np.zeros((0, CELLS))
        self.truth: Any = np.zeros((0, CELLS))
        self.hoped: Any = np.zeros((0, CELLS))
        self.count: Any = np.zeros((0, CELLS), np.int64)

    def add(self, q: Any, label: Any, weight: Any | None) -> None:
        """Add rows with the probabilities q (n, V) of the classes, the number of the true one, and a weight."""
        n, classes = q.shape
        self._grow(classes)
        place = cells(q)
        place += np.arange(0, classes * CELLS, CELLS)
        true, flat, size = place[np.arange(n), label], place.reshape(-1), classes * CELLS
        count, picked = np.bincount(flat, minlength=size), q[np.arange(n), label]
        if weight is None:
            parts = [count, np.bincount(flat, q.reshape(-1), size), np.bincount(true, minlength=size)]
        else:
            each = np.repeat(weight, classes)
            parts = [np.bincount(*pair, size) for pair in ((flat, each), (flat, each * q.ravel()), (true, weight))]
            picked = weight * picked
        for name, part in zip(_PARTS, (*parts, np.bincount(true, picked, size), count), strict=True):
            mine = getattr(self, name)
            mine += part.reshape(classes, CELLS)

    def merge(self, other: ClassGrid) -> None:
        """Add the cells of other rows."""
        if len(other.count):
            self._grow(len(other.count))
            for name in _PARTS:
                setattr(self, name, getattr(self, name) + getattr(other, name))

    def points(self, number: int) -> Points:
        """Return a point for each cell of a class that has rows."""
        filled = self.count[number] > 0
        weight = self.weight[number][filled]
        return Points(self.predicted[number][filled] / weight, weight, self.truth[number][filled])

    def lead(self, number: int) -> Any:
        """Return how much likelier than not a row of the class has a larger q than another row of its cell, (K,).

        Where both densities are straight lines over the cell, it is the distance of their means over its width.
        """
        filled = self.count[number] > 0
        weight, predicted, truth, hoped = (getattr(self, name)[number][filled] for name in _PARTS[:4])
        with np.errstate(divide="ignore", invalid="ignore"):
            away = (hoped / truth - (predicted - hoped) / (weight - truth)) / _widths()[filled]
        return np.clip(np.nan_to_num(away), -0.5, 0.5)

    def _grow(self, classes: int) -> None:
        if not len(self.count):
            for name in _PARTS:
                setattr(self, name, np.zeros((classes, CELLS), getattr(self, name).dtype))

    def __getstate__(self) -> dict[str, Any]:
        """Return the cells that have rows, which are few."""
        filled = np.flatnonzero(self.count)
        parts = {name: getattr(self, name).reshape(-1)[filled] for name in _PARTS}
        if (parts["weight"] == parts["count"]).all():
            parts["weight"] = np.empty(0)
        return {**parts, "filled": filled.astype(np.int32), "classes": len(self.count)}

    def __setstate__(self, parts: dict[str, Any]) -> None:
        """Take the cells of `__getstate__`."""
        filled, classes = np.asarray(parts["filled"], np.int64), int(parts["classes"])
        if classes > MOST:
            raise ValueError(f"a grid has at most {MOST} classes")
        self.__init__()
        for name in _PARTS:
            whole: Any = np.zeros(classes * CELLS, getattr(self, name).dtype)
            whole[filled] = parts["count"] if name == "weight" and not len(parts["weight"]) else parts[name]
            setattr(self, name, whole.reshape(classes, CELLS))
