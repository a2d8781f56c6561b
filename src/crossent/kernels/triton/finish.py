"""Work done once per row, not once per column: kernels with a thread for each row, or for each sum of a mean."""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.record import (
    Outputs,
    load_lanes,
    load_record,
    merged,
    record_of,
    save_outputs,
    save_record,
    save_sums,
    with_named,
    without_target,
)
from crossent.kernels.triton.scores import HAS_CAP, Phi, Temperature, phi_of
from crossent.kernels.triton.tiles import (
    HAS_RECORD,
    NUMBERS,
    Classes,
    Logits,
    Measure,
    Named,
    Rows,
    is_ignored,
    nowhere,
    origin_of,
    place_of,
    row_weight,
)

_CAP, _RECORD = tl.constexpr(HAS_CAP), tl.constexpr(HAS_RECORD)
_UNSPECIALIZED = {
    "do_not_specialize": [*NUMBERS, "parts_number", "programs", "mean"],
    "do_not_specialize_on_alignment": [
        "logits", "bias", "label", "label_prob", "weight", "own", "parts", "record", "loss", "lse", "entropy", "sums",
        "scale",
    ],
}  # fmt: skip


@triton.jit(**_UNSPECIALIZED)
def finish(
    logits, bias, label, label_prob, weight, own, parts, record, loss, lse, entropy, sums,
    z_batch: "i64", z_row: "i64", z_col: "i64",
    columns: "i32", first: "i64", number: "i64", ignored: "i64", picks: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64",
    flags: "i32", parts_number: "i32", record_step: "i64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Merge the statistics of all parts of each row in order, and write record, outputs, and sums of R losses.

    Without parts, the record is there already. With one thread per row, flags cost less than separate kernels.
    """
    logits = Logits(logits, z_batch, z_row, z_col, bias, False)
    classes, rows = Classes(columns, first, number, ignored, picks), Rows(rows, all_rows, batch_step, row_step)
    measure = Measure(logits, Named(label, label_prob), classes, weight, flags, keep, spread)
    batch, row, at, exists = place_of(rows, R, True)
    ignored = nowhere(exists) if K == 0 else is_ignored(measure.named, classes, at, exists)
    wanted = exists & (ignored == 0)
    phi = phi_of(Temperature(own, unit, temperature, flags), cap, at, wanted, T, False)
    phi = Phi(phi.unit, phi.cap, phi.rate, tl.where(flags & _CAP != 0, 1.0, phi.scale), phi.temperature, None)

    there = wanted & (parts_number > 0)
    r = record_of(load_lanes(parts, 0, rows.all, at, there, flags), phi.scale, True, True)
    for part in range(1, parts_number):
        r = merged(r, record_of(load_lanes(parts, part, rows.all, at, wanted, flags), phi.scale, True, True))
    if K > 0:
        r = with_named(r, logits, phi, measure, at, origin_of(logits, batch, row), there, T, K, True)
    if flags & _RECORD != 0:
        r = merged(load_record(record, record_step, at, wanted), r)
    r = without_target(r, ignored)
    save_record(record, record_step, at, exists, r)
    losses = save_outputs(Outputs(loss, lse, entropy), at, exists, flags, r, libdevice.log(r.total))
    save_sums(sums, losses, row_weight(measure, at, wanted, K), wanted, flags)


@triton.jit(**_UNSPECIALIZED)
def reduce_losses(sums, loss, scale, programs: "i32", mean: "i32", B: tl.constexpr):
    """Write the sum or mean of all losses, and its derivative by each of them, in one program: in the same order."""
    total, weight = tl.zeros([B], tl.float64), tl.zeros([B], tl.float64)
    for first in range(0, programs, B):
        program = first + tl.arange(0, B)
        there = program < programs
        total += tl.load(sums + 2 * program, mask=there, other=0.0)
        weight += tl.load(sums + 2 * program + 1, mask=there, other=0.0)
    whole = tl.sum(total, 0)
    by = tl.where(mean != 0, 1.0 / tl.sum(weight, 0), 1.0)
    tl.store(loss, whole * by)
    tl.store(scale, by)
