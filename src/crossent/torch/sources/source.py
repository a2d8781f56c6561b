"""Interface between the chunk driver and a source of logits, of any kind.

A source has N rows and V classes, with `positions` logits for each pair of them. It opens a workspace that makes tiles
of logits, and sums that take the gradients of tiles back to the source's operands. The driver decides in which order;
the plan decides how large tiles are. `tensor` and `linear` are sources; a new one is one more file beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from crossent.torch.sources.plan import SourceCosts, Sweep, TileShape


class Span(NamedTuple):
    """Rows or classes [begin, end)."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of rows or classes."""
        return self.end - self.begin

    def of(self, positions: int) -> slice:
        """Return where they lie in an array that has `positions` entries for each."""
        return slice(self.begin * positions, self.end * positions)


def spans(whole: int, part: int) -> list[Span]:
    """Return [0, whole) cut into parts of this length; the last one may be shorter."""
    return [Span(begin, min(begin + part, whole)) for begin in range(0, whole, part)]


class Wanted(NamedTuple):
    """Operands of a loss that require a gradient; a source without one of them never has it wanted."""

    input: bool = False
    linear_weight: bool = False
    linear_bias: bool = False
    prob: bool = False
    linear_adapter: bool = False

    @property
    def of_source(self) -> bool:
        """Whether an operand of the source requires one."""
        return self.input or self.linear_weight or self.linear_bias or self.linear_adapter


Counted = Callable[[Span], Tensor]
"""Returns which of some rows have a gradient at all, as booleans."""


class Tiles(Protocol):
    """The workspace of a sweep over a source, which makes one tile of logits after the other."""

    def logits(self, rows: Span, classes: Span) -> Tensor:
        """Return a tile of logits (n, v · positions), in memory that the next tile takes."""
        ...

    def bias(self, classes: Span) -> Tensor | None:
        """Return the bias (v,) for the reader of a tile of these classes to add, None if it is added already."""
        ...


class GradientSums(Protocol):
    """The gradients of a source's operands, as sums over tiles."""

    def place(self, tile: Tensor, rows: Span) -> Tensor:
        """Return the memory for the gradient of a tile of these rows; it may be the tile itself."""
        ...

    def begin(self, classes: Span) -> None:
        """Begin with the tiles of these classes."""
        ...

    def add(self, gradient: Tensor, rows: Span, classes: Span, counted: Counted) -> None:
        """Add the gradient of a tile to each operand; rows that are not counted may hold any values."""
        ...

    def end(self, classes: Span) -> None:
        """Finish the sums that depend only on the tiles of these classes."""
        ...

    def result(self) -> Any:
        """Return the gradients of the operands, by name."""
        ...


class Tile(NamedTuple):
    """A tile of logits (n, v · positions), the bias for its reader to add, and its position."""

    logits: Tensor
    bias: Tensor | None
    rows: Span
    classes: Span


class TileReader(Protocol):
    """Reads each tile of logits for values besides the row statistics, before a gradient overwrites the tile.

    Tiles of the same rows come one after the other, in the order of their classes.
    """

    def read(self, tile: Tile) -> None:
        """Read a tile."""
        ...


class GradientPart(Protocol):
    """A part of the gradient of each tile outside the row functions."""

    @property
    def cotangent(self) -> Tensor:
        """A vector of all rows, 0 in rows that the part adds nothing to."""
        ...

    def begin(self, tile: Tile) -> None:
        """Read a tile before its gradient takes its place."""
        ...

    def finish(self, gradient: Tensor) -> None:
        """Add the part to the gradient of the tile begun with, in the form of the kernels."""
        ...


class Source(Protocol):
    """Where logits come from."""

    @property
    def size(self) -> int:
        """Number N of rows."""
        ...

    @property
    def classes(self) -> int:
        """Number V of classes at hand."""
        ...

    @property
    def positions(self) -> int:
        """Number of logits for each row and class."""
        ...

    @property
    def costs(self) -> SourceCosts:
        """Inputs of the plan."""
        ...

    def tiles(self, shape: TileShape) -> Tiles:
        """Return a workspace for tiles of at most this shape."""
        ...

    def sums_by_classes(self, tiles: Any, wanted: Any, shape: TileShape) -> GradientSums:
        """Return sums for tiles that come class by class, and all rows of each class."""
        ...

    def sums_by_rows(self, tiles: Any, wanted: Any, sweep: Sweep) -> GradientSums:
        """Return sums for tiles of whole rows."""
        ...

    def sums_in_parts(self, tiles: Any, wanted: Any, shape: TileShape) -> GradientSums:
        """Return sums that begin with chunks of rows of the first classes; tiles of this shape of the others follow."""
        ...
