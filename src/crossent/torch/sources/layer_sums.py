"""The gradients of a linear layer's operands, as sums over tiles: class by class, or chunks of whole rows."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from crossent.torch.ranks.collectives import add_up
from crossent.torch.ranks.gathered import InputGradient
from crossent.torch.sources import products
from crossent.torch.sources.plan import Sweep, TileShape, direct, weight_adds_up
from crossent.torch.sources.source import Counted, Span, Wanted, spans

_COPIED_ROWS = 2048  # of a gradient that is unpacked, at a time


class LayerGradients(NamedTuple):
    """Gradients of the operands of a linear layer; None where no gradient is wanted."""

    input: Tensor | None
    linear_weight: Tensor | None
    linear_bias: Tensor | None
    linear_adapter: Tensor | None = None


class LayerTiles(Protocol):
    """Interface of a layer's workspace for sums (`linear.LinearTiles`)."""

    source: Any
    dtype: torch.dtype
    wide: torch.dtype
    in_place: bool

    def gradient(self, tile: Tensor) -> Tensor:
        """Return memory for the gradient of a tile in the dtype that its products take."""
        ...

    def new_gradients(self, rows: int, columns: int) -> Tensor:
        """Return memory for gradients of this many logits, in addition to the logits."""
        ...

    def input_gradient(self, gradient: Tensor, classes: Span, to: Tensor, *, add: bool) -> None:
        """Write or add the input gradient of a tile of these classes, for these rows."""
        ...

    def counted_input(self, rows: Span, counted: Tensor, factor: int = 0) -> Tensor:
        """Return rows of the input as the product of a weight's gradient takes them."""
        ...


class SumsByClasses:
    """The gradients of a layer from tiles that come class by class, and all rows of each class.

    The gradient of the weight is finished tile by tile and rounded once; that of the input adds up over the classes,
    and over the ranks that hold the others. Half-precision products write gradients that one product makes.

    Gradients in float32 are rounded at the end, unless `rounded` is false: the caller with their cotangent rounds them.
    """

    def __init__(self, tiles: LayerTiles, wanted: Wanted, shape: TileShape, *, rounded: bool = True) -> None:
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
            products.multiply(gradient.t(), x_chunk, self._weight_part, add=rows.begin > 0)
        if self._adapter is not None:
            u_chunk = self._tiles.counted_input(rows, counted(rows), 1)
            products.multiply(gradient.t(), u_chunk, self._adapter[classes.of(self._source.positions)], add=True)
        if self._bias is not None:
            products.add_rows(gradient, self._bias[classes.of(self._source.positions)])

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

    The caller with their cotangent multiplies and rounds them once. On GPUs the half-precision gradients of several
    tiles are kept and multiplied at once (`sweep.kept`). Where one product makes all of the gradient of a large weight,
    it has half precision.
    """

    def __init__(self, tiles: LayerTiles, wanted: Wanted, sweep: Sweep) -> None:
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
            products.add_rows(gradient, self._bias)
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
        """Write the gradient of rows of the input, and add to the gradient of the weight, or write fresh memory."""
        if self._input is not None:
            to = self._input[rows.begin : rows.end]
            self._tiles.input_gradient(gradient, Span(0, self._source.classes), to, add=False)
        if self._weight is not None:
            products.multiply(
                gradient.t(),
                self._tiles.counted_input(rows, counted(rows)),
                self._weight,
                add=rows.begin > 0 or self._zeroed,
            )
        if self._adapter is not None:
            u_chunk = self._tiles.counted_input(rows, counted(rows), 1)
            products.multiply(gradient.t(), u_chunk, self._adapter, add=True)

    def result(self) -> LayerGradients:
        """Return the gradients unchanged."""
        g_input = None if self._input is None else unpacked(self._input, self._source.rows)
        return LayerGradients(g_input, self._weight, self._bias, self._adapter)


def _adapter_sum(source: Any, dtype: torch.dtype) -> Tensor:
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
    """Return memory for a product; pages first touched by a float32 product cost twice as much as zeroed ones."""
    return like.new_zeros(shape, dtype=dtype) if zeroed else like.new_empty(shape, dtype=dtype)


def _empty_like(matrix: Tensor) -> Tensor:
    return torch.empty_like(matrix, memory_format=torch.contiguous_format)
