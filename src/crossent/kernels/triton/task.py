"""A call of the row functions in the form of their kernels: arrays as pointers and strides, rows as programs.

Everything here is a function of shapes, strides and dtypes alone, so that results never depend on the device's state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl

from crossent.kernels.backend import BiasedLogits, LossScale, RowOutputs
from crossent.kernels.backend import Cotangents as GivenCotangents
from crossent.kernels.checks import as_int64
from crossent.kernels.triton.gradient import Cotangents, CotangentSteps
from crossent.kernels.triton.launch import launch
from crossent.kernels.triton.tiles import (
    HAS_ENTROPY,
    HAS_GATHERED,
    HAS_LSE,
    HAS_SQUARE,
    HAS_WEIGHT,
    Classes,
    Rows,
    Strides,
)
from crossent.spec import NO_CLASS, Scores, Target

_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
_PROGRAMS = 512  # enough to fill a GPU: rows are split among more programs if there are fewer
_PICKS = 16  # classes that a target names, worked on at once where a program has few rows
_MOST_REGISTERS, _FEW_WARPS = 255, 8  # more warps hold a row as a whole
_ACCESS = 16  # bytes of the longest access of a thread
_LONG_ROW, _SHORT_ROW = 2048, 64
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


# Wide tiles, of whose lanes each has eight columns in one access (or four, and there are twice as many): some accesses
# of a thread are underway at once.
_LONG, _MIDDLE = _Shape(1, 256, 4), _Shape(1, 64, 1)
# A warp of AMD's has 64 threads: with more of them than lanes, accesses would be shorter.
_LONG_OF_AMD, _MIDDLE_OF_AMD = _Shape(1, 256, 2), _Shape(1, 128, 1)
# Tiles of many rows side by side, and of whatever else there is.
_SHORT, _ANY = _Shape(64, 1, 2), _Shape(1, 256, 4)
# Tiles of few classes: a thread has a row, or eight threads have one whose columns are next to each other.
_ALONE, _SHARED = _Shape(512, 1, 4), _Shape(32, 8, 4)
_LONGEST_ALONE = 16
# What is done once a row: a thread has a row, or some of the classes that its target names.
_FINISHED, _FINISHED_NAMED, _NAMED_AT_ONCE = 128, 32, 8


class Parts(NamedTuple):
    """In how many parts the columns of a row are split, and how many columns a part has."""

    number: int
    span: int


class Numbers(NamedTuple):
    """The last arguments of every kernel of rows that are no constants."""

    keep: float
    spread: float
    unit: float
    temperature: float
    cap: float


class Given(NamedTuple):
    """Arrays as a kernel takes them, another in place of each that is absent, and flags of those that are there."""

    arrays: Any
    flags: int


class PlacedCotangents(NamedTuple):
    """Cotangents as a kernel takes them."""

    arrays: Cotangents
    steps: CotangentSteps
    flags: int


class Placed(NamedTuple):
    """An array of the shape of the logits, and where its rows and columns are."""

    data: Any
    at: Strides


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

    def placed(self, x: Any) -> Placed:
        """Return an array of the shape of the logits as the kernels take it."""
        return Placed(x, Strides(0 if self.batch is None else x.stride(self.batch), x.stride(self.row), x.stride(1)))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Rows, target and scores of a call."""

    logits: Any
    bias: Any
    """A bias (V,) that the kernels add, or None."""
    axes: _Axes
    target: Target
    label: Any
    label_prob: Any
    classes: Classes
    weight: Any
    prob: Placed
    numbers: Numbers
    capped: bool
    flags: int
    spare: Any
    """An array of the dtype of the computation that stands in for absent ones."""

    @classmethod
    def of(cls, logits: Any, target: Target, scores: Scores) -> Task:
        """Return the task of a call; the logits may be `BiasedLogits`."""
        if scores.row_temperature is not None:
            raise NotImplementedError(
                "the GPU kernels take one temperature for all rows; divide the logits by temperature.unsqueeze(1)"
            )
        bias: Any = None
        if isinstance(logits, BiasedLogits):
            logits, bias = logits.without_bias, logits.bias
        V = logits.shape[1]
        if V >= 2**31:
            raise ValueError(f"a GPU takes fewer than 2**31 classes, got {V}; split the vocabulary")
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        spare = torch.empty(1, dtype=dtype, device=logits.device)
        axes, flags = _Axes.of(logits), 0
        index: Any = target.index
        prob: Any = target.prob
        weight: Any = target.weight
        label, label_prob, picks = spare, spare, 0
        if index is not None:
            label = as_int64(index).contiguous()
            picks = 1 if label.ndim == 1 else label.shape[1]
            if prob is not None:
                label_prob = prob.to(dtype).contiguous()
        if weight is not None:
            weight, flags = weight.to(dtype).contiguous(), flags | HAS_WEIGHT
        number = V if target.num_classes is None else target.num_classes
        return cls(
            logits, None if bias is None else bias.contiguous(), axes, target, label, label_prob,
            Classes(V, target.first_class, number, target.ignore_index if target.kind == "index" else NO_CLASS, picks),
            spare if weight is None else weight,
            axes.placed(prob if index is None else logits),
            Numbers(
                1.0 - target.smoothing, target.smoothing / max(1, number),
                1.0 / scores.temperature, float(scores.temperature), float(scores.softcap or 1.0),
            ),
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
    def places(self) -> Rows:
        """How many rows there are, and where they are in arrays (N,)."""
        rows, batches = self.rows, self.batches
        return Rows(rows, rows * batches, *((1, batches) if self.axes.batch == 2 else (rows, 1)))

    @property
    def dense(self) -> bool:
        """Whether the target has a probability for each column."""
        return self.target.index is None

    @property
    def measured(self) -> bool:
        """Whether the target is more than the classes that it names: kernels for those alone are faster."""
        return self.dense or self.target.smoothing != 0

    @property
    def columns(self) -> int:
        """Number of classes at hand."""
        return self.classes.columns

    @property
    def named_alone(self) -> bool:
        """Whether the target names one class without a probability."""
        return self.target.kind == "index"

    def tile(self, *others: Placed) -> Tile:
        """Return the tile for rows that lie like the logits, the dense target, and others of their shape."""
        z, V = self.axes.placed(self.logits), self.columns
        arrays = (z, *([self.prob] if self.dense else []), *others)
        U = _ACCESS // self.logits.element_size()
        if V > _SHORT_ROW and self.logits.dtype != torch.float64 and all(_aligned(m, z, U) for m in arrays):
            shape = _LONG if V > _LONG_ROW else _MIDDLE
            if torch.version.hip is not None:
                shape = _LONG_OF_AMD if V > _LONG_ROW else _MIDDLE_OF_AMD
            return Tile(True, shape.rows, shape.lanes * 8 // U, U, shape.warps)
        beside = z.at.row == 1 and z.at.col != 1 and self.rows >= _SIDE_BY_SIDE
        shape = _SHORT if V <= _SHORT_ROW or beside else _ANY
        return Tile(False, shape.rows, shape.lanes, min(U, 4), shape.warps)

    @property
    def few_tile(self) -> Tile:
        """The tile for few classes."""
        alone = self.columns <= _LONGEST_ALONE or self.logits.stride(1) != 1
        shape = _ALONE if alone else _SHARED
        return Tile(False, shape.rows, shape.lanes, 1, shape.warps)

    @property
    def row_tile(self) -> Tile:
        """Rows of a program with one thread a row, and in U how many classes that the target names are read at once."""
        if self.dense or self.named_alone:
            return Tile(False, _FINISHED, 1, int(self.named_alone), 4)
        return Tile(False, _FINISHED_NAMED, 1, _NAMED_AT_ONCE, 4)

    def named_at_once(self, rows: int) -> int:
        """Return how many classes that a target names a program of so many rows works on at once: 1 if there is one."""
        if self.dense or self.named_alone:
            return int(self.named_alone)
        return _PICKS if rows <= _PICKS else 2

    def new_sums(self, rows: int) -> Any:
        """Return memory for sums of blocks of so many rows: of their losses, and of what they weigh in a mean."""
        return self.spare.new_empty((self.programs(rows), 2), dtype=torch.float64)

    def programs(self, rows: int) -> int:
        """Return how many blocks of so many rows there are."""
        return self.batches * -(-self.rows // rows)

    def parts(self, tile: Tile, shortest: int) -> Parts:
        """Return the number of parts and the columns per part; each part has at least `shortest` columns.

        Few rows are split so that a GPU is full, many are not.
        """
        return self._split(tile, shortest, -(-_PROGRAMS // max(1, self.programs(tile.R))))

    def fixed_parts(self, tile: Tile, shortest: int) -> Parts:
        """Return the same for any number of rows: sums of parts have the same bits however many rows there are."""
        return self._split(tile, shortest, _PROGRAMS)

    def _split(self, tile: Tile, shortest: int, most: int) -> Parts:
        columns, block = self.columns + (tile.U if tile.wide else 0), tile.M * tile.U
        most = min(most, max(1, columns // shortest))
        span = -(-columns // (most * block)) * block
        return Parts(max(1, -(-columns // span)), span)

    def outputs(self, outputs: RowOutputs) -> Given:
        """Return loss, lse and entropy as kernels take them."""
        return Given(RowOutputs(*(self.spare if x is None else x for x in outputs)), _flags(outputs))

    def cotangents(self, given: GivenCotangents | LossScale, *, narrow: bool = False) -> PlacedCotangents:
        """Return cotangents of loss, lse, entropy and the square of lse as kernels take them, all in float64.

        If narrow, those of a task that names one class for each row are in float32, unless one is in float64: rows of
        few classes cost little more than to read them.
        """
        if isinstance(given, GivenCotangents):
            arrays: tuple[Any, ...] = (*given, None)
        else:
            arrays = (given.loss, None, None, given.lse_squared)
        wide = any(x is not None and x.dtype == torch.float64 for x in arrays)
        dtype = torch.float32 if narrow and not wide and self._is_plain else torch.float64
        arrays = tuple(None if x is None else x.to(dtype) for x in arrays)
        absent = next((x for x in arrays if x is not None), self.spare)
        placed = Cotangents(*(absent if x is None else x for x in arrays))
        steps = CotangentSteps(*(0 if x is None else x.stride(0) for x in arrays))
        return PlacedCotangents(placed, steps, _flags(arrays))

    def tilted(self, tile: Tile, wanted: bool) -> bool:
        """Return whether a kernel of statistics makes the tilt: also unwanted, where it is not worth another kernel."""
        return wanted or not (tile.wide or self._is_plain)

    def kind_of_gradient(self, tile: Tile, flags: int) -> int:
        """Return what a kernel of the gradient is made for (`gradient`), by the cotangents that there are.

        It is made for all of them also where another kernel is not worth it.
        """
        kind = 2 if flags & HAS_ENTROPY else int(flags & (HAS_LSE | HAS_SQUARE) != 0)
        return kind if tile.wide or (kind == 0 and self._is_plain) else 2

    @property
    def _is_plain(self) -> bool:
        """Whether rows are as most are: the target names one class and no more, and all is computed in float32."""
        return self.named_alone and not self.measured and self.spare.dtype == torch.float32

    def gathered(self, grad: Any) -> Given:
        """Return the array where a kernel of the gradient reads the logits of the classes that the target names.

        They are gathered beforehand where there are several and the gradient takes the place of the logits.
        """
        if self.dense or self.named_alone or grad.data_ptr() != self.logits.data_ptr():
            return Given(self.logits, 0)
        label = (self.label.long() - self.classes.first).clamp(0, self.columns - 1)
        if self.logits.ndim == 2:
            return Given(self.logits.gather(1, label).contiguous(), HAS_GATHERED)
        outer, _, inner = self.logits.shape
        named = self.logits.gather(1, label.view(outer, inner, -1).movedim(2, 1))
        return Given(named.movedim(1, 2).reshape(label.shape).contiguous(), HAS_GATHERED)

    def launch(
        self, kernel: Any, tile: Tile, parts: int, arrays: Sequence[Any], numbers: Sequence[Any],
        *, programs: int | None = None, **constants: Any,
    ) -> None:  # fmt: skip
        """Run a kernel over all rows, with one program for each part of a block of rows unless it has so many."""
        # left to itself, ptxas saves registers by spilling one or two
        large = self.measured or self.spare.dtype == torch.float64 or tile.warps > _FEW_WARPS
        limit = {"maxnreg": _MOST_REGISTERS} if large and torch.version.hip is None else {}
        constants |= {
            "T": _TYPES[self.spare.dtype], "CAPPED": self.capped, "DENSE": self.dense,
            "BATCHED": self.batches > 1 or not (tile.wide or self._is_plain), "GROUPED": self._grouped(tile),
            "R": tile.R,
        }  # fmt: skip
        numbers = (*self.axes.placed(self.logits).at, *_each(numbers), *self.numbers)
        launch(
            kernel, (programs or self.programs(tile.R), parts, 1), (self.logits, self.bias, *_each(arrays)), numbers,
            constants, num_warps=tile.warps, **limit,
        )  # fmt: skip

    def _grouped(self, tile: Tile) -> bool:
        """Return whether kernels read the bias in groups of columns, as they read the logits."""
        if self.bias is None or not tile.wide or self.bias.data_ptr() % _ACCESS != 0:
            return False
        at = self.axes.placed(self.logits).at
        return at.row % tile.U == 0 and at.batch % tile.U == 0  # every row begins at a multiple of U elements


def _aligned(m: Placed, like: Placed, U: int) -> bool:
    """Return whether columns are contiguous, and rows begin as far after a multiple of U elements as the others do."""
    same = (m.at.row - like.at.row) % U == 0 and (m.at.batch - like.at.batch) % U == 0
    return m.at.col == 1 and same and m.data.data_ptr() % (U * m.data.element_size()) == 0


def _each(values: Sequence[Any]) -> list[Any]:
    """Return values one by one, those of tuples in the place of these."""
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,))]


def _flags(arrays: Sequence[Any]) -> int:
    return sum(1 << k for k, x in enumerate(arrays) if x is not None)
