"""The row functions as Triton kernels, for NVIDIA and AMD and for Triton 3.6 to 3.9: statistics, gradient, and both.

Where a tile lies and what it holds is `_triton_tiles`'s, the record `_triton_record`'s. Every kernel takes T, the dtype
it computes in, and the shape R, M, U of its tiles; CAPPED, whether there is a softcap; MEASURED, whether the target is
more than one class a row; DENSE, whether it has a probability for each column; and K, how many of the classes that a
target names are worked on at once.
"""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.record import (
    LOG2E,
    fold,
    load_record,
    merged,
    reciprocal,
    record_of,
    save_record,
    with_named,
)
from crossent.kernels.triton.tiles import (
    HAS_ENTROPY,
    HAS_GATHERED,
    HAS_LOSS,
    HAS_LSE,
    HAS_RECORD,
    HAS_SQUARE,
    HAS_WEIGHT,
    address,
    edge_places,
    is_ignored,
    named_class,
    origin_of,
    phase_of,
    place_of,
    read_measure,
    read_scores,
    scored,
    tile_places,
)

_LEAST_LOG = tl.constexpr(-1e4)  # stands for log 0 where it multiplies 0
_LOSS, _LSE, _ENTROPY = tl.constexpr(HAS_LOSS), tl.constexpr(HAS_LSE), tl.constexpr(HAS_ENTROPY)
_SQUARE, _WEIGHT, _RECORD = tl.constexpr(HAS_SQUARE), tl.constexpr(HAS_WEIGHT), tl.constexpr(HAS_RECORD)
_GATHERED = tl.constexpr(HAS_GATHERED)
_UNSPECIALIZED = ["rows", "row_batch", "row_step", "flags", "span", "record_step", "part_step", "parts"]


class Cotangents(NamedTuple):
    """Cotangents of loss, lse, entropy and of the square of lse, and how far apart those of two rows are."""

    loss: Any
    loss_step: int
    lse: Any
    lse_step: int
    entropy: Any
    entropy_step: int
    square: Any
    square_step: int


# Gradients of a tile -----------------------------------------------------------------------------------------------


@triton.jit
def _cotangent(data, step, number, there):
    return tl.load(data + number * step, mask=there, other=0.0).to(tl.float64)


@triton.jit
def _coefficients(cotangents, number, wanted, flags, peak, inverse, log_total, mass, tilt):
    """Return a, b and c of the row gradient in float64."""
    g_loss = _cotangent(cotangents.loss, cotangents.loss_step, number, wanted & (flags & _LOSS != 0))
    g_lse = _cotangent(cotangents.lse, cotangents.lse_step, number, wanted & (flags & _LSE != 0))
    g_entropy = _cotangent(cotangents.entropy, cotangents.entropy_step, number, wanted & (flags & _ENTROPY != 0))
    square = _cotangent(cotangents.square, cotangents.square_step, number, wanted & (flags & _SQUARE != 0))
    g_lse += tl.where(square == 0, 0.0, 2.0 * square * (peak + log_total))
    from_entropy = tl.where(g_entropy == 0, 0.0, g_entropy * (log_total - tilt * inverse))
    return tl.where(g_loss == 0, 0.0, g_loss * mass) + g_lse - from_entropy, -g_entropy, g_loss


@triton.jit
def _slopes(factors, x, slope, q, rate, MEASURED: tl.constexpr):
    """Return ds/dz · (p (a + b log p) − c q) of a tile; `factors` are what a row holds fixed."""
    peak, inverse, log_total, a, b, c = factors
    d = x - peak[:, None, None]
    p = tl.exp2(d * (rate * LOG2E)) * inverse[:, None, None]
    logp = d * rate - log_total[:, None, None]
    g = p * (a[:, None, None] + b[:, None, None] * tl.maximum(logp, _LEAST_LOG))
    if MEASURED:
        g -= c[:, None, None] * q
    return g * slope


