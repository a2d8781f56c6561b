"""Areas, curves, thresholds and Brier's parts of one class against the rest, from the points of its curve."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from crossent.scoring.parts import Ranking, Threshold, Thresholds
from crossent.scoring.sums.curve import Points

DRAWN = 200
"""Points of a curve that a score holds, at most."""
_EQUAL = 1e-12
"""Relative difference of costs that is rounding."""
_LISTED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


class Steps(NamedTuple):
    """Weights of true and of false positives at each threshold from the highest down, (K,); the last ones are all."""

    true: Any
    false: Any


class BrierParts(NamedTuple):
    """The squared loss of the best recalibration, and of predicting the frequency."""

    recalibrated: float
    uncertainty: float


def steps(points: Points) -> Steps:
    """Return the true and the false positives at each threshold."""
    truth, rest = points.truth[::-1], np.maximum(points.weight - points.truth, 0.0)[::-1]
    return Steps(np.cumsum(truth), np.cumsum(rest))


def ranking(value: Hashable, points: Points, *, exact: bool, lead: Any | None = None) -> Ranking:
    """Return areas and curves of a class; NaN where it has no rows or there are no others.

    If points are cells and not `exact`, the rows of a cell are taken as mixed, with the rows of the class ahead by
    `lead`; how far the areas may be off follows from the orders of these rows that are best and worst.
    """
    true, false = steps(points)
    positive, negative = true[-1], false[-1]
    t, f = np.diff(true, prepend=0.0), np.diff(false, prepend=0.0)
    before, wrong = true - t, false - f
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = float((f * (before + 0.5 * t)).sum() / (positive * negative))
        precision = true / (true + false)
        average = float((t * precision).sum() / positive)
        auc_within = average_within = 0.0
        if not exact:
            tied = t * f / (positive * negative)
            shift = 0.0 if lead is None else float((tied * lead[::-1]).sum())
            auc, auc_within = auc + shift, abs(shift) + 0.5 * float(tied.sum())
            average = float((t * _mixed(before, t, before + wrong, t + f)).sum() / positive)
            most = float((t * true / (true + wrong))[t > 0].sum() / positive)
            least = float((t * before / np.maximum(before + false, 1e-300))[t > 0].sum() / positive)
            average_within = max(most - average, average - least)
        roc = np.stack([false / negative, true / positive])
        pr = np.stack([true / positive, precision])
    if not positive > 0 or not negative > 0:
        nan = float("nan")
        return Ranking(value, nan, nan, nan if not positive > 0 else average, nan, (), ())
    start = np.array([[0.0], [0.0]])
    return Ranking(
        value, auc, auc_within, average, average_within,
        _thinned(np.concatenate([start, roc], axis=1)), _thinned(pr),
    )  # fmt: skip


def _mixed(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return the mean of (a + b s) / (c + d s) over s from 0 to 1; c and d are not negative, and a is 0 where c is."""
    slope = np.where(d > 0, b / np.where(d > 0, d, 1.0), 0.0)
    x = d / np.where(c > 0, c, 1.0)
    log_over = np.where(x > 0, np.log1p(x) / np.where(x > 0, x, 1.0), 1.0)  # log(1 + x) / x
    return slope + np.where(c > 0, (a / np.where(c > 0, c, 1.0) - slope) * log_over, 0.0)


def _thinned(curve: Any) -> tuple[tuple[float, float], ...]:
    """Return at most `DRAWN` points of a curve (2, K), about equally far apart, with both ends."""
    x, y = curve
    if len(x) > DRAWN:
        along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        chosen = np.searchsorted(along, np.linspace(0.0, along[-1], DRAWN - 1))
        chosen = np.unique(np.clip(np.append(chosen, len(x) - 1), 0, len(x) - 1))
        x, y = x[chosen], y[chosen]
    return tuple(zip(x.tolist(), y.tolist(), strict=True))


def thresholds(points: Points, q: Any, fp: float, fn: float) -> Thresholds:
    """Return thresholds of two classes; `q` are the least probabilities of the points, (K,) ascending.

    A threshold is a probability of a point, or infinite: then no row is positive.
    """
    true, false = (np.concatenate([[0.0], part]) for part in steps(points))
    at = np.concatenate([[math.inf], q[::-1]])
    positive, whole = true[-1], true[-1] + false[-1]
    cost = (fp * false + fn * (positive - true)) / whole
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = true / (true + false)
        recall = true / positive
        f1 = 2.0 * true / (true + false + positive)

    def found(k: int, called: float | None = None) -> Threshold:
        threshold = float(at[k]) if called is None else called
        return Threshold(threshold, *(float(part[k]) for part in (precision, recall, f1, cost)))

    def beside(threshold: float) -> Threshold:
        """Return the results of taking rows with at least this probability as positive."""
        return found(int(np.searchsorted(-at, -threshold, side="right")) - 1, threshold)

    least, most = float(q[0]), float(q[-1])
    table = [beside(x) for x in _LISTED if least <= x <= most]
    best = int(np.argmax(cost <= (1.0 + _EQUAL) * cost.min()))  # the highest of those that cost the same
    return Thresholds(fp, fn, found(best), beside(fp / (fp + fn)), tuple(table))


def brier_parts(points: Points) -> BrierParts:
    """Return the decomposition of the squared loss of one class against the rest, by isotonic regression."""
    from scipy.optimize import isotonic_regression

    weight, truth = points.weight, points.truth
    fitted = isotonic_regression(truth / weight, weights=weight).x
    whole, rate = weight.sum(), truth.sum() / weight.sum()
    recalibrated = (truth * (1.0 - fitted) ** 2 + (weight - truth) * fitted**2).sum() / whole
    return BrierParts(float(recalibrated), float(rate * (1.0 - rate)))
