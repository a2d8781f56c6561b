"""What is done once a row and not once a column: kernels with a thread for each row, or for each sum of a mean."""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.record import (
    load_lanes,
    load_record,
    merged,
    record_of,
    save_outputs,
    save_record,
    with_named,
    without_target,
)
from crossent.kernels.triton.tiles import (
    HAS_RECORD,
    Logits,
    Measure,
    Named,
    is_ignored,
    nowhere,
    origin_of,
    phi_of,
    place_of,
    row_weight,
)

_RECORD = tl.constexpr(HAS_RECORD)
_UNSPECIALIZED = {
    "do_not_specialize": ["z", "named", "classes", "rows", "flags", "number", "record_step", "programs"],
    "do_not_specialize_on_alignment": [
        "logits", "bias", "label", "label_prob", "weight", "parts", "record", "outputs", "sums", "loss", "scale",
    ],
}  # fmt: skip


@triton.jit(**_UNSPECIALIZED)
def finish(
    logits, bias, label, label_prob, weight, parts, record, outputs, sums,
    z, named, classes, rows, flags: "i32", number: "i32", record_step,
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr,
    TILTED: tl.constexpr, K: tl.constexpr, SUMMED: tl.constexpr, BATCHED: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    """Merge the statistics of all parts of each row in order, and write record, outputs, and sums of R losses.

    Without parts, the record is there already.
    """
    logits = Logits(logits, z.batch, z.row, z.col, bias, GROUPED)
    targets = Named(label, named.row, named.col, label_prob, named.prob_row, named.prob_col)
    phi = phi_of(unit, cap, T, CAPPED)
    measure = Measure(logits, targets, classes, weight, flags, keep, spread)
    batch, row, exists = place_of(rows, R, BATCHED)
    at = batch * rows.batch + row * rows.step
    ignored = nowhere(exists) if DENSE else is_ignored(targets, classes, at, exists)
    wanted = exists & (ignored == 0)

    there = wanted & (number > 0)
    r = record_of(load_lanes(parts, 0, rows.all, at, there, MEASURED, TILTED), phi.scale, MEASURED, TILTED)
    for part in range(1, number):
        r = merged(
            r, record_of(load_lanes(parts, part, rows.all, at, wanted, MEASURED, TILTED), phi.scale, MEASURED, TILTED)
        )
    if K > 0:
        r = with_named(r, logits, phi, measure, at, origin_of(logits, batch, row), wanted, T, K, CAPPED)
    if flags & _RECORD != 0:
        r = merged(load_record(record, record_step, at, wanted), r)
    r = without_target(r, ignored)
    save_record(record, record_step, at, exists, r)
    loss = save_outputs(outputs, at, exists, flags, r, libdevice.log(r.total))
    if SUMMED:
        program = tl.program_id(0)
        tl.store(sums + 2 * program, tl.sum(tl.where(wanted, loss, 0.0), 0))
        tl.store(sums + 2 * program + 1, tl.sum(row_weight(measure, at, wanted, K), 0))


@triton.jit(**_UNSPECIALIZED)
def reduce_losses(sums, loss, scale, programs: "i32", B: tl.constexpr, MEAN: tl.constexpr):
    """Write the sum or mean of all losses, and its derivative by each of them, in one program: in the same order."""
    total, weight = tl.zeros([B], tl.float64), tl.zeros([B], tl.float64)
    for first in range(0, programs, B):
        program = first + tl.arange(0, B)
        there = program < programs
        total += tl.load(sums + 2 * program, mask=there, other=0.0)
        weight += tl.load(sums + 2 * program + 1, mask=there, other=0.0)
    whole = tl.sum(total, 0)
    by = 1.0 / tl.sum(weight, 0) if MEAN else whole * 0.0 + 1.0
    tl.store(loss, whole * by)
    tl.store(scale, by)
