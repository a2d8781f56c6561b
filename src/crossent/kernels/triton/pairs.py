"""The functions of the contract on a row and its teacher's: which kernels run, on what memory.

The student's rows are a call like any other (`arguments`), and the teacher's are brought beside it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from crossent.kernels.backend import BiasedLogits, PairCotangents, Teacher
from crossent.kernels.triton import pair_gradient, pair_sums
from crossent.kernels.triton.arguments import Call, call_of, gathered, is_in_place, own_temperatures_of
from crossent.kernels.triton.heads import HAS_JS, HAS_KL, HAS_MIXTURE, HAS_REVERSE
from crossent.kernels.triton.launch import Launch, on_device_of
from crossent.kernels.triton.scores import HAS_CAP, HAS_TEMPERATURES
from crossent.kernels.triton.task import ACCESS, Placed, Task, Tile
from crossent.kernels.triton.tiles import HAS_ENTROPY, HAS_GATHERED, HAS_LOSS, HAS_LSE, HAS_RECORD
from crossent.spec import Scores, Target
from crossent.stats import PAIR_SUMS

SHORTEST_PART = 16384  # columns; sums of shorter parts are not worth adding
_ROWS_OF_PROGRAM = 128  # a thread a row
_FLAGS = HAS_LOSS, HAS_LSE, HAS_ENTROPY, HAS_KL, HAS_REVERSE, HAS_JS


class _Phi(NamedTuple):
    """1 / temperature, temperature and softcap of a teacher as kernels take them."""

    unit: float
    temperature: float
    cap: float


class _Teacher(NamedTuple):
    """A teacher as kernels take it: its arrays, and the other values that launches depend on."""

    logits: Any
    bias: Any
    own: Any
    record: Any
    phi: _Phi
    flags: int

    @property
    def key(self) -> tuple[Any, ...]:
        """The values that launches depend on."""
        z, bias = self.logits, self.bias
        of_bias = None if bias is None else (bias.dtype, bias.data_ptr() % ACCESS)
        return (
            z.dtype, z.stride(), z.data_ptr() % ACCESS, of_bias, self.phi, self.flags, self.record.stride(0),
        )  # fmt: skip

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays, as kernels take them."""
        return self.logits, self.bias, self.own, self.record


