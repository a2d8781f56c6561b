"""The Triton backend: the row functions on NVIDIA and AMD GPUs, for torch tensors. No call waits for the device.

Here are the functions of the contract (`crossent.kernels.backend`); behind them live `task` and `elements` (a call in
the form of its kernels), and the kernels: `rows` over `record` and `tiles`, and `binary`. Importing this package
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
from typing import Any

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
from crossent.kernels.checks import check_probabilities, check_target
from crossent.spec import Scores, Target

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
    task = _task(logits, target, scores)
    rows = record.shape[1]
    if rows == 0:
        return
    k = _kernels()
    tile = task.tile()
    to, wanted = task.outputs(outputs)
    wanted |= k.HAS_RECORD if extend else 0
    parts, span = task.parts(tile, _SHORTEST_PART)
    with _on(logits):
        if parts == 1:
            task.launch(
                k.row_stats, tile, 1, (record, to),
                flags=task.flags | wanted, span=span, record_step=record.stride(0), part_step=0,
            )  # fmt: skip
            return
        each = record.new_empty((parts, 5, rows))
        task.launch(
            k.row_stats, tile, parts, (each, to), flags=task.flags, span=span, record_step=rows, part_step=5 * rows
        )
        k.merge_parts[(-(-rows // _MERGED_ROWS),)](
            each, task.named, task.classes, record, to,
            rows=rows, flags=wanted, parts=parts, record_step=record.stride(0), R=_MERGED_ROWS, DENSE=task.dense,
        )  # fmt: skip


def sums(loss: Any, index: Any, weight: Any, ignore_index: int) -> Sums:
    """Return numerator and denominator of a mean, as float64 tensors of shape (): `Backend.sums`."""
    torch = import_module("torch")
    total = loss.sum(dtype=torch.float64)
    if index is None:
        return Sums(total, torch.full_like(total, loss.shape[0]))
    counted = index != ignore_index
    if weight is not None:
        counted = torch.where(counted, weight[index.long().clamp(0, weight.shape[0] - 1)], 0.0)
    return Sums(total, counted.sum(dtype=torch.float64))


def row_grad(logits: Any, target: Target, scores: Scores, record: Any, cotangents: Cotangents, grad: Any) -> None:
    """Write the gradient of each row, in half precision for float32 logits if `grad` is: `Backend.row_grad`."""
    _row_grad(logits, target, scores, record, (*cotangents, None), grad)


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
    task = _task(logits, target, scores)
    to = task.axes.matrix(grad)
    tile = task.tile(to)
    fitting = [shape for shape in _ONE_READ if logits.shape[1] + tile.U <= shape[0]]
    loss, lse_squared = scale
    cotangents = (loss, None, None, lse_squared)
    if not tile.wide or not fitting or task.capped:
        row_stats(logits, target, scores, record, outputs)
        _row_grad(logits, target, scores, record, cotangents, grad)
        return
    if record.shape[1] == 0:
        return
    k = _kernels()
    columns, warps = fitting[-1]
    summary, wanted = task.outputs(outputs)
    given, present = task.cotangents(cotangents)
    gathered, gathered_flag = task.gathered(grad)
    with _on(logits):
        task.launch(
            k.row_fused, k.Tile(True, 1, columns // tile.U, tile.U, warps), 1, (record, summary, given, gathered, to),
            flags=task.flags | wanted | gathered_flag, cotangent_flags=present, record_step=record.stride(0),
        )  # fmt: skip


def _row_grad(
    logits: Any, target: Target, scores: Scores, record: Any, cotangents: tuple[Any, Any, Any, Any], grad: Any
) -> None:
    k = _kernels()
    task = k.Task.of(logits, target, scores)
    to = task.axes.matrix(grad)
    tile = task.tile(to)
    given, present = task.cotangents(cotangents)
    if record.shape[1] == 0:
        return
    gathered, gathered_flag = task.gathered(grad)
    parts, span = task.parts(tile, tile.M * tile.U)
    with _on(logits):
        task.launch(
            k.row_grad, tile, parts, (record, given, gathered, to),
            flags=task.flags | present | gathered_flag, span=span, record_step=record.stride(0),
        )  # fmt: skip


def binary_loss(kind: BinaryKind, operands: BinaryOperands, out: Any) -> Scalar:
    """Write the binary cross-entropy of each element and return the sum, as a tensor (): `Backend.binary_loss`.

    An element of an input of probabilities that is not in [0, 1] has the loss and the gradient NaN.
    """
    if kind == "probabilities" and _validated():
        check_probabilities(operands[0])
    k = import_module("crossent.kernels.triton.elements")
    with _on(operands[0]):
        return k.loss(kind == "logits", operands, out)


def binary_grad(kind: BinaryKind, operands: BinaryOperands, cotangent: Any, out: Any) -> None:
    """Write the derivative of each element's loss, times its cotangent: `Backend.binary_grad`."""
    k = import_module("crossent.kernels.triton.elements")
    with _on(operands[0]):
        k.grad(kind == "logits", operands, cotangent, out)


def _kernels() -> Any:
    return import_module("crossent.kernels.triton.task")


def _validated() -> bool:
    return os.environ.get("CROSSENT_VALIDATE") == "1"


def _task(logits: Any, target: Target, scores: Scores) -> Any:
    if _validated():
        check_target(target, logits.shape)
    return _kernels().Task.of(logits, target, scores)


def _on(tensor: Any) -> AbstractContextManager[Any]:
    """Return a context in which kernels run on the device of a tensor."""
    return import_module("torch").cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
