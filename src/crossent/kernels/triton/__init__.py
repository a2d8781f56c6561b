"""The Triton backend: the row functions on NVIDIA and AMD GPUs, for torch tensors. No call waits for the device.

Here are the functions of the contract (`crossent.kernels.backend`); behind them live `task` and `elements` (a call in
the form of its kernels), and the kernels: `rows`, `cached`, `finish` and `few` over `lanes`, `record`, `gradient` and
`tiles`, `binary`, `scaling`. Importing this package imports neither torch nor Triton, so that `why_not` can say that
one is missing; nobody else imports the modules.

What differs from the CPU: a class that does not exist, or a target probability that is negative or not finite, makes
loss and gradient of its row NaN, because to raise is to wait for the device. With CROSSENT_VALIDATE=1 in the
environment they are errors here too, and every call waits.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from crossent.kernels.backend import (
    NO_OUTPUTS,
    BinaryKind,
    BinaryOperands,
    Cotangents,
    LossScale,
    Reduced,
    RowOutputs,
    Scalar,
)
from crossent.kernels.checks import check_elements, check_target
from crossent.spec import Scores, Target
from crossent.stats import FIELDS

if TYPE_CHECKING:
    from crossent.kernels.triton.task import Given, Task, Tile

FEW_CLASSES = 64
ADDS_BIAS = True
_OLDEST = (3, 6)
_SHORTEST_PART = 16384  # columns; statistics of shorter parts are not worth merging
_ONE_READ = ((8192, 16), (2048, 4))  # columns of the tiles that hold whole rows, and their warps; longer ones spill
_CACHED_PART, _CACHED_PROGRAMS = 10240, 4  # columns of a program that waits for others, programs of a multiprocessor
_CACHED_LANES = 128  # join statistics of its row: fewer than it has threads are 3000 instructions in Triton 3.6
_REDUCED = 1024  # sums that are added side by side, in the one program that makes the mean


def why_not() -> str | None:
    """Return None if there are Triton and a GPU for it, else the reason."""
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            return f"{package} is not installed; the CUDA and ROCm builds of torch bring Triton with them"
    triton, torch = import_module("triton"), import_module("torch")
    if tuple(int(x) for x in triton.__version__.split(".")[:2]) < _OLDEST:
        return f"Triton {triton.__version__} is older than 3.6; use torch 2.10 or later"
    if interpreted():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA and ROCm; get another at https://pytorch.org"
    return None if torch.cuda.is_available() else "torch finds no GPU; look at `nvidia-smi` or `rocm-smi`"


def interpreted() -> bool:
    """Return whether Triton runs its kernels in NumPy, on CPU tensors (TRITON_INTERPRET=1): slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def row_stats(
    logits: Any,
    target: Target,
    scores: Scores,
    record: Any,
    outputs: RowOutputs = NO_OUTPUTS,
    *,
    extend: bool = False,
) -> None:
    """Write the record of each row, and loss, lse and entropy where wanted: `Backend.row_stats`."""
    task = _task(logits, target, scores)
    if task.places.all:
        with _on(task.logits):
            _stats(task, record, outputs, extend=extend)


def row_loss(logits: Any, target: Target, scores: Scores, record: Any, losses: Any, *, mean: bool) -> Reduced:
    """Return sum or mean of the losses and its derivative by each, as tensors of shape (): `Backend.row_loss`.

    The mean is made in the same order every time, so that it has the same bits.
    """
    from crossent.kernels.triton import finish
    from crossent.kernels.triton.launch import launch

    torch = import_module("torch")
    task = _task(logits, target, scores)
    loss, scale = task.spare.new_empty(()), task.spare.new_empty((), dtype=torch.float64)
    with _on(task.logits):
        sums = _stats(task, record, NO_OUTPUTS, tilted=False, summed=True)
        launch(finish.reduce_losses, (1, 1, 1), (sums, loss, scale), (len(sums),), {"B": _REDUCED, "MEAN": mean})
    return Reduced(loss, scale)


def _stats(
    task: Task, record: Any, outputs: RowOutputs, *, extend: bool = False, tilted: bool = True, summed: bool = False
) -> Any:
    """Launch the kernels of `row_stats`; if summed, return the sums of blocks of rows (blocks, 2)."""
    from crossent.kernels.triton import few, rows
    from crossent.kernels.triton.tiles import HAS_RECORD, HAS_SUMS

    to, places = task.outputs(outputs), task.places
    flags = task.flags | to.flags | (HAS_RECORD if extend else 0) | (HAS_SUMS if summed else 0)
    if record is None:
        tile = task.few_tile
        sums = task.new_sums(tile.R)
        task.launch(
            few.few_stats, tile, 1, (task.prob.data, task.label, task.weight, to.arrays, sums),
            (task.prob.at, task.classes, places, flags),
            M=tile.M, U=tile.U, MEASURED=task.measured, TILTED=task.tilted(tile, outputs.entropy is not None),
            K=min(1, task.classes.picks),
        )  # fmt: skip
        return sums
    tile = task.tile()
    tilted = task.tilted(tile, tilted)
    parts = task.fixed_parts(tile, _SHORTEST_PART)
    each = task.spare.new_empty((parts.number, len(FIELDS), places.all))
    kernel = rows.row_stats if tile.wide else rows.row_stats_one_by_one
    task.launch(
        kernel, tile, parts.number, (task.prob.data, task.label, task.label_prob, task.weight, each),
        (task.prob.at, task.classes, places, flags, parts.span),
        M=tile.M * tile.U // 16 if tile.wide else tile.M, U=tile.U, WIDE=tile.wide, MEASURED=task.measured,
        TILTED=tilted,
    )  # fmt: skip
    return _finish(task, each, record, to, flags, tilted=tilted, summed=summed)


