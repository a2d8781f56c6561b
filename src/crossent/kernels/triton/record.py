"""The row record in Triton: statistics of lanes, their sum over a row, and the classes that an index target names."""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.tiles import HAS_ENTROPY, HAS_LOSS, HAS_LSE, are_inside, named_class, read_scores, scored

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.0e38)  # stands for −inf where it multiplies 0

_LOSS, _LSE, _ENTROPY = tl.constexpr(HAS_LOSS), tl.constexpr(HAS_LSE), tl.constexpr(HAS_ENTROPY)
_STEPS = tl.constexpr(16)  # groups of a lane that are read again at once


@triton.jit
def _finite(peak):
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def _shifted(peak, total, score, mass, tilt, to, rate):
    """Return total, score and tilt relative to another peak."""
    by = peak - to
    scale = tl.exp2(by * (rate * LOG2E))
    tilt = tl.where(scale == 0, scale * total, scale * (tilt + total * by))
    return scale * total, score + tl.where(mass == 0, 0.0, mass * by), tilt


@triton.jit
def fold(peak, total, score, mass, tilt, x, q, rate, MEASURED: tl.constexpr):
    """Return the records of lanes [R, M] with a tile of columns added."""
    top = tl.maximum(peak, tl.max(x, 2))
    to = _finite(top)
    total, shifted, tilt = _shifted(peak, total, score, mass, tilt, to, rate)
    d = x - to[:, :, None]
    e = tl.exp2(d * (rate * LOG2E))
    total += tl.sum(e, 2)
    tilt += tl.sum(e * tl.maximum(d, LOWEST), 2)
    if MEASURED:
        score = shifted + tl.sum(tl.where(q == 0, 0.0, q * d), 2)
        mass += tl.sum(q, 2)
    return top, total, score, mass, tilt


@triton.jit
def merged(peak, total, score, mass, tilt, peak_, total_, score_, mass_, tilt_):
    """Return the record of the union of two sets of columns, in float64 (crossent.stats.RowStats.merge)."""
    top = tl.maximum(peak, peak_)
    to = _finite(top)
    total, score, tilt = _shifted(peak, total, score, mass, tilt, to, 1.0)
    total_, score_, tilt_ = _shifted(peak_, total_, score_, mass_, tilt_, to, 1.0)
    return top, total + total_, score + score_, mass + mass_, tilt + tilt_


@triton.jit
def _below(x, peak, rate):
    """Return Σ e^(x − peak) over a tile without the columns at the peak, and how many those are, both (R,)."""
    d = x - peak[:, None, None]
    e = tl.where(d == 0, 0.0, tl.exp2(d * (rate * LOG2E)))
    return tl.sum(tl.sum(e, 2), 1), tl.sum(tl.sum(tl.where(d == 0, 1.0, 0.0), 2), 1)


@triton.jit
def load_record(record, step, number, there):
    """Return the record of each row; that of no columns where there is none."""
    at = record + number
    peak = tl.load(at, mask=there, other=float("-inf"))
    total, score = tl.load(at + step, mask=there, other=0.0), tl.load(at + 2 * step, mask=there, other=0.0)
    mass, tilt = tl.load(at + 3 * step, mask=there, other=0.0), tl.load(at + 4 * step, mask=there, other=0.0)
    return peak, total, score, mass, tilt


@triton.jit
def reciprocal(total):
    """Return 1 / total for a total in float64: two steps of Newton, because a division is a function call."""
    r = (1.0 / total.to(tl.float32)).to(tl.float64)
    r = r * (2.0 - total * r)
    return r * (2.0 - total * r)


@triton.jit
def save_record(record, step, number, valid, summary, flags, peak, total, score, mass, tilt):
    """Write the record of each row, and those of loss, lse and entropy that the flags name."""
    at = record + number
    tl.store(at, peak, mask=valid)
    tl.store(at + step, total, mask=valid)
    tl.store(at + 2 * step, score, mask=valid)
    tl.store(at + 3 * step, mass, mask=valid)
    tl.store(at + 4 * step, tilt, mask=valid)
    log_total = libdevice.log(total)
    tl.store(summary.loss + number, mass * log_total - score, mask=valid & (flags & _LOSS != 0))
    tl.store(summary.lse + number, peak + log_total, mask=valid & (flags & _LSE != 0))
    tl.store(summary.entropy + number, log_total - tilt * reciprocal(total), mask=valid & (flags & _ENTROPY != 0))


