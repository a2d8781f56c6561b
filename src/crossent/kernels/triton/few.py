"""Rows of few classes as Triton kernels: their statistics are computed again for the gradient, and nothing is kept.

A program sums rows over their classes and has all of them at once, in the dtype of the computation: small terms stay
apart from large ones (`lanes`), so that nothing needs float64. Constants are those of `rows`.
"""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.gradient import (
    OF_ENTROPY,
    Cotangents,
    CotangentSteps,
    for_tiles,
    gradient_of,
    has_gradient,
    named_value,
    normaliser,
    slopes,
    write_tile,
)
from crossent.kernels.triton.lanes import across, fold, no_columns
from crossent.kernels.triton.record import (
    Outputs,
    record_of,
    save_outputs,
    save_sums,
    with_named,
    without_target,
)
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
    origin_of,
    read_tile,
    row_weight,
    tile_places,
)

_UNSPECIALIZED = {
    "do_not_specialize": NUMBERS,
    "do_not_specialize_on_alignment": [
        "logits", "bias", "prob", "label", "weight", "own", "sums", *Cotangents._fields, "grad",
    ],
}  # fmt: skip


@triton.jit
def _summed(
    logits, phi, measure, block, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, T: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr, TILTED: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Return the record of rows, and peak and rest of their normalisers in the dtype of the computation."""
    lanes, wanted = no_columns(R, M, T), block.wanted[:, None, None]
    for at in range(0, measure.classes.columns, M * U):
        place, live = tile_places(at, block.phase, measure.classes.columns, M, U, False)
        x, _, p = read_tile(logits, phi, measure, block, place, live & wanted, T, U, False, CAPPED, MEASURED, DENSE)
        lanes = fold(lanes, x, p, phi.rate, R, M, U, MEASURED, TILTED)
    r = across(lanes, phi.rate, MEASURED, TILTED)
    record = record_of(r, phi.scale, MEASURED, TILTED)
    if K > 0:
        record = with_named(record, logits, phi, measure, block.number, block.origin, block.wanted, T, K, CAPPED)
    return record, r.peak, tl.where(record.total > 0, r.rest, (record.total - 1.0).to(T))


@triton.jit(**_UNSPECIALIZED)
def few_stats(
    logits, bias, prob, label, weight, own, loss, lse, entropy, sums,
    z_batch: "i64", z_row: "i64", z_col: "i64", p_batch: "i64", p_row: "i64", p_col: "i64",
    columns: "i32", first: "i64", number: "i64", ignored: "i64", picks: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64", flags: "i32",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr,
    DENSE: tl.constexpr, TILTED: tl.constexpr, K: tl.constexpr, BATCHED: tl.constexpr,
    GROUPED: tl.constexpr,
):  # fmt: skip
    """Write loss, lse and entropy of each row, and sums of R losses."""
    logits = Logits(logits, z_batch, z_row, z_col, bias, GROUPED)
    classes, rows = Classes(columns, first, number, ignored, picks), Rows(rows, all_rows, batch_step, row_step)
    measure = Measure(Matrix(prob, p_batch, p_row, p_col), Named(label, weight), classes, weight, flags, keep, spread)
    block = block_of(logits, measure, rows, R, U, False, DENSE, BATCHED)
    phi = phi_of(Temperature(own, unit, temperature, flags), cap, block.number, block.wanted, T, CAPPED)
    r, _, rest = _summed(logits, phi, measure, block, R, M, U, T, CAPPED, MEASURED, DENSE, TILTED, K)
    log_total = tl.where(block.ignored, 0.0, libdevice.log1p(rest)).to(tl.float64)
    outputs = Outputs(loss, lse, entropy)
    losses = save_outputs(outputs, block.number, block.exists, flags, without_target(r, block.ignored), log_total)
    save_sums(sums, losses, row_weight(measure, block.number, block.wanted, K), block.wanted, flags)


@triton.jit(**_UNSPECIALIZED)
def few_grad(
    logits, bias, prob, label, weight, own, loss, lse, entropy, square, grad,
    z_batch: "i64", z_row: "i64", z_col: "i64", p_batch: "i64", p_row: "i64", p_col: "i64",
    columns: "i32", first: "i64", number: "i64", ignored: "i64", picks: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64",
    loss_step: "i64", lse_step: "i64", entropy_step: "i64", square_step: "i64",
    to_batch: "i64", to_row: "i64", to_col: "i64", flags: "i32",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr,
    DENSE: tl.constexpr, G: tl.constexpr, K: tl.constexpr, BATCHED: tl.constexpr,
    GROUPED: tl.constexpr,
):  # fmt: skip
    """Write the gradient of each row; it must not overwrite the logits."""
    logits, grad = Logits(logits, z_batch, z_row, z_col, bias, GROUPED), Matrix(grad, to_batch, to_row, to_col)
    cotangents = Cotangents(loss, lse, entropy, square)
    steps = CotangentSteps(loss_step, lse_step, entropy_step, square_step)
    classes, rows = Classes(columns, first, number, ignored, picks), Rows(rows, all_rows, batch_step, row_step)
    measure = Measure(Matrix(prob, p_batch, p_row, p_col), Named(label, weight), classes, weight, flags, keep, spread)
    block = block_of(logits, measure, rows, R, U, False, DENSE, BATCHED)
    phi = phi_of(Temperature(own, unit, temperature, flags), cap, block.number, block.wanted, T, CAPPED)
    origin = origin_of(grad, block.batch, block.row)
    r, peak, rest = _summed(logits, phi, measure, block, R, M, U, T, CAPPED, MEASURED, DENSE, G == OF_ENTROPY, K)
    norm = normaliser(peak, rest, G)
    g = gradient_of(r, norm, cotangents, steps, block.number, block.wanted, flags, G)
    wanted = has_gradient(block.wanted, g)
    factors, phi = for_tiles(g, wanted, T), finite_where(wanted, phi, CAPPED)
    one = named_value(
        logits, logits.data, phi, measure, block, wanted, g, 0, classes.columns, R, T, CAPPED, MEASURED, G, K
    )
    for at in range(0, classes.columns, M * U):
        place, live = tile_places(at, block.phase, classes.columns, M, U, False)
        live = live & block.exists[:, None, None]
        read = live & wanted[:, None, None]
        x, slope, q = read_tile(logits, phi, measure, block, place, read, T, U, False, CAPPED, MEASURED, DENSE)
        value = slopes(factors, x, slope, q, phi.rate, MEASURED, G)
        write_tile(grad, origin, block.phase, place, live, value, one, U, False, K)
