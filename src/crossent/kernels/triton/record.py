"""The row record in Triton, in float64: made of the statistics of lanes, merged, and completed by an index target."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossent.kernels.triton.lanes import LOG2E, Lanes
from crossent.kernels.triton.scores import HAS_CAP, as_column, scored
from crossent.kernels.triton.tiles import (
    HAS_ENTROPY,
    HAS_LOSS,
    HAS_LSE,
    HAS_MEASURE,
    HAS_SUMS,
    HAS_TILT,
    biased,
    named_class,
)

_CAP = tl.constexpr(HAS_CAP)
_MEASURE, _TILT, _SUMS = tl.constexpr(HAS_MEASURE), tl.constexpr(HAS_TILT), tl.constexpr(HAS_SUMS)
_LOSS, _LSE, _ENTROPY = tl.constexpr(HAS_LOSS), tl.constexpr(HAS_LSE), tl.constexpr(HAS_ENTROPY)


class Record(NamedTuple):
    """Statistics of rows [R] relative to a peak (crossent.stats.RowStats), in scores."""

    peak: Any
    total: Any
    target_score: Any
    mass: Any
    tilt: Any


class Outputs(NamedTuple):
    """Arrays (N,) that receive loss, lse and entropy of each row."""

    loss: Any
    lse: Any
    entropy: Any


# Statistics of parts of rows, float32 for the float32 kernels, wait in an array [part, field, row] for `finish`


@triton.jit
def save_lanes(parts, part, rows, number, exists, r, MEASURED: tl.constexpr, TILTED: tl.constexpr):
    """Write the statistics of one part of each row."""
    at = parts + (part * (5 * rows) + number)
    tl.store(at, r.peak, mask=exists)
    tl.store(at + rows, r.rest, mask=exists)
    if MEASURED:
        tl.store(at + 2 * rows, r.target_score, mask=exists)
        tl.store(at + 3 * rows, r.mass, mask=exists)
    if TILTED:
        tl.store(at + 4 * rows, r.tilt, mask=exists)


@triton.jit
def load_lanes(parts, part, rows, number, there, flags):
    """Return the statistics of one part of each row, in x; those of no columns, or 0, where there is none."""
    at = parts + (part * (5 * rows) + number)
    peak = tl.load(at, mask=there, other=float("-inf"))
    rest = tl.load(at + rows, mask=there, other=0.0)
    measured, tilted = there & (flags & _MEASURE != 0), there & (flags & _TILT != 0)
    score = tl.load(at + 2 * rows, mask=measured, other=0.0)
    mass = tl.load(at + 3 * rows, mask=measured, other=0.0)
    tilt = tl.load(at + 4 * rows, mask=tilted, other=0.0)
    return Lanes(peak, rest, score, mass, tilt)


@triton.jit
def record_of(r, scale, MEASURED: tl.constexpr, TILTED: tl.constexpr):
    """Return the record of rows from their statistics in x.

    That of no columns has the total 0. Where the peak is infinite or a number is NaN, the total is NaN.
    """
    peak, rest = r.peak.to(tl.float64) * scale, r.rest.to(tl.float64)
    total = tl.where((r.peak == float("-inf")) & (r.rest == r.rest), 0.0, 1.0 + rest)
    total = tl.where(r.peak == float("inf"), float("nan"), total)
    score, mass, tilt = tl.zeros_like(total), tl.zeros_like(total), tl.zeros_like(total)
    if MEASURED:
        score, mass = r.target_score.to(tl.float64) * scale, r.mass.to(tl.float64)
    if TILTED:
        tilt = r.tilt.to(tl.float64) * scale
    return Record(peak, total, score, mass, tilt)


@triton.jit
def _finite(peak):
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def _relative_to(r, peak):
    """Return the record with its sums relative to another, finite peak."""
    by = r.peak - peak
    scale = tl.exp2(by * LOG2E)
    tilt = tl.where(scale == 0, scale * r.total, scale * (r.tilt + r.total * by))
    return Record(peak, scale * r.total, r.target_score + tl.where(r.mass == 0, 0.0, r.mass * by), r.mass, tilt)


@triton.jit
def merged(a, b):
    """Return the record of the union of two sets of columns (crossent.stats.RowStats.merge)."""
    peak = tl.maximum(a.peak, b.peak)
    to = _finite(peak)
    a, b = _relative_to(a, to), _relative_to(b, to)
    return Record(peak, a.total + b.total, a.target_score + b.target_score, a.mass + b.mass, a.tilt + b.tilt)


@triton.jit
def without_target(r, ignored):
    """Return records with those of ignored rows replaced by that of one column with the score 0."""
    return Record(
        tl.where(ignored, 0.0, r.peak),
        tl.where(ignored, 1.0, r.total),
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
def save_record(record, step, number, exists, r):
    """Write the record of each row."""
    at = record + number
    tl.store(at, r.peak, mask=exists)
    tl.store(at + step, r.total, mask=exists)
    tl.store(at + 2 * step, r.target_score, mask=exists)
    tl.store(at + 3 * step, r.mass, mask=exists)
    tl.store(at + 4 * step, r.tilt, mask=exists)


@triton.jit
def _reciprocal(total):
    """Return 1 / total: two steps of Newton, because a division in float64 is a function call."""
    r = (1.0 / total.to(tl.float32)).to(tl.float64)
    r = r * (2.0 - total * r)
    return r * (2.0 - total * r)


@triton.jit
def save_outputs(outputs, number, exists, flags, r, log_total):
    """Write loss, lse and entropy as the flags select, and return the loss."""
    loss = tl.where(r.mass == 0, 0.0, r.mass * log_total) - r.target_score  # a target without mass costs nothing
    tl.store(outputs.loss + number, loss, mask=exists & (flags & _LOSS != 0))
    tl.store(outputs.lse + number, r.peak + log_total, mask=exists & (flags & _LSE != 0))
    entropy = log_total - r.tilt * _reciprocal(r.total)
    tl.store(outputs.entropy + number, entropy, mask=exists & (flags & _ENTROPY != 0))
    return loss


@triton.jit
def save_sums(sums, loss, weight, wanted, flags):
    """Write the sums of a program's losses and of its row weights in a mean, if requested."""
    at, there = sums + 2 * tl.program_id(0), flags & _SUMS != 0
    tl.store(at, tl.sum(tl.where(wanted, loss, 0.0), 0), mask=there)
    tl.store(at + 1, tl.sum(weight, 0), mask=there)