class _Pair(NamedTuple):
    """A call with the task that computes both heads, in float64 if either has it, and the teacher beside it."""

    call: Call
    task: Task
    teacher: _Teacher

    def tile(self, *others: Placed) -> Tile:
        """Return the tile; it has half the columns of one for one head, because each column has twice the numbers."""
        tile = self.task.tile(self.task.axes.placed(self.teacher.logits), *others)
        if tile.wide:
            return dataclasses.replace(tile, M=tile.M // 2)
        return dataclasses.replace(tile, U=tile.U // 2)

    def constants(self, tile: Tile) -> dict[str, Any]:
        """Return the constants that both kernels take."""
        task, (z, bias, *_), flags = self.task, self.teacher, self.teacher.flags
        grouped = [task.grouped(tile)] if self.call.arrays.bias is not None else []
        if bias is not None:
            beside = dataclasses.replace(task, logits=task.axes.placed(z), bias_aligned=bias.data_ptr() % ACCESS == 0)
            grouped.append(beside.grouped(tile))
        capped = not tile.wide or task.capped or flags & HAS_CAP != 0
        return {
            "M": tile.M, "U": tile.U, "WIDE": tile.wide, "CAPPED": capped,
            "BATCHED": task.batches > 1 or not tile.wide, "GROUPED": bool(grouped) and all(grouped),
        }  # fmt: skip


def pair_stats(
    logits: Any, scores: Scores, record: Any, teacher: Teacher, beta: float | None, sums: Any, *, extend: bool
) -> None:
    """Write the sums of each row beside its teacher's: `Backend.pair_stats`."""
    z: Any = logits.without_bias if isinstance(logits, BiasedLogits) else logits
    rows = z.shape[0] * (z.shape[2] if z.ndim == 3 else 1)
    nothing = Target(z.new_empty((rows, 0), dtype=torch.int64), z.new_empty((rows, 0)))
    pair = _pair_of((logits, nothing, scores), teacher, beta)
    _check_sums(sums, rows)
    if rows == 0 or z.shape[1] == 0:
        if not extend:
            sums[: PAIR_SUMS if beta is not None else 2].zero_()
        return
    call, task, its = pair
    key = ("pair stats", its.key, beta, extend, record.stride(0), sums.stride(0))
    sweep, finish, parts = task.once(key, lambda: _prepare_stats(pair, beta, extend, (record, sums)))
    with on_device_of(z):
        each = task.spare.new_empty((parts, PAIR_SUMS, rows))
        sweep(call.arrays.logits, call.arrays.bias, call.arrays.own, record, *its.arrays, each)
        finish(each, record, its.record, sums)


def _prepare_stats(pair: _Pair, beta: float | None, extend: bool, kept: tuple[Any, Any]) -> tuple[Launch, Launch, int]:
    _, task, its = pair
    tile, record, sums = pair.tile(), *kept
    number, span = task.fixed_parts(tile, SHORTEST_PART)
    steps = record.stride(0), its.record.stride(0)
    sweep = task.launch_with(
        pair_sums.pair_stats if tile.wide else pair_sums.pair_stats_one_by_one, tile,
        (task.programs(tile.R), number, 1),
        (
            task.axes.placed(its.logits).at, task.columns, task.places, task.flags, its.flags, span, *steps, its.phi,
            *_shares(beta),
        ),
        pair.constants(tile) | {"MIXED": beta is not None or not tile.wide}, free=task.spare.dtype != torch.float64,
    )  # fmt: skip
    flags = HAS_MIXTURE * (beta is not None) | HAS_RECORD * extend
    programs = -(-task.number // _ROWS_OF_PROGRAM)
    end = Launch(
        pair_sums.pair_finish, (programs, 1, 1), (task.number, flags, number, *steps, sums.stride(0)),
        {"R": _ROWS_OF_PROGRAM},
    )  # fmt: skip
    return sweep, end, number


def pair_grad(
    rows: tuple[Any, Target, Scores],
    record: Any,
    teacher: Teacher,
    beta: float | None,
    sums: Any,
    cotangents: PairCotangents,
    grad: Any,
) -> None:
    """Write the gradient of each row by all that it has with its teacher's: `Backend.pair_grad`."""
    pair = _pair_of(rows, teacher, beta)
    call, task, its = pair
    _check_sums(sums, task.number)
    if cotangents.js is not None and beta is None:
        raise ValueError("a cotangent of js needs its beta")
    if task.number == 0 or task.columns == 0:
        return
    spare = task.spare_sums
    given = [None if x is None else x.to(torch.float64) for x in cotangents]
    flags = sum(flag for flag, x in zip(_FLAGS, given, strict=True) if x is not None)
    replaced = is_in_place(call, grad) or is_in_place(call, grad, its.logits)
    steps = tuple(0 if x is None else x.stride(0) for x in given)
    key = (
        "pair grad", its.key, beta, flags, steps, replaced, record.stride(0), sums.stride(0), grad.dtype, grad.stride(),
        grad.data_ptr() % ACCESS,
    )  # fmt: skip
    numbers = steps, flags | HAS_GATHERED * replaced, (record.stride(0), its.record.stride(0), sums.stride(0))
    launch = task.once(key, lambda: _prepare_gradient(pair, task.axes.placed(grad), beta, numbers))
    z, bias, *target, own = call.arrays
    with on_device_of(grad):
        named = [gathered(call, x) if replaced else x for x in (z, its.logits)]
        arrays = (spare if x is None else x for x in given)
        launch(z, bias, *target, own, record, *its.arrays, sums, *arrays, *named, grad)


def _prepare_gradient(pair: _Pair, to: Placed, beta: float | None, numbers: tuple[Any, ...]) -> Launch:
    _, task, its = pair
    steps, flags, of_records = numbers
    tile = pair.tile(to)
    number, span = task.parts(tile, tile.M * tile.U)
    measured, mixed = task.measured or not tile.wide, flags & HAS_JS != 0 or not tile.wide
    return task.launch_with(
        pair_gradient.pair_grad if tile.wide else pair_gradient.pair_grad_one_by_one, tile,
        (task.programs(tile.R), number, 1),
        (
            task.prob_at, task.classes, task.places, task.axes.placed(its.logits).at, steps, to.at, task.flags | flags,
            its.flags, span, of_records, its.phi, *_shares(beta),
        ),
        pair.constants(tile)
        | {"MEASURED": measured, "DENSE": task.dense, "MIXED": mixed, "K": task.named_at_once(tile.R)},
        free=not (measured or task.spare.dtype == torch.float64),
    )  # fmt: skip


def _shares(beta: float | None) -> tuple[float, float]:
    """Return the shares of teacher and student of their mixture; any where there is none."""
    return (0.5, 0.5) if beta is None else (float(beta), 1.0 - beta)


def _pair_of(rows: tuple[Any, Target, Scores], teacher: Teacher, beta: float | None) -> _Pair:
    """Return a call and its teacher in the form of the kernels."""
    logits, target, scores = rows
    call = call_of(logits, target, scores)
    z: Any = teacher.logits
    bias: Any = None
    if isinstance(z, BiasedLogits):
        z, bias = z
        bias = bias.contiguous()
    if z.shape != call.arrays.logits.shape:
        raise ValueError("the teacher's logits must have the shape of the logits")
    if beta is not None and not 0 < beta < 1:
        raise ValueError("beta must lie strictly between 0 and 1")
    task, of = call.task, teacher.scores
    if z.dtype == torch.float64:
        task = task.in_double
    own = task.spare_sums if of.row_temperature is None else own_temperatures_of(task, of.row_temperature)
    phi = _Phi(1.0 / of.temperature, float(of.temperature), float(of.softcap or 1.0))
    flags = HAS_CAP * (of.softcap is not None) | HAS_TEMPERATURES * (of.row_temperature is not None)
    return _Pair(call, task, _Teacher(z, bias, own, teacher.record, phi, flags))


def _check_sums(sums: Any, rows: int) -> None:
    fits = sums.shape == (PAIR_SUMS, rows) and sums.dtype == torch.float64 and (rows <= 1 or sums.stride(1) == 1)
    if not fits:
        raise ValueError("sums must be a float64 array of shape (4, rows) whose rows are contiguous")
