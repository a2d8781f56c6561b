"""The logits of a linear layer as a source: tiles are products, whatever their shape, and so are gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from crossent.torch.base.values import loss_dtype
from crossent.torch.sources import linear
from crossent.torch.sources.linear import KeptTiles, LayerGradients, LinearSource, LinearTiles, unpacked
from crossent.torch.sources.plan import CPU, Sweep, TileShape
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


def of_tiles(source, sums, tiles, gradient, classes_of_tile, rows_of_tile):
    for classes in spans(source.classes, classes_of_tile):
        sums.begin(classes)
        for rows in spans(source.size, rows_of_tile):
            tile = tiles.logits(rows, classes)
            place = sums.place(tile, rows)
            _ = place.copy_(gradient[slice(*rows), classes.of(source.positions)])
            sums.add(place, rows, classes, lambda span: torch.ones(span.size, dtype=torch.bool))
        sums.end(classes)
    return sums.result()


def check_sums(found, source, gradient, dtype, rows=slice(None)):
    """The gradients of the operands are products of the gradient of the logits, summed in float64."""
    g = gradient.double()
    want = g @ source.weight.double(), g.t() @ source.input.double()[rows], g.sum(0)
    for name, a, b in zip(found._fields[:3], found[:3], want, strict=True):
        assert a.dtype == dtype
        plain.agree(name, a[rows] if name == "input" else a, b, None, plain.FLOOR[dtype])


@dtypes
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("shape", [TileShape(1, 1), TileShape(3, 4), TileShape(7, 4), TileShape(7, 10)], ids=str)
def test_sums_by_classes_are_products(shape, positions, dtype):
    source = layer(dtype, positions=positions)
    gradient = torch.randn(7, 11 * positions, dtype=torch.float64)
    gradient = gradient.to(LinearTiles(source, shape).dtype)
    tiles = source.tiles(shape)
    sums = source.sums_by_classes(tiles, EVERYTHING, shape)
    check_sums(of_tiles(source, sums, tiles, gradient, shape.classes, shape.rows), source, gradient, dtype)


@dtypes
@pytest.mark.parametrize("sweep", [Sweep(1), Sweep(3), Sweep(2, 4), Sweep(3, 7), Sweep(7), Sweep(9, 9)], ids=str)
def test_sums_by_rows_are_products(sweep, dtype):
    source = layer(dtype)
    gradient = torch.randn(7, 11, dtype=torch.float64).to(LinearTiles(source, TileShape(1, 1)).dtype)
    tiles = source.tiles(TileShape(min(7, sweep.rows), 11))
    sums = source.sums_by_rows(tiles, EVERYTHING, sweep)
    found = of_tiles(source, sums, tiles, gradient, 11, sweep.rows)
    assert {x.dtype for x in found[:3]} == {loss_dtype(dtype)}
    check_sums(LayerGradients(*(x.to(dtype) for x in found[:3])), source, gradient, dtype)


def test_only_what_is_wanted_is_summed():
    source, gradient = layer(), torch.randn(7, 11, dtype=torch.float64)
    for k in range(8):
        wanted = Wanted(*(k >> at & 1 == 1 for at in range(3)))
        for shape in (TileShape(3, 4), TileShape(3, 11)):
            tiles = source.tiles(shape)
            by_classes = source.sums_by_classes(tiles, wanted, shape)
            sums = by_classes if shape.classes < 11 else source.sums_by_rows(tiles, wanted, Sweep(3))
            found = of_tiles(source, sums, tiles, gradient, *reversed(shape))
            assert [x is not None for x in found] == [*wanted[:3], False]


@pytest.mark.parametrize("copied", [1, 2, 2048])
def test_packed_gradients_move_to_their_rows(copied, monkeypatch):
    monkeypatch.setattr(linear, "_COPIED_ROWS", copied)
    rows = torch.tensor([1, 2, 4, 7, 8])
    packed = torch.randn(5, 3)
    want = torch.zeros(9, 3).index_copy(0, rows, packed)
    gradient = torch.cat([packed, torch.zeros(4, 3)])
    assert unpacked(gradient, rows) is gradient
    assert torch.equal(gradient, want)
    assert unpacked(packed, None) is packed
