"""The shared part of calls of the row functions: places of arrays, programs for rows, and kernels.

Everything here is a function of shapes, strides, dtypes and options alone, so that results never depend on the device's
state. It is worked out once for all calls that are alike in these (`arguments`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import triton.language as tl

from crossent.kernels.backend import BiasedLogits
from crossent.kernels.triton.launch import Launch
from crossent.kernels.triton.scores import HAS_CAP, HAS_TEMPERATURES
from crossent.kernels.triton.tiles import (
    HAS_ENTROPY,
    HAS_LSE,
    HAS_SQUARE,
    HAS_WEIGHT,
    Classes,
    Rows,
    Strides,
)
from crossent.spec import NO_CLASS, Scores, Target

Prepared = TypeVar("Prepared")
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
_PROGRAMS = 512  # enough to fill a GPU: rows are split among more programs if there are fewer
_PICKS = 16  # classes that a target names, worked on at once where a program has few rows
_MOST_REGISTERS, _FEW_WARPS = 255, 8  # more warps hold a row as a whole
_REGISTERS = 65536  # of a multiprocessor: a program that wants more cannot start
ACCESS = 16  # bytes of the longest access of a thread
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
# Tiles of many rows side by side, and all other tiles.
_SHORT, _ANY = _Shape(64, 1, 2), _Shape(1, 256, 4)
# Tiles of few classes: a thread has a row, or eight threads have one whose columns are next to each other.
# Of the first, a thread of AMD's has two, for which it has too few registers in float64.
_ALONE, _ALONE_IN_DOUBLE, _SHARED = _Shape(512, 1, 4), _Shape(256, 1, 4), _Shape(32, 8, 4)
_LONGEST_ALONE = 16
# What is done once a row: a thread has a row, or some of the classes that its target names.
_FINISHED, _FINISHED_NAMED, _NAMED_AT_ONCE = 128, 32, 8


class Parts(NamedTuple):
    """In how many parts the columns of a row are split, and how many columns a part has."""

    number: int
    span: int


class Numbers(NamedTuple):
    """The last non-constant arguments of every kernel of rows."""

    keep: float
    spread: float
    unit: float
    temperature: float
    cap: float


class Placed(NamedTuple):
    """Where the rows and columns of an array of the shape of the logits are, and whether it begins at an access."""

    at: Strides
    aligned: bool


class _Axes(NamedTuple):
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
        """Return where an array of the shape of the logits is."""
        at = Strides(0 if self.batch is None else x.stride(self.batch), x.stride(self.row), x.stride(1))
        return Placed(at, x.data_ptr() % ACCESS == 0)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Rows, target and scores of a call, but for its arrays."""

    dtype: torch.dtype
    """Dtype of the logits, or float64 if that of the computation is."""
    shape: tuple[int, ...]
    axes: _Axes
    logits: Placed
    prob: Placed | None
    """Where the probabilities of a dense target are."""
    bias_aligned: bool | None
    """Whether there is a bias that begins at an access; None if there is none."""
    classes: Classes
    smoothed: bool
    named_alone: bool
    """Whether the target names one class without a probability."""
    converts: bool
    """Whether the probabilities of a dense target have to be converted: there is no kernel for their dtype."""
    numbers: Numbers
    flags: int
    number: int
    """Number of rows."""
    spare: Any
    """An array of the dtype of the computation that stands in for absent ones."""
    spare_sums: Any
    """The same for sums, which are float64."""
    prepared: dict[Any, Any] = dataclasses.field(default_factory=dict)
    """Launches of this task by what else they depend on."""

    @classmethod
    def of(cls, logits: Any, target: Target, scores: Scores) -> Task:
        """Return the task of a call; the logits may be `BiasedLogits`."""
        bias: Any = None
        if isinstance(logits, BiasedLogits):
            logits, bias = logits.without_bias, logits.bias
        V = logits.shape[1]
        if V >= 2**31:
            raise ValueError(f"a GPU takes fewer than 2**31 classes, got {V}; split the vocabulary")
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        axes = _Axes.of(logits)
        index: Any = target.index
        prob: Any = target.prob
        picks = 0 if index is None else 1 if index.ndim == 1 else index.shape[1]
        number = V if target.num_classes is None else target.num_classes
        task = cls(
            logits.dtype, tuple(logits.shape), axes, axes.placed(logits), axes.placed(prob) if index is None else None,
            None if bias is None else bias.data_ptr() % ACCESS == 0,
            Classes(V, target.first_class, number, target.ignore_index if target.kind == "index" else NO_CLASS, picks),
            target.smoothing != 0, target.kind == "index", False,
            Numbers(
                1.0 - target.smoothing, target.smoothing / max(1, number),
                1.0 / scores.temperature, float(scores.temperature), float(scores.softcap or 1.0),
            ),
            HAS_WEIGHT * (target.weight is not None) | HAS_CAP * (scores.softcap is not None)
            | HAS_TEMPERATURES * (scores.row_temperature is not None),
            logits.shape[0] * (logits.shape[2] if logits.ndim == 3 else 1),
            torch.empty(1, dtype=dtype, device=logits.device),
            torch.empty(1, dtype=torch.float64, device=logits.device),
        )  # fmt: skip
        unlike = index is None and prob.dtype not in (logits.dtype, dtype)
        return dataclasses.replace(task, converts=True) if unlike and not task.tile().wide else task

    @property
    def rows(self) -> int:
        """Number of rows of a batch."""
        return self.shape[self.axes.row]

    @property
    def batches(self) -> int:
        """Number of batches."""
        return 1 if self.axes.batch is None else self.shape[self.axes.batch]

    @property
    def places(self) -> Rows:
        """How many rows there are, and where they are in arrays (N,)."""
        rows, batches = self.rows, self.batches
        return Rows(rows, self.number, *((1, batches) if self.axes.batch == 2 else (rows, 1)))

    @property
    def prob_at(self) -> Strides:
        """Where the probabilities of a dense target are; where there are none, anywhere."""
        return (self.prob or self.logits).at

    @property
    def dense(self) -> bool:
        """Whether the target has a probability for each column."""
        return self.prob is not None

    @property
    def measured(self) -> bool:
        """Whether the target is more than the classes that it names: kernels for those alone are faster."""
        return self.dense or self.smoothed

    @property
    def capped(self) -> bool:
        """Whether there is a softcap."""
        return self.flags & HAS_CAP != 0

    @property
    def columns(self) -> int:
        """Number of classes at hand."""
        return self.classes.columns

    def tile(self, *others: Placed) -> Tile:
        """Return the tile for rows that lie like the logits, the dense target, and others of their shape."""
        z, V = self.logits, self.columns
        arrays = (z, *(() if self.prob is None else (self.prob,)), *others)
        U = ACCESS // self.dtype.itemsize
        if V > _SHORT_ROW and self.dtype != torch.float64 and all(_aligned(m, z, U) for m in arrays):
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
        if self.spare.dtype == torch.float64:
            shape = _ALONE_IN_DOUBLE
        elif self.columns <= _LONGEST_ALONE or self.logits.at.col != 1 or self.capped:
            shape = _ALONE
        else:
            shape = _SHARED
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

    @property
    def in_double(self) -> Task:
        """The same in float64, for logits of any dtype."""
        if self.spare.dtype == torch.float64:
            return self
        return self.once("in double", lambda: self._converted(torch.float64))

    def _converted(self, dtype: torch.dtype) -> Task:
        spare = torch.empty(1, dtype=dtype, device=self.spare.device)
        return dataclasses.replace(self, dtype=dtype, spare=spare, prepared={})

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
        span = max(1, -(-columns // (most * block))) * block
        return Parts(max(1, -(-columns // span)), span)

    # Which kernel of a family it is. Those that do no more than they have to are for wide tiles, whose columns are most
    # of the work, and for the usual target. All other calls share one that does everything: each takes seconds to
    # compile.

    @property
    def is_usual(self) -> bool:
        """Whether rows are as most are: the target names one class, scores are the logits, all in float32."""
        return self.named_alone and not (self.smoothed or self.capped) and self.spare.dtype == torch.float32

    def kind_of_gradient(self, tile: Tile, flags: int) -> int:
        """Return the kind of gradient kernel (`gradient`) for the present cotangents."""
        kind = 2 if flags & HAS_ENTROPY else int(flags & (HAS_LSE | HAS_SQUARE) != 0)
        if tile.wide:  # lse costs nothing a column
            return kind if self.named_alone and not self.smoothed else max(kind, 1)
        return kind if kind == 0 and self.is_usual else 2

    def measured_by(self, tile: Tile, kind: int = 0) -> bool:
        """Return whether a kernel reads a measure beside the classes that are named, for a kind of gradient."""
        return self.measured or not (tile.wide or (self.is_usual and kind == 0))

    def once(self, key: Any, prepare: Callable[[], Prepared]) -> Prepared:
        """Return the cached preparation of launches of this task."""
        found = self.prepared.get(key)
        if found is None:
            found = self.prepared[key] = prepare()
        return found

    def launch(
        self, kernel: Any, tile: Tile, parts: int, numbers: Sequence[Any], *, programs: int | None = None,
        **constants: Any,
    ) -> Launch:  # fmt: skip
        """Return the launch of a kernel over all rows, with one program for each part of a block of rows.

        There may be another number of programs.
        """
        return self.launch_with(
            kernel, tile, (programs or self.programs(tile.R), parts, 1), numbers,
            constants | {
                "CAPPED": self.capped, "DENSE": self.dense, "BATCHED": self.batches > 1 or not tile.wide,
                "GROUPED": self.grouped(tile),
            },
            free=not (constants["MEASURED"] or self.spare.dtype == torch.float64 or tile.warps > _FEW_WARPS),
        )  # fmt: skip

    def launch_of_rows(self, kernel: Any, numbers: Sequence[Any]) -> Launch:
        """Return the launch of a kernel with a thread for each row."""
        tile = self.row_tile
        return self.launch_with(kernel, tile, (self.programs(tile.R), 1, 1), numbers, {"K": tile.U}, free=False)

    def launch_with(
        self, kernel: Any, tile: Tile, grid: tuple[int, int, int], numbers: Sequence[Any], constants: Any, *, free: bool
    ) -> Launch:
        """Return a launch with only these constants.

        Unless it is free to choose, ptxas, which may spill one or two, gets all registers.
        """
        most = min(_MOST_REGISTERS, _REGISTERS // (32 * tile.warps))
        limit = {} if free or torch.version.hip is not None else {"maxnreg": most}
        constants = constants | {"T": _TYPES[self.spare.dtype], "R": tile.R}
        return Launch(
            kernel, grid, (*self.logits.at, *_each(numbers), *self.numbers), constants, num_warps=tile.warps, **limit
        )

    def grouped(self, tile: Tile) -> bool:
        """Return whether kernels read the bias in groups of columns, as they read the logits."""
        if not self.bias_aligned or not tile.wide:
            return False
        at = self.logits.at
        return at.row % tile.U == 0 and at.batch % tile.U == 0  # every row begins at a multiple of U elements


def _aligned(m: Placed, like: Placed, U: int) -> bool:
    """Return whether columns are contiguous, and rows begin as far after a multiple of U elements as the others do."""
    same = (m.at.row - like.at.row) % U == 0 and (m.at.batch - like.at.batch) % U == 0
    return m.at.col == 1 and same and m.aligned


def _each(values: Sequence[Any]) -> list[Any]:
    """Return values one by one, with tuples flattened."""
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,))]