@triton.jit
def record_of(
    lanes, edges, edge_x, logits, origin, phase, start, stop, columns, wanted, unit, cap, rate, scale,
    T: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Return the record in float64 of the lanes [R, M] and edges [R, 1] of rows; a score is `scale` times x.

    Where one column holds the peak and little is left for the others, these are summed apart from it, so that the loss
    log(1 + rest) of a confident row keeps its digits: the lane of the peak is read again.
    """
    peak = tl.maximum(tl.max(lanes[0], 1), tl.max(edges[0], 1))
    to = _finite(peak)
    total, score, tilt = _shifted(lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], to[:, None], rate)
    total_, score_, tilt_ = _shifted(edges[0], edges[1], edges[2], edges[3], edges[4], to[:, None], rate)
    top, top_ = (lanes[0] == peak[:, None]).to(tl.int32), (edges[0] == peak[:, None]).to(tl.int32)
    others = tl.sum(tl.where(top == 1, 0.0, total), 1) + tl.sum(tl.where(top_ == 1, 0.0, total_), 1)
    holding = tl.sum(tl.where(top == 1, total, 0.0), 1) + tl.sum(tl.where(top_ == 1, total_, 0.0), 1)
    alone = (tl.sum(top, 1) + tl.sum(top_, 1) == 1) & (others + holding < 1.5)
    of_edges = tl.sum(top_, 1) == 1
    holder = tl.sum(top * tl.arange(0, M)[None, :], 1)

    rest, count = _below(edge_x, to, rate)
    rest, count = tl.where(of_edges, rest, 0.0), tl.where(of_edges, count, 0.0)
    again = (wanted & alone & (of_edges == 0))[:, None, None]
    STEPS: tl.constexpr = min(M, _STEPS)
    for at in range(start, stop, M * U * STEPS):
        group = at + (tl.arange(0, STEPS) * (M * U))[None, :, None] + (holder * U)[:, None, None]
        place = group + tl.arange(0, U)[None, None, :]
        live = are_inside(group, place, phase, columns, U, WIDE) & (group < stop) & again
        x, _ = read_scores(logits, origin, phase, place, live, unit, cap, T, U, WIDE, CAPPED)
        more, ones = _below(x, to, rate)
        rest, count = rest + more, count + ones

    apart = others.to(tl.float64) + (rest + (count - 1.0)).to(tl.float64) + 1.0
    total64 = tl.where(alone, apart, others.to(tl.float64) + holding.to(tl.float64))
    score64 = (tl.sum(score, 1) + tl.sum(score_, 1)).to(tl.float64) * scale
    mass64 = (tl.sum(lanes[3], 1) + tl.sum(edges[3], 1)).to(tl.float64)
    tilt64 = (tl.sum(tilt, 1) + tl.sum(tilt_, 1)).to(tl.float64) * scale
    return peak.to(tl.float64) * scale, total64, score64, mass64, tilt64


@triton.jit
def with_named(
    peak, score, mass, logits, origin, named, classes, number, wanted, weight, flags, unit, cap, scale, keep,
    begin, end, T: tl.constexpr, K: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Return score and mass of records with the classes that the target names, those in columns [begin, end)."""
    for first in range(0, classes.picks, K):
        k = first + tl.arange(0, K)[None, :]
        there = wanted[:, None] & (k < classes.picks)
        column, here, measure = named_class(named, classes, number[:, None], k, there, weight, flags, keep)
        here = here & (column >= begin[:, None]) & (column < end[:, None])
        measure = tl.where(here | (measure != measure), measure, 0.0)
        z = tl.load(logits.data + (origin[:, None] + column * logits.col), mask=here, other=0.0).to(T)
        x, _ = scored(z, unit, cap, CAPPED)
        d = x.to(tl.float64) * scale - _finite(peak)[:, None]
        score += tl.sum(tl.where(measure == 0, 0.0, measure * d), 1)
        mass += tl.sum(measure, 1)
    return score, mass
