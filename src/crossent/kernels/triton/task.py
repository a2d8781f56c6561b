"""A call of the row functions in the form of their kernels: arrays as pointers and strides, rows as programs.

Everything here is a function of shapes, strides and dtypes alone, so that results never depend on the device's state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl

from crossent.kernels.backend import Cotangents, LossScale, RowOutputs
from crossent.kernels.checks import as_int64
from crossent.kernels.triton.gradient import StridedCotangents
from crossent.kernels.triton.tiles import HAS_GATHERED, HAS_PROB, HAS_WEIGHT, Classes, Matrix, Named
from crossent.spec import NO_CLASS, Scores, Target

_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
_PROGRAMS = 512  # enough to fill a GPU: rows are split among more programs if there are fewer
_PICKS = 16  # classes that a target names, worked on at once where a program has few rows
_MOST_REGISTERS = 255
_LONG_ROW, _SHORT_ROW = 4096, 64
_SIDE_BY_SIDE = 32  # rows next to each other in memory, or short ones, that are worked on together


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """Shape of a program's tile, whether its lanes are aligned accesses, and how many warps work on it."""

    wide: bool
    R: int
    M: int
    U: int
    warps: int


class _Shape(NamedTuple):
    """Rows and lanes of a tile, and how many warps work on it."""

    rows: int
    lanes: int
    warps: int


# Wide tiles. Twice as many lanes of long rows would need more registers than there are with a softcap.
_LONG, _MIDDLE = _Shape(1, 512, 8), _Shape(4, 64, 4)
# Tiles of many rows side by side, and of whatever else there is.
_SHORT, _ANY = _Shape(64, 1, 2), _Shape(1, 256, 4)


class Parts(NamedTuple):
    """In how many parts the columns of a row are split, and how many columns a part has."""

    number: int
    span: int


