"""The row functions as Triton kernels, for NVIDIA and AMD and for Triton 3.6 to 3.9: statistics, gradient, and both.

Positions and values of a tile are in `tiles`, its scores in `scores`, statistics of lanes in `lanes`, the gradient in
`gradient`; work done once per row in `finish`. Every kernel takes T, the dtype it computes in, and the shape R, M, U of
its tiles; CAPPED, whether there is a softcap; MEASURED, whether the target is more than the classes that it names;
DENSE, whether it has a probability for each column; TILTED, whether entropies are wanted; G, of what the gradient is
(`gradient`); K, how many of the classes that a target names are worked on at once: 1 if it names one without a
probability, 0 if none; BATCHED, whether there is more than one batch of rows; and GROUPED, whether the bias, if there
is one (it is None otherwise), is read in groups of columns as wide tiles of logits are.
"""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

from typing import Any

import triton
import triton.language as tl

from crossent.kernels.triton.gradient import (
    Cotangents,
    CotangentSteps,
    for_tiles,
    gradient_of,
    has_gradient,
    in_x,
    named_value,
    of_record,
    slopes,
    write_named,
    write_tile,
)
from crossent.kernels.triton.lanes import across, fold, joined, no_columns
from crossent.kernels.triton.record import load_record, record_of, save_lanes, save_record, with_named, without_target
from crossent.kernels.triton.scores import Temperature, finite_where, phi_of
from crossent.kernels.triton.tiles import (
    NUMBERS,
    Classes,
    Logits,
    Matrix,
    Measure,
    Named,
    Rows,
    block_of,
    edge_places,
    origin_of,
    read_tile,
    tile_places,
)

_ARRAYS = ["label", "label_prob", "weight", "own", "parts", "record", *Cotangents._fields, "gathered"]
_UNSPECIALIZED = {"do_not_specialize": NUMBERS, "do_not_specialize_on_alignment": _ARRAYS}
_ONE_BY_ONE = _UNSPECIALIZED | {"do_not_specialize_on_alignment": [*_ARRAYS, "logits", "bias", "prob", "grad"]}


