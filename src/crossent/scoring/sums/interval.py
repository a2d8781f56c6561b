"""Confidence intervals of a mean of losses from its moments, corrected for skewness; no resampling.

Losses are skewed: many small, a few large. Hall (1992), "On the removal of skewness by transformation", J. R. Statist.
Soc. B 54, 221–228, https://doi.org/10.1111/j.2517-6161.1992.tb01876.x, bends Student's ratio t = (m̂ − m) / se by a
monotone function, g(t) = t + A t² + k / 6 + …, so that g is normal to order 1/n. Of a sample k = skewness / √n and
A = k / 3; of a ratio Σ a / Σ b, whose se changes with Σ b, A is less by how much residuals go with b. Third powers are
left open. On the side of the long tail, A t < 0, they are Hall's cubic, t + A t² + A² t³ / 3. On that of the short one
they are the same cubic, with −A / 2, of s = −log(1 − 3 A t) / 3 A: on the scale of logarithms a sum of few rare costs,
a Poisson count, is nearly symmetric, and a lower end is not too low.

Student's quantile is that of ν − 1 degrees of freedom, where ν = (Σ b²)² / Σ b⁴ parts of one size would be as good:
Satterthwaite (1946), "An approximate distribution of estimates of variance components", Biometrics Bulletin 2, 110–114,
where the residual of a part grows with its b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = Any


TINY = 1e-150


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Weighted means Σ a / Σ b of any number of groups, (G,) each, with the moments that an interval needs.

    n counts the independent parts (rows, or clusters of rows), weight is Σ b, se the standard error of the mean, and
    skew the skewness of the parts' residuals u = a − mean · b. lean = Σ u b / (Σ b · √Σ u²) is how much they go with b:
    Σ b is in the standard error too, so that a ratio is skewed by it; 0 where all parts weigh the same. even is the
    effective number of parts of one weight, (Σ b²)² / Σ b⁴.
    """

    value: Array
    weight: Array
    n: Array
    se: Array
    skew: Array
    lean: Array
    even: Array

    def interval(self, level: float, least: float = -np.inf) -> tuple[Array, Array]:
        """Return the two ends, (G,) each, of the interval that covers the expected loss with probability `level`.

        No end is below `least`, which no loss is.
        """
        low, high = hall(self, level)
        return np.where(self.value >= least, np.maximum(low, least), low), high


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """Sums over n parts, (G,) each: Σ u², Σ u³, Σ u b, and (Σ b²)² / Σ b⁴."""

    n: Array
    square: Array
    cube: Array
    cross: Array
    even: Array


class Bend(NamedTuple):
    """Coefficients of the function g that makes the ratio t normal, (G,) each: A = k / 3 − lean, and the shift k / 6.

    k = skewness / √n.
    """

    a: Array
    shift: Array


def mean_of(value: Array, weight: Array, residuals: Residuals) -> Mean:
    """Return the means whose residuals have these sums."""
    r = residuals
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt(r.n / np.where(r.n > 1, r.n - 1.0, np.nan) * r.square) / weight
        skew = np.where(r.square > 0, np.sqrt(r.n) * r.cube / r.square**1.5, 0.0)
        lean = np.where(r.square > 0, r.cross / (weight * np.sqrt(r.square)), 0.0)
    return Mean(value, weight, r.n, se, skew, lean, r.even)


