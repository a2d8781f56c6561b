"""Statistics and gradient of long rows in one Triton kernel, whose second pass finds the logits in a cache of the GPU.

A few programs share a row. Each writes statistics of its columns, waits until the others of the row have, and writes
the gradient of its columns. A program takes its part of a row by a ticket, in order of start, not by its place in the
grid: a waiting program then waits only for programs that have started or start next, so there is always progress
(docs/decisions/0028). No result depends on the order of tickets.

Constants are those of `rows`; FIRST and SECOND select the half to do. A single half needs no waiting.
"""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

import triton
import triton.language as tl

from crossent.kernels.triton.gradient import (
    Cotangents,
    CotangentSteps,
    gradient_of,
    has_gradient,
    in_x,
    named_value,
    of_record,
)
from crossent.kernels.triton.lanes import Lanes, across
from crossent.kernels.triton.record import Record, record_of, save_lanes, save_record, without_target
from crossent.kernels.triton.rows import statistics, write_columns
from crossent.kernels.triton.scores import Temperature, phi_of, scored
from crossent.kernels.triton.tiles import (
    NUMBERS,
    Block,
    Classes,
    Logits,
    Matrix,
    Measure,
    Named,
    Rows,
    biased,
    is_ignored,
    named_class,
    nowhere,
    origin_of,
    phase_of,
)

_UNSPECIALIZED = {
    "do_not_specialize": [*NUMBERS, "parts_number", "tickets"],
    "do_not_specialize_on_alignment": [
        "label", "label_prob", "weight", "own", "parts", "chosen", "turns", "record", *Cotangents._fields,
    ],
}  # fmt: skip


