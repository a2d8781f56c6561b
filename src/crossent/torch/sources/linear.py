"""Logits of a linear layer, input @ weightᵀ + bias: tiles are products, and so are the gradients of the operands.

Rows are the rows of the input, columns are classes. With K-dimensional weights each row and class have `positions`
logits. Products of gradients add up in float32 (float64) and are rounded once.

Beside the weight (V · P, D) there may be an adapter (V · P, r): the input then has D + r features, of which the last r
meet the adapter. Each product of the layer is one of either, into the same memory. A weight may be a `Dequantized`, of
which some classes exist at a time.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.torch.base.backends import adds_bias
from crossent.torch.base.dequantized import Dequantized, classes_of
from crossent.torch.base.values import loss_dtype
from crossent.torch.ranks.collectives import add_up
from crossent.torch.ranks.gathered import InputGradient
from crossent.torch.ranks.shards import NO_RANKS, Ranks
from crossent.torch.sources.parts import SumsInParts
from crossent.torch.sources.plan import CPU, GPU, Device, SourceCosts, Sweep, TileShape, direct, padded, weight_adds_up
from crossent.torch.sources.products import multiply, operand, operand_dtype
from crossent.torch.sources.source import Counted, Span, Wanted, spans
from crossent.torch.sources.tensor import TensorSource, TensorTiles

_COPIED_ROWS = 2048  # of a gradient that is unpacked, at a time


class LayerGradients(NamedTuple):
    """Gradients of the operands of a linear layer; None where no gradient is wanted."""

    input: Tensor | None
    linear_weight: Tensor | None
    linear_bias: Tensor | None
    linear_adapter: Tensor | None = None


class ClassOperands(NamedTuple):
    """The weight of some classes as products take it, after it the adapter if there is one, and the bias."""

    weights: list[Tensor]
    bias: Tensor | None


def device_of(x: Tensor) -> Device:
    """Return what is fast where a tensor is."""
    return CPU if x.is_cpu or x.is_meta else GPU


def costs_of(input: Tensor, weight: Tensor, rows: int | None = None) -> SourceCosts:
    """Return what a layer costs: weight (V · positions, D), and all rows of the input or some of them."""
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
        """Return classes cut into blocks of which the products take a weight at once."""
        most = self.costs.copied_classes(self.positions) or max(1, classes.size)
        return [Span(classes.begin + part.begin, classes.begin + part.end) for part in spans(classes.size, most)]

    @property
    def costs(self) -> SourceCosts:
        """What the plan depends on."""
        return costs_of(self.input, self.weight, self.size)

    @property
    def device(self) -> Device:
        """What is fast where the layer is."""
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

        Products take operands as they are, and half-precision gradients of the weight need no float32 sums.
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
                multiply(x_chunk, weight.t(), to, add=adds or factor > 0)

    def input_gradient(self, gradient: Tensor, classes: Span, to: Tensor, *, add: bool) -> None:
        """Write or add what the gradient of a tile of these classes is to rows (n, D + r) of the input."""
        source = self.source
        for block in source.class_blocks(classes):
            here = Span(block.begin - classes.begin, block.end - classes.begin).of(source.positions)
            for features, weight in zip(source.features, self.operands(block).weights, strict=True):
                multiply(gradient[:, here], weight, to[:, features], add=add or here.start > 0)

    def gradient(self, tile: Tensor) -> Tensor:
        """Return memory for the gradient of a tile in the dtype that its products take; it may be the tile itself."""
        if self.in_place:
            return tile
        if self._gradients is None:
            self._gradients = self.new_gradients(*self._shape)
        return self._gradients[: tile.shape[0], : tile.shape[1]]

    def new_gradients(self, rows: int, columns: int) -> Tensor:
        """Return memory for gradients of so many logits beside the logits."""
        # zeroed, because torch's bfloat16 product on CPUs multiplies what lies between the rows by zero, maybe NaN
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


class SumsByClasses:
    """The gradients of a layer from tiles that come class by class, and all rows of each class.

    The gradient of the weight is finished tile by tile and rounded once; that of the input adds up over the classes,
    and over the ranks that hold the others. Half-precision products write gradients that one product makes.

    Gradients in float32 are rounded at the end, unless `rounded` is false: whoever knows their cotangent rounds them.
    """

    def __init__(self, tiles: LinearTiles, wanted: Wanted, shape: TileShape, *, rounded: bool = True) -> None:
        source = tiles.source
        self._rounded, self._finished = rounded, 0
        self._tiles, self._source, self._rows_of_tile = tiles, source, shape.rows
        wide, weight = tiles.wide, source.weight
        one_product = min(shape.rows, source.device.direct_rows) >= source.size > 0 and tiles.dtype == weight.dtype
        of_input = one_product and direct(source.costs) and shape.classes >= source.classes and source.ranks.alone
        self._input = (
            InputGradient(source.input, weight.dtype if of_input else wide, source.ranks) if wanted.input else None
        )
        self._bias = source.input.new_zeros(len(weight), dtype=wide) if wanted.linear_bias else None
        self._adapter = _adapter_sum(source, wide) if wanted.linear_adapter else None
        self._weight = self._wide_weight = self._weight_part = None
        if not wanted.linear_weight:
            return
        if weight.dtype == wide or source.ranks.row_groups:
            self._weight = weight.new_zeros(weight.shape, dtype=wide)
        elif one_product:
            self._weight = _empty_like(weight)
        else:
            self._weight = _empty_like(weight)
            self._wide_weight = weight.new_zeros((shape.classes * source.positions, weight.shape[1]), dtype=wide)

    def begin(self, classes: Span) -> None:
        """Begin with the tiles of these classes."""
        if self._weight is None:
            return
        here = classes.of(self._source.positions)
        wide = self._wide_weight
        self._weight_part = self._weight[here] if wide is None else wide[: here.stop - here.start]

    def place(self, tile: Tensor, rows: Span) -> Tensor:
        """Return memory for the gradient of a tile."""
        return self._tiles.gradient(tile)

    def add(self, gradient: Tensor, rows: Span, classes: Span, counted: Counted) -> None:
        """Multiply the gradient of a tile, and add the products to the gradients of the operands."""
        if self._input is not None:
            to = self._input.part[rows.begin : rows.end]
            self._tiles.input_gradient(gradient, classes, to, add=classes.begin > 0)
            if classes.end == self._source.classes:
                self.finish(rows)
        if self._weight_part is not None:
            x_chunk = self._tiles.counted_input(rows, counted(rows))
            multiply(gradient.t(), x_chunk, self._weight_part, add=rows.begin > 0)
        if self._adapter is not None:
            u_chunk = self._tiles.counted_input(rows, counted(rows), 1)
            multiply(gradient.t(), u_chunk, self._adapter[classes.of(self._source.positions)], add=True)
        if self._bias is not None:
            self._bias[classes.of(self._source.positions)] += gradient.sum(0, dtype=self._bias.dtype)

    def finish(self, rows: Span) -> None:
        """Begin to add up the gradient of these rows of the input over the ranks that have other classes."""
        if self._input is not None:
            self._input.finished(*rows)
            self._finished = rows.end

    def end(self, classes: Span) -> None:
        """Round the gradient of the weight of these classes."""
        if self._weight is not None and self._wide_weight is not None:
            _ = self._weight[classes.of(self._source.positions)].copy_(self._weight_part)  # pyright: ignore[reportArgumentType]

    def result(self) -> LayerGradients:
        """Return the gradients, summed over the ranks that have other rows."""
        source, g_input = self._source, None
        if self._input is not None:
            if source.classes == 0:  # other ranks have classes, and begin to add up after each row of tiles
                for rows in spans(source.size, self._rows_of_tile):
                    if rows.begin >= self._finished:
                        self.finish(rows)
            g_input = self._input.sum(lambda part: unpacked(part, source.rows))
        add_up((self._weight, self._bias, self._adapter), source.ranks.row_groups)
        found = (g_input, self._weight, self._bias, self._adapter)
        if not self._rounded:
            return LayerGradients(*found)
        return LayerGradients(*(None if x is None else x.to(source.weight.dtype) for x in found))


class SumsByRows:
    """The gradients of a layer from tiles of whole rows, in float32 if the operands have half precision.

    Whoever knows their cotangent multiplies and rounds them once. On GPUs the half-precision gradients of several
    tiles are kept and multiplied at once (`sweep.kept`). Where one product makes all of the gradient of a large weight,
    it has half precision.
    """

    def __init__(self, tiles: LinearTiles, wanted: Wanted, sweep: Sweep) -> None:
        source = tiles.source
        self._tiles, self._source = tiles, source
        size, weight = source.size, source.weight
        native = tiles.dtype == weight.dtype
        kept = min(sweep.kept, size)
        self._zeroed = size == 0 or (tiles.in_place and source.device.fresh_zeros)
        self._input = self._weight = None
        if wanted.input:
            zeroed = source.rows is not None or size == 0
            self._input = memory(source.input.shape, source.input, tiles.wide, zeroed=zeroed)
        if wanted.linear_weight:
            dtype = tiles.wide if weight_adds_up(source.costs, sweep) else weight.dtype
            self._weight = memory(weight.shape, weight, dtype, zeroed=self._zeroed)
        self._bias = source.input.new_zeros(len(weight), dtype=tiles.wide) if wanted.linear_bias else None
        self._adapter = _adapter_sum(source, tiles.wide) if wanted.linear_adapter else None
        keeps = native and sweep.rows < kept
        self._kept = tiles.new_gradients(kept, len(weight)) if keeps else None
        self._waiting = Span(0, 0)

    def begin(self, classes: Span) -> None:
        """Do nothing: all classes come with each row."""

    def place(self, tile: Tensor, rows: Span) -> Tensor:
        """Return memory for the gradient of a tile."""
        if self._kept is None:
            return self._tiles.gradient(tile)
        first = self._waiting.begin
        return self._kept[rows.begin - first : rows.end - first]

    def add(self, gradient: Tensor, rows: Span, classes: Span, counted: Counted) -> None:
        """Multiply the gradient of a tile now, or keep it until there are as many rows as one product takes."""
        if self._bias is not None:
            self._bias += gradient.sum(0, dtype=self._bias.dtype)
        if self._kept is None:
            self._multiply(gradient, rows, counted)
            return
        self._waiting = Span(self._waiting.begin, rows.end)
        if self._waiting.size == len(self._kept) or rows.end == self._source.size:
            self._multiply(self._kept[: self._waiting.size], self._waiting, counted)
            self._waiting = Span(rows.end, rows.end)

    def end(self, classes: Span) -> None:
        """Do nothing: no class is finished before all rows are."""

    def _multiply(self, gradient: Tensor, rows: Span, counted: Counted) -> None:
        """Write the gradient of rows of the input, and add to that of the weight, unless its memory is fresh."""
        if self._input is not None:
            to = self._input[rows.begin : rows.end]
            self._tiles.input_gradient(gradient, Span(0, self._source.classes), to, add=False)
        if self._weight is not None:
            multiply(
                gradient.t(),
                self._tiles.counted_input(rows, counted(rows)),
                self._weight,
                add=rows.begin > 0 or self._zeroed,
            )
        if self._adapter is not None:
            u_chunk = self._tiles.counted_input(rows, counted(rows), 1)
            multiply(gradient.t(), u_chunk, self._adapter, add=True)

    def result(self) -> LayerGradients:
        """Return the gradients as they are."""
        g_input = None if self._input is None else unpacked(self._input, self._source.rows)
        return LayerGradients(g_input, self._weight, self._bias, self._adapter)


def _adapter_sum(source: LinearSource, dtype: torch.dtype) -> Tensor:
    """Return memory for the gradient of the adapter, which is small."""
    adapter: Any = source.adapter
    return adapter.new_zeros(adapter.shape, dtype=dtype)


def unpacked(gradient: Tensor, rows: Tensor | None) -> Tensor:
    """Move the first rows of a gradient in place to the rows that they belong to, which are in order, and return it."""
    if rows is None:
        return gradient
    for here in reversed(spans(rows.shape[0], _COPIED_ROWS)):
        part = gradient[here.begin : here.end].clone()
        gradient[here.begin : here.end] = 0
        gradient[rows[here.begin : here.end]] = part
    return gradient


def memory(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype, *, zeroed: bool) -> Tensor:
    """Return memory for a product; pages first touched by a float32 product cost twice what they cost when zeroed."""
    return like.new_zeros(shape, dtype=dtype) if zeroed else like.new_empty(shape, dtype=dtype)


def _empty_like(matrix: Tensor) -> Tensor:
    return torch.empty_like(matrix, memory_format=torch.contiguous_format)
