"""The calibration curve: pairs (predicted probability q, truth) in little memory, and the decomposition of the loss.

Pairs are kept unchanged while the probabilities are few. Beyond that each goes into a cell of a fixed grid, 1/32 of an
octave of the odds q / (1 − q) wide, and cut at the tenths; the cells do not depend on the order of rows. A cell keeps Σ
w, Σ w q and Σ w truth.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from crossent.scoring.parts import Bin

FEW = 2048
BINS = 10
_SHIFT = 47  # keeps 5 bits of the fraction of a float64
_OCTAVES = 64  # of odds, on either side of one
_FIRST = int(np.float64(2.0**-_OCTAVES).view(np.int64)) >> _SHIFT
_LAST = int(np.float64(2.0**_OCTAVES).view(np.int64)) >> _SHIFT
CELLS = _LAST - _FIRST + BINS + 1


class Points(NamedTuple):
    """Points of a curve in ascending order, (K,) each: mean probability q, weight, and weight of the positive rows."""

    q: Any
    weight: Any
    truth: Any


class Decomposition(NamedTuple):
    """A binary loss taken apart.

    `recalibrated` is the loss of the best increasing function of the probabilities, which `curve` holds as pairs
    (probability, frequency); `uncertainty` is the loss of predicting the frequency.
    """

    recalibrated: float
    uncertainty: float
    curve: tuple[tuple[float, float], ...]


def cell(q: Any) -> Any:
    """Return the number of the cell of each probability in [0, 1], which ascends with it."""
    with np.errstate(divide="ignore"):
        odds = q / (1.0 - q)
    place = odds.view(np.int64) >> _SHIFT
    np.clip(place, _FIRST, _LAST, out=place)
    place += (q * BINS).astype(np.int64) - _FIRST
    return place


def edges(place: Any) -> Any:
    """Return the least probability of each of these cells."""
    starts = cell(np.arange(BINS) / BINS)
    tenth = np.searchsorted(starts, place, side="right") - 1
    tenth = np.where(place == CELLS - 1, BINS, tenth)  # 1 itself
    odds = ((place - tenth + _FIRST) << _SHIFT).view(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(tenth == BINS, 1.0, np.maximum(odds / (1.0 + odds), tenth / BINS))


class Curve:
    """Σ w, Σ w q, Σ w truth and the number of rows, by probability while there are few, else by cell."""

    def __init__(self) -> None:
        self.q: Any | None = np.empty(0)  # ascending; None once there are cells
        self.sums: Any = np.empty((4, 0))

    def add(self, q: Any, truth: Any, weight: Any | None) -> None:
        """Add rows with probabilities q in [0, 1] and outcomes 0 or 1."""
        if self.q is not None:
            known, place = np.unique(q, return_inverse=True)
            place = place.reshape(-1)
            self._insert(known, _sums(place, len(known), q, truth, weight))
        else:
            self.sums += _sums(cell(q), CELLS, q, truth, weight)

    def merge(self, other: Curve) -> None:
        """Add another curve."""
        if self.q is not None and other.q is not None:
            self._insert(other.q, other.sums)
            return
        self._coarsen()
        self.sums += _in_cells(other)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with only the few cells that have rows."""
        if self.q is not None:
            return vars(self)
        filled = self.filled()
        return {"q": None, "sums": self.sums[:, filled], "filled": filled.astype(np.int32)}

    def __setstate__(self, parts: dict[str, Any]) -> None:
        """Take the attributes of `__getstate__`."""
        filled = parts.pop("filled", None)
        vars(self).update(parts)
        if filled is not None:
            self.sums = np.zeros((4, CELLS))
            self.sums[:, filled] = parts["sums"]

    def points(self) -> Points:
        """Return a point for each probability or cell that has rows."""
        weight = self.sums[0]
        filled = weight > 0
        q = self.sums[1][filled] / weight[filled] if self.q is None else self.q[filled]
        return Points(q, weight[filled], self.sums[2][filled])

    def filled(self) -> Any:
        """Return the numbers of the cells that have rows, which are those of the points, once there are cells."""
        return np.flatnonzero(self.sums[0] > 0)

    def bins(self) -> tuple[Bin, ...]:
        """Return ten bins of equal width; the last one includes 1, empty ones are left out."""
        filled = self.sums[0] > 0
        weight, predicted, truth, count = self.sums[:, filled]
        if self.q is None:  # cells ascend, and are cut at the tenths
            starts = cell(np.arange(BINS) / BINS)
            tenth = np.searchsorted(starts, np.flatnonzero(filled), side="right") - 1
        else:
            tenth = np.minimum((self.q[filled] * BINS).astype(int), BINS - 1)
        return binned(tenth, np.stack([weight, predicted, truth, count]), None if self.q is None else self.q[filled])

    def _insert(self, q: Any, sums: Any) -> None:
        both = q if self.q is None else np.concatenate([self.q, q])
        self.q, place = np.unique(both, return_inverse=True)
        place = place.reshape(-1)
        joined = np.concatenate([self.sums, sums], axis=1)
        self.sums = np.stack([np.bincount(place, part, len(self.q)) for part in joined])
        if len(self.q) > FEW:
            self._coarsen()

    def _coarsen(self) -> None:
        if self.q is not None:
            self.sums, self.q = _in_cells(self), None


