"""What came true beside what was predicted: pairs (probability, truth) in little memory, and the loss taken apart.

Pairs are kept as they are while the probabilities are few. Beyond that each goes into a cell of a fixed grid, 1/32 of
an octave of the odds p / (1 − p) wide, and cut at the tenths; the cells do not depend on the order of rows.
A cell keeps Σ w, Σ w p and Σ w truth.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.scoring.parts import Bin

FEW = 2048
BINS = 10
_SHIFT = 47  # keeps 5 bits of the fraction of a float64
_OCTAVES = 64  # of odds, on either side of one
_FIRST = int(np.float64(2.0**-_OCTAVES).view(np.int64)) >> _SHIFT
_LAST = int(np.float64(2.0**_OCTAVES).view(np.int64)) >> _SHIFT
CELLS = _LAST - _FIRST + BINS + 1


def cell(p: Any) -> Any:
    """Return the number of the cell of each probability in [0, 1], which ascends with it."""
    with np.errstate(divide="ignore"):
        odds = p / (1.0 - p)
    place = odds.view(np.int64) >> _SHIFT
    np.clip(place, _FIRST, _LAST, out=place)
    place += (p * BINS).astype(np.int64) - _FIRST
    return place


class Curve:
    """Σ w, Σ w p, Σ w truth and the number of rows, by probability while there are few, else by cell."""

    def __init__(self) -> None:
        self.p: Any | None = np.empty(0)  # ascending; None once there are cells
        self.sums: Any = np.empty((4, 0))

    def add(self, p: Any, truth: Any, weight: Any | None) -> None:
        """Add rows with probabilities p in [0, 1] and what came true, 0 or 1."""
        if self.p is not None:
            known, place = np.unique(p, return_inverse=True)
            place = place.reshape(-1)
            self._insert(known, _sums(place, len(known), p, truth, weight))
        else:
            self.sums += _sums(cell(p), CELLS, p, truth, weight)

    def merge(self, other: Curve) -> None:
        """Add another curve."""
        if self.p is not None and other.p is not None:
            self._insert(other.p, other.sums)
            return
        self._coarsen()
        self.sums += _in_cells(other)

    def points(self) -> tuple[Any, Any, Any]:
        """Return mean probability, weight and weight of what came true, of each probability or cell, ascending."""
        weight = self.sums[0]
        there = weight > 0
        p = self.sums[1][there] / weight[there] if self.p is None else self.p[there]
        return p, weight[there], self.sums[2][there]

    def bins(self) -> tuple[Bin, ...]:
        """Return ten bins of equal width; the last one includes 1, empty ones are left out."""
        there = self.sums[0] > 0
        weight, predicted, truth, count = self.sums[:, there]
        if self.p is None:  # cells ascend, and are cut at the tenths
            starts = cell(np.arange(BINS) / BINS)
            tenth = np.searchsorted(starts, np.flatnonzero(there), side="right") - 1
        else:
            tenth = np.minimum((self.p[there] * BINS).astype(int), BINS - 1)
        result: list[Bin] = []
        for k in np.unique(tenth).tolist():
            here = tenth == k
            w, wp, wt, n = (part[here].sum() for part in (weight, predicted, truth, count))
            mean = wp / w
            if self.p is not None and here.sum() == 1:  # as it was given, not as a quotient
                mean = self.p[there][here][0]
            result.append(Bin(k / BINS, (k + 1) / BINS, int(n), float(w), float(mean), float(wt / w)))
        return tuple(result)

    def _insert(self, p: Any, sums: Any) -> None:
        both = p if self.p is None else np.concatenate([self.p, p])
        self.p, place = np.unique(both, return_inverse=True)
        place = place.reshape(-1)
        joined = np.concatenate([self.sums, sums], axis=1)
        self.sums = np.stack([np.bincount(place, part, len(self.p)) for part in joined])
        if len(self.p) > FEW:
            self._coarsen()

    def _coarsen(self) -> None:
        if self.p is not None:
            self.sums, self.p = _in_cells(self), None


def _in_cells(curve: Curve) -> Any:
    if curve.p is None:
        return curve.sums
    place = cell(curve.p)
    return np.stack([np.bincount(place, part, CELLS).astype(float) for part in curve.sums])


def _sums(place: Any, size: int, p: Any, truth: Any, weight: Any | None) -> Any:
    count = np.bincount(place, minlength=size)
    if weight is None:
        return np.stack([count, np.bincount(place, p, size), np.bincount(place, truth, size), count])
    parts = (weight, weight * p, weight * truth)
    return np.stack([*(np.bincount(place, part, size) for part in parts), count])


def take_apart(p: Any, weight: Any, truth: Any) -> tuple[float, float, tuple[tuple[float, float], ...]]:
    """Return the loss of the recalibrated probabilities, that of the frequency alone, and the recalibration.

    The recalibration is the isotonic regression of the truth on p; its loss is the smallest of any monotone one.
    """
    from scipy.optimize import isotonic_regression
    from scipy.special import xlogy

    frequency = truth / weight
    fitted = isotonic_regression(frequency, weights=weight).x
    whole, rate = weight.sum(), truth.sum() / weight.sum()
    recalibrated = -(xlogy(truth, fitted) + xlogy(weight - truth, 1.0 - fitted)).sum() / whole
    uncertainty = -(xlogy(rate, rate) + xlogy(1.0 - rate, 1.0 - rate))
    turns = np.flatnonzero(np.diff(fitted) > 4.0 * np.finfo(float).eps)  # beyond rounding
    ends = np.unique(np.concatenate([[0], turns, turns + 1, [len(fitted) - 1]]))
    return float(recalibrated), float(uncertainty), tuple(zip(p[ends].tolist(), fitted[ends].tolist(), strict=True))