@triton.jit
def _at_named(
    logits, origin, gathered, named, classes, number, k, there, weight, flags, unit, cap, scale, keep, spread,
    peak, total, inverse, log_total, a, b, c, T: tl.constexpr, CAPPED: tl.constexpr, REPEATED: tl.constexpr,
):  # fmt: skip
    """Return the columns that the target names, whether they are here, and the gradient there in float64.

    p − 1 comes from the record without cancellation. A class that is named twice (REPEATED) has one gradient.
    """
    column, here, measure = named_class(named, classes, number, k, there, weight, flags, keep)
    if REPEATED:
        measure *= 0.0
        for other in range(classes.picks):
            same, same_here, more = named_class(named, classes, number, other, there, weight, flags, keep)
            measure += tl.where(same_here & (same == column), more, 0.0)
    measure += spread * tl.load(weight + column, mask=here & (flags & _WEIGHT != 0), other=1.0).to(tl.float64)
    at = tl.where(flags & _GATHERED != 0, number * classes.picks + k, origin + column * logits.col)
    x, slope = scored(tl.load(gathered + at, mask=here, other=0.0).to(T), unit, cap, CAPPED)
    d = x.to(tl.float64) * scale - peak
    e = libdevice.exp(d)
    entropic = tl.where((b == 0) | (e == 0), 0.0, b * (e * inverse) * (d - log_total))
    target = tl.where(measure == 0, 0.0, c * measure)
    return column, here, slope.to(tl.float64) * (a * ((e - total) * inverse) + (a - target) + entropic)


@triton.jit
def _write(
    grad, origin, phase, place, live, value, named_column, named_value,
    U: tl.constexpr, WIDE: tl.constexpr, MEASURED: tl.constexpr,
):  # fmt: skip
    """Store the gradient of a tile; where the target names one class, with the value at that one in its place."""
    if not MEASURED:
        value = tl.where(place == (named_column + phase)[:, None, None], named_value[:, None, None], value)
    tl.store(address(grad, origin, phase, place, U, WIDE), value, mask=live)