def _finish(
    task: Task, each: Any, record: Any, outputs: Given, flags: int, *, tilted: bool = True, summed: bool = False
) -> Any:
    """Launch the kernel that makes records of the statistics of parts; without these, of the record what is wanted."""
    from crossent.kernels.triton import finish
    from crossent.kernels.triton.tiles import HAS_MEASURE, HAS_TILT

    tile = task.row_tile
    sums = task.new_sums(tile.R) if summed else record  # which stands in for it
    parts, number, named = (task.spare, 0, 0) if each is None else (each, len(each), tile.U)
    flags |= (HAS_MEASURE if task.measured else 0) | (HAS_TILT if tilted else 0)
    task.launch(
        finish.finish, tile, 1, (task.label, task.label_prob, task.weight, parts, record, outputs.arrays, sums),
        (task.classes, task.places, flags, number, record.stride(0)),
        K=named,
    )  # fmt: skip
    return sums


def row_grad(logits: Any, target: Target, scores: Scores, record: Any, cotangents: Cotangents, grad: Any) -> None:
    """Write the gradient of each row, in half precision for float32 logits if `grad` is: `Backend.row_grad`."""
    from crossent.kernels.triton.task import Task

    task = Task.of(logits, target, scores)
    with _on(task.logits):
        _grad(task, record, Cotangents(*cotangents), grad)


