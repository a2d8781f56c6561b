"""How binary cross-entropy is shared out on a GPU: any arrays of one shape as arrays of two axes, in equal programs."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton.language as tl

from crossent.kernels.triton.binary import Grid, binary_grad, binary_loss

_BLOCK, _WARPS = 1024, 4
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}

Operands = tuple[Any, Any, Any, Any]


def loss(logits: bool, operands: Operands, out: Any) -> Any:
    """Write the losses into a contiguous array, if there is one, and return their sum."""
    dtype = _computed(operands[0])
    programs = -(-operands[0].numel() // _BLOCK)
    sums = operands[0].new_empty((programs,), dtype=dtype)
    if programs:
        arrays, weighted, columns = _grids(operands)
        binary_loss[(programs,)](
            *arrays, sums if out is None else out, sums, operands[0].numel(), columns,
            T=_TYPES[dtype], B=_BLOCK, LOGITS=logits, WEIGHTED=weighted, STORED=out is not None,
            **_shape(operands[0].numel(), columns),
        )  # fmt: skip
    return sums.sum()


def grad(logits: bool, operands: Operands, cotangent: Any, out: Any) -> None:
    """Write the gradients into a contiguous array."""
    programs = -(-operands[0].numel() // _BLOCK)
    if programs:
        arrays, weighted, columns = _grids((*operands, cotangent))
        binary_grad[(programs,)](
            *arrays, out, operands[0].numel(), columns,
            T=_TYPES[_computed(operands[0])], B=_BLOCK, LOGITS=logits, WEIGHTED=weighted,
            **_shape(operands[0].numel(), columns),
        )  # fmt: skip


def _shape(size: int, columns: int) -> dict[str, Any]:
    """Return whether there is one row, and how a program is compiled: left to itself, ptxas spills a register."""
    flat = columns == size
    return {"FLAT": flat, "num_warps": _WARPS} | ({} if flat or torch.version.hip else {"maxnreg": 255})


def _computed(x: Any) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _grids(arrays: tuple[Any, ...]) -> tuple[list[Grid], bool, int]:
    """Return the arrays on two axes, whether one of the weights is there, and the length of the second axis.

    Neighbouring axes become one where every array lets them. What is left over is copied, weights and all: arrays that
    lie in memory in many different ways are rare.
    """
    x, _, weight, pos_weight, *_ = arrays
    weighted = weight is not None or pos_weight is not None
    one = x.new_ones(()).expand(x.shape) if weighted else x
    given = [one if a is None else a for a in arrays]
    axes = _merged_axes(x.shape, given)
    if len(axes) > 2:
        given = [a.contiguous() for a in given]
        axes = _merged_axes(x.shape, given)
    (_, rows), (columns, cols) = axes if len(axes) == 2 else [(1, (0,) * len(given)), *axes]
    return [Grid(*parts) for parts in zip(given, rows, cols, strict=True)], weighted, columns


def _merged_axes(shape: tuple[int, ...], arrays: list[Any]) -> list[tuple[int, tuple[int, ...]]]:
    """Return length and strides of each axis, as few as there can be."""
    axes: list[tuple[int, tuple[int, ...]]] = []
    for k, length in enumerate(shape):
        strides = tuple(a.stride(k) for a in arrays)
        if length == 1:
            continue
        if axes and axes[-1][1] == tuple(s * length for s in strides):
            axes[-1] = (axes[-1][0] * length, strides)
        else:
            axes.append((length, strides))
    return axes or [(math.prod(shape), (0,) * len(arrays))]