class Given(NamedTuple):
    """Arrays as a kernel takes them, another in place of each that is absent, and flags of those that are there."""

    arrays: Any
    flags: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Axes:
    """Which axis of (N, V) or (outer, V, inner) holds the rows of a batch, the longer one, and which the batches."""

    row: int
    batch: int | None

    @classmethod
    def of(cls, logits: Any) -> _Axes:
        if logits.ndim == 2:
            return cls(0, None)
        outer, _, inner = logits.shape
        return cls(2, 0) if inner >= min(outer, _SIDE_BY_SIDE) else cls(0, 2)

    def matrix(self, x: Any) -> Matrix:
        """Return an array of the shape of the logits as the kernels take it."""
        return Matrix(x, 0 if self.batch is None else x.stride(self.batch), x.stride(self.row), x.stride(1))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Rows, target and scores of a call."""

    logits: Any
    axes: _Axes
    target: Target
    named: Named
    classes: Classes
    weight: Any
    prob: Matrix
    numbers: dict[str, float]
    capped: bool
    flags: int
    spare: Any
    """An array of the dtype of the computation that stands in for absent ones."""

    @classmethod
    def of(cls, logits: Any, target: Target, scores: Scores) -> Task:
        """Return the task of a call."""
        V = logits.shape[1]
        if V >= 2**31:
            raise ValueError(f"a GPU takes fewer than 2**31 classes, got {V}; split the vocabulary")
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        spare = torch.empty(1, dtype=dtype, device=logits.device)
        axes, flags = _Axes.of(logits), 0
        index: Any = target.index
        prob: Any = target.prob
        weight: Any = target.weight
        named, picks = Named(spare, 0, 0, spare, 0, 0), 0
        if index is not None:
            label = index if index.dtype in (torch.int32, torch.int64) else as_int64(index)
            row, col = (*label.stride(), 0)[:2]
            picks = 1 if label.ndim == 1 else label.shape[1]
            named = Named(label, row, col, spare, 0, 0)
            if prob is not None:
                prob = prob.to(dtype)
                named, flags = Named(label, row, col, prob, *prob.stride()), flags | HAS_PROB
        if weight is not None:
            weight, flags = weight.to(dtype).contiguous(), flags | HAS_WEIGHT
        number = V if target.num_classes is None else target.num_classes
        return cls(
            logits, axes, target, named,
            Classes(V, target.first_class, number, target.ignore_index if target.kind == "index" else NO_CLASS, picks),
            spare if weight is None else weight,
            axes.matrix(prob if index is None else logits),
            {
                "keep": 1.0 - target.smoothing,
                "spread": target.smoothing / max(1, number),
                "unit": 1.0 / scores.temperature,
                "temperature": float(scores.temperature),
                "cap": float(scores.softcap or 1.0),
            },
            scores.softcap is not None, flags, spare,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Number of rows of a batch."""
        return self.logits.shape[self.axes.row]

    @property
    def batches(self) -> int:
        """Number of batches."""
        return 1 if self.axes.batch is None else self.logits.shape[self.axes.batch]

    @property
    def dense(self) -> bool:
        """Whether the target has a probability for each column."""
        return self.target.index is None

    @property
    def measured(self) -> bool:
        """Whether the kernels for general targets do it; those for one class a row are faster."""
        return self.target.kind != "index" or self.target.smoothing != 0 or self.capped

    def tile(self, *others: Matrix) -> Tile:
        """Return the tile for rows that lie like the logits, the dense target, and others of their shape."""
        z, V = self.axes.matrix(self.logits), self.classes.columns
        arrays = (z, *([self.prob] if self.dense else []), *others)
        U = 16 // self.logits.element_size()
        if V > _SHORT_ROW and self.logits.dtype != torch.float64 and all(_aligned(m, z, U) for m in arrays):
            shape = _LONG if V > _LONG_ROW else _MIDDLE
            return Tile(True, shape.rows, shape.lanes, U, shape.warps)
        beside = z.row == 1 and z.col != 1 and self.rows >= _SIDE_BY_SIDE
        shape = _SHORT if V <= _SHORT_ROW or beside else _ANY
        return Tile(False, shape.rows, shape.lanes, min(U, 4), shape.warps)

    def parts(self, tile: Tile, shortest: int) -> Parts:
        """Return the number of parts and the columns per part; each part has at least `shortest` columns."""
        columns, block = self.classes.columns + (tile.U if tile.wide else 0), tile.M * tile.U
        programs = self.batches * -(-self.rows // tile.R)
        most = min(-(-_PROGRAMS // max(1, programs)), max(1, columns // shortest))
        span = -(-columns // (most * block)) * block
        return Parts(max(1, -(-columns // span)), span)

    def outputs(self, outputs: RowOutputs) -> Given:
        """Return loss, lse and entropy as kernels take them."""
        return Given(RowOutputs(*(self.spare if x is None else x for x in outputs)), _flags(outputs))

    def cotangents(self, given: Cotangents | LossScale) -> Given:
        """Return cotangents of loss, lse, entropy and the square of lse as kernels take them."""
        if isinstance(given, Cotangents):
            arrays: tuple[Any, ...] = (*given, None)
        else:
            arrays = (given.loss, None, None, given.lse_squared)
        strided: list[Any] = []
        for array in arrays:
            all_equal = array is None or array.stride(0) == 0
            g = self.spare if array is None else (array[:1] if all_equal else array).to(self.spare.dtype)
            strided += [g, 0 if all_equal else g.stride(0)]
        return Given(StridedCotangents(*strided), _flags(arrays))

    def gathered(self, grad: Any) -> Given:
        """Return the array where a kernel of the gradient reads the logits of the classes that the target names.

        They are gathered beforehand where the gradient takes the place of the logits and is written first.
        """
        if self.dense or not self.measured or grad.data_ptr() != self.logits.data_ptr():
            return Given(self.logits, 0)
        label = (self.named.label.long() - self.classes.first).clamp(0, self.classes.columns - 1)
        label = label.reshape(label.shape[0], -1)
        if self.logits.ndim == 2:
            return Given(self.logits.gather(1, label).contiguous(), HAS_GATHERED)
        outer, _, inner = self.logits.shape
        named = self.logits.gather(1, label.view(outer, inner, -1).movedim(2, 1))
        return Given(named.movedim(1, 2).reshape(label.shape).contiguous(), HAS_GATHERED)

    def launch(self, kernel: Any, tile: Tile, parts: int, arrays: Sequence[Any], **numbers: Any) -> None:
        """Run a kernel of `rows` over all rows, with one program for each part of a block of rows."""
        row_batch, row_step = (1, self.batches) if self.axes.batch == 2 else (self.rows, 1)  # in arrays (N,)
        # left to itself, ptxas saves registers by spilling one or two
        roomy = (self.measured or self.spare.dtype == torch.float64) and torch.version.hip is None
        limit = {"maxnreg": _MOST_REGISTERS} if roomy else {}
        grid = (self.batches * -(-self.rows // tile.R), parts)
        kernel[grid](
            self.axes.matrix(self.logits), self.prob, self.named, self.classes, self.weight, *arrays,
            rows=self.rows, row_batch=row_batch, row_step=row_step, **self.numbers,
            T=_TYPES[self.spare.dtype], CAPPED=self.capped, MEASURED=self.measured, DENSE=self.dense,
            K=_PICKS if self.measured and tile.R <= _PICKS else 1, R=tile.R, M=tile.M, U=tile.U, WIDE=tile.wide,
            num_warps=tile.warps, **limit, **numbers,
        )  # fmt: skip


def _aligned(m: Matrix, like: Matrix, U: int) -> bool:
    """Return whether columns are contiguous, and rows begin as far after a multiple of U elements as the others do."""
    same = (m.row - like.row) % U == 0 and (m.batch - like.batch) % U == 0
    return m.col == 1 and same and m.data.data_ptr() % (U * m.data.element_size()) == 0


def _flags(arrays: Sequence[Any]) -> int:
    return sum(1 << k for k, x in enumerate(arrays) if x is not None)
