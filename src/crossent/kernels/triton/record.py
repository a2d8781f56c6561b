"""The row record in Triton: statistics of lanes, their sum over a row, and the classes that an index target names."""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.tiles import (
    HAS_ENTROPY,
    HAS_LOSS,
    HAS_LSE,
    are_inside,
    named_class,
    read_scores,
    scored,
)

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.0e38)  # stands for −inf where it multiplies 0

_LOSS, _LSE, _ENTROPY = tl.constexpr(HAS_LOSS), tl.constexpr(HAS_LSE), tl.constexpr(HAS_ENTROPY)
_STEPS = tl.constexpr(16)  # groups of a lane that are read again at once


class Record(NamedTuple):
    """Statistics relative to a peak (crossent.stats.RowStats): of lanes [R, M] in x, or of rows [R] in scores."""

    peak: Any
    total: Any
    target_score: Any
    mass: Any
    tilt: Any


@triton.jit
def no_columns(R: tl.constexpr, M: tl.constexpr, T: tl.constexpr):
    """Return the records of lanes without columns."""
    zero = tl.zeros([R, M], T)
    return Record(zero - float("inf"), zero, zero, zero, zero)


@triton.jit
def _finite(peak):
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def _relative_to(r, peak, rate):
    """Return the record with its sums relative to another, finite peak."""
    by = r.peak - peak
    scale = tl.exp2(by * (rate * LOG2E))
    tilt = tl.where(scale == 0, scale * r.total, scale * (r.tilt + r.total * by))
    return Record(peak, scale * r.total, r.target_score + tl.where(r.mass == 0, 0.0, r.mass * by), r.mass, tilt)


@triton.jit
def fold(lanes, x, p, rate, MEASURED: tl.constexpr):
    """Return the records of lanes [R, M] with a tile of columns [R, M, U] added."""
    peak = tl.maximum(lanes.peak, tl.max(x, 2))
    to = _finite(peak)
    shifted = _relative_to(lanes, to, rate)
    d = x - to[:, :, None]
    e = tl.exp2(d * (rate * LOG2E))
    total = shifted.total + tl.sum(e, 2)
    tilt = shifted.tilt + tl.sum(e * tl.maximum(d, LOWEST), 2)
    if MEASURED:
        target_score = shifted.target_score + tl.sum(tl.where(p == 0, 0.0, p * d), 2)
        return Record(peak, total, target_score, lanes.mass + tl.sum(p, 2), tilt)
    else:
        return Record(peak, total, lanes.target_score, lanes.mass, tilt)


@triton.jit
def merged(a, b):
    """Return the record of the union of two sets of columns, in float64 (crossent.stats.RowStats.merge)."""
    peak = tl.maximum(a.peak, b.peak)
    to = _finite(peak)
    a, b = _relative_to(a, to, 1.0), _relative_to(b, to, 1.0)
    return Record(peak, a.total + b.total, a.target_score + b.target_score, a.mass + b.mass, a.tilt + b.tilt)


@triton.jit
def without_target(r, ignored, counted):
    """Return records with those of ignored rows replaced: by one column with the peak 0 where they are counted.

    Of the parts of a row one counts, and the others are as if they had no columns.
    """
    return Record(
        tl.where(ignored, tl.where(counted, 0.0, float("-inf")), r.peak),
        tl.where(ignored, tl.where(counted, 1.0, 0.0), r.total),
        tl.where(ignored, 0.0, r.target_score),
        tl.where(ignored, 0.0, r.mass),
        tl.where(ignored, 0.0, r.tilt),
    )


@triton.jit
def load_record(record, step, number, there):
    """Return the record of each row; that of no columns where there is none."""
    at = record + number
    return Record(
        tl.load(at, mask=there, other=float("-inf")),
        tl.load(at + step, mask=there, other=0.0),
        tl.load(at + 2 * step, mask=there, other=0.0),
        tl.load(at + 3 * step, mask=there, other=0.0),
        tl.load(at + 4 * step, mask=there, other=0.0),
    )


@triton.jit
def reciprocal(total):
    """Return 1 / total for a total in float64: two steps of Newton, because a division is a function call."""
    r = (1.0 / total.to(tl.float32)).to(tl.float64)
    r = r * (2.0 - total * r)
    return r * (2.0 - total * r)


@triton.jit
def save_record(record, step, number, exists, outputs, flags, r):
    """Write the record of each row, and those of loss, lse and entropy that the flags name."""
    at = record + number
    tl.store(at, r.peak, mask=exists)
    tl.store(at + step, r.total, mask=exists)
    tl.store(at + 2 * step, r.target_score, mask=exists)
    tl.store(at + 3 * step, r.mass, mask=exists)
    tl.store(at + 4 * step, r.tilt, mask=exists)
    log_total = libdevice.log(r.total)
    loss = tl.where(r.mass == 0, 0.0, r.mass * log_total) - r.target_score  # a target without mass costs nothing
    tl.store(outputs.loss + number, loss, mask=exists & (flags & _LOSS != 0))
    tl.store(outputs.lse + number, r.peak + log_total, mask=exists & (flags & _LSE != 0))
    entropy = log_total - r.tilt * reciprocal(r.total)
    tl.store(outputs.entropy + number, entropy, mask=exists & (flags & _ENTROPY != 0))


