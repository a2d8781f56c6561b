"""The arguments of the row functions as their kernels take them: arrays of few dtypes, and a task that is remembered.

The launches of a call depend only on shapes, strides, dtypes and options. The first call computes them; later equal
calls look them up and bring their arrays.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from crossent.kernels.backend import BiasedLogits, LossScale, RowOutputs
from crossent.kernels.backend import Cotangents as GivenCotangents
from crossent.kernels.checks import as_int64
from crossent.kernels.triton.gradient import Cotangents, CotangentSteps
from crossent.kernels.triton.launch import Launch, on_device_of
from crossent.kernels.triton.scores import own_temperatures
from crossent.kernels.triton.task import ACCESS, Task
from crossent.kernels.triton.tiles import HAS_ENTROPY, HAS_LOSS, HAS_LSE
from crossent.spec import Scores, Target

_MOST_TASKS = 1024
_ROWS_OF_PROGRAM = 128
_tasks: dict[Any, Task] = {}
"""Tasks by all that they are a function of; forgotten where there are many."""


class Arrays(NamedTuple):
    """The arrays of a call as kernels take them, others in place of absent ones."""

    logits: Any
    bias: Any
    """A bias (V,) that the kernels add, or None."""
    prob: Any
    label: Any
    label_prob: Any
    weight: Any
    own: Any
    """1 / temperature and temperature of each row, (N, 2) in float64; absent if all rows have the same."""


class Call(NamedTuple):
    """A call of the row functions: the part that equal calls share, and its arrays."""

    task: Task
    arrays: Arrays


class PlacedOutputs(NamedTuple):
    """Loss, lse and entropy as kernels take them, another array in place of an absent one, and which there are."""

    arrays: tuple[Any, Any, Any]
    flags: int


class PlacedCotangents(NamedTuple):
    """Cotangents as kernels take them, all of one dtype, and which there are."""

    arrays: Cotangents
    steps: CotangentSteps
    flags: int

    @property
    def key(self) -> tuple[Any, ...]:
        """The values that launches depend on."""
        return self.arrays.loss.dtype, self.steps, self.flags


def forget() -> None:
    """Forget the tasks of all calls."""
    _tasks.clear()


def call_of(logits: Any, target: Target, scores: Scores) -> Call:
    """Return a call in the form of the kernels; the logits may be `BiasedLogits`.

    A dense target of a dtype that no kernel reads is copied in the dtype of the computation: where rows are not
    contiguous, these are two, that of the logits and that of the computation.
    """
    bias: Any = None
    if type(logits) is BiasedLogits:
        logits, bias = logits
        bias = bias.contiguous()
    index: Any = target.index
    prob: Any = target.prob
    weight: Any = target.weight
    if index is not None and not (index.dtype is torch.int64 and index.is_contiguous()):
        index = as_int64(index).contiguous()
    key = (
        logits.dtype, logits.device, logits.shape, logits.stride(), logits.data_ptr() % ACCESS,
        None if bias is None else (bias.dtype, bias.data_ptr() % ACCESS),
        (prob.dtype, prob.stride(), prob.data_ptr() % ACCESS) if index is None else index.shape,
        prob is None, weight is None, target.smoothing, target.ignore_index, target.first_class, target.num_classes,
        scores.temperature, scores.softcap, scores.row_temperature is None, torch.version.hip,
    )  # fmt: skip
    task = _tasks.get(key)
    if task is None:
        task = Task.of(logits if bias is None else BiasedLogits(logits, bias), target, scores)
        if len(_tasks) >= _MOST_TASKS:
            _tasks.clear()
        _tasks[key] = task
    spare = task.spare
    dtype = spare.dtype
    if task.converts:
        given = logits if bias is None else BiasedLogits(logits, bias)
        return call_of(given, dataclasses.replace(target, prob=prob.to(dtype)), scores)
    if weight is None:
        weight = spare
    elif not (weight.dtype is dtype and weight.is_contiguous()):
        weight = weight.to(dtype).contiguous()
    own = task.spare_sums if scores.row_temperature is None else own_temperatures_of(task, scores.row_temperature)
    if index is not None:
        label_prob = spare if prob is None else prob.to(dtype).contiguous()
        return Call(task, Arrays(logits, bias, logits, index, label_prob, weight, own))
    return Call(task, Arrays(logits, bias, prob, spare, spare, weight, own))


def own_temperatures_of(task: Task, row_temperature: Any) -> Any:
    """Return 1 / temperature and temperature of each row as kernels take them, without waiting for the numbers."""
    given = row_temperature.to(torch.float64)
    own, step = given.new_empty((task.number, 2)), given.stride(0)
    if task.number:
        programs, constants = -(-task.number // _ROWS_OF_PROGRAM), {"B": _ROWS_OF_PROGRAM}
        launch = task.once(
            ("temperatures", step),
            lambda: Launch(own_temperatures, (programs, 1, 1), (task.number, step), constants),
        )
        with on_device_of(given):
            launch(given, own)
    return own


def outputs_of(task: Task, outputs: RowOutputs) -> PlacedOutputs:
    """Return loss, lse and entropy as kernels take them."""
    (loss, lse, entropy), spare = outputs, task.spare
    flags = HAS_LOSS * (loss is not None) | HAS_LSE * (lse is not None) | HAS_ENTROPY * (entropy is not None)
    arrays = spare if loss is None else loss, spare if lse is None else lse, spare if entropy is None else entropy
    return PlacedOutputs(arrays, flags)


def cotangents_of(task: Task, given: GivenCotangents | LossScale, *, narrow: bool = False) -> PlacedCotangents:
    """Return cotangents of loss, lse, entropy and the square of lse as kernels take them, all in float64.

    If narrow, those of the loss alone of a usual task are in float32, unless they are in float64: rows of few classes
    cost little more than to read them.
    """
    if isinstance(given, GivenCotangents):
        arrays: tuple[Any, ...] = (*given, None)
    else:
        arrays = (given.loss, None, None, given.lse_squared)
    alone = all(x is None for x in arrays[1:])
    wide = any(x is not None and x.dtype is torch.float64 for x in arrays)
    dtype = torch.float32 if narrow and task.is_usual and alone and not wide else torch.float64
    arrays = tuple([x if x is None or x.dtype is dtype else x.to(dtype) for x in arrays])
    spare = task.spare if dtype is torch.float32 else task.spare_sums
    absent = next((x for x in arrays if x is not None), spare)
    placed = Cotangents(*[absent if x is None else x for x in arrays])
    steps = CotangentSteps(*[0 if x is None else x.stride(0) for x in arrays])
    return PlacedCotangents(placed, steps, sum(1 << k for k, x in enumerate(arrays) if x is not None))


def is_in_place(call: Call, grad: Any, logits: Any = None) -> bool:
    """Return whether the gradient overwrites logits (the call's, or others) and the target names several."""
    task, logits = call.task, call.arrays.logits if logits is None else logits
    return not (task.dense or task.named_alone) and grad.data_ptr() == logits.data_ptr()


def gathered(call: Call, logits: Any) -> Any:
    """Return the logits of the classes that the target names, next to each other, (N, K)."""
    label, task = call.arrays.label, call.task
    label = (label - task.classes.first).clamp(0, task.columns - 1)
    if logits.ndim == 2:
        return logits.gather(1, label).contiguous()
    outer, _, inner = logits.shape
    named = logits.gather(1, label.view(outer, inner, -1).movedim(2, 1))
    return named.movedim(1, 2).reshape(label.shape).contiguous()