@triton.jit
def _write_named(
    logits, origin, gathered, named, classes, number, wanted, weight, flags, unit, cap, scale, keep, spread,
    peak, total, inverse, log_total, a, b, c, grad, to, begin, end,
    T: tl.constexpr, K: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Store the gradient at all classes that the target names in columns [begin, end), over what is there."""
    tl.debug_barrier()
    for first in range(0, classes.picks, K):
        k = first + tl.arange(0, K)[None, :]
        there = wanted[:, None] & (k < classes.picks)
        column, here, value = _at_named(
            logits, origin[:, None], gathered, named, classes, number[:, None], k, there, weight, flags, unit, cap,
            scale, keep, spread, peak[:, None], total[:, None], inverse[:, None], log_total[:, None], a[:, None],
            b[:, None], c[:, None], T, CAPPED, True,
        )  # fmt: skip
        here = here & (column >= begin[:, None]) & (column < end[:, None])
        tl.store(grad.data + (to[:, None] + column * grad.col), value.to(T), mask=here)


# The kernels -------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def row_stats(
    logits, prob, named, classes, weight, record, summary,
    rows: "i64", row_batch: "i64", row_step: "i64", flags: "i32", span: "i32", record_step: "i64", part_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the record and the summary of each row, or the record of one part of the vocabulary of `span` columns."""
    batch, row, valid = place_of(rows, R)
    number, part = batch * row_batch + row * row_step, tl.program_id(1)
    origin = origin_of(logits, batch, row)
    phase = phase_of(origin, U, WIDE)
    start = tl.multiple_of(part * span, M * U)
    stop = tl.minimum(start + span, classes.columns + (U if WIDE else 0))
    scale = 1.0 if CAPPED else unit
    rate = unit.to(T) * 0.0 + 1.0 if CAPPED else unit.to(T)
    ignored = valid & (valid == 0) if DENSE else is_ignored(named, classes, number, valid)
    wanted = valid & (ignored == 0)
    prob_origin = origin_of(prob, batch, row) if DENSE else origin

    zero = tl.zeros([R, M], T)
    peak, total, score, mass, tilt = zero - float("inf"), zero, zero, zero, zero
    for at in range(start, stop, M * U):
        place, live = tile_places(at, phase, classes.columns, M, U, WIDE)
        live = live & wanted[:, None, None]
        x, _ = read_scores(logits, origin, phase, place, live, unit.to(T), cap.to(T), T, U, WIDE, CAPPED)
        q = x
        if MEASURED:
            q = read_measure(
                prob, prob_origin, phase, place, live, weight, flags, keep.to(T), spread.to(T), T, U, WIDE, DENSE
            )
        peak, total, score, mass, tilt = fold(peak, total, score, mass, tilt, x, q, rate, MEASURED)

    none = tl.zeros([R, 1], T)
    edges = (none - float("inf"), none, none, none, none)
    edge_x = none[:, :, None] - float("inf")
    if WIDE:
        place, live = edge_places(phase, classes.columns, U)
        live = live & wanted[:, None, None] & (part == 0)
        edge_x, _ = read_scores(logits, origin, phase, place, live, unit.to(T), cap.to(T), T, U, False, CAPPED)
        q = edge_x
        if MEASURED:
            q = read_measure(
                prob, prob_origin, phase, place, live, weight, flags, keep.to(T), spread.to(T), T, U, False, DENSE
            )
        edges = fold(edges[0], edges[1], edges[2], edges[3], edges[4], edge_x, q, rate, MEASURED)

    peak, total, score, mass, tilt = record_of(
        (peak, total, score, mass, tilt), edges, edge_x, logits, origin, phase, start, stop, classes.columns, wanted,
        unit.to(T), cap.to(T), rate, scale, T, M, U, WIDE, CAPPED,
    )  # fmt: skip
    if not DENSE:
        score, mass = with_named(
            peak, score, mass, logits, origin, named, classes, number, wanted, weight, flags, unit.to(T), cap.to(T),
            scale, keep, start - phase, stop - phase, T, K, CAPPED,
        )  # fmt: skip
    old = load_record(record, record_step, number, wanted & (flags & _RECORD != 0))
    peak, total, score, mass, tilt = merged(old[0], old[1], old[2], old[3], old[4], peak, total, score, mass, tilt)
    # an ignored row is as one column with the peak 0, in the first part
    peak = tl.where(ignored, tl.where(part == 0, 0.0, float("-inf")), peak)
    total = tl.where(ignored, tl.where(part == 0, 1.0, 0.0), total)
    score, mass, tilt = tl.where(ignored, 0.0, score), tl.where(ignored, 0.0, mass), tl.where(ignored, 0.0, tilt)
    to = record + part * part_step
    save_record(to, record_step, number, valid, summary, flags, peak, total, score, mass, tilt)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def merge_parts(
    source, named, classes, record, summary, rows: "i64", flags: "i32", parts: "i32", record_step: "i64",
    R: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Merge the records of all parts of the vocabulary in order, and write the summaries."""
    _, number, valid = place_of(rows, R)
    ignored = valid & (valid == 0) if DENSE else is_ignored(named, classes, number, valid)
    there = valid & (ignored == 0) & (flags & _RECORD != 0)
    peak, total, score, mass, tilt = load_record(record, record_step, number, there)
    for part in range(parts):
        p = load_record(source + part * (5 * rows), rows, number, valid)
        peak, total, score, mass, tilt = merged(peak, total, score, mass, tilt, p[0], p[1], p[2], p[3], p[4])
    save_record(record, record_step, number, valid, summary, flags, peak, total, score, mass, tilt)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def row_grad(
    logits, prob, named, classes, weight, record, cotangents, gathered, grad,
    rows: "i64", row_batch: "i64", row_step: "i64", flags: "i32", span: "i32", record_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the gradient of each row, or of one part of the vocabulary; it may take the place of the logits."""
    batch, row, valid = place_of(rows, R)
    number, part = batch * row_batch + row * row_step, tl.program_id(1)
    origin, to = origin_of(logits, batch, row), origin_of(grad, batch, row)
    phase = phase_of(origin, U, WIDE)
    start = tl.multiple_of(part * span, M * U)
    stop = tl.minimum(start + span, classes.columns + (U if WIDE else 0))
    scale = 1.0 if CAPPED else unit
    rate = unit.to(T) * 0.0 + 1.0 if CAPPED else unit.to(T)
    ignored = valid & (valid == 0) if DENSE else is_ignored(named, classes, number, valid)
    prob_origin = origin_of(prob, batch, row) if DENSE else origin

    peak, total, _, mass, tilt = load_record(record, record_step, number, valid)
    inverse, log_total = reciprocal(total), libdevice.log(total)
    a, b, c = _coefficients(cotangents, number, valid & (ignored == 0), flags, peak, inverse, log_total, mass, tilt)
    wanted = valid & (ignored == 0) & ((a != 0) | (b != 0) | (c != 0))
    x_peak = peak if CAPPED else peak * temperature
    factors = (x_peak.to(T), inverse.to(T), log_total.to(T), a.to(T), b.to(T), c.to(T))
    one_column, one_value = number * 0 - 1, a.to(T)
    if not MEASURED:
        label, here, at_label = _at_named(
            logits, origin, gathered, named, classes, number, 0, wanted, weight, flags, unit.to(T), cap.to(T), scale,
            keep, spread, peak, total, inverse, log_total, a, b, c, T, CAPPED, False,
        )  # fmt: skip
        one_column, one_value = tl.where(here, label, -1), at_label.to(T)
    tl.debug_barrier()  # the gradient may take the place of what was read
    for at in range(start, stop, M * U):
        place, live = tile_places(at, phase, classes.columns, M, U, WIDE)
        live = live & valid[:, None, None]
        read = live & wanted[:, None, None]
        x, slope = read_scores(logits, origin, phase, place, read, unit.to(T), cap.to(T), T, U, WIDE, CAPPED)
        q = x
        if MEASURED:
            q = read_measure(
                prob, prob_origin, phase, place, read, weight, flags, keep.to(T), spread.to(T), T, U, WIDE, DENSE
            )
        value = tl.where(wanted[:, None, None], _slopes(factors, x, slope, q, rate, MEASURED), 0.0)
        _write(grad, to, phase, place, live, value, one_column, one_value, U, WIDE, MEASURED)
    if WIDE:
        place, live = edge_places(phase, classes.columns, U)
        live = live & valid[:, None, None] & (part == 0)
        read = live & wanted[:, None, None]
        x, slope = read_scores(logits, origin, phase, place, read, unit.to(T), cap.to(T), T, U, False, CAPPED)
        q = x
        if MEASURED:
            q = read_measure(
                prob, prob_origin, phase, place, read, weight, flags, keep.to(T), spread.to(T), T, U, False, DENSE
            )
        value = tl.where(wanted[:, None, None], _slopes(factors, x, slope, q, rate, MEASURED), 0.0)
        _write(grad, to, phase, place, live, value, one_column, one_value, U, False, MEASURED)
    if MEASURED and not DENSE:
        _write_named(
            logits, origin, gathered, named, classes, number, wanted, weight, flags, unit.to(T), cap.to(T), scale, keep,
            spread, peak, total, inverse, log_total, a, b, c, grad, to, start - phase, stop - phase, T, K, CAPPED,
        )  # fmt: skip


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def row_fused(
    logits, prob, named, classes, weight, record, summary, cotangents, gathered, grad,
    rows: "i64", row_batch: "i64", row_step: "i64", flags: "i32", cotangent_flags: "i32", record_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Do both for rows of contiguous columns that fit one wide tile: each column is read once."""
    batch, row, valid = place_of(rows, R)
    number = batch * row_batch + row * row_step
    origin, to = origin_of(logits, batch, row), origin_of(grad, batch, row)
    prob_origin = origin_of(prob, batch, row) if DENSE else origin
    phase, stop = phase_of(origin, U, WIDE), classes.columns + U
    scale = 1.0 if CAPPED else unit
    rate = unit.to(T) * 0.0 + 1.0 if CAPPED else unit.to(T)
    ignored = valid & (valid == 0) if DENSE else is_ignored(named, classes, number, valid)
    wanted = valid & (ignored == 0)

    place, live = tile_places(0, phase, classes.columns, M, U, WIDE)
    edge_place, edge_live = edge_places(phase, classes.columns, U)
    read, edge_read = live & wanted[:, None, None], edge_live & wanted[:, None, None]
    x, slope = read_scores(logits, origin, phase, place, read, unit.to(T), cap.to(T), T, U, WIDE, CAPPED)
    edge_x, edge_slope = read_scores(
        logits, origin, phase, edge_place, edge_read, unit.to(T), cap.to(T), T, U, False, CAPPED
    )
    q, edge_q = x, edge_x
    if MEASURED:
        q = read_measure(
            prob, prob_origin, phase, place, read, weight, flags, keep.to(T), spread.to(T), T, U, WIDE, DENSE
        )
        edge_q = read_measure(
            prob, prob_origin, phase, edge_place, edge_read, weight, flags, keep.to(T), spread.to(T), T, U, False, DENSE
        )
    zero, none = tl.zeros([R, M], T), tl.zeros([R, 1], T)
    lanes = fold(zero - float("inf"), zero, zero, zero, zero, x, q, rate, MEASURED)
    edges = fold(none - float("inf"), none, none, none, none, edge_x, edge_q, rate, MEASURED)
    peak, total, score, mass, tilt = record_of(
        lanes, edges, edge_x, logits, origin, phase, 0, stop, classes.columns, wanted, unit.to(T), cap.to(T), rate,
        scale, T, M, U, WIDE, CAPPED,
    )  # fmt: skip
    if not DENSE:
        score, mass = with_named(
            peak, score, mass, logits, origin, named, classes, number, wanted, weight, flags, unit.to(T), cap.to(T),
            scale, keep, phase * 0, phase * 0 + classes.columns, T, K, CAPPED,
        )  # fmt: skip
    peak, total = tl.where(ignored, 0.0, peak), tl.where(ignored, 1.0, total)
    score, mass, tilt = tl.where(ignored, 0.0, score), tl.where(ignored, 0.0, mass), tl.where(ignored, 0.0, tilt)
    save_record(record, record_step, number, valid, summary, flags, peak, total, score, mass, tilt)

    inverse, log_total = reciprocal(total), libdevice.log(total)
    a, b, c = _coefficients(cotangents, number, wanted, cotangent_flags, peak, inverse, log_total, mass, tilt)
    wanted = wanted & ((a != 0) | (b != 0) | (c != 0))
    x_peak = peak if CAPPED else peak * temperature
    factors = (x_peak.to(T), inverse.to(T), log_total.to(T), a.to(T), b.to(T), c.to(T))
    one_column, one_value = number * 0 - 1, a.to(T)
    if not MEASURED:
        label, here, at_label = _at_named(
            logits, origin, gathered, named, classes, number, 0, wanted, weight, flags, unit.to(T), cap.to(T), scale,
            keep, spread, peak, total, inverse, log_total, a, b, c, T, CAPPED, False,
        )  # fmt: skip
        one_column, one_value = tl.where(here, label, -1), at_label.to(T)
    tl.debug_barrier()  # the gradient may take the place of what was read
    value = tl.where(wanted[:, None, None], _slopes(factors, x, slope, q, rate, MEASURED), 0.0)
    _write(grad, to, phase, place, live & valid[:, None, None], value, one_column, one_value, U, WIDE, MEASURED)
    value = tl.where(wanted[:, None, None], _slopes(factors, edge_x, edge_slope, edge_q, rate, MEASURED), 0.0)
    edge_live = edge_live & valid[:, None, None]
    _write(grad, to, phase, edge_place, edge_live, value, one_column, one_value, U, False, MEASURED)
    if MEASURED and not DENSE:
        _write_named(
            logits, origin, gathered, named, classes, number, wanted, weight, flags, unit.to(T), cap.to(T), scale, keep,
            spread, peak, total, inverse, log_total, a, b, c, grad, to, phase * 0, phase * 0 + classes.columns,
            T, K, CAPPED,
        )  # fmt: skip
