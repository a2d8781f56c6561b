"""Gradients of a source in two parts: its first classes from chunks of rows, the others from tiles of all rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from crossent.torch.sources.source import Counted, GradientSums, Span


class SumsInParts:
    """Sums in which the gradients of the first logits are kept for all rows, and then multiplied at once.

    `tiles` make the tiles of the other classes, which come afterwards; `new_sums` makes the sums of both, when the
    memory for chunks of rows is no longer needed.
    """

    def __init__(self, tiles: Any, new_sums: Callable[[], GradientSums]) -> None:
        self._tiles, self._new_sums = tiles, new_sums
        self._kept: Tensor | None = None
        self._counted: Counted | None = None
        self._sums: GradientSums | None = None

    def begin(self, classes: Span) -> None:
        """Begin with the chunks of the first classes, or with the tile of these classes."""
        if self._sums is None:
            source = self._tiles.source
            self._kept = self._tiles.new_gradients(source.size, classes.size * source.positions)
        else:
            self._sums.begin(classes)

    def place(self, tile: Tensor, rows: Span) -> Tensor:
        """Return memory for the gradient of a chunk or of a tile."""
        return self._tiles.gradient(tile) if self._kept is None else self._kept[rows.begin : rows.end]

    def add(self, gradient: Tensor, rows: Span, classes: Span, counted: Counted) -> None:
        """Keep the gradient of a chunk, or multiply that of a tile."""
        if self._sums is None:
            self._counted = counted
        else:
            self._sums.add(gradient, rows, classes, counted)

    def end(self, classes: Span) -> None:
        """Multiply the kept gradients, or finish the sums that depend only on the tile of these classes."""
        if self._sums is None:
            self._sums, kept, self._kept = self._new_sums(), self._kept, None
            if kept is not None and self._counted is not None:
                self._sums.begin(classes)
                self._sums.add(kept, Span(0, len(kept)), classes, self._counted)
        self._sums.end(classes)

    def result(self) -> Any:
        """Return the gradients."""
        return (self._sums or self._new_sums()).result()