@triton.jit
def _row_of(ticket, number, logits, measure, rows, U: tl.constexpr, DENSE: tl.constexpr):
    """Return the row of a ticket, as a block of one row."""
    row = (ticket // number).to(tl.int64) + tl.zeros([1], tl.int64)
    exists, batch = row < rows.all, tl.zeros([], tl.int64)
    origin = origin_of(logits, batch, row)
    ignored = nowhere(exists) if DENSE else is_ignored(measure.named, measure.classes, row, exists)
    prob_origin = origin_of(measure.prob, batch, row) if DENSE else origin
    phase = phase_of(origin, U, True)
    return Block(batch, row, row, exists, ignored, exists & (ignored == 0), origin, prob_origin, phase)


@triton.jit
def _saved_parts(parts, rows, row, number, PARTS: tl.constexpr, MEASURED: tl.constexpr):
    """Return the statistics of all parts of a row as lanes [1, PARTS]; other programs have written them."""
    part = tl.arange(0, PARTS)[None, :]
    at, there = parts + (part * (5 * rows) + row[:, None]), part < number
    peak = tl.load(at, mask=there, other=float("-inf"), cache_modifier=".cg")
    rest = tl.load(at + rows, mask=there, other=0.0, cache_modifier=".cg")
    score, mass = rest, rest
    if MEASURED:
        score = tl.load(at + 2 * rows, mask=there, other=0.0, cache_modifier=".cg")
        mass = tl.load(at + 3 * rows, mask=there, other=0.0, cache_modifier=".cg")
    tilt = tl.load(at + 4 * rows, mask=there, other=0.0, cache_modifier=".cg")
    return Lanes(peak, rest, score, mass, tilt)


@triton.jit
def _wait(arrived, number):
    """Signal that this program's part is written, and wait for all programs of the row."""
    tl.debug_barrier()  # every thread has written before one of them says so
    seen = tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu") + 1
    while seen < number:
        seen = tl.atomic_add(arrived, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit
def _part_of_row(
    ticket, logits, temperature, cap, measure, parts, chosen, turns, record, cotangents, grad,
    rows, steps, flags, span, number, record_step,
    T: tl.constexpr, M: tl.constexpr, U: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr,
    DENSE: tl.constexpr, G: tl.constexpr, K: tl.constexpr, PARTS: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr,
):  # fmt: skip
    """Do one part of one row."""
    block, part = _row_of(ticket, number, logits, measure, rows, U, DENSE), ticket % number
    phi = phi_of(temperature, cap, block.number, block.wanted, T, CAPPED)
    start = tl.multiple_of(part * span, M * U)
    stop = tl.minimum(start + span, measure.classes.columns + U)
    column, here, p = block.row, block.wanted, tl.zeros([1], tl.float64)
    if K == 1:
        column, here, p = named_class(measure, block.number, 0, block.wanted, K)
    if FIRST:
        s = statistics(
            logits, phi, measure, block, start, stop, T, 1, M * U // 16, U, True, CAPPED, MEASURED, DENSE, True
        )
        save_lanes(parts, part, rows.all, block.number, block.exists, s, MEASURED, True)
        if K == 1:  # once anybody has gone on, a gradient may be in the place of this logit
            z = tl.load(logits.data + (block.origin + column * logits.col), mask=here, other=0.0).to(T)
            x, _ = scored(biased(z, logits, column, here), phi, here, CAPPED)
            tl.store(chosen + block.number, x, mask=here & (part == 0))
    if FIRST and SECOND:
        _wait(turns + 1 + ticket // number, number)
    if SECOND:
        s = across(_saved_parts(parts, rows.all, block.number, number, PARTS, MEASURED), phi.rate, MEASURED, True)
        r = record_of(s, phi.scale, MEASURED, True)
        if K == 1:
            p = tl.where(here | (p != p), p, 0.0)
            x = tl.load(chosen + block.number, mask=here, other=0.0, cache_modifier=".cg")
            d = x.to(tl.float64) * phi.scale - tl.where(r.peak == float("-inf"), 0.0, r.peak)
            score = r.target_score + tl.where(p == 0, 0.0, p * d)
            r = Record(r.peak, r.total, score, r.mass + p, r.tilt)
        save_record(record, record_step, block.number, block.exists & (part == 0), without_target(r, block.ignored))
        g = gradient_of(r, of_record(r, T, G), cotangents, steps, block.number, block.wanted, flags, G)
        wanted, to = has_gradient(block.wanted, g), origin_of(grad, block.batch, block.row)
        phi = phi_of(temperature, cap, block.number, wanted, T, CAPPED)
        g = in_x(g, phi, T, CAPPED)
        begin, end = start - block.phase, stop - block.phase
        one = named_value(logits, logits.data, phi, measure, block, wanted, g, begin, end, 1, T, CAPPED, MEASURED, G, K)
        tl.debug_barrier()  # the gradient may overwrite the values just read
        write_columns(
            logits, phi, measure, block, g, wanted, one, grad, to, start, stop,
            T, M, U, True, CAPPED, MEASURED, DENSE, G, K,
        )  # fmt: skip


@triton.jit(**_UNSPECIALIZED)
def row_cached(
    logits, bias, prob, label, label_prob, weight, own, parts, chosen, turns, record, loss, lse, entropy, square, grad,
    z_batch: "i64", z_row: "i64", z_col: "i64", p_batch: "i64", p_row: "i64", p_col: "i64",
    columns: "i32", first: "i64", number: "i64", ignored: "i64", picks: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64",
    loss_step: "i64", lse_step: "i64", entropy_step: "i64", square_step: "i64",
    to_batch: "i64", to_row: "i64", to_col: "i64", flags: "i32", span: "i32", parts_number: "i32", tickets: "i32",
    record_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, CAPPED: tl.constexpr,
    MEASURED: tl.constexpr, DENSE: tl.constexpr, G: tl.constexpr, K: tl.constexpr, BATCHED: tl.constexpr,
    GROUPED: tl.constexpr, PARTS: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """Write the record of each row and its gradient, which may overwrite the logits."""
    logits, grad = Logits(logits, z_batch, z_row, 1, bias, GROUPED), Matrix(grad, to_batch, to_row, 1)
    cotangents = Cotangents(loss, lse, entropy, square)
    steps = CotangentSteps(loss_step, lse_step, entropy_step, square_step)
    classes, rows = Classes(columns, first, number, ignored, picks), Rows(rows, all_rows, batch_step, row_step)
    scale = Temperature(own, unit, temperature, flags)
    measure = Measure(
        Matrix(prob, p_batch, p_row, p_col), Named(label, label_prob), classes, weight, flags, keep, spread
    )
    if FIRST and SECOND:
        ticket = tl.atomic_add(turns, 1, sem="relaxed", scope="gpu")
        while ticket < tickets:
            _part_of_row(
                ticket, logits, scale, cap, measure, parts, chosen, turns, record, cotangents, grad,
                rows, steps, flags, span, parts_number, record_step,
                T, M, U, CAPPED, MEASURED, DENSE, G, K, PARTS, FIRST, SECOND,
            )  # fmt: skip
            ticket = tl.atomic_add(turns, 1, sem="relaxed", scope="gpu")
    else:
        _part_of_row(
            tl.program_id(0), logits, scale, cap, measure, parts, chosen, turns, record, cotangents, grad,
            rows, steps, flags, span, parts_number, record_step,
            T, M, U, CAPPED, MEASURED, DENSE, G, K, PARTS, FIRST, SECOND,
        )  # fmt: skip
