"""The logits of a linear layer as a source: tiles are products, whatever their shape, and so are gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from crossent.torch.base.values import loss_dtype
from crossent.torch.sources.linear import KeptTiles, LinearSource, LinearTiles
from crossent.torch.sources.plan import CPU, TileShape
from crossent.torch.sources.source import Span, Wanted, spans
from tests.torch import plain

EVERYTHING = Wanted(input=True, linear_weight=True, linear_bias=True)
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)


def layer(dtype=torch.float64, *, positions=1, N=7, V=11, D=5, bias=True, **more):
    x, w, b = torch.randn(N, D), torch.randn(V * positions, D), torch.randn(V * positions)
    return LinearSource(x.to(dtype), w.to(dtype), b.to(dtype) if bias else None, positions=positions, **more)


def logits_of(source, rows=None):
    x = source.input if rows is None else source.input[rows]
    return nnf.linear(*(None if t is None else t.double() for t in (x, source.weight, source.bias)))


@dtypes
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_tiles_are_the_products_of_torch(bias, positions, dtype):
    source = layer(dtype, positions=positions, bias=bias)
    for shape in (TileShape(1, 1), TileShape(3, 4), TileShape(7, 11)):
        tiles, found = source.tiles(shape), torch.full((7, 11 * positions), torch.nan, dtype=loss_dtype(dtype))
        for rows in spans(7, shape.rows):
            for classes in spans(11, shape.classes):
                tile = tiles.logits(rows, classes)
                assert tile.dtype == loss_dtype(dtype)
                found[slice(*rows), classes.of(positions)] = tile
        plain.agree("tiles", found, logits_of(source), None, plain.FLOOR[loss_dtype(dtype)])


def test_sizes():
    source = layer(positions=3)
    assert (source.size, source.classes, source.device) == (7, 11, CPU)
    assert (source.costs.rows, source.costs.logits, source.costs.features) == (7, 33, 5)
    packed = layer(rows=torch.tensor([1, 4]))
    assert packed.size == packed.costs.rows == 2
    assert layer(V=0).classes == 0


def test_packed_rows_are_taken_from_the_input():
    rows = torch.tensor([5, 0, 2])
    source = layer(rows=rows)
    tile = source.tiles(TileShape(2, 11)).logits(Span(1, 3), Span(0, 11))
    torch.testing.assert_close(tile, logits_of(source, rows)[1:3], rtol=1e-12, atol=1e-12)


def test_tiles_may_be_kept():
    source, kept = layer(positions=3), torch.full((7, 33), torch.nan, dtype=torch.float64)
    tiles = source.tiles(TileShape(3, 4), kept)
    for rows in spans(7, 3):
        for classes in spans(11, 4):
            tile = tiles.logits(rows, classes)
            assert tile.data_ptr() == kept[rows.begin, classes.of(3)].data_ptr()
    torch.testing.assert_close(kept, logits_of(source), rtol=1e-12, atol=1e-12)
    again = KeptTiles(source, TileShape(3, 4), kept)
    part = again.logits(Span(1, 3), Span(2, 6))
    assert part.data_ptr() == kept[1, 6:].data_ptr()
    assert torch.equal(part, kept[1:3, 6:18])
    g = again.gradient(part)
    assert g.shape == part.shape
    assert g.untyped_storage().data_ptr() != kept.untyped_storage().data_ptr()


@dtypes
def test_a_gradient_takes_the_place_of_its_tile_where_the_products_take_its_dtype(dtype):
    source = layer(dtype)
    tiles = LinearTiles(source, TileShape(3, 4))
    tile = tiles.logits(Span(0, 3), Span(0, 4))
    g = tiles.gradient(tile)
    assert g.shape == tile.shape
    assert g.dtype == tiles.dtype
    assert (g.data_ptr() == tile.data_ptr()) == (tiles.dtype == tile.dtype)


# Sums of gradients
