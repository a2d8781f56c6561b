"""Confidence intervals of a mean of losses from its moments, corrected for skewness; no resampling.

Losses are skewed: many small, a few large. Hall (1992), "On the removal of skewness by transformation", J. R. Statist.
Soc. B 54, 221–228, https://doi.org/10.1111/j.2517-6161.1992.tb01876.x, bends Student's ratio t = (m̂ − m) / se by a
monotone cubic, g(t) = t + k t² / 3 + k² t³ / 27 + k / 6 with k = skewness / √n, so that g is normal to order 1/n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Weighted means Σ w l / Σ w of any number of groups, (G,) each, with what an interval needs.

    n counts the independent parts (rows, or clusters of rows), weight is Σ w, se the standard error of the mean, and
    skew the skewness of the parts' residuals w (l − mean).
    """

    value: Array
    weight: Array
    n: Array
    se: Array
    skew: Array

    def interval(self, level: float, least: float = -np.inf) -> tuple[Array, Array]:
        """Return the two ends, (G,) each, of the interval that covers the expected loss with probability `level`.

        No end is below `least`, which no loss is.
        """
        low, high = hall(self, level)
        return np.where(self.value >= least, np.maximum(low, least), low), high


def mean_of(value: Array, weight: Array, n: Array, square: Array, cube: Array) -> Mean:
    """Return the means whose residuals u = w (l − value) have the sums Σ u² = square and Σ u³ = cube."""
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt(n / np.where(n > 1, n - 1.0, np.nan) * square) / weight
        skew = np.where(square > 0, np.sqrt(n) * cube / square**1.5, 0.0)
    return Mean(value, weight, n, se, skew)


def ratio(numerator: Array, denominator: Array) -> Mean:
    """Return the mean Σ a / Σ b of independent parts with totals a and b, (G,) each, as one group.

    This is the mean loss of rows that come in clusters (a: loss of a cluster, b: its weight), and a loss per byte.
    """
    value, weight = numerator.sum() / denominator.sum(), denominator.sum()
    residual = numerator - value * denominator
    return mean_of(value, weight, len(numerator), (residual**2).sum(), (residual**3).sum())


def hall(mean: Mean, level: float) -> tuple[Array, Array]:
    """Return the ends of Hall's interval; NaN for a single part, the mean itself if all parts are alike.

    An infinite mean has the interval [∞, ∞]: the model gave no probability to something that does happen.
    """
    from scipy.special import stdtrit

    n = np.asarray(mean.n, float)
    with np.errstate(all="ignore"):
        quantile = stdtrit(np.maximum(n - 1.0, 1.0), (1.0 + level) / 2.0)
        low = mean.value - mean.se * _unbent(quantile, mean.skew / np.sqrt(n))
        high = mean.value - mean.se * _unbent(-quantile, mean.skew / np.sqrt(n))
        infinite = np.isinf(mean.value)
        return np.where(infinite, mean.value, low), np.where(infinite, mean.value, high)


def bent(t: Array, k: Array) -> Array:
    """Return g(t), the ratio t of a sample whose skewness is k √n, bent to be normal."""
    return t + k * t * t / 3.0 + k * k * t**3 / 27.0 + k / 6.0


def _unbent(x: Array, k: Array) -> Array:
    """Return the t with bent(t, k) = x."""
    safe = np.where(np.abs(k) < 1e-9, 1.0, k)
    return np.where(np.abs(k) < 1e-9, x, 3.0 * (np.cbrt(1.0 + safe * (x - safe / 6.0)) - 1.0) / safe)
