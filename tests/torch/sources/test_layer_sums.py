"""Gradients of a layer's operands: sums of products over tiles, with an adapter and without, packed rows moved."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from crossent.torch.base.values import loss_dtype
from crossent.torch.sources import layer_sums
from crossent.torch.sources.layer_sums import LayerGradients, unpacked
from crossent.torch.sources.linear import LinearTiles
from crossent.torch.sources.plan import Sweep, TileShape
from crossent.torch.sources.source import Span, Wanted, spans
from tests.torch import plain
from tests.torch.sources.test_linear import EVERYTHING, dtypes, layer


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
    monkeypatch.setattr(layer_sums, "_COPIED_ROWS", copied)
    rows = torch.tensor([1, 2, 4, 7, 8])
    packed = torch.randn(5, 3)
    want = torch.zeros(9, 3).index_copy(0, rows, packed)
    gradient = torch.cat([packed, torch.zeros(4, 3)])
    assert unpacked(gradient, rows) is gradient
    assert torch.equal(gradient, want)
    assert unpacked(packed, None) is packed


def with_adapter(dtype, positions=1, r=2):
    source = layer(dtype, positions=positions)
    rows, classes = source.input.shape[0], len(source.weight)
    more, columns = torch.randn(rows, r, dtype=torch.float64), torch.randn(classes, r, dtype=torch.float64)
    wide = torch.cat((source.input, more.to(dtype)), 1)
    return dataclasses.replace(source, input=wide, adapter=columns.to(dtype))


@dtypes
@pytest.mark.parametrize("positions", [1, 3])
def test_an_adapter_is_a_weight_of_the_last_features(positions, dtype):
    source = with_adapter(dtype, positions)
    whole = torch.cat((source.weight, source.adapter), 1).double()
    tiles = source.tiles(TileShape(7, 11))
    tile = tiles.logits(Span(0, 7), Span(0, 11))
    bias = tiles.bias(Span(0, 11))
    want = source.input.double() @ whole.t() + (source.bias.double() if bias is None else 0.0)
    plain.agree("logits", tile, want, None, plain.FLOOR[loss_dtype(dtype)])
    gradient = torch.randn(7, 11 * positions, dtype=torch.float64).to(tiles.dtype)
    wanted = EVERYTHING._replace(linear_adapter=True)
    g, rounded = gradient.double(), loss_dtype(dtype)
    expected = g @ whole, g.t() @ source.input.double()[:, :5], g.sum(0), g.t() @ source.input.double()[:, 5:]
    for sums, shape in (
        (source.sums_by_classes(tiles, wanted, TileShape(3, 4)), (4, 3)),
        (source.sums_by_rows(tiles, wanted, Sweep(3)), (11, 3)),
    ):
        found = of_tiles(source, sums, tiles, gradient, *shape)
        for name, a, b in zip(found._fields, found, expected, strict=True):
            plain.agree(name, a, b, None, plain.FLOOR[a.dtype if a.dtype != rounded else rounded])


def test_rows_that_do_not_count_have_no_part_in_the_adapter_whatever_they_hold():
    source = with_adapter(torch.float64)
    source.input[2] = torch.nan
    counts = torch.arange(7) != 2
    gradient = torch.randn(7, 11, dtype=torch.float64) * counts[:, None]
    wanted = Wanted(linear_adapter=True)
    for sums, shape in ((source.sums_by_classes, TileShape(3, 4)), (source.sums_by_rows, Sweep(3))):
        tiles = source.tiles(TileShape(3, 11))
        made = sums(tiles, wanted, shape)
        for classes in spans(11, 4 if isinstance(shape, TileShape) else 11):
            made.begin(classes)
            for rows in spans(7, 3):
                place = made.place(tiles.buffer()[: rows.size, : classes.size], rows)
                _ = place.copy_(gradient[slice(*rows), slice(*classes)])
                made.add(place, rows, classes, lambda span: counts[slice(*span)])
            made.end(classes)
        want = gradient.t() @ torch.where(counts[:, None], source.input[:, 5:], 0.0)
        torch.testing.assert_close(made.result().linear_adapter, want)
