"""A call of binary cross-entropy in the form of its kernels: arrays of any shape on two axes, elements in blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl

from crossent.kernels.backend import BinaryOperands
from crossent.kernels.triton.binary import any_grad, any_loss, plain_grad, plain_loss
from crossent.kernels.triton.launch import launch

_BLOCK, _WARPS = 1024, 4
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


class Axis(NamedTuple):
    """An axis of several arrays: its length, and the stride of each array along it."""

    length: int
    strides: tuple[int, ...]


class Grid(NamedTuple):
    """An array of two axes, of the shape of all others: element (i, j) is data[i · row + j · col]."""

    data: Any
    row: int
    col: int


class Grids(NamedTuple):
    """The arrays of a call on two axes, the length of the second, and whether one of the weights is there."""

    arrays: list[Grid]
    columns: int
    weighted: bool

    @property
    def data(self) -> tuple[Any, ...]:
        """The arrays."""
        return tuple(grid.data for grid in self.arrays)

    @property
    def strides(self) -> tuple[int, ...]:
        """How far apart rows and columns of each array are."""
        return tuple(step for grid in self.arrays for step in (grid.row, grid.col))


def loss(logits: bool, operands: BinaryOperands, out: Any) -> Any:
    """Write the losses into a contiguous array, unless it is None, and return their sum."""
    x: Any = operands.input
    dtype, programs = _computed(x), -(-x.numel() // _BLOCK)
    sums = x.new_empty((programs,), dtype=dtype)
    if programs:
        grids, to = grids_of(operands), sums if out is None else out
        constants = _constants(x, grids, to) | {"LOGITS": logits, "STORED": out is not None}
        launch(
            plain_loss if constants["PLAIN"] else any_loss, (programs, 1, 1), (*grids.data, to, sums),
            (*grids.strides, x.numel(), grids.columns), constants, **_options(x, grids),
        )  # fmt: skip
    return sums.sum()


def grad(logits: bool, operands: BinaryOperands, cotangent: Any, out: Any) -> None:
    """Write the gradients into a contiguous array."""
    x: Any = operands.input
    programs = -(-x.numel() // _BLOCK)
    if programs:
        grids = grids_of(operands, cotangent)
        constants = _constants(x, grids, out) | {"LOGITS": logits}
        launch(
            plain_grad if constants["PLAIN"] else any_grad, (programs, 1, 1), (*grids.data, out),
            (*grids.strides, x.numel(), grids.columns), constants, **_options(x, grids),
        )  # fmt: skip


def _constants(x: Any, grids: Grids, out: Any) -> dict[str, Any]:
    """Return what a kernel is compiled for beside dtypes."""
    size, flat = x.numel(), grids.columns == x.numel()
    contiguous = flat and size % 16 == 0 and all(grid.col == 1 for grid in grids.arrays)
    plain = contiguous and all(a.data_ptr() % 16 == 0 for a in (*grids.data, out))
    return {"T": _TYPES[_computed(x)], "B": _BLOCK, "FLAT": flat, "PLAIN": plain, "WEIGHTED": grids.weighted}


def _options(x: Any, grids: Grids) -> dict[str, Any]:
    """Return how a program is compiled: left to itself, ptxas spills a register where there are two axes."""
    flat = grids.columns == x.numel()
    return {"num_warps": _WARPS} | ({} if flat or torch.version.hip else {"maxnreg": 255})


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
