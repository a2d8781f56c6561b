"""A call of binary cross-entropy in the form of its kernels: arrays of any shape on two axes, elements in blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl

from crossent.kernels.backend import BinaryOperands
from crossent.kernels.triton.binary import Grid, binary_grad, binary_loss

_BLOCK, _WARPS = 1024, 4
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


class Axis(NamedTuple):
    """An axis of several arrays: its length, and the stride of each array along it."""

    length: int
    strides: tuple[int, ...]


class Grids(NamedTuple):
    """The arrays of a call on two axes, the length of the second, and whether one of the weights is there."""

    arrays: list[Grid]
    columns: int
    weighted: bool


def loss(logits: bool, operands: BinaryOperands, out: Any) -> Any:
    """Write the losses into a contiguous array, unless it is None, and return their sum."""
    x: Any = operands.input
    dtype, programs = _computed(x), -(-x.numel() // _BLOCK)
    sums = x.new_empty((programs,), dtype=dtype)
    if programs:
        grids = grids_of(operands)
        kernel: Any = binary_loss[(programs,)]
        kernel(
            *grids.arrays, sums if out is None else out, sums, x.numel(), grids.columns,
            T=_TYPES[dtype], B=_BLOCK, LOGITS=logits, WEIGHTED=grids.weighted, STORED=out is not None,
            **_shape(x.numel(), grids.columns),
        )  # fmt: skip
    return sums.sum()


def grad(logits: bool, operands: BinaryOperands, cotangent: Any, out: Any) -> None:
    """Write the gradients into a contiguous array."""
    x: Any = operands.input
    programs = -(-x.numel() // _BLOCK)
    if programs:
        grids = grids_of(operands, cotangent)
        kernel: Any = binary_grad[(programs,)]
        kernel(
            *grids.arrays, out, x.numel(), grids.columns,
            T=_TYPES[_computed(x)], B=_BLOCK, LOGITS=logits, WEIGHTED=grids.weighted,
            **_shape(x.numel(), grids.columns),
        )  # fmt: skip


def _shape(size: int, columns: int) -> dict[str, Any]:
    """Return whether there is one row, and how a program is compiled: left to itself, ptxas spills a register."""
    flat = columns == size
    return {"FLAT": flat, "num_warps": _WARPS} | ({} if flat or torch.version.hip else {"maxnreg": 255})


def _computed(x: Any) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def grids_of(operands: BinaryOperands, *more: Any) -> Grids:
    """Return input, target, weight, pos_weight and more arrays of their shape on two axes.

    Neighbouring axes become one where every array lets them. What is left over is copied, weights and all: arrays that
    lie in memory in many different ways are rare.
    """
    x: Any = operands.input
    weighted = operands.weight is not None or operands.pos_weight is not None
    one = x.new_ones(()).expand(x.shape) if weighted else x
    given: list[Any] = [one if a is None else a for a in (*operands, *more)]
    axes = merged_axes(x.shape, given)
    if len(axes) > 2:
        given = [a.contiguous() for a in given]
        axes = merged_axes(x.shape, given)
    rows, columns = axes if len(axes) == 2 else (Axis(1, (0,) * len(given)), *axes)
    arrays = [Grid(*parts) for parts in zip(given, rows.strides, columns.strides, strict=True)]
    return Grids(arrays, columns.length, weighted)


def merged_axes(shape: Sequence[int], arrays: Sequence[Any]) -> list[Axis]:
    """Return the axes of arrays of one shape, as few as there can be."""
    axes: list[Axis] = []
    for k, length in enumerate(shape):
        strides = tuple(a.stride(k) for a in arrays)
        if length == 1:
            continue
        if axes and axes[-1].strides == tuple(s * length for s in strides):
            axes[-1] = Axis(axes[-1].length * length, strides)
        else:
            axes.append(Axis(length, strides))
    return axes or [Axis(math.prod(shape), (0,) * len(arrays))]
