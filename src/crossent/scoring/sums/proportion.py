"""Intervals of frequencies, and of means over classes: Wilson's, with the number of rows that would be as good.

Wilson (1927), "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22, 209–212.
Weights and clusters change how many independent rows would be as good: p (1 − p) / se² of them, which Korn and Graubard
(1998), "Confidence intervals for proportions with small expected number of positive counts estimated from survey data",
Survey Methodology 24, 193–201, put in place of n. The limits of a mean of several frequencies are put together from
theirs: Newcombe (1998), "Interval estimation for the difference between independent proportions", Stat. Med. 17,
873–890.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crossent.scoring.parts import Estimate, Interval
from crossent.scoring.sums.interval import Mean, Residuals, mean_of
from crossent.scoring.sums.totals import Totals


def wilson(value: Any, n: Any, quantile: Any) -> tuple[Any, Any]:
    """Return the ends of Wilson's interval of frequencies seen in n rows, (G,) each."""
    z2 = np.asarray(quantile, float) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = (value + z2 / (2.0 * n)) / (1.0 + z2 / n)
        half = np.sqrt(z2 * (value * (1.0 - value) / n + z2 / (4.0 * n * n))) / (1.0 + z2 / n)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def normal_quantile(level: float) -> float:
    """Return the quantile of the normal distribution of a two-sided level."""
    from scipy.special import ndtri

    return float(ndtri((1.0 + level) / 2.0))


def rows_as_good(value: Any, square: Any, else_n: Any) -> Any:
    """Return p (1 − p) / se² from se² (G,), or `else_n` without any spread."""
    inside = (value > 0.0) & (value < 1.0) & (square > 0.0)
    return np.where(inside, value * (1.0 - value) / np.where(inside, square, 1.0), else_n)


def frequency(value: float, square: float, else_n: float, quantile: float) -> Estimate:
    """Return a frequency with its interval from the square of its standard error."""
    low, high = wilson(value, rows_as_good(value, square, else_n), quantile)
    return Estimate(value, (float(low), float(high)), math.sqrt(square))


def mean_of_frequencies(value: Any, ends: tuple[Any, Any], se: Any) -> Estimate:
    """Return the mean of independent frequencies, (K,), from their intervals and standard errors."""
    mean, k = float(value.mean()), len(value)
    low, high = (math.sqrt(float(((value - end) ** 2).sum())) / k for end in ends)
    return Estimate(mean, (max(mean - low, 0.0), min(mean + high, 1.0)), math.sqrt(float((se**2).sum())) / k)


def balanced(totals: Totals) -> Mean:
    """Return the mean over the groups that have rows of their mean losses, as one group.

    Its variance is the sum of theirs over K²; and so for the third moment. Rows of different groups in one cluster
    depend on each other: then the residuals of a cluster in all groups are added up first.
    """
    there = np.flatnonzero(totals.count)
    means, k = totals.means(), len(there)
    value = float(means.value[there].mean())
    if not math.isfinite(value):
        return _one(value, Residuals(int(totals.count.sum()), np.nan, np.nan, np.nan, np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        if totals.by_cluster is None:
            se, n = means.se[there] / k, means.n[there]
            square, cube = float((se**2).sum()), float((means.skew[there] / np.sqrt(n) * se**3).sum())
            lean = float((se**2 * means.lean[there] * se).sum()) / square**1.5 if square > 0 else 0.0
            spread = float((se**4 / (means.even[there] - 1.0)).sum())
            even = 1.0 + square**2 / spread if spread > 0 else float(means.even[there].sum())
            skew = cube / square**1.5 * math.sqrt(n.sum()) if square > 0 else 0.0
            parts = (value, 1.0, n.sum(), math.sqrt(square), skew, lean, max(even, 1.0))
            return Mean(*(np.reshape(np.asarray(part, float), 1) for part in parts))
        found = totals.by_cluster.sorted()
        share = found.weight / (k * means.weight[found.group])
        u = found.loss / (k * means.weight[found.group]) - means.value[found.group] * share
        cluster, place = np.unique(found.cluster, return_inverse=True)
        place = place.reshape(-1)
        whole, b = (np.bincount(place, part, len(cluster)) for part in (u, share))
        square = (whole**2).sum()
        lean = np.bincount(found.group, whole[place] * u) * np.bincount(found.group, k * whole[place] * share)
        cross = lean.sum() / square if square > 0 else 0.0
        even = (b**2).sum() ** 2 / (b**4).sum()
        return _one(value, Residuals(len(cluster), square, (whole**3).sum(), cross, even))


def _one(value: float, residuals: Residuals) -> Mean:
    found = Residuals(*(np.reshape(getattr(residuals, name), 1) for name in ("n", "square", "cube", "cross", "even")))
    return mean_of(np.array([value]), np.ones(1), found)


def estimate(mean: Mean, level: float) -> Estimate:
    """Return the mean of one group as an estimate."""
    low, high = mean.interval(level, 0.0)
    return Estimate(float(mean.value[0]), _ends(low, high), float(mean.se[0]))


def _ends(low: Any, high: Any) -> Interval:
    return float(low[0]), float(high[0])