@triton.jit
def _below(x, peak, rate):
    """Return Σ e^(x − peak) over a tile without the columns at the peak, and how many those are, both (R,)."""
    d = x - peak[:, None, None]
    e = tl.where(d == 0, 0.0, tl.exp2(d * (rate * LOG2E)))
    return tl.sum(tl.sum(e, 2), 1), tl.sum(tl.sum(tl.where(d == 0, 1.0, 0.0), 2), 1)


@triton.jit
def record_of(
    lanes, edges, edge_x, logits, phi, block, start, stop, columns,
    T: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Return the record in float64 of the lanes [R, M] and edges [R, 1] of rows.

    Where one column holds the peak and little is left for the others, these are summed apart from it, so that the loss
    log(1 + rest) of a confident row keeps its digits: the lane of the peak is read again.
    """
    peak = tl.maximum(tl.max(lanes.peak, 1), tl.max(edges.peak, 1))
    to = _finite(peak)
    inner, outer = _relative_to(lanes, to[:, None], phi.rate), _relative_to(edges, to[:, None], phi.rate)
    top, edge_top = (lanes.peak == peak[:, None]).to(tl.int32), (edges.peak == peak[:, None]).to(tl.int32)
    others = tl.sum(tl.where(top == 1, 0.0, inner.total), 1) + tl.sum(tl.where(edge_top == 1, 0.0, outer.total), 1)
    holding = tl.sum(tl.where(top == 1, inner.total, 0.0), 1) + tl.sum(tl.where(edge_top == 1, outer.total, 0.0), 1)
    alone = (tl.sum(top, 1) + tl.sum(edge_top, 1) == 1) & (others + holding < 1.5)
    of_edges = tl.sum(edge_top, 1) == 1
    holder = tl.sum(top * tl.arange(0, M)[None, :], 1)

    rest, count = _below(edge_x, to, phi.rate)
    rest, count = tl.where(of_edges, rest, 0.0), tl.where(of_edges, count, 0.0)
    again = (block.wanted & alone & (of_edges == 0))[:, None, None]
    STEPS: tl.constexpr = min(M, _STEPS)
    for at in range(start, stop, M * U * STEPS):
        group = at + (tl.arange(0, STEPS) * (M * U))[None, :, None] + (holder * U)[:, None, None]
        place = group + tl.arange(0, U)[None, None, :]
        live = are_inside(group, place, block.phase, columns, U, WIDE) & (group < stop) & again
        x, _ = read_scores(logits, phi, block, place, live, T, U, WIDE, CAPPED)
        more, ones = _below(x, to, phi.rate)
        rest, count = rest + more, count + ones

    apart = others.to(tl.float64) + (rest + (count - 1.0)).to(tl.float64) + 1.0
    total = tl.where(alone, apart, others.to(tl.float64) + holding.to(tl.float64))
    target_score = (tl.sum(inner.target_score, 1) + tl.sum(outer.target_score, 1)).to(tl.float64) * phi.scale
    mass = (tl.sum(lanes.mass, 1) + tl.sum(edges.mass, 1)).to(tl.float64)
    tilt = (tl.sum(inner.tilt, 1) + tl.sum(outer.tilt, 1)).to(tl.float64) * phi.scale
    return Record(peak.to(tl.float64) * phi.scale, total, target_score, mass, tilt)


@triton.jit
def with_named(r, logits, phi, measure, block, begin, end, T: tl.constexpr, K: tl.constexpr, CAPPED: tl.constexpr):
    """Return the records with the classes that the target names added, those in columns [begin, end)."""
    target_score, mass = r.target_score, r.mass
    for first in range(0, measure.classes.picks, K):
        k = first + tl.arange(0, K)[None, :]
        there = block.wanted[:, None] & (k < measure.classes.picks)
        column, here, p = named_class(measure, block.number[:, None], k, there)
        here = here & (column >= begin[:, None]) & (column < end[:, None])
        p = tl.where(here | (p != p), p, 0.0)
        z = tl.load(logits.data + (block.origin[:, None] + column * logits.col), mask=here, other=0.0).to(T)
        x, _ = scored(z, phi, CAPPED)
        d = x.to(tl.float64) * phi.scale - _finite(r.peak)[:, None]
        target_score += tl.sum(tl.where(p == 0, 0.0, p * d), 1)
        mass += tl.sum(p, 1)
    return Record(r.peak, r.total, target_score, mass, r.tilt)