def binned(tenth: Any, sums: Any, q: Any | None = None) -> tuple[Bin, ...]:
    """Return bins of points: their tenths (K,), Σ w, Σ w q, Σ w truth and count (4, K), and their q as it was given."""
    weight, predicted, truth, count = sums
    result: list[Bin] = []
    for k in np.unique(tenth[count > 0]).tolist():
        here = tenth == k
        w, wq, wt, n = (part[here].sum() for part in (weight, predicted, truth, count))
        mean = wq / w
        if q is not None and here.sum() == 1:  # as it was given, not as a quotient
            mean = q[here][0]
        result.append(Bin(k / BINS, (k + 1) / BINS, int(n), float(w), float(mean), float(wt / w)))
    return tuple(result)


def _in_cells(curve: Curve) -> Any:
    if curve.q is None:
        return curve.sums
    place = cell(curve.q)
    return np.stack([np.bincount(place, part, CELLS).astype(float) for part in curve.sums])


def _sums(place: Any, size: int, q: Any, truth: Any, weight: Any | None) -> Any:
    count = np.bincount(place, minlength=size)
    if weight is None:
        return np.stack([count, np.bincount(place, q, size), np.bincount(place, truth, size), count])
    parts = (weight, weight * q, weight * truth)
    return np.stack([*(np.bincount(place, part, size) for part in parts), count])


def take_apart(points: Points) -> Decomposition:
    """Return the decomposition of the binary loss of probabilities, by the isotonic regression of the truth on them.

    Its loss is the smallest that any increasing function of the probabilities has.
    """
    from scipy.optimize import isotonic_regression
    from scipy.special import xlogy

    q, weight, truth = points
    frequency = truth / weight
    fitted = isotonic_regression(frequency, weights=weight).x
    whole, rate = weight.sum(), truth.sum() / weight.sum()
    recalibrated = -(xlogy(truth, fitted) + xlogy(weight - truth, 1.0 - fitted)).sum() / whole
    uncertainty = -(xlogy(rate, rate) + xlogy(1.0 - rate, 1.0 - rate))
    turns = np.flatnonzero(np.diff(fitted) > 4.0 * np.finfo(float).eps)  # beyond rounding
    ends = np.unique(np.concatenate([[0], turns, turns + 1, [len(fitted) - 1]]))
    curve = tuple(zip(q[ends].tolist(), fitted[ends].tolist(), strict=True))
    return Decomposition(float(recalibrated), float(uncertainty), curve)
