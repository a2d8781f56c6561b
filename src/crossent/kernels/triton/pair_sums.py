"""The sums of a row's divergences from a teacher's as Triton kernels: one for the columns, one that has a thread a row.

Both heads' logits are read in the same tiles. Constants are those of `rows`; CAPPED is whether either head may have a
softcap, as flags select, and MIXED whether there are sums beside a mixture.
"""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossent.kernels.triton.gap import divergences, gap_of, mixed_divergences
from crossent.kernels.triton.heads import HAS_MIXTURE, PAIR_NUMBERS, head_of, is_defined, read_head
from crossent.kernels.triton.scores import Temperature, phi_by_flag
from crossent.kernels.triton.tiles import (
    HAS_RECORD,
    Logits,
    Rows,
    edge_places,
    origin_of,
    phase_of,
    place_of,
    tile_places,
)

_MIXTURE, _RECORD = tl.constexpr(HAS_MIXTURE), tl.constexpr(HAS_RECORD)
_ARRAYS = ["own", "record", "t_own", "t_record", "parts", "sums"]
_UNSPECIALIZED = {"do_not_specialize": PAIR_NUMBERS, "do_not_specialize_on_alignment": _ARRAYS}
_ONE_BY_ONE = _UNSPECIALIZED | {"do_not_specialize_on_alignment": [*_ARRAYS, "logits", "bias", "t_logits", "t_bias"]}


class PairSums(NamedTuple):
    """The sums of lanes [R, M]: KL both ways, and of either model from the mixture."""

    kl: Any
    reverse: Any
    of_teacher: Any
    of_student: Any


@triton.jit
def _with_columns(
    sums, student, teacher, phase, place, live, beta, rest,
    T: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr, MIXED: tl.constexpr,
):  # fmt: skip
    """Return the sums with the columns at places added."""
    logq = read_head(student, phase, place, live, T, U, WIDE, CAPPED).logs
    logp = read_head(teacher, phase, place, live, T, U, WIDE, CAPPED).logs
    gap = gap_of(logp, logq)
    terms = divergences(gap)
    kl, reverse = sums.kl + tl.sum(terms.teacher, 2), sums.reverse + tl.sum(terms.student, 2)
    if MIXED:
        mixed = mixed_divergences(gap, beta, rest)
        of_teacher, of_student = tl.sum(mixed.teacher, 2), tl.sum(mixed.student, 2)
        return PairSums(kl, reverse, sums.of_teacher + of_teacher, sums.of_student + of_student)
    else:
        return PairSums(kl, reverse, sums.of_teacher, sums.of_student)


@triton.jit(**_UNSPECIALIZED)
def pair_stats(
    logits, bias, own, record, t_logits, t_bias, t_own, t_record, parts,
    z_batch: "i64", z_row: "i64", z_col: "i64", t_batch: "i64", t_row: "i64", t_col: "i64", columns: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64",
    flags: "i32", t_flags: "i32", span: "i32", record_step: "i64", t_step: "i64",
    t_unit: "fp64", t_temperature: "fp64", t_cap: "fp64", beta: "fp64", rest: "fp64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
    MIXED: tl.constexpr, BATCHED: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    """Write the sums of each row, or of one part of its vocabulary of `span` columns, for `pair_finish`."""
    batch, row, number, exists = place_of(Rows(rows, all_rows, batch_step, row_step), R, BATCHED)
    phi = phi_by_flag(Temperature(own, unit, temperature, flags), cap, number, exists, T, CAPPED)
    t_phi = phi_by_flag(Temperature(t_own, t_unit, t_temperature, t_flags), t_cap, number, exists, T, CAPPED)
    logits = Logits(logits, z_batch, z_row, 1 if WIDE else z_col, bias, GROUPED)
    t_logits = Logits(t_logits, t_batch, t_row, 1 if WIDE else t_col, t_bias, GROUPED)
    student = head_of(logits, phi, origin_of(logits, batch, row), record, record_step, number, exists, T)
    teacher = head_of(t_logits, t_phi, origin_of(t_logits, batch, row), t_record, t_step, number, exists, T)
    phase, part, here = phase_of(student.origin, U, WIDE), tl.program_id(1), exists[:, None, None]
    start = tl.multiple_of(part * span, M * U)
    stop = tl.minimum(start + span, columns + (U if WIDE else 0))
    beta, rest, zero = beta.to(T), rest.to(T), tl.zeros([R, M], T)

    sums = PairSums(zero, zero, zero, zero)
    for at in range(start, stop, M * U):
        place, live = tile_places(at, phase, columns, M, U, WIDE)
        sums = _with_columns(sums, student, teacher, phase, place, live & here, beta, rest, T, U, WIDE, CAPPED, MIXED)
    if WIDE:
        for edge in tl.static_range(0, 2 * U, M):
            place, live = edge_places(edge, phase, columns, M, U)
            live = live & here & (place >= start) & (place < stop)
            sums = _with_columns(sums, student, teacher, phase, place, live, beta, rest, T, U, False, CAPPED, MIXED)
    to = parts + (part * (4 * all_rows) + number)
    tl.store(to, tl.sum(sums.kl, 1), mask=exists)
    tl.store(to + all_rows, tl.sum(sums.reverse, 1), mask=exists)
    if MIXED:
        tl.store(to + 2 * all_rows, tl.sum(sums.of_teacher, 1), mask=exists)
        tl.store(to + 3 * all_rows, tl.sum(sums.of_student, 1), mask=exists)


@triton.jit
def _has_distribution(record, step, number, there):
    """Return which rows have a distribution by their records."""
    peak = tl.load(record + number, mask=there, other=0.0)
    return is_defined(peak, tl.load(record + (number + step), mask=there, other=1.0))


@triton.jit(**_UNSPECIALIZED)
def pair_finish(
    parts, record, t_record, sums,
    all_rows: "i64", flags: "i32", parts_number: "i32", record_step: "i64", t_step: "i64", sums_step: "i64",
    R: tl.constexpr,
):  # fmt: skip
    """Add the sums of all parts of each row in order, and of other columns where flags say so; NaN if undefined."""
    number = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    exists = number < all_rows
    defined = _has_distribution(record, record_step, number, exists)
    defined = defined & _has_distribution(t_record, t_step, number, exists)
    for k in range(4):
        there = exists & ((k < 2) | (flags & _MIXTURE != 0))
        total = tl.zeros([R], tl.float64)
        for part in range(parts_number):
            at = parts + ((part * 4 + k) * all_rows + number)
            total += tl.load(at, mask=there, other=0.0).to(tl.float64)
        to = sums + (k * sums_step + number)
        before = tl.load(to, mask=there & (flags & _RECORD != 0), other=0.0)
        tl.store(to, tl.where(defined, total, float("nan")) + before, mask=there)


# The same where columns are read one by one, however they are aligned
pair_stats_one_by_one: Any = triton.jit(**_ONE_BY_ONE)(pair_stats.fn)
