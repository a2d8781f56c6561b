"""The gradient by a row's logits of all its statistics, alone and with a teacher's row, as a Triton kernel.

Constants are those of `rows`; CAPPED is whether either head may have a softcap, as flags select, and MIXED whether a
divergence from a mixture has a cotangent.
"""

# No `from __future__ import annotations`: Triton reads the annotations "fp64" and "i64" as the types of arguments.

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossent.kernels.triton.gap import gap_of, steepness
from crossent.kernels.triton.gradient import (
    OF_ENTROPY,
    Cotangents,
    CotangentSteps,
    NamedValue,
    Normaliser,
    as_columns,
    at_named,
    cotangent,
    gradient_of,
    has_gradient,
    in_x,
    named_value,
    write_tile,
)
from crossent.kernels.triton.heads import HAS_JS, HAS_KL, HAS_REVERSE, PAIR_NUMBERS, head_at, head_of, read_head
from crossent.kernels.triton.record import load_record
from crossent.kernels.triton.scores import Temperature, as_column, inverse_of, phi_by_flag
from crossent.kernels.triton.tiles import (
    Classes,
    Logits,
    Matrix,
    Measure,
    Named,
    Rows,
    block_of,
    edge_places,
    origin_of,
    read_measure,
    tile_places,
)

_KL, _REVERSE, _JS = tl.constexpr(HAS_KL), tl.constexpr(HAS_REVERSE), tl.constexpr(HAS_JS)
_ARRAYS = [
    "label", "label_prob", "weight", "own", "record", "t_own", "t_record", "sums", "loss", "lse", "entropy", "kl",
    "reverse", "js", "gathered", "t_gathered",
]  # fmt: skip
_UNSPECIALIZED = {"do_not_specialize": PAIR_NUMBERS, "do_not_specialize_on_alignment": _ARRAYS}
_ONE_BY_ONE = _UNSPECIALIZED | {
    "do_not_specialize_on_alignment": [*_ARRAYS, "logits", "bias", "t_logits", "t_bias", "prob", "grad"]
}


class Beside(NamedTuple):
    """Terms of the divergences in the gradient of a row, (R,): coefficients of `steepness`, and the teacher's share.

    `beta` and `rest`, the share of the student, are of all rows.
    """

    a: Any
    kl: Any
    reverse: Any
    js: Any
    beta: Any
    rest: Any


@triton.jit
def _sum_of(sums, at, there, g):
    """Return the cotangents of rows times one of their sums, 0 where the cotangent is, for any sum."""
    return tl.where(there, g * tl.load(sums + at, mask=there, other=0.0), 0.0)


@triton.jit
def _for_tiles(f, poison, T: tl.constexpr):
    """Return the pair terms of rows in the dtype of the computation; poisoned rows have the gradient NaN."""
    kl = tl.where(poison, float("nan"), f.kl)  # it multiplies in every column
    return Beside(f.a.to(T), kl.to(T), f.reverse.to(T), f.js.to(T), f.beta.to(T), f.rest.to(T))


@triton.jit
def _as_column(f):
    """Return the pair terms of rows as columns [R, 1]."""
    return Beside(f.a[:, None], f.kl[:, None], f.reverse[:, None], f.js[:, None], f.beta, f.rest)


