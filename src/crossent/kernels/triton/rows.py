"""The row functions as Triton kernels, for NVIDIA and AMD and for Triton 3.6 to 3.9: statistics, gradient, and both.

Where a tile lies and what it holds is in `tiles`, the record in `record`, the gradient in `gradient`. Every kernel
takes T, the dtype it computes in, and the shape R, M, U of its tiles; CAPPED, whether there is a softcap; MEASURED,
whether the target is more than one class a row; DENSE, whether it has a probability for each column; and K, how many
of the classes that a target names are worked on at once.
"""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

import triton
import triton.language as tl

from crossent.kernels.triton.gradient import (
    for_tiles,
    gradient_of,
    has_gradient,
    named_value,
    slopes,
    write_named,
    write_tile,
)
from crossent.kernels.triton.record import (
    Record,
    fold,
    load_record,
    merged,
    no_columns,
    record_of,
    save_record,
    with_named,
    without_target,
)
from crossent.kernels.triton.tiles import (
    HAS_RECORD,
    Measure,
    block_of,
    edge_places,
    is_ignored,
    nowhere,
    origin_of,
    phi_of,
    place_of,
    read_tile,
    tile_places,
)

_RECORD, _FIELDS = tl.constexpr(HAS_RECORD), tl.constexpr(len(Record._fields))
_UNSPECIALIZED = ["rows", "row_batch", "row_step", "flags", "span", "record_step", "part_step", "parts"]


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def row_stats(
    logits, prob, named, classes, weight, record, outputs,
    rows: "i64", row_batch: "i64", row_step: "i64", flags: "i32", span: "i32", record_step: "i64", part_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the record and the outputs of each row, or the record of one part of the vocabulary of `span` columns."""
    phi, measure = phi_of(unit, cap, T, CAPPED), Measure(prob, named, classes, weight, flags, keep, spread)
    block, part = block_of(logits, measure, rows, row_batch, row_step, R, U, WIDE, DENSE), tl.program_id(1)
    wanted = block.wanted[:, None, None]
    start = tl.multiple_of(part * span, M * U)
    stop = tl.minimum(start + span, classes.columns + (U if WIDE else 0))

    lanes = no_columns(R, M, T)
    for at in range(start, stop, M * U):
        place, live = tile_places(at, block.phase, classes.columns, M, U, WIDE)
        x, _, p = read_tile(logits, phi, measure, block, place, live & wanted, T, U, WIDE, CAPPED, MEASURED, DENSE)
        lanes = fold(lanes, x, p, phi.rate, MEASURED)
    edges = no_columns(R, 1, T)
    edge_x = edges.peak[:, :, None]
    if WIDE:
        place, live = edge_places(block.phase, classes.columns, U)
        live = live & wanted & (place >= start) & (place < stop)
        edge_x, _, p = read_tile(logits, phi, measure, block, place, live, T, U, False, CAPPED, MEASURED, DENSE)
        edges = fold(edges, edge_x, p, phi.rate, MEASURED)
    r = record_of(lanes, edges, edge_x, logits, phi, block, start, stop, classes.columns, T, M, U, WIDE, CAPPED)
    if not DENSE:
        r = with_named(r, logits, phi, measure, block, start - block.phase, stop - block.phase, T, K, CAPPED)
    held = load_record(record, record_step, block.number, block.wanted & (flags & _RECORD != 0))
    r = without_target(merged(held, r), block.ignored, part == 0)
    save_record(record + part * part_step, record_step, block.number, block.exists, outputs, flags, r)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def merge_parts(
    source, named, classes, record, outputs, rows: "i64", flags: "i32", parts: "i32", record_step: "i64",
    R: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Merge the records of all parts of the vocabulary in order, and write the outputs."""
    _, number, exists = place_of(rows, R)
    ignored = nowhere(exists) if DENSE else is_ignored(named, classes, number, exists)
    r = load_record(record, record_step, number, exists & (ignored == 0) & (flags & _RECORD != 0))
    for part in range(parts):
        r = merged(r, load_record(source + part * (_FIELDS * rows), rows, number, exists))
    save_record(record, record_step, number, exists, outputs, flags, r)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def row_grad(
    logits, prob, named, classes, weight, record, cotangents, gathered, grad,
    rows: "i64", row_batch: "i64", row_step: "i64", flags: "i32", span: "i32", record_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the gradient of each row, or of one part of the vocabulary; it may take the place of the logits."""
    phi, measure = phi_of(unit, cap, T, CAPPED), Measure(prob, named, classes, weight, flags, keep, spread)
    block, part = block_of(logits, measure, rows, row_batch, row_step, R, U, WIDE, DENSE), tl.program_id(1)
    exists, to = block.exists[:, None, None], origin_of(grad, block.batch, block.row)
    start = tl.multiple_of(part * span, M * U)
    stop = tl.minimum(start + span, classes.columns + (U if WIDE else 0))

    g = gradient_of(load_record(record, record_step, block.number, block.exists), cotangents, block, flags)
    wanted, factors = has_gradient(block, g), for_tiles(g, temperature, T, CAPPED)
    begin, end = start - block.phase, stop - block.phase
    one = named_value(logits, gathered, phi, measure, block, wanted, g, begin, end, R, T, CAPPED, MEASURED)
    tl.debug_barrier()  # the gradient may take the place of what was read
    for at in range(start, stop, M * U):
        place, live = tile_places(at, block.phase, classes.columns, M, U, WIDE)
        live = live & exists
        read = live & wanted[:, None, None]
        x, slope, p = read_tile(logits, phi, measure, block, place, read, T, U, WIDE, CAPPED, MEASURED, DENSE)
        value = slopes(factors, x, slope, p, wanted, phi.rate, MEASURED)
        write_tile(grad, to, block.phase, place, live, value, one, U, WIDE, MEASURED)
    if WIDE:
        place, live = edge_places(block.phase, classes.columns, U)
        live = live & exists & (place >= start) & (place < stop)
        read = live & wanted[:, None, None]
        x, slope, p = read_tile(logits, phi, measure, block, place, read, T, U, False, CAPPED, MEASURED, DENSE)
        value = slopes(factors, x, slope, p, wanted, phi.rate, MEASURED)
        write_tile(grad, to, block.phase, place, live, value, one, U, False, MEASURED)
    if MEASURED and not DENSE:
        write_named(logits, gathered, phi, measure, block, wanted, g, grad, to, begin, end, T, K, CAPPED)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def row_fused(
    logits, prob, named, classes, weight, record, outputs, cotangents, gathered, grad,
    rows: "i64", row_batch: "i64", row_step: "i64", flags: "i32", cotangent_flags: "i32", record_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Do both for rows of contiguous columns that fit one wide tile: each column is read once."""
    phi, measure = phi_of(unit, cap, T, CAPPED), Measure(prob, named, classes, weight, flags, keep, spread)
    block = block_of(logits, measure, rows, row_batch, row_step, R, U, WIDE, DENSE)
    exists, to = block.exists[:, None, None], origin_of(grad, block.batch, block.row)
    begin = tl.zeros([R], tl.int32)
    end = begin + classes.columns

    place, live = tile_places(0, block.phase, classes.columns, M, U, WIDE)
    read = live & block.wanted[:, None, None]
    x, slope, p = read_tile(logits, phi, measure, block, place, read, T, U, WIDE, CAPPED, MEASURED, DENSE)
    edge_place, edge_live = edge_places(block.phase, classes.columns, U)
    read = edge_live & block.wanted[:, None, None]
    edge_x, edge_slope, edge_p = read_tile(
        logits, phi, measure, block, edge_place, read, T, U, False, CAPPED, MEASURED, DENSE
    )
    lanes = fold(no_columns(R, M, T), x, p, phi.rate, MEASURED)
    edges = fold(no_columns(R, 1, T), edge_x, edge_p, phi.rate, MEASURED)
    r = record_of(
        lanes, edges, edge_x, logits, phi, block, 0, classes.columns + U, classes.columns, T, M, U, WIDE, CAPPED
    )
    if not DENSE:
        r = with_named(r, logits, phi, measure, block, begin, end, T, K, CAPPED)
    r = without_target(r, block.ignored, block.exists)
    save_record(record, record_step, block.number, block.exists, outputs, flags, r)

    g = gradient_of(r, cotangents, block, cotangent_flags)
    wanted, factors = has_gradient(block, g), for_tiles(g, temperature, T, CAPPED)
    one = named_value(logits, gathered, phi, measure, block, wanted, g, begin, end, R, T, CAPPED, MEASURED)
    tl.debug_barrier()  # the gradient may take the place of what was read
    value = slopes(factors, x, slope, p, wanted, phi.rate, MEASURED)
    write_tile(grad, to, block.phase, place, live & exists, value, one, U, WIDE, MEASURED)
    value = slopes(factors, edge_x, edge_slope, edge_p, wanted, phi.rate, MEASURED)
    write_tile(grad, to, block.phase, edge_place, edge_live & exists, value, one, U, False, MEASURED)
    if MEASURED and not DENSE:
        write_named(logits, gathered, phi, measure, block, wanted, g, grad, to, begin, end, T, K, CAPPED)