@triton.jit
def _two_tiles(
    logits, phi, measure, block, at, wanted, T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Return x and the target measure of two wide tiles, one after the other, joined to one of twice the columns."""
    columns = measure.classes.columns
    place, live = tile_places(at, block.phase, columns, M, U, True)
    x, _, p = read_tile(logits, phi, measure, block, place, live & wanted, T, U, True, CAPPED, MEASURED, DENSE)
    place, live = tile_places(at + M * U, block.phase, columns, M, U, True)
    y, _, q = read_tile(logits, phi, measure, block, place, live & wanted, T, U, True, CAPPED, MEASURED, DENSE)
    return joined(x, y, R, M, 2 * U), joined(p, q, R, M, 2 * U)


@triton.jit
def statistics(
    logits, phi, measure, block, start, stop, T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr,
    WIDE: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr, TILTED: tl.constexpr,
):  # fmt: skip
    """Return the statistics of rows [R] in places [start, stop)."""
    wanted = block.wanted[:, None, None]
    lanes = no_columns(R, M, T)
    if WIDE:  # several tiles at once: a thread has some accesses underway, and sixteen columns to compare
        for at in range(start, stop, M * 16):
            x, q = _two_tiles(logits, phi, measure, block, at, wanted, T, R, M, U, CAPPED, MEASURED, DENSE)
            if U == 4:
                y, r = _two_tiles(
                    logits, phi, measure, block, at + 2 * M * U, wanted, T, R, M, U, CAPPED, MEASURED, DENSE
                )
                x, q = joined(x, y, R, M, 16), joined(q, r, R, M, 16)
            lanes = fold(lanes, x, q, phi.rate, R, M, 16, MEASURED, TILTED)
    else:
        for at in range(start, stop, M * U):
            place, live = tile_places(at, block.phase, measure.classes.columns, M, U, False)
            x, _, q = read_tile(logits, phi, measure, block, place, live & wanted, T, U, False, CAPPED, MEASURED, DENSE)
            lanes = fold(lanes, x, q, phi.rate, R, M, U, MEASURED, TILTED)
    if WIDE:
        for edge in tl.static_range(0, 2 * U, M):
            place, live = edge_places(edge, block.phase, measure.classes.columns, M, U)
            live = live & wanted & (place >= start) & (place < stop)
            x, _, q = read_tile(logits, phi, measure, block, place, live, T, U, False, CAPPED, MEASURED, DENSE)
            lanes = fold(lanes, x, q, phi.rate, R, M, 1, MEASURED, TILTED)
    return across(lanes, phi.rate, MEASURED, TILTED)


@triton.jit
def write_columns(
    logits, phi, measure, block, g, wanted, one, grad, origin, start, stop,
    T: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
    MEASURED: tl.constexpr, DENSE: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the gradient of rows in places [start, stop), but for several classes that a target names."""
    factors, exists, readable = for_tiles(g, wanted, T), block.exists[:, None, None], wanted[:, None, None]
    for at in range(start, stop, M * U):
        place, live = tile_places(at, block.phase, measure.classes.columns, M, U, WIDE)
        live = live & exists
        x, slope, q = read_tile(
            logits, phi, measure, block, place, live & readable, T, U, WIDE, CAPPED, MEASURED, DENSE
        )
        value = slopes(factors, x, slope, q, phi.rate, MEASURED, G)
        write_tile(grad, origin, block.phase, place, live, value, one, U, WIDE, K)
    if WIDE:
        for edge in tl.static_range(0, 2 * U, M):
            place, live = edge_places(edge, block.phase, measure.classes.columns, M, U)
            live = live & exists & (place >= start) & (place < stop)
            x, slope, q = read_tile(
                logits, phi, measure, block, place, live & readable, T, U, False, CAPPED, MEASURED, DENSE
            )
            value = slopes(factors, x, slope, q, phi.rate, MEASURED, G)
            write_tile(grad, origin, block.phase, place, live, value, one, U, False, K)


@triton.jit(**_UNSPECIALIZED)
def row_stats(
    logits, bias, prob, label, label_prob, weight, own, parts,
    z_batch: "i64", z_row: "i64", z_col: "i64", p_batch: "i64", p_row: "i64", p_col: "i64",
    columns: "i32", first: "i64", number: "i64", ignored: "i64", picks: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64", flags: "i32", span: "i32",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
    MEASURED: tl.constexpr, DENSE: tl.constexpr, TILTED: tl.constexpr, BATCHED: tl.constexpr,
    GROUPED: tl.constexpr,
):  # fmt: skip
    """Write the statistics of each row, or of one part of its vocabulary of `span` columns, for `finish`."""
    logits = Logits(logits, z_batch, z_row, 1 if WIDE else z_col, bias, GROUPED)
    classes, rows = Classes(columns, first, number, ignored, picks), Rows(rows, all_rows, batch_step, row_step)
    measure = Measure(
        Matrix(prob, p_batch, p_row, p_col), Named(label, label_prob), classes, weight, flags, keep, spread
    )
    block, part = block_of(logits, measure, rows, R, U, WIDE, DENSE, BATCHED), tl.program_id(1)
    phi = phi_of(Temperature(own, unit, temperature, flags), cap, block.number, block.wanted, T, CAPPED)
    start = tl.multiple_of(part * span, M * 16 if WIDE else M * U)
    stop = tl.minimum(start + span, classes.columns + (U if WIDE else 0))

    s = statistics(logits, phi, measure, block, start, stop, T, R, M, U, WIDE, CAPPED, MEASURED, DENSE, TILTED)
    save_lanes(parts, part, rows.all, block.number, block.exists, s, MEASURED, TILTED)


@triton.jit(**_UNSPECIALIZED)
def row_grad(
    logits, bias, prob, label, label_prob, weight, own, record, loss, lse, entropy, square, gathered, grad,
    z_batch: "i64", z_row: "i64", z_col: "i64", p_batch: "i64", p_row: "i64", p_col: "i64",
    columns: "i32", first: "i64", number: "i64", ignored: "i64", picks: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64",
    loss_step: "i64", lse_step: "i64", entropy_step: "i64", square_step: "i64",
    to_batch: "i64", to_row: "i64", to_col: "i64", flags: "i32", span: "i32", record_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
    MEASURED: tl.constexpr, DENSE: tl.constexpr, G: tl.constexpr, K: tl.constexpr, BATCHED: tl.constexpr,
    GROUPED: tl.constexpr,
):  # fmt: skip
    """Write the gradient of each row, or of one part of the vocabulary; it may overwrite the logits."""
    logits = Logits(logits, z_batch, z_row, 1 if WIDE else z_col, bias, GROUPED)
    grad = Matrix(grad, to_batch, to_row, 1 if WIDE else to_col)
    cotangents = Cotangents(loss, lse, entropy, square)
    steps = CotangentSteps(loss_step, lse_step, entropy_step, square_step)
    classes, rows = Classes(columns, first, number, ignored, picks), Rows(rows, all_rows, batch_step, row_step)
    measure = Measure(
        Matrix(prob, p_batch, p_row, p_col), Named(label, label_prob), classes, weight, flags, keep, spread
    )
    block, part = block_of(logits, measure, rows, R, U, WIDE, DENSE, BATCHED), tl.program_id(1)
    origin = origin_of(grad, block.batch, block.row)
    start = tl.multiple_of(part * span, M * U)
    stop = tl.minimum(start + span, classes.columns + (U if WIDE else 0))

    there = block.row >= 0 if R == 1 else block.exists  # one row is always there, and loads need no other value
    r = load_record(record, record_step, block.number, there)
    g = gradient_of(r, of_record(r, T, G), cotangents, steps, block.number, block.wanted, flags, G)
    wanted = has_gradient(block.wanted, g)
    phi = phi_of(Temperature(own, unit, temperature, flags), cap, block.number, wanted, T, CAPPED)
    g = in_x(g, phi, T, CAPPED)
    begin, end = start - block.phase, stop - block.phase
    one = named_value(logits, gathered, phi, measure, block, wanted, g, begin, end, R, T, CAPPED, MEASURED, G, K)
    tl.debug_barrier()  # the gradient may overwrite the values just read
    write_columns(
        logits, phi, measure, block, g, wanted, one, grad, origin, start, stop,
        T, M, U, WIDE, CAPPED, MEASURED, DENSE, G, K,
    )  # fmt: skip
    if K > 1:
        write_named(
            logits, gathered, phi, measure, block, wanted, g, grad, origin, begin, end, T, K, CAPPED, MEASURED, G
        )


@triton.jit(**_UNSPECIALIZED)
def row_fused(
    logits, bias, prob, label, label_prob, weight, own, record, loss, lse, entropy, square, gathered, grad,
    z_batch: "i64", z_row: "i64", z_col: "i64", p_batch: "i64", p_row: "i64", p_col: "i64",
    columns: "i32", first: "i64", number: "i64", ignored: "i64", picks: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64",
    loss_step: "i64", lse_step: "i64", entropy_step: "i64", square_step: "i64",
    to_batch: "i64", to_row: "i64", to_col: "i64", flags: "i32", record_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, CAPPED: tl.constexpr,
    MEASURED: tl.constexpr, DENSE: tl.constexpr, G: tl.constexpr, K: tl.constexpr, BATCHED: tl.constexpr,
    GROUPED: tl.constexpr,
):  # fmt: skip
    """Do both for a row of contiguous columns that fits one wide tile: each column is read once."""
    logits = Logits(logits, z_batch, z_row, 1, bias, GROUPED)
    grad = Matrix(grad, to_batch, to_row, 1)
    cotangents = Cotangents(loss, lse, entropy, square)
    steps = CotangentSteps(loss_step, lse_step, entropy_step, square_step)
    classes, rows = Classes(columns, first, number, ignored, picks), Rows(rows, all_rows, batch_step, row_step)
    measure = Measure(
        Matrix(prob, p_batch, p_row, p_col), Named(label, label_prob), classes, weight, flags, keep, spread
    )
    block = block_of(logits, measure, rows, R, U, True, DENSE, BATCHED)
    phi = phi_of(Temperature(own, unit, temperature, flags), cap, block.number, block.wanted, T, CAPPED)
    exists, origin = block.exists[:, None, None], origin_of(grad, block.batch, block.row)
    begin = tl.zeros([R], tl.int32)
    end = begin + classes.columns

    place, live = tile_places(0, block.phase, classes.columns, M, U, True)
    read = live & block.wanted[:, None, None]
    x, slope, q = read_tile(logits, phi, measure, block, place, read, T, U, True, CAPPED, MEASURED, DENSE)
    edge_place, edge_live = edge_places(0, block.phase, classes.columns, M, U)
    read = edge_live & block.wanted[:, None, None]
    edge_x, edge_slope, edge_q = read_tile(
        logits, phi, measure, block, edge_place, read, T, U, False, CAPPED, MEASURED, DENSE
    )
    lanes = fold(no_columns(R, M, T), x, q, phi.rate, R, M, U, MEASURED, True)
    lanes = fold(lanes, edge_x, edge_q, phi.rate, R, M, 1, MEASURED, True)
    r = across(lanes, phi.rate, MEASURED, True)

    r = record_of(r, phi.scale, MEASURED, True)
    if K > 0:
        r = with_named(r, logits, phi, measure, block.number, block.origin, block.wanted, T, K, CAPPED)
    save_record(record, record_step, block.number, block.exists, without_target(r, block.ignored))
    g = gradient_of(r, of_record(r, T, G), cotangents, steps, block.number, block.wanted, flags, G)
    wanted, g = has_gradient(block.wanted, g), in_x(g, phi, T, CAPPED)
    factors, phi = for_tiles(g, wanted, T), finite_where(wanted, phi, CAPPED)
    one = named_value(logits, gathered, phi, measure, block, wanted, g, begin, end, R, T, CAPPED, MEASURED, G, K)
    tl.debug_barrier()  # the gradient may overwrite the values just read
    x, edge_x = tl.where(wanted[:, None, None], x, 0.0), tl.where(wanted[:, None, None], edge_x, 0.0)
    slope, edge_slope = tl.where(wanted[:, None, None], slope, 0.0), tl.where(wanted[:, None, None], edge_slope, 0.0)
    value = slopes(factors, x, slope, q, phi.rate, MEASURED, G)
    write_tile(grad, origin, block.phase, place, live & exists, value, one, U, True, K)
    value = slopes(factors, edge_x, edge_slope, edge_q, phi.rate, MEASURED, G)
    write_tile(grad, origin, block.phase, edge_place, edge_live & exists, value, one, U, False, K)
    if K > 1:
        write_named(
            logits, gathered, phi, measure, block, wanted, g, grad, origin, begin, end, T, K, CAPPED, MEASURED, G
        )


# The same where columns are read one by one, however they are aligned
row_stats_one_by_one: Any = triton.jit(**_ONE_BY_ONE)(row_stats.fn)
row_grad_one_by_one: Any = triton.jit(**_ONE_BY_ONE)(row_grad.fn)
