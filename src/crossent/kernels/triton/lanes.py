"""Statistics of the lanes of a tile in Triton, and their sum over the lanes of each row.

The sum Σ e^(x − peak) of a lane, or a row, is kept without one column that has the peak: as `rest`: the total is 1 +
rest. A confident row keeps its digits so, and a column costs one exponential, whether it moves the peak or not: of the
peak so far and a new number, the smaller one adds e^(smaller − larger) to the rest.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.0e38)  # stands for −inf where it multiplies 0, or where −inf is subtracted


class Lanes(NamedTuple):
    """Statistics relative to a peak, of lanes [R, M] or rows [R], in x: those of a row record, with rest for total."""

    peak: Any
    rest: Any
    target_score: Any
    mass: Any
    tilt: Any


class Sums(NamedTuple):
    """Σ e^d and Σ e^d d of lanes [R, M], d = rate · (x − peak), a rate for each row; the second in the unit of x."""

    total: Any
    tilt: Any


@triton.jit
def no_columns(R: tl.constexpr, M: tl.constexpr, T: tl.constexpr):
    """Return the statistics of lanes without columns."""
    zero = tl.zeros([R, M], T)
    return Lanes(zero - float("inf"), zero, zero, zero, zero)


@triton.jit
def _larger_and_smaller(x, R: tl.constexpr, M: tl.constexpr, H: tl.constexpr):
    """Return the larger and the smaller of each two neighbours; of a number and a NaN, the number and the NaN."""
    a, b = tl.split(tl.reshape(x, [R, M, H, 2]))
    return tl.maximum(a, b), tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def joined(a, b, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr):
    """Return two tiles as one, the columns of each lane side by side; the lane of a column does not matter."""
    return tl.reshape(tl.join(a, b), [R, M, U])


@triton.jit
def _with(sums, x, to, rate, TILTED: tl.constexpr):
    """Return the sums with columns [R, M, n] of each lane added."""
    d = x - to[:, :, None]
    e = tl.exp2(d * (rate * LOG2E)[:, None, None])
    total, tilt = sums.total + tl.sum(e, 2), sums.tilt
    if TILTED:
        tilt += tl.sum(e * tl.maximum(d, LOWEST), 2)
    return Sums(total, tilt)


@triton.jit
def fold(
    lanes, x, p, rate, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, MEASURED: tl.constexpr, TILTED: tl.constexpr
):
    """Return the statistics of lanes [R, M] with a tile of columns [R, M, U] added; x = −inf is a missing column.

    Neighbours are compared in pairs, so that all but the largest are known without knowing which that is.
    """
    top = x
    if U == 16:
        top, lower = _larger_and_smaller(top, R, M, 8)
    if U >= 8:
        top, half = _larger_and_smaller(top, R, M, 4)
    if U >= 4:
        top, quarter = _larger_and_smaller(top, R, M, 2)
    if U >= 2:
        top, last = _larger_and_smaller(top, R, M, 1)
    top = tl.reshape(top, [R, M])

    peak = tl.maximum(lanes.peak, top)
    to = tl.maximum(peak, LOWEST)
    below = tl.minimum(lanes.peak, top, propagate_nan=tl.PropagateNan.ALL) - to
    e, moved = tl.exp2(below * (rate * LOG2E)[:, None]), top > lanes.peak
    scale = tl.where(moved, e, 1.0)  # of the old sums, to the new peak
    more = Sums(e, e)
    if TILTED:
        by = tl.maximum(below, LOWEST)
        more = Sums(e, (lanes.tilt + lanes.rest * tl.where(moved, by, 0.0)) * scale + e * by)
    if U == 16:
        more = _with(more, lower, to, rate, TILTED)
    if U >= 8:
        more = _with(more, half, to, rate, TILTED)
    if U >= 4:
        more = _with(more, quarter, to, rate, TILTED)
    if U >= 2:
        more = _with(more, last, to, rate, TILTED)
    rest, tilt = lanes.rest * scale + more.total, more.tilt
    if MEASURED:
        target_score = lanes.target_score + _weighted(lanes.mass, lanes.peak - to)
        target_score += tl.sum(_weighted(p, x - to[:, :, None]), 2)
        return Lanes(peak, rest, target_score, lanes.mass + tl.sum(p, 2), tilt)
    else:
        return Lanes(peak, rest, lanes.target_score, lanes.mass, tilt)


@triton.jit
def _weighted(p, d):
    return tl.where(p == 0, 0.0, p * d)


@triton.jit
def across(lanes, rate, MEASURED: tl.constexpr, TILTED: tl.constexpr):
    """Return the statistics of rows [R]; those of a row without columns have the peak −inf and any rest."""
    peak = tl.max(lanes.peak, 1)
    to = tl.maximum(peak, LOWEST)[:, None]
    d, is_top = lanes.peak - to, lanes.peak == peak[:, None]
    e = tl.exp2(d * (rate * LOG2E)[:, None])
    rest = tl.sum(lanes.rest * e + tl.where(is_top, 0.0, e), 1) + (tl.sum(is_top.to(peak.dtype), 1) - 1.0)
    target_score, mass, tilt = rest, rest, rest
    if TILTED:
        shifted = e * (lanes.tilt + (1.0 + lanes.rest) * tl.maximum(d, LOWEST))
        tilt = tl.sum(tl.where(e == 0, 0.0, shifted), 1)
    if MEASURED:
        target_score = tl.sum(lanes.target_score + _weighted(lanes.mass, d), 1)
        mass = tl.sum(lanes.mass, 1)
    return Lanes(peak, rest, target_score, mass, tilt)