def row_fused(
    logits: Any,
    target: Target,
    scores: Scores,
    scale: LossScale,
    record: Any,
    grad: Any,
    outputs: RowOutputs = NO_OUTPUTS,
) -> None:
    """Write the record of each row and the gradient of a weighted sum of losses: `Backend.row_fused`.

    Rows of at most 8 thousand contiguous columns are read once, longer ones and those under a softcap twice: by two
    kernels, or with CROSSENT_GPU_ONE_KERNEL=1 in the environment by one, if they are longer.
    """
    from crossent.kernels.triton import rows as kernels
    from crossent.kernels.triton.task import Tile
    from crossent.kernels.triton.tiles import HAS_RECORD

    task, scale = _task(logits, target, scores), LossScale(*scale)
    to = task.axes.placed(grad)
    tile = task.tile(to)
    fitting = [shape for shape in _ONE_READ if task.columns + tile.U <= shape[0]]
    if record.shape[1] == 0:
        return
    with _on(task.logits):
        if _one_kernel(task, tile):
            _cached(task, tile, record, scale, grad, outputs)
            return
        if not tile.wide or not fitting or task.capped:
            _ = _stats(task, record, outputs)
            _grad(task, record, scale, grad)
            return
        columns, warps = fitting[-1]
        whole = Tile(True, 1, columns // tile.U, tile.U, warps)
        results, g, gathered = task.outputs(outputs), task.cotangents(scale), task.gathered(grad)
        flags = task.flags | g.flags | gathered.flags
        task.launch(
            kernels.row_fused, whole, 1,
            (task.prob.data, task.label, task.label_prob, task.weight, record, g.arrays, gathered.arrays, to.data),
            (task.prob.at, task.classes, task.places, g.steps, to.at, flags, record.stride(0)),
            M=whole.M, U=whole.U, MEASURED=task.measured, G=task.kind_of_gradient(whole, g.flags),
            K=task.named_at_once(1),
        )  # fmt: skip
        if results.flags:  # not from the logits, whose place the gradient may have taken
            _ = _finish(task, None, record, results, task.flags | results.flags | HAS_RECORD)


def _one_kernel(task: Task, tile: Tile) -> bool:
    """Return whether the kernel that reads logits again from a cache is asked for, and is one for these rows.

    It is for the environment to say until a GPU has measured it: CROSSENT_GPU_ONE_KERNEL=1.
    """
    asked = os.environ.get("CROSSENT_GPU_ONE_KERNEL") == "1"
    plain = tile.wide and task.batches == 1 and (task.dense or task.named_alone)
    return asked and plain and task.columns > _ONE_READ[0][0]


def _cached(task: Task, tile: Tile, record: Any, scale: LossScale, grad: Any, outputs: RowOutputs) -> None:
    """Launch the kernel of `cached`, in the interpreter one half after the other: there nobody could wait."""
    from crossent.kernels.triton import cached
    from crossent.kernels.triton.tiles import HAS_RECORD

    torch = import_module("torch")
    to, g, number, rows = task.axes.placed(grad), task.cotangents(scale), task.places.all, task.places
    span = -(-_CACHED_PART // (tile.M * tile.U)) * tile.M * tile.U
    parts = -(-(task.columns + tile.U) // span)
    each, chosen = task.spare.new_empty((parts, len(FIELDS), number)), task.spare.new_empty(number)
    turns = torch.zeros(number + 1, dtype=torch.int32, device=grad.device)
    halves, programs = [(True, True)], _CACHED_PROGRAMS * _units(grad)
    if interpreted():
        halves, programs = [(True, False), (False, True)], number * parts
    for first, second in halves:
        task.launch(
            cached.row_cached, tile, 1,
            (
                task.prob.data, task.label, task.label_prob, task.weight, each, chosen, turns, record, g.arrays,
                to.data,
            ),
            (
                task.prob.at, task.classes, rows, g.steps, to.at, task.flags | g.flags, span, parts,
                number * parts, record.stride(0),
            ),
            programs=min(programs, number * parts), M=tile.M, U=tile.U, MEASURED=task.measured,
            G=task.kind_of_gradient(tile, g.flags),
            K=task.named_at_once(1), PARTS=max(_CACHED_LANES, 1 << (parts - 1).bit_length()),
            FIRST=first, SECOND=second,
        )  # fmt: skip
    results = task.outputs(outputs)
    if results.flags:
        _ = _finish(task, None, record, results, task.flags | results.flags | HAS_RECORD)


def _units(x: Any) -> int:
    """Return how many multiprocessors the device of a tensor has."""
    return import_module("torch").cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def _grad(task: Task, record: Any, cotangents: Cotangents | LossScale, grad: Any) -> None:
    from crossent.kernels.triton import few, rows

    if task.places.all == 0:
        return
    to, g = task.axes.placed(grad), task.cotangents(cotangents, narrow=record is None)
    places = task.places
    if record is None:
        tile = task.few_tile
        task.launch(
            few.few_grad, tile, 1, (task.prob.data, task.label, task.weight, g.arrays, grad),
            (task.prob.at, task.classes, places, g.steps, to.at, task.flags | g.flags),
            M=tile.M, U=tile.U, MEASURED=task.measured, G=task.kind_of_gradient(tile, g.flags),
            K=min(1, task.classes.picks),
        )  # fmt: skip
        return
    tile, gathered = task.tile(to), task.gathered(grad)
    parts = task.parts(tile, tile.M * tile.U)
    task.launch(
        rows.row_grad if tile.wide else rows.row_grad_one_by_one, tile, parts.number,
        (task.prob.data, task.label, task.label_prob, task.weight, record, g.arrays, gathered.arrays, grad),
        (
            task.prob.at, task.classes, places, g.steps, to.at, task.flags | g.flags | gathered.flags,
            parts.span, record.stride(0),
        ),
        M=tile.M, U=tile.U, WIDE=tile.wide, MEASURED=task.measured, G=task.kind_of_gradient(tile, g.flags),
        K=task.named_at_once(tile.R),
    )  # fmt: skip


def binary_loss(kind: BinaryKind, operands: BinaryOperands, out: Any) -> Scalar:
    """Write the binary cross-entropy of each element and return the sum, as a tensor (): `Backend.binary_loss`.

    An element whose target is not in [0, 1] has loss and gradient NaN, and so has one of an input of probabilities.
    """
    from crossent.kernels.triton import elements

    operands = BinaryOperands(*operands)
    if _validated():
        check_elements(kind, operands)
    with _on(operands.input):
        return elements.loss(kind == "logits", operands, out)


def binary_grad(kind: BinaryKind, operands: BinaryOperands, cotangent: Any, out: Any) -> None:
    """Write the derivative of each element's loss, times its cotangent: `Backend.binary_grad`."""
    from crossent.kernels.triton import elements

    operands = BinaryOperands(*operands)
    with _on(operands.input):
        elements.grad(kind == "logits", operands, cotangent, out)


def scale(x: Any, factor: Any, out: Any) -> None:
    """Write factor · x into `out`, rounded once to its dtype, without waiting for the factor; only GPUs have this.

    Both are contiguous, and `out` may be x itself: it is then left alone where the factor, a tensor (), is 1.
    """
    from crossent.kernels.triton import scaling

    with _on(x):
        scaling.write_scaled(x, factor, out)


def _validated() -> bool:
    return os.environ.get("CROSSENT_VALIDATE") == "1"


def _task(logits: Any, target: Target, scores: Scores) -> Task:
    from crossent.kernels.triton.task import Task

    task = Task.of(logits, target, scores)
    if _validated():
        check_target(target, task.logits.shape)
    return task


def _on(tensor: Any) -> AbstractContextManager[Any]:
    """Return a context in which kernels run on the device of a tensor."""
    return import_module("torch").cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
