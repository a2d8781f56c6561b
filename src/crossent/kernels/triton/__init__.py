"""The Triton backend: the row functions on NVIDIA and AMD GPUs, for torch tensors. No call waits for the device.

Functions and layouts are those of `crossent.kernels.cpu`. What differs: a class that does not exist, or a target
probability that is negative or not finite, makes loss and gradient of its row NaN, because to raise is to wait for the
device. With CROSSENT_VALIDATE=1 in the environment they are errors here too, and every call waits.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from crossent.kernels.checks import check_probabilities, check_target
from crossent.spec import Scores, Target

_OLDEST = (3, 6)
_NO_SUMMARY = (None, None, None)
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
    summary: tuple[Any, Any, Any] = _NO_SUMMARY,
    *,
    extend: bool = False,
) -> None:
    """Write the record of each row into `record` (5, N): peak, total, target_score, mass, tilt, in float64.

    With `extend` the record holds other columns of the same rows already, and the logits' are merged into it.
    The arrays (N,) of `summary`, float64 for float64 logits and else float32, receive loss, lse and entropy.
    """
    task = _task(logits, target, scores)
    rows = record.shape[1]
    if rows == 0:
        return
    k = _kernels()
    tile = task.tile()
    outputs, wanted = task.summary(summary)
    wanted |= k.HAS_RECORD if extend else 0
    parts, span = task.parts(tile, _SHORTEST_PART)
    with _on(logits):
        if parts == 1:
            task.launch(
                k.row_stats, tile, 1, (record, outputs),
                flags=task.flags | wanted, span=span, record_step=record.stride(0), part_step=0,
            )  # fmt: skip
            return
        each = record.new_empty((parts, 5, rows))
        task.launch(
            k.row_stats, tile, parts, (each, outputs), flags=task.flags, span=span, record_step=rows, part_step=5 * rows
        )
        k.merge_parts[(-(-rows // _MERGED_ROWS),)](
            each, task.named, task.classes, record, outputs,
            rows=rows, flags=wanted, parts=parts, record_step=record.stride(0), R=_MERGED_ROWS, DENSE=task.dense,
        )  # fmt: skip


def sums(loss: Any, index: Any, weight: Any, ignore_index: int) -> tuple[Any, Any]:
    """Return Σ loss, and Σ weight_y over the rows of `index` that are not ignored (the number of rows without it).

    Both are float64 tensors of shape (), because numbers would have to wait for the device.
    """
    torch = import_module("torch")
    total = loss.sum(dtype=torch.float64)
    if index is None:
        return total, torch.full_like(total, loss.shape[0])
    counted = index != ignore_index
    if weight is not None:
        counted = torch.where(counted, weight[index.long().clamp(0, weight.shape[0] - 1)], 0.0)
    return total, counted.sum(dtype=torch.float64)


def row_grad(
    logits: Any, target: Target, scores: Scores, record: Any, cotangents: tuple[Any, Any, Any], grad: Any
) -> None:
    """Write phi'(z) (p (a + b log p) − c q) into `grad`, like the logits; float32 ones may have a gradient in half.

    a, b and c are `RowStats.coefficients` of the cotangents (N,) of loss, lse and entropy; None is zero.
    """
    _row_grad(logits, target, scores, record, (*cotangents, None), grad)


def row_fused(
    logits: Any,
    target: Target,
    scores: Scores,
    scale: tuple[Any, Any],
    record: Any,
    grad: Any,
    summary: tuple[Any, Any, Any] = _NO_SUMMARY,
) -> None:
    """Do `row_stats`, then write the gradient of Σ scale₀ · loss + scale₁ · lse².

    Rows of at most 8 thousand contiguous columns are read once, longer ones and those under a softcap twice. `grad` may
    be the logits.
    """
    task = _task(logits, target, scores)
    to = task.axes.matrix(grad)
    tile = task.tile(to)
    fitting = [shape for shape in _ONE_READ if logits.shape[1] + tile.U <= shape[0]]
    cotangents = (scale[0], None, None, scale[1])
    if not tile.wide or not fitting or task.capped:
        row_stats(logits, target, scores, record, summary)
        _row_grad(logits, target, scores, record, cotangents, grad)
        return
    if record.shape[1] == 0:
        return
    k = _kernels()
    columns, warps = fitting[-1]
    outputs, wanted = task.summary(summary)
    given, present = task.cotangents(cotangents)
    gathered, gathered_flag = task.gathered(grad)
    with _on(logits):
        task.launch(
            k.row_fused, k.Tile(True, 1, columns // tile.U, tile.U, warps), 1, (record, outputs, given, gathered, to),
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


def binary_loss(kind: str, operands: tuple[Any, Any, Any, Any], out: Any) -> Any:
    """Write the binary cross-entropy of each element into `out`, if it is given, and return the sum, as a tensor ().

    The operands are input, target, weight and pos_weight, all with the shape of the input; a weight of None is 1. An
    element of an input of probabilities that is not in [0, 1] has the loss and the gradient NaN.

    Raises
    ------
    ValueError
        If CROSSENT_VALIDATE=1, the kind is "probabilities" and an element of the input is outside [0, 1] or NaN.
    """
    if kind == "probabilities" and os.environ.get("CROSSENT_VALIDATE") == "1":
        check_probabilities(operands[0])
    k = import_module("crossent.kernels.triton.elements")
    with _on(operands[0]):
        return k.loss(kind == "logits", operands, out)


def binary_grad(kind: str, operands: tuple[Any, Any, Any, Any], cotangent: Any, out: Any) -> None:
    """Write the derivative of each element's loss with respect to the input, times its cotangent, into `out`."""
    k = import_module("crossent.kernels.triton.elements")
    with _on(operands[0]):
        k.grad(kind == "logits", operands, cotangent, out)


def _kernels() -> Any:
    return import_module("crossent.kernels.triton.task")


def _task(logits: Any, target: Target, scores: Scores) -> Any:
    if os.environ.get("CROSSENT_VALIDATE") == "1":
        check_target(target, logits.shape)
    return _kernels().Task.of(logits, target, scores)


def _on(tensor: Any) -> AbstractContextManager[Any]:
    """Return a context in which kernels run on the device of a tensor."""
    return import_module("torch").cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