@triton.jit
def _write_columns(
    student, teacher, measure, block, a, b, c, f, wanted, paired, one, grad, to, start, stop,
    T: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
    MEASURED: tl.constexpr, DENSE: tl.constexpr, MIXED: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the gradient of rows in places [start, stop), but for several classes that a target names."""
    for at in range(start, stop, M * U):
        place, live = tile_places(at, block.phase, measure.classes.columns, M, U, WIDE)
        _write_places(
            student, teacher, measure, block, a, b, c, f, wanted, paired, one, grad, to, place, live,
            T, U, WIDE, CAPPED, MEASURED, DENSE, MIXED, K,
        )  # fmt: skip
    if WIDE:
        for edge in tl.static_range(0, 2 * U, M):
            place, live = edge_places(edge, block.phase, measure.classes.columns, M, U)
            live = live & (place >= start) & (place < stop)
            _write_places(
                student, teacher, measure, block, a, b, c, f, wanted, paired, one, grad, to, place, live,
                T, U, False, CAPPED, MEASURED, DENSE, MIXED, K,
            )  # fmt: skip


@triton.jit
def _write_places(
    student, teacher, measure, block, a, b, c, f, wanted, paired, one, grad, to, place, live,
    T: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr,
    DENSE: tl.constexpr, MIXED: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the gradient at places of each row; a row that is not paired reads nothing of its teacher's."""
    live = live & block.exists[:, None, None]
    read = live & wanted[:, None, None]
    own = read_head(student, block.phase, place, read, T, U, WIDE, CAPPED)
    other = read_head(teacher, block.phase, place, live & paired[:, None, None], T, U, WIDE, CAPPED)
    f = _as_column(_as_column(f))
    value = steepness(
        gap_of(other.logs, own.logs), own.logs, a[:, None, None], b[:, None, None], f.kl, f.reverse, f.js,
        f.beta, f.rest, MIXED,
    )  # fmt: skip
    if MEASURED:
        value -= c[:, None, None] * read_measure(measure, block, place, read, T, U, WIDE, DENSE)
    write_tile(grad, to, block.phase, place, live, value * own.slope, one, U, WIDE, K)


@triton.jit
def _beside_at(
    student, teacher, gathered, t_gathered, measure, number, k, column, here, paired, f,
    T: tl.constexpr, CAPPED: tl.constexpr, MIXED: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Return the terms of the divergences in the gradient, at the columns of the target."""
    own = head_at(student, gathered, number, k, column, here, measure, T, CAPPED, K)
    other = head_at(teacher, t_gathered, number, k, column, here & paired, measure, T, CAPPED, K)
    value = steepness(
        gap_of(other.logs, own.logs), own.logs, f.a, f.a * 0.0, f.kl, f.reverse, f.js, f.beta, f.rest, MIXED
    )
    return tl.where(here, value * own.slope, 0.0)


@triton.jit(**_UNSPECIALIZED)
def pair_grad(
    logits, bias, prob, label, label_prob, weight, own, record, t_logits, t_bias, t_own, t_record, sums,
    loss, lse, entropy, kl, reverse, js, gathered, t_gathered, grad,
    z_batch: "i64", z_row: "i64", z_col: "i64", p_batch: "i64", p_row: "i64", p_col: "i64",
    columns: "i32", first: "i64", number: "i64", ignored: "i64", picks: "i32",
    rows: "i64", all_rows: "i64", batch_step: "i64", row_step: "i64",
    t_batch: "i64", t_row: "i64", t_col: "i64",
    loss_step: "i64", lse_step: "i64", entropy_step: "i64", kl_step: "i64", reverse_step: "i64", js_step: "i64",
    to_batch: "i64", to_row: "i64", to_col: "i64", flags: "i32", t_flags: "i32", span: "i32",
    record_step: "i64", t_step: "i64", sums_step: "i64",
    t_unit: "fp64", t_temperature: "fp64", t_cap: "fp64", beta: "fp64", rest: "fp64",
    keep: "fp64", spread: "fp64", unit: "fp64", temperature: "fp64", cap: "fp64",
    T: tl.constexpr, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
    MEASURED: tl.constexpr, DENSE: tl.constexpr, MIXED: tl.constexpr, K: tl.constexpr, BATCHED: tl.constexpr,
    GROUPED: tl.constexpr,
):  # fmt: skip
    """Write the gradient of each row, or of one part of the vocabulary; it may overwrite the logits of either."""
    logits = Logits(logits, z_batch, z_row, 1 if WIDE else z_col, bias, GROUPED)
    t_logits = Logits(t_logits, t_batch, t_row, 1 if WIDE else t_col, t_bias, GROUPED)
    grad = Matrix(grad, to_batch, to_row, 1 if WIDE else to_col)
    classes, rows = Classes(columns, first, number, ignored, picks), Rows(rows, all_rows, batch_step, row_step)
    measure = Measure(
        Matrix(prob, p_batch, p_row, p_col), Named(label, label_prob), classes, weight, flags, keep, spread
    )
    block, part = block_of(logits, measure, rows, R, U, WIDE, DENSE, BATCHED), tl.program_id(1)
    to, at = origin_of(grad, block.batch, block.row), block.number
    start = tl.multiple_of(part * span, M * U)
    stop = tl.minimum(start + span, columns + (U if WIDE else 0))

    g_kl = cotangent(kl, kl_step, at, block.wanted & (flags & _KL != 0))
    g_reverse = cotangent(reverse, reverse_step, at, block.wanted & (flags & _REVERSE != 0))
    g_js = cotangent(js, js_step, at, block.wanted & (flags & _JS != 0)) * rest
    paired = (g_kl != 0) | (g_reverse != 0) | (g_js != 0)
    r = load_record(record, record_step, at, block.row >= 0 if R == 1 else block.exists)
    rest_of_total = (r.total - 1.0).to(T)
    log_total = tl.log(1.0 + rest_of_total)
    norm = Normaliser(r.peak, rest_of_total, inverse_of(1.0 + rest_of_total), log_total)
    cotangents = Cotangents(loss, lse, entropy, loss)
    steps = CotangentSteps(loss_step, lse_step, entropy_step, loss_step)
    g = gradient_of(r, norm, cotangents, steps, at, block.wanted, flags, OF_ENTROPY)
    wanted = has_gradient(block.wanted, g) | paired

    phi = phi_by_flag(Temperature(own, unit, temperature, flags), cap, at, wanted, T, CAPPED)
    t_phi = phi_by_flag(Temperature(t_own, t_unit, t_temperature, t_flags), t_cap, at, paired, T, CAPPED)
    student = head_of(logits, phi, block.origin, record, record_step, at, wanted, T)
    teacher = head_of(t_logits, t_phi, origin_of(t_logits, block.batch, block.row), t_record, t_step, at, paired, T)
    a = -_sum_of(sums, at + sums_step, g_reverse != 0, g_reverse) - _sum_of(sums, at + 3 * sums_step, g_js != 0, g_js)
    undefined = (student.defined & teacher.defined) == 0
    f = _for_tiles(Beside(a, g_kl, g_reverse, g_js, beta, rest), undefined, T)

    g = in_x(g, phi, T, False)
    begin, end = start - block.phase, stop - block.phase
    one = named_value(
        logits, gathered, phi, measure, block, wanted, g, begin, end, R, T, CAPPED, MEASURED, OF_ENTROPY, K
    )
    if K == 1:
        here = one.column >= 0
        value = one.value + _beside_at(
            student, teacher, gathered, t_gathered, measure, at, 0, one.column, here, paired, f, T, CAPPED, MIXED, K
        )
        one = NamedValue(one.column, value)
    tl.debug_barrier()  # the gradient may overwrite the values just read
    _write_columns(
        student, teacher, measure, block, (g.a + a).to(T), g.b.to(T), g.c.to(T), f, wanted, paired, one, grad, to,
        start, stop, T, M, U, WIDE, CAPPED, MEASURED, DENSE, MIXED, K,
    )  # fmt: skip
    if K > 1:
        tl.debug_barrier()
        f, g, phi = _as_column(f), as_columns(g), as_column(phi)
        begin, end, origin, at, paired = (
            begin[:, None],
            end[:, None],
            block.origin[:, None],
            at[:, None],
            paired[:, None],
        )
        for some in range(0, picks, K):
            k = some + tl.arange(0, K)[None, :]
            there = wanted[:, None] & (k < picks)
            column, here, value = at_named(
                logits, gathered, phi, measure, at, origin, k, there, g, begin, end,
                T, CAPPED, MEASURED, OF_ENTROPY, K,
            )  # fmt: skip
            value += _beside_at(
                student, teacher, gathered, t_gathered, measure, at, k, column, here, paired, f, T, CAPPED, MIXED, K
            )
            tl.store(grad.data + (to[:, None] + column * grad.col), value.to(T), mask=here)


# The same where columns are read one by one, however they are aligned
pair_grad_one_by_one: Any = triton.jit(**_ONE_BY_ONE)(pair_grad.fn)
