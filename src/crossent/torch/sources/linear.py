"""Logits of a linear layer, input @ weightᵀ + bias: tiles are products, and so are the gradients of the operands.

Rows are the rows of the input, columns are classes. With K-dimensional weights each row and class have `positions`
logits. Products of gradients add up in float32 (float64) and are rounded once.

The weight (V · P, D) may have an adapter (V · P, r): the input then has D + r features, and the last r of them meet the
adapter. Each product of the layer is one of either, into the same memory. A weight may be a `Dequantized`, which exists
a range of classes at a time.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from crossent.torch.base.backends import adds_bias
from crossent.torch.base.dequantized import Dequantized, classes_of
from crossent.torch.base.values import loss_dtype
from crossent.torch.ranks.shards import NO_RANKS, Ranks
from crossent.torch.sources import products
from crossent.torch.sources.layer_sums import SumsByClasses, SumsByRows, memory
from crossent.torch.sources.parts import SumsInParts
from crossent.torch.sources.plan import CPU, GPU, Device, SourceCosts, Sweep, TileShape, padded
from crossent.torch.sources.products import operand, operand_dtype
from crossent.torch.sources.source import Span, Wanted, spans
from crossent.torch.sources.tensor import TensorSource, TensorTiles


class ClassOperands(NamedTuple):
    """The weight of some classes as products take it, after it the adapter if there is one, and the bias."""

    weights: list[Tensor]
    bias: Tensor | None


def device_of(x: Tensor) -> Device:
    """Return the properties of a tensor's device."""
    return CPU if x.is_cpu or x.is_meta else GPU


def costs_of(input: Tensor, weight: Tensor, rows: int | None = None) -> SourceCosts:
    """Return the costs of a layer: weight (V · positions, D), and all rows of the input or some of them."""
    number = input.shape[0] if rows is None else rows
    product_dtype = operand_dtype(input.dtype, input.device)
    made = isinstance(weight, Dequantized)
    return SourceCosts(number, weight.shape[0], weight.shape[-1], input.dtype, product_dtype, device_of(input), made)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LinearSource:
    """A linear layer: input (N, D + r), weight (V · P, D), bias (V · P,) and adapter (V · P, r) for P positions."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    positions: int = 1
    rows: Tensor | None = None
    """Which rows of the input there are, in order; None for all."""
    ranks: Ranks = NO_RANKS
    adapter: Tensor | None = None

    @property
    def size(self) -> int:
        """Number N of rows."""
        return self.input.shape[0] if self.rows is None else self.rows.shape[0]

    @property
    def classes(self) -> int:
        """Number V of classes at hand."""
        return self.weight.shape[0] // max(1, self.positions)

    @property
    def features(self) -> list[slice]:
        """Which features of the input meet the weight, and which the adapter if there is one."""
        D = self.weight.shape[1]
        return [slice(0, D)] if self.adapter is None else [slice(0, D), slice(D, None)]

    def class_blocks(self, classes: Span) -> list[Span]:
        """Return classes cut into blocks, each for one product with the weight."""
        most = self.costs.copied_classes(self.positions) or max(1, classes.size)
        return [Span(classes.begin + part.begin, classes.begin + part.end) for part in spans(classes.size, most)]

    @property
    def costs(self) -> SourceCosts:
        """Inputs of the plan."""
        return costs_of(self.input, self.weight, self.size)

    @property
    def device(self) -> Device:
        """Properties of the layer's device."""
        return device_of(self.input)

    def tiles(self, shape: TileShape, logits: Tensor | None = None) -> LinearTiles:
        """Return a workspace for tiles of at most this shape; tiles go into `logits` (N, V · P) if it is there."""
        return LinearTiles(self, shape, logits)

    def sums_by_classes(self, tiles: LinearTiles, wanted: Wanted, shape: TileShape) -> SumsByClasses:
        """Return sums for tiles that come class by class, and all rows of each class."""
        return SumsByClasses(tiles, wanted, shape)

    def sums_by_rows(self, tiles: LinearTiles, wanted: Wanted, sweep: Sweep) -> SumsByRows:
        """Return sums for tiles of whole rows."""
        return SumsByRows(tiles, wanted, sweep)

    def sums_in_parts(self, tiles: LinearTiles, wanted: Wanted, shape: TileShape) -> SumsInParts:
        """Return sums that begin with chunks of rows of the first classes; tiles of all rows of the others follow.

        Products take operands directly, and half-precision gradients of the weight need no float32 sums.
        """
        return SumsInParts(tiles, lambda: SumsByClasses(tiles, wanted, shape, rounded=False))