def even(square: Array, fourth: Array) -> Array:
    """Return how many parts of one weight would be as good as parts with these Σ b² and Σ b⁴."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(fourth > 0, square**2 / fourth, 0.0)


def ratio(numerator: Array, denominator: Array) -> Mean:
    """Return the mean Σ a / Σ b of independent parts with totals a and b, (G,) each, as one group."""
    value, weight = numerator.sum() / denominator.sum(), denominator.sum()
    u = numerator - value * denominator
    parts = even((denominator**2).sum(), (denominator**4).sum())
    residuals = Residuals(len(numerator), (u**2).sum(), (u**3).sum(), (u * denominator).sum(), parts)
    return mean_of(value, weight, residuals)


def hall(mean: Mean, level: float) -> tuple[Array, Array]:
    """Return the ends of Hall's interval; NaN for a single part, the mean itself if all parts are alike.

    An infinite mean has the interval [∞, ∞]: the model gave no probability to something that does happen.
    """
    from scipy.special import stdtrit

    with np.errstate(all="ignore"):
        quantile = stdtrit(np.maximum(np.asarray(mean.even, float) - 1.0, 1.0), (1.0 + level) / 2.0)
        bend = bend_of(mean)
        low = mean.value - mean.se * unbent(quantile, bend)
        high = mean.value - mean.se * unbent(-quantile, bend)
        infinite = np.isinf(mean.value)
        return np.where(infinite, mean.value, low), np.where(infinite, mean.value, high)


class Tested(NamedTuple):
    """The interval of a mean of differences, and the p-value of a mean of 0."""

    ci: tuple[float, float]
    p_value: float


def tested(mean: Mean, level: float) -> Tested:
    """Return the interval of the mean of one group at a level, and the two-sided p-value of a mean of 0.

    Both follow one rule: the p-value is 1 minus the level of the interval that ends at 0. Of n parts whose signs could
    all be by chance, as likely as any other, no p-value is below 2^(1 − n) for any sizes (Fisher's sign flips); so an
    interval of a higher level holds 0.
    """
    low, high = (float(np.reshape(end, -1)[0]) for end in mean.interval(level))
    value = float(np.reshape(mean.value, -1)[0])
    if not np.isfinite(value):
        return Tested((value, value), np.nan)
    least = 2.0 ** (1.0 - float(np.reshape(mean.n, -1)[0]))
    found = _p_value(mean)
    if np.isnan(found) or found == 1.0:
        return Tested((low, high), found)
    if 1.0 - level <= least:
        low, high = min(low, 0.0), max(high, 0.0)
    return Tested((low, high), max(found, least))


def _p_value(mean: Mean) -> float:
    from scipy.special import stdtr

    value, se = (float(np.reshape(part, -1)[0]) for part in (mean.value, mean.se))
    if np.isnan(se):
        return float("nan")
    if se == 0:
        return 1.0 if value == 0 else 0.0
    t = bent(value / se, bend_of(mean))
    return float(np.reshape(2.0 * stdtr(np.maximum(mean.even - 1.0, 1.0), -np.abs(t)), -1)[0])


def bend_of(mean: Mean) -> Bend:
    """Return how the ratio t of a mean must be bent to be normal."""
    k = mean.skew / np.sqrt(np.asarray(mean.n, float))
    return Bend(k / 3.0 - mean.lean, k / 6.0)


def bent(t: Array, bend: Bend) -> Array:
    """Return g(t), the ratio bent to be normal."""
    with np.errstate(all="ignore"):
        straight = np.abs(bend.a) < TINY
        a = np.where(straight, 1.0, bend.a)
        s = -np.log1p(-np.minimum(3.0 * a * t, 1.0)) / (3.0 * a)
        short, long = s - a / 2.0 * s * s + a * a / 12.0 * s**3, t + a * t * t + a * a * t**3 / 3.0
        short = np.where(3.0 * a * t < 1.0, short, np.copysign(np.inf, t))
        return np.where(straight, t, np.where(bend.a * t > 0, short, long)) + bend.shift


def unbent(x: Array, bend: Bend) -> Array:
    """Return the t with bent(t, bend) = x."""
    straight = np.abs(bend.a) < TINY
    y, a = x - bend.shift, np.where(straight, 1.0, bend.a)
    short = -np.expm1(-3.0 * a * _root(y, -a / 2.0)) / (3.0 * a)
    return np.where(straight, y, np.where(a * y > 0, short, _root(y, a)))


def _root(y: Array, a: Array) -> Array:
    """Return the t with t + a t² + a² t³ / 3 = y."""
    root = np.cbrt(1.0 + 3.0 * a * y)
    return 3.0 * y / (root * root + root + 1.0)  # (root − 1) / a, which would cancel where a is small
