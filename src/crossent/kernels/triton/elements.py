"""A call of binary cross-entropy in the form of its kernels: arrays of any shape on two axes, elements in blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl

from crossent.kernels.backend import BinaryOperands
from crossent.kernels.triton.binary import (
    HAS_LOSS,
    HAS_POS_WEIGHT,
    HAS_WEIGHT,
    any_grad,
    any_loss,
    plain_grad,
    plain_loss,
)
from crossent.kernels.triton.launch import Launch

_BLOCK, _WARPS = 1024, 4
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
_FLAGS = HAS_WEIGHT, HAS_POS_WEIGHT


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
    """The arrays of a call on two axes, the length of the second, and which of the weights are there."""

    arrays: list[Grid]
    columns: int
    flags: int

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
        flags = grids.flags | (0 if out is None else HAS_LOSS)
        constants = _constants(x, grids, to) | {"LOGITS": logits}
        launch = Launch(
            plain_loss if constants["PLAIN"] else any_loss, (programs, 1, 1),
            (*grids.strides, x.numel(), grids.columns, flags), constants, **_options(constants["PLAIN"]),
        )  # fmt: skip
        launch(*_present(grids.data, sums), to, sums)
    return sums.sum()


def grad(logits: bool, operands: BinaryOperands, cotangent: Any, out: Any) -> None:
    """Write the gradients into a contiguous array."""
    x: Any = operands.input
    programs = -(-x.numel() // _BLOCK)
    if programs:
        grids = grids_of(operands, cotangent)
        constants = _constants(x, grids, out) | {"LOGITS": logits}
        launch = Launch(
            plain_grad if constants["PLAIN"] else any_grad, (programs, 1, 1),
            (*grids.strides, x.numel(), grids.columns, grids.flags), constants, **_options(constants["PLAIN"]),
        )  # fmt: skip
        launch(*_present(grids.data, grids.data[-1]), out)


def _present(arrays: Sequence[Any], other: Any) -> tuple[Any, ...]:
    """Return the arrays, another one of the dtype of the computation in place of each weight that is absent."""
    return tuple(other if x is None else x for x in arrays)


def _constants(x: Any, grids: Grids, out: Any) -> dict[str, Any]:
    """Return the compile-time constants of a kernel besides dtypes: the usual call has a kernel of its own."""
    size, (of_input, of_target, _, _, *of_cotangent) = x.numel(), grids.arrays
    contiguous = grids.columns == size and size % 16 == 0 and of_input.col == of_target.col == 1
    apart = any(grid.col not in {0, 1} for grid in of_cotangent)
    arrays = [*grids.data, out]
    plain = contiguous and not (grids.flags or apart) and all(a is None or a.data_ptr() % 16 == 0 for a in arrays)
    return {"T": _TYPES[_computed(x)], "B": _BLOCK, "PLAIN": plain}


def _options(plain: bool) -> dict[str, Any]:
    """Return how a program is compiled: left to itself, ptxas spills a register where there are two axes."""
    return {"num_warps": _WARPS} | ({} if plain or torch.version.hip else {"maxnreg": 255})


def _computed(x: Any) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def grids_of(operands: BinaryOperands, *more: Any) -> Grids:
    """Return input, target, weight, pos_weight (None if absent) and more arrays of their shape on two axes.

    Neighbouring axes become one where every array lets them. The rest is copied, including weights: arrays that lie in
    memory in many different ways are rare. Weights and more arrays get the dtype of the computation, and so does a
    target that has neither this nor the dtype of the input: else there would be a kernel for each of their dtypes.
    """
    x: Any = operands.input
    dtype, target = _computed(x), operands.target
    read: Any = target if target.dtype == x.dtype else converted(target, dtype)
    optional = (operands.weight, operands.pos_weight)
    given = [x, read, *(None if a is None else converted(a, dtype) for a in (*optional, *more))]
    axes = merged_axes(x.shape, [a for a in given if a is not None])
    if len(axes) > 2:
        given = [None if a is None else a.contiguous() for a in given]
        axes = merged_axes(x.shape, [a for a in given if a is not None])
    rows, columns = axes if len(axes) == 2 else (Axis(1, (0,) * len(given)), *axes)
    steps = zip(rows.strides, columns.strides, strict=False)
    arrays = [Grid(None, 0, 0) if a is None else Grid(a, *next(steps)) for a in given]
    return Grids(arrays, columns.length, sum(flag for flag, a in zip(_FLAGS, optional, strict=True) if a is not None))


def converted(x: Any, dtype: torch.dtype) -> Any:
    """Return an array in a dtype; an expanded one is converted before it is expanded."""
    if x.dtype == dtype:
        return x
    once = x[tuple(slice(1) if step == 0 else slice(None) for step in x.stride())]
    return once.to(dtype).expand(x.shape)


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
