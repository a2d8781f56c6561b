"""The Triton backend: the row functions on NVIDIA and AMD GPUs, for torch tensors. No call waits for the device.

Here are the functions of the contract (`crossent.kernels.backend`); behind them live `task` and `elements` (a call in
the form of its kernels), and the kernels: `rows` over `record` and `tiles`, `binary`, `scaling`. Importing this package
imports neither torch nor Triton, so that `why_not` can say that one is missing; nobody else imports the modules.

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
    RowOutputs,
    Scalar,
    Sums,
)
from crossent.kernels.checks import as_int64, check_elements, check_target
from crossent.spec import Scores, Target
from crossent.stats import FIELDS

if TYPE_CHECKING:
    from crossent.kernels.triton.task import Task

FEW_CLASSES = 0  # every row keeps its record
_OLDEST = (3, 6)
_SHORTEST_PART = 16384  # columns; statistics of shorter parts are not worth merging
_ONE_READ = ((8192, 16), (2048, 4))  # columns of the tiles that hold whole rows, and their warps; longer ones spill
_MERGED_ROWS = 128


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
    from crossent.kernels.triton import rows as kernels
    from crossent.kernels.triton.tiles import HAS_RECORD

    task = _task(logits, target, scores)
    rows = record.shape[1]
    if rows == 0:
        return
    tile, to = task.tile(), task.outputs(outputs)
    flags, parts = to.flags | (HAS_RECORD if extend else 0), task.parts(tile, _SHORTEST_PART)
    with _on(logits):
        if parts.number == 1:
            task.launch(
                kernels.row_stats, tile, 1, (record, to.arrays),
                flags=task.flags | flags, span=parts.span, record_step=record.stride(0), part_step=0,
            )  # fmt: skip
            return
        each = record.new_empty((parts.number, len(FIELDS), rows))
        task.launch(
            kernels.row_stats, tile, parts.number, (each, to.arrays),
            flags=task.flags, span=parts.span, record_step=rows, part_step=len(FIELDS) * rows,
        )  # fmt: skip
        merge: Any = kernels.merge_parts[(-(-rows // _MERGED_ROWS),)]
        merge(
            each, task.named, task.classes, record, to.arrays, rows=rows, flags=flags, parts=parts.number,
            record_step=record.stride(0), R=_MERGED_ROWS, DENSE=task.dense,
        )  # fmt: skip


def sums(loss: Any, index: Any, weight: Any, ignore_index: int) -> Sums:
    """Return numerator and denominator of a mean, as float64 tensors of shape (): `Backend.sums`."""
    torch = import_module("torch")
    total = loss.sum(dtype=torch.float64)
    if index is None:
        return Sums(total, torch.full_like(total, loss.shape[0]))
    index = as_int64(index)
    counted = index != ignore_index
    if weight is not None:
        counted = torch.where(counted, weight[index.clamp(0, weight.shape[0] - 1)], 0.0)
    return Sums(total, counted.sum(dtype=torch.float64))


def row_grad(logits: Any, target: Target, scores: Scores, record: Any, cotangents: Cotangents, grad: Any) -> None:
    """Write the gradient of each row, in half precision for float32 logits if `grad` is: `Backend.row_grad`."""
    from crossent.kernels.triton.task import Task

    _row_grad(Task.of(logits, target, scores), record, Cotangents(*cotangents), grad)


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

    Rows of at most 8 thousand contiguous columns are read once, longer ones and those under a softcap twice.
    """
    from crossent.kernels.triton import rows as kernels
    from crossent.kernels.triton.task import Tile

    task, scale = _task(logits, target, scores), LossScale(*scale)
    to = task.axes.matrix(grad)
    tile = task.tile(to)
    fitting = [shape for shape in _ONE_READ if logits.shape[1] + tile.U <= shape[0]]
    if not tile.wide or not fitting or task.capped:
        row_stats(logits, target, scores, record, outputs)
        _row_grad(task, record, scale, grad)
        return
    if record.shape[1] == 0:
        return
    columns, warps = fitting[-1]
    whole = Tile(True, 1, columns // tile.U, tile.U, warps)
    results, g, gathered = task.outputs(outputs), task.cotangents(scale), task.gathered(grad)
    with _on(logits):
        task.launch(
            kernels.row_fused, whole, 1, (record, results.arrays, g.arrays, gathered.arrays, to),
            flags=task.flags | results.flags | gathered.flags, cotangent_flags=g.flags, record_step=record.stride(0),
        )  # fmt: skip


def _row_grad(task: Task, record: Any, cotangents: Cotangents | LossScale, grad: Any) -> None:
    from crossent.kernels.triton import rows as kernels

    if record.shape[1] == 0:
        return
    to = task.axes.matrix(grad)
    tile = task.tile(to)
    g, gathered, parts = task.cotangents(cotangents), task.gathered(grad), task.parts(tile, tile.M * tile.U)
    with _on(task.logits):
        task.launch(
            kernels.row_grad, tile, parts.number, (record, g.arrays, gathered.arrays, to),
            flags=task.flags | g.flags | gathered.flags, span=parts.span, record_step=record.stride(0),
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

    if _validated():
        check_target(target, logits.shape)
    return Task.of(logits, target, scores)


def _on(tensor: Any) -> AbstractContextManager[Any]:
    """Return a context in which kernels run on the device of a tensor."""
    return import_module("torch").cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