class LinearTiles:
    """A buffer for a tile of logits, and the operands of the last tile as the products take them."""

    def __init__(self, source: LinearSource, shape: TileShape, kept: Tensor | None = None) -> None:
        self.source, self._kept = source, kept
        self.dtype = operand_dtype(source.input.dtype, source.input.device)
        """Of operands, and of the gradients of logits that are multiplied with them."""
        self.wide = loss_dtype(source.input.dtype)
        """Of logits and of sums."""
        self.in_place = self.dtype == self.wide
        """Whether gradients of logits take the place of the logits."""
        self._without_bias = source.positions == 1 and adds_bias(source.input)
        rows, classes = shape
        self._shape = (rows, padded(classes * source.positions))
        self._buffer: Tensor | None = None
        self._gradients: Tensor | None = None
        self._copy: Tensor | None = None
        self._inputs: tuple[Span, list[Tensor]] | None = None
        self._operands: tuple[Span, ClassOperands] | None = None

    def inputs(self, rows: Span) -> list[Tensor]:
        """Return rows of the input as the products take them: the features of the weight, and of the adapter."""
        if self._inputs is None or self._inputs[0] != rows:
            source, here = self.source, slice(rows.begin, rows.end)
            x_chunk = source.input[here] if source.rows is None else source.input[source.rows[here]]
            self._inputs = rows, [operand(x_chunk[:, features], self.dtype) for features in source.features]
        return self._inputs[1]

    def counted_input(self, rows: Span, counted: Tensor, factor: int = 0) -> Tensor:
        """Return rows of the input as the product of a weight's gradient takes them: 0 where they do not count.

        The factor is the weight (0) or the adapter (1).
        """
        x_chunk = self.inputs(rows)[factor]
        if counted.is_cpu and counted.all():
            return x_chunk
        return torch.where(counted[:, None], x_chunk, 0.0)

    def operands(self, classes: Span) -> ClassOperands:
        """Return weight, adapter and bias of classes as the products take them."""
        if self._operands is None or self._operands[0] != classes:
            source = self.source
            here, bias, adapter = classes.of(source.positions), source.bias, source.adapter
            weights = [self._weight(classes_of(source.weight, here))]
            if adapter is not None:
                weights.append(operand(adapter[here], self.dtype))
            self._operands = classes, ClassOperands(weights, None if bias is None else bias[here])
        return self._operands[1]

    def _weight(self, weight: Tensor) -> Tensor:
        """Return a part of the weight as the products take it; a copy in their dtype takes the memory of the last."""
        if isinstance(weight, Dequantized):
            return operand(weight.dequantize(), self.dtype)
        if weight.dtype == self.dtype:
            return operand(weight, self.dtype)
        if self._copy is None or len(self._copy) < len(weight):
            self._copy = weight.new_empty(weight.shape, dtype=self.dtype)
        return self._copy[: len(weight)].copy_(weight)

    def buffer(self) -> Tensor:
        """Return memory for one tile, the same each time."""
        if self._buffer is None:
            fresh_zeros = self.in_place and self.source.device.fresh_zeros
            self._buffer = memory(self._shape, self.source.input, self.wide, zeroed=fresh_zeros)
        return self._buffer

    def logits(self, rows: Span, classes: Span) -> Tensor:
        """Return a tile (n, v · P), multiplied into the buffer or into its place among the logits that are kept."""
        positions = self.source.positions
        if self._kept is None:
            tile = self.buffer()[: rows.size, : classes.size * positions]
        else:
            tile = self._kept[rows.begin : rows.end, classes.of(positions)]
        self._multiply(rows, classes, tile)
        return tile

    def bias(self, classes: Span) -> Tensor | None:
        """Return the bias of classes where the backend adds it as it reads a tile: a pass less than in a product."""
        bias = self.source.bias
        return None if bias is None or not self._without_bias else bias[classes.begin : classes.end]

    def _multiply(self, rows: Span, classes: Span, tile: Tensor) -> None:
        source = self.source
        for block in source.class_blocks(classes):
            weights, bias = self.operands(block)
            to = tile[:, Span(block.begin - classes.begin, block.end - classes.begin).of(source.positions)]
            adds = bias is not None and not self._without_bias
            if adds:
                _ = to.copy_(bias)  # pyright: ignore[reportArgumentType]
            for factor, (x_chunk, weight) in enumerate(zip(self.inputs(rows), weights, strict=True)):
                products.multiply(x_chunk, weight.t(), to, add=adds or factor > 0)

    def input_gradient(self, gradient: Tensor, classes: Span, to: Tensor, *, add: bool) -> None:
        """Write or add the input gradient, rows (n, D + r), of a tile of these classes."""
        source = self.source
        for block in source.class_blocks(classes):
            here = Span(block.begin - classes.begin, block.end - classes.begin).of(source.positions)
            for features, weight in zip(source.features, self.operands(block).weights, strict=True):
                products.multiply(gradient[:, here], weight, to[:, features], add=add or here.start > 0)

    def gradient(self, tile: Tensor) -> Tensor:
        """Return memory for the gradient of a tile in the dtype that its products take; it may be the tile itself."""
        if self.in_place:
            return tile
        if self._gradients is None:
            self._gradients = self.new_gradients(*self._shape)
        return self._gradients[: tile.shape[0], : tile.shape[1]]

    def new_gradients(self, rows: int, columns: int) -> Tensor:
        """Return memory for gradients of this many logits, in addition to the logits."""
        # zeroed, because torch's bfloat16 product on CPUs multiplies gaps between rows by zero, and these may hold NaN
        like = self.source.input
        return memory((rows, padded(columns)), like, self.dtype, zeroed=like.is_cpu)[:, :columns]


class KeptTiles(LinearTiles):
    """Tiles of logits that were kept: they are read, and only their gradients are multiplied."""

    def __init__(self, source: LinearSource, shape: TileShape, kept: Tensor) -> None:
        super().__init__(source, shape)
        self._logits = TensorTiles(TensorSource(kept))

    def logits(self, rows: Span, classes: Span) -> Tensor:
        """Return a tile of the logits that were kept."""
        here = classes.of(self.source.positions)
        return self._logits.logits(rows, Span(here.start, here.stop))

    def gradient(self, tile: Tensor) -> Tensor:
        """Return memory for the gradient of a tile, never the logits that were kept: they may be wanted again."""
        return super().gradient(self.buffer()[: tile.shape[0], : tile.shape[1]] if self.in_place else tile)
