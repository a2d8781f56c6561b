"""The functions of the contract on rows: which kernels run, in what order, on what memory.

A call that is like one before it finds its launches prepared, and only brings its arrays.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from crossent.kernels.backend import (
    BinaryKind,
    BinaryOperands,
    Cotangents,
    LossScale,
    Reduced,
    RowOutputs,
    Scalar,
)
from crossent.kernels.checks import check_elements, check_target, check_temperatures
from crossent.kernels.triton import cached, elements, few, finish, rows, scaling
from crossent.kernels.triton.arguments import (
    Call,
    PlacedCotangents,
    call_of,
    cotangents_of,
    gathered,
    is_in_place,
    outputs_of,
)
from crossent.kernels.triton.launch import Launch, is_interpreted, on_device_of
from crossent.kernels.triton.task import ACCESS, Placed, Task, Tile
from crossent.kernels.triton.tiles import HAS_ENTROPY, HAS_GATHERED, HAS_MEASURE, HAS_RECORD, HAS_SUMS, HAS_TILT
from crossent.spec import Scores, Target
from crossent.stats import FIELDS

SHORTEST_PART = 16384  # columns; statistics of shorter parts are not worth merging
_ONE_READ = ((8192, 16), (2048, 4))  # columns of the tiles that hold whole rows, and their warps; longer ones spill
_CACHED_PART, _CACHED_PROGRAMS = 10240, 4  # columns of a program that waits for others, programs of a multiprocessor
_CACHED_LANES = 128  # join statistics of its row: fewer than it has threads are 3000 instructions in Triton 3.6
REDUCED = 1024  # sums that are added side by side, in the one program that makes the mean


class _Statistics(NamedTuple):
    """Launches of statistics, in how many parts of rows they are, and how many sums of blocks of rows there are."""

    sweep: Launch
    finish: Launch
    parts: int
    sums: int


def row_stats(logits: Any, target: Target, scores: Scores, record: Any, outputs: RowOutputs, *, extend: bool) -> None:
    """Write the record of each row, and loss, lse and entropy where wanted: `Backend.row_stats`."""
    call = _call_of(logits, target, scores)
    if call.task.number:
        with on_device_of(call.arrays.logits):
            _statistics(call, record, outputs, extend=extend)


def row_loss(logits: Any, target: Target, scores: Scores, record: Any, *, mean: bool) -> Reduced:
    """Return sum or mean of the losses and its derivative by each, as tensors of shape (): `Backend.row_loss`.

    The mean is made in the same order every time, so that it has the same bits.
    """
    task, (z, bias, prob, label, label_prob, weight, own) = _call_of(logits, target, scores)
    step = None if record is None else record.stride(0)
    key, spare = ("mean", step, mean), task.spare
    found = task.prepared.get(key)
    if found is None:
        found = task.prepared[key] = _prepare_mean(task, step, mean)
    (sweep, end, parts, blocks), reduce = found
    new = spare.new_empty
    loss, scale, sums = new(()), new((), dtype=torch.float64), new((blocks, 2), dtype=torch.float64)
    with on_device_of(z):
        if record is None:
            sweep(z, bias, prob, label, weight, own, spare, spare, spare, sums)
        else:
            each = new((parts, len(FIELDS), task.number))
            sweep(z, bias, prob, label, label_prob, weight, own, each)
            end(z, bias, label, label_prob, weight, own, each, record, spare, spare, spare, sums)
        reduce(sums, loss, scale)
    return Reduced(loss, scale)


def _prepare_mean(task: Task, step: int | None, mean: bool) -> tuple[_Statistics, Launch]:
    found = _prepare_few(task, HAS_SUMS) if step is None else _prepare_statistics(task, HAS_SUMS, step, False)
    return found, Launch(finish.reduce_losses, (1, 1, 1), (found.sums, int(mean)), {"B": REDUCED})


def _statistics(call: Call, record: Any, outputs: RowOutputs, *, extend: bool = False) -> None:
    """Run the kernels of `row_stats`."""
    task, (logits, bias, prob, label, label_prob, weight, own) = call
    to = outputs_of(task, outputs)
    if record is None:
        few_rows = task.once(("few", to.flags), lambda: _prepare_few(task, to.flags))
        few_rows.sweep(logits, bias, prob, label, weight, own, *to.arrays, task.spare_sums)
        return
    step, flags = record.stride(0), to.flags | (HAS_RECORD if extend else 0)
    sweep, end, parts, _ = task.once(("statistics", flags, step), lambda: _prepare_statistics(task, flags, step, True))
    each = task.spare.new_empty((parts, len(FIELDS), task.number))
    sweep(logits, bias, prob, label, label_prob, weight, own, each)
    end(logits, bias, label, label_prob, weight, own, each, record, *to.arrays, record)


def _prepare_statistics(task: Task, flags: int, step: int, tilted: bool) -> _Statistics:
    tile = task.tile()
    tilted, measured = tilted or not tile.wide, task.measured_by(tile)
    number, span = task.fixed_parts(tile, SHORTEST_PART)
    flags |= task.flags
    sweep = task.launch(
        rows.row_stats if tile.wide else rows.row_stats_one_by_one, tile, number,
        (task.prob_at, task.classes, task.places, flags, span),
        M=tile.M * tile.U // 16 if tile.wide else tile.M, U=tile.U, WIDE=tile.wide, MEASURED=measured, TILTED=tilted,
    )  # fmt: skip
    flags |= (HAS_MEASURE if measured else 0) | (HAS_TILT if tilted else 0)
    end = task.launch_of_rows(finish.finish, (task.classes, task.places, flags, number, step))
    return _Statistics(sweep, end, number, task.programs(task.row_tile.R))


def _prepare_few(task: Task, flags: int) -> _Statistics:
    tile = task.few_tile
    sweep = task.launch(
        few.few_stats, tile, 1, (task.prob_at, task.classes, task.places, task.flags | flags),
        M=tile.M, U=tile.U, MEASURED=task.measured_by(tile), TILTED=flags & HAS_ENTROPY != 0 or not task.is_usual,
        K=min(1, task.classes.picks),
    )  # fmt: skip
    return _Statistics(sweep, sweep, 1, task.programs(tile.R))


def _from_record(call: Call, record: Any, outputs: RowOutputs) -> None:
    """Write loss, lse and entropy where wanted from the record, not from logits, whose place others may have taken."""
    task, (logits, bias, _, label, label_prob, weight, own) = call
    to = outputs_of(task, outputs)
    if to.flags:
        flags, step = task.flags | to.flags | HAS_RECORD, record.stride(0)
        end = task.once(
            ("outputs", flags, step),
            lambda: task.launch_of_rows(finish.finish, (task.classes, task.places, flags, 0, step)),
        )
        end(logits, bias, label, label_prob, weight, own, task.spare, record, *to.arrays, record)


def row_grad(logits: Any, target: Target, scores: Scores, record: Any, cotangents: Cotangents, grad: Any) -> None:
    """Write the gradient of each row, in half precision for float32 logits if `grad` is: `Backend.row_grad`."""
    call = call_of(logits, target, scores)
    if call.task.number:
        with on_device_of(grad):
            g = cotangents_of(call.task, Cotangents(*cotangents), narrow=record is None)
            _gradient(call, record, g, grad)


def _gradient(call: Call, record: Any, g: PlacedCotangents, grad: Any) -> None:
    task, (logits, bias, prob, label, label_prob, weight, own) = call
    key = (g.key, grad.dtype, grad.stride(), grad.data_ptr() % ACCESS)
    if record is None:
        few_rows = task.once(("few", key), lambda: _prepare_few_gradient(task, task.axes.placed(grad), g))
        few_rows(logits, bias, prob, label, weight, own, *g.arrays, grad)
        return
    step, replaced = record.stride(0), is_in_place(call, grad)
    launch = task.once(
        ("gradient", key, step, replaced),
        lambda: _prepare_gradient(task, task.axes.placed(grad), g, HAS_GATHERED * replaced, step),
    )
    named = gathered(call, logits) if replaced else logits
    launch(logits, bias, prob, label, label_prob, weight, own, record, *g.arrays, named, grad)


def _prepare_few_gradient(task: Task, to: Placed, g: PlacedCotangents) -> Launch:
    tile = task.few_tile
    kind = task.kind_of_gradient(tile, g.flags)
    return task.launch(
        few.few_grad, tile, 1, (task.prob_at, task.classes, task.places, g.steps, to.at, task.flags | g.flags),
        M=tile.M, U=tile.U, MEASURED=task.measured_by(tile, kind), G=kind, K=min(1, task.classes.picks),
    )  # fmt: skip


def _prepare_gradient(task: Task, to: Placed, g: PlacedCotangents, flags: int, step: int) -> Launch:
    tile = task.tile(to)
    number, span = task.parts(tile, tile.M * tile.U)
    kind = task.kind_of_gradient(tile, g.flags)
    return task.launch(
        rows.row_grad if tile.wide else rows.row_grad_one_by_one, tile, number,
        (task.prob_at, task.classes, task.places, g.steps, to.at, task.flags | g.flags | flags, span, step),
        M=tile.M, U=tile.U, WIDE=tile.wide, MEASURED=task.measured_by(tile, kind), G=kind,
        K=task.named_at_once(tile.R),
    )  # fmt: skip


def row_fused(
    logits: Any, target: Target, scores: Scores, scale: LossScale, record: Any, grad: Any, outputs: RowOutputs
) -> None:
    """Write the record of each row and the gradient of a weighted sum of losses: `Backend.row_fused`.

    Rows of at most 8 thousand contiguous columns are read once, longer ones and those under a softcap twice: by two
    kernels, or with CROSSENT_GPU_ONE_KERNEL=1 in the environment by one, if they are longer.
    """
    call = _call_of(logits, target, scores)
    task, (logits, bias, prob, label, label_prob, weight, own) = call
    if task.number == 0:
        return
    g, replaced, step = cotangents_of(task, LossScale(*scale)), is_in_place(call, grad), record.stride(0)
    with on_device_of(grad):
        if _one_kernel(task, grad):
            _cached(call, record, g, grad)
        else:
            key = ("fused", g.key, grad.dtype, grad.stride(), grad.data_ptr() % ACCESS, step, replaced)
            launch = task.once(
                key, lambda: _prepare_fused(task, task.axes.placed(grad), g, HAS_GATHERED * replaced, step)
            )
            if launch is False:
                _statistics(call, record, outputs)
                _gradient(call, record, g, grad)
                return
            named = gathered(call, logits) if replaced else logits
            launch(logits, bias, prob, label, label_prob, weight, own, record, *g.arrays, named, grad)
        _from_record(call, record, outputs)


def _prepare_fused(task: Task, to: Placed, g: PlacedCotangents, flags: int, step: int) -> Any:
    """Return the launch that reads rows once, False if they do not fit one tile or there is a softcap."""
    tile = task.tile(to)
    most = _ONE_READ[1:] if task.dense else _ONE_READ  # with probabilities, sixteen warps have too few registers
    fitting = [shape for shape in most if task.columns + tile.U <= shape[0]]
    if not tile.wide or not fitting or task.capped:
        return False
    columns, warps = fitting[-1]
    whole = Tile(True, 1, columns // tile.U, tile.U, warps)
    return task.launch(
        rows.row_fused, whole, 1,
        (task.prob_at, task.classes, task.places, g.steps, to.at, task.flags | g.flags | flags, step),
        M=whole.M, U=whole.U, MEASURED=task.measured, G=task.kind_of_gradient(whole, g.flags),
        K=task.named_at_once(1),
    )  # fmt: skip


def _one_kernel(task: Task, grad: Any) -> bool:
    """Return whether the kernel that reads logits again from a cache is asked for, and is one for these rows.

    The environment decides until it is measured on a GPU: CROSSENT_GPU_ONE_KERNEL=1.
    """
    if os.environ.get("CROSSENT_GPU_ONE_KERNEL") != "1":
        return False
    plain = task.batches == 1 and (task.dense or task.named_alone) and task.columns > _ONE_READ[0][0]
    return plain and task.tile(task.axes.placed(grad)).wide


def _cached(call: Call, record: Any, g: PlacedCotangents, grad: Any) -> None:
    """Run the kernel of `cached`, in the interpreter one half after the other: programs cannot wait there."""
    task, (logits, bias, prob, label, label_prob, weight, own) = call
    to, number = task.axes.placed(grad), task.number
    tile = task.tile(to)
    span = -(-_CACHED_PART // (tile.M * tile.U)) * tile.M * tile.U
    parts = -(-(task.columns + tile.U) // span)
    each, chosen = task.spare.new_empty((parts, len(FIELDS), number)), task.spare.new_empty(number)
    turns = torch.zeros(number + 1, dtype=torch.int32, device=grad.device)
    halves, programs = [(True, True)], _CACHED_PROGRAMS * _units(grad)
    if is_interpreted(cached.row_cached):
        halves, programs = [(True, False), (False, True)], number * parts
    for first, second in halves:
        launch = task.launch(
            cached.row_cached, tile, 1,
            (
                task.prob_at, task.classes, task.places, g.steps, to.at, task.flags | g.flags, span, parts,
                number * parts, record.stride(0),
            ),
            programs=min(programs, number * parts), M=tile.M, U=tile.U, MEASURED=task.measured,
            G=task.kind_of_gradient(tile, g.flags), K=task.named_at_once(1),
            PARTS=max(_CACHED_LANES, 1 << (parts - 1).bit_length()), FIRST=first, SECOND=second,
        )  # fmt: skip
        launch(logits, bias, prob, label, label_prob, weight, own, each, chosen, turns, record, *g.arrays, grad)


def _units(x: Any) -> int:
    """Return how many multiprocessors the device of a tensor has."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def binary_loss(kind: BinaryKind, operands: BinaryOperands, out: Any) -> Scalar:
    """Write the binary cross-entropy of each element and return the sum, as a tensor (): `Backend.binary_loss`.

    An element whose target is not in [0, 1] has loss and gradient NaN, and so has one of an input of probabilities.
    """
    if _is_validated():
        check_elements(kind, operands)
    with on_device_of(operands.input):
        return elements.loss(kind == "logits", operands, out)


def binary_grad(kind: BinaryKind, operands: BinaryOperands, cotangent: Any, out: Any) -> None:
    """Write the derivative of each element's loss, times its cotangent: `Backend.binary_grad`."""
    with on_device_of(operands.input):
        elements.grad(kind == "logits", operands, cotangent, out)


def scale(x: Any, factor: Any, out: Any) -> None:
    """Write factor · x into `out`, rounded once to its dtype, without waiting for the factor."""
    with on_device_of(x):
        scaling.write_scaled(x, factor, out)


def _is_validated() -> bool:
    return os.environ.get("CROSSENT_VALIDATE") == "1"


def _call_of(logits: Any, target: Target, scores: Scores) -> Call:
    call = call_of(logits, target, scores)
    if _is_validated():
        check_target(target, call.task.shape)
        check_temperatures(scores.row_temperature, target)
    return call
