"""Logits that exist: a tile is a view of them, and the gradient of a tile is written where it belongs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crossent.torch.sources.plan import CPU, GPU, SourceCosts, Sweep, TileShape
from crossent.torch.sources.source import Counted, Span, Wanted


class TensorGradients(NamedTuple):
    """The gradient of logits that exist."""

    logits: Tensor | None


class TensorSource(NamedTuple):
    """Logits (N, V) or (outer, V, inner); with `held`, columns after so many classes are padding."""

    tensor: Tensor
    held: int | None = None

    @property
    def positions(self) -> int:
        """One logit for each row and class."""
        return 1

    @property
    def classes(self) -> int:
        """Number V of classes at hand."""
        return self.tensor.shape[1] if self.held is None else self.held

    @property
    def size(self) -> int:
        """Number N of rows of a matrix of logits."""
        return self.tensor.shape[0]

    @property
    def costs(self) -> SourceCosts:
        """Inputs of the plan: nothing is multiplied."""
        dtype = self.tensor.dtype
        device = CPU if self.tensor.is_cpu or self.tensor.is_meta else GPU
        return SourceCosts(self.size, self.classes, 0, dtype, dtype, device)

    @property
    def logits(self) -> Tensor:
        """The logits without padding."""
        return self.unpadded(self.tensor)

    def unpadded(self, x: Tensor) -> Tensor:
        """Return the classes of a tensor like the logits."""
        return x if self.held is None else x[:, : self.held]

    def new_gradient(self) -> Tensor:
        """Return memory for the gradient of the logits, zero in the padding."""
        gradient = torch.empty_like(self.tensor)
        if self.held is not None:
            _ = gradient[:, self.held :].zero_()
        return gradient

    def tiles(self, shape: TileShape) -> TensorTiles:
        """Return views of the logits, a tile at a time."""
        return TensorTiles(self)

    def sums_by_classes(self, tiles: TensorTiles, wanted: Wanted, shape: TileShape) -> TensorSums:
        """Return the gradient of the logits, written directly."""
        return TensorSums(self)

    def sums_by_rows(self, tiles: TensorTiles, wanted: Wanted, sweep: Sweep) -> TensorSums:
        """Return the gradient of the logits, written directly."""
        return TensorSums(self)

    def sums_in_parts(self, tiles: TensorTiles, wanted: Wanted, shape: TileShape) -> TensorSums:
        """Return the gradient of the logits, written directly."""
        return TensorSums(self)


class TensorTiles(NamedTuple):
    """Views of logits that exist."""

    source: TensorSource

    def logits(self, rows: Span, classes: Span) -> Tensor:
        """Return a tile of a matrix of logits."""
        return self.source.tensor[rows.begin : rows.end, classes.begin : classes.end]

    def bias(self, classes: Span) -> None:
        """Return None: there is no bias."""


class TensorSums:
    """The gradient of logits that exist; each tile's is written in its place, and nothing is added up."""

    def __init__(self, source: TensorSource) -> None:
        self._source, self._gradient = source, source.new_gradient()
        self._classes = Span(0, source.classes)

    def begin(self, classes: Span) -> None:
        """Write the gradients of these classes next."""
        self._classes = classes

    def place(self, tile: Tensor, rows: Span) -> Tensor:
        """Return where the gradient of a tile of these rows and of the classes begun with belongs."""
        return self._gradient[rows.begin : rows.end, self._classes.begin : self._classes.end]

    def add(self, gradient: Tensor, rows: Span, classes: Span, counted: Counted) -> None:
        """Do nothing: the gradient is where it belongs."""

    def end(self, classes: Span) -> None:
        """Do nothing: the gradient is where it belongs."""

    def result(self) -> TensorGradients:
        """Return the gradient of the logits."""
        return TensorGradients(self._gradient)