@triton.jit
def with_named(r, logits, phi, measure, number, origin, wanted, T: tl.constexpr, K: tl.constexpr, CAPPED: tl.constexpr):
    """Return the records with the classes that an index target names added."""
    target_score, mass = r.target_score, r.mass
    if K == 1:
        score, p = _named(r.peak, logits, phi, measure, number, origin, 0, wanted, T, K, CAPPED)
        target_score, mass = target_score + score, mass + p
    else:
        for first in range(0, measure.classes.picks, K):
            k = first + tl.arange(0, K)[None, :]
            there = wanted[:, None] & (k < measure.classes.picks)
            score, p = _named(
                r.peak[:, None],
                logits,
                as_column(phi),
                measure,
                number[:, None],
                origin[:, None],
                k,
                there,
                T,
                K,
                CAPPED,
            )
            target_score, mass = target_score + tl.sum(score, 1), mass + tl.sum(p, 1)
    return Record(r.peak, r.total, target_score, mass, r.tilt)


@triton.jit
def _named(
    peak, logits, phi, measure, number, origin, k, there, T: tl.constexpr, K: tl.constexpr, CAPPED: tl.constexpr
):
    """Return target score and mass of classes that the target names, 0 for one that is not here."""
    column, here, p = named_class(measure, number, k, there, K)
    p = tl.where(here | (p != p), p, 0.0)
    z = tl.load(logits.data + (origin + column * logits.col), mask=here, other=0.0).to(T)
    z = biased(z, logits, column, here)
    x, _ = scored(z, phi, here, CAPPED)
    if CAPPED:  # kernels with a thread a row are not compiled for a softcap
        x = tl.where(measure.flags & _CAP != 0, x, z)
    d = x.to(tl.float64) * phi.scale - _finite(peak)
    return tl.where(p == 0, 0.0, p * d), p
