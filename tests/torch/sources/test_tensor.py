"""Logits that exist as a source: tiles are views, and gradients are written where they belong."""

from __future__ import annotations

import pytest
import torch

from crossent.torch.sources.plan import CPU, GPU, Sweep, TileShape
from crossent.torch.sources.source import Span, Wanted
from crossent.torch.sources.tensor import TensorSource

LOGITS = torch.arange(20.0).view(4, 5)


def test_tiles_are_views_of_the_logits():
    tiles = TensorSource(LOGITS).tiles(TileShape(2, 3))
    tile = tiles.logits(Span(1, 3), Span(2, 5))
    assert tile.tolist() == [[7.0, 8.0, 9.0], [12.0, 13.0, 14.0]]
    assert tile.untyped_storage().data_ptr() == LOGITS.untyped_storage().data_ptr()


def test_whole_rows_leave_the_padding_out():
    source = TensorSource(LOGITS, 3)
    tiles = source.tiles(TileShape(2, 3))
    assert tiles.logits(Span(0, 2), Span(0, source.classes)).tolist() == [[0.0, 1.0, 2.0], [5.0, 6.0, 7.0]]


@pytest.mark.parametrize("shape", [(4, 5), (2, 5, 3)])
def test_logits_without_padding(shape):
    x = torch.randn(shape)
    assert TensorSource(x).logits is x
    assert (TensorSource(x).classes, TensorSource(x, 3).classes) == (5, 3)
    torch.testing.assert_close(TensorSource(x, 3).logits, x.narrow(1, 0, 3), rtol=0, atol=0)
    other = torch.randn(shape)
    assert torch.equal(TensorSource(x, 3).unpadded(other), other.narrow(1, 0, 3))


def test_a_gradient_is_zero_in_the_padding_and_laid_out_as_the_logits():
    for x in (torch.randn(2, 5, 3), torch.randn(5, 4).t(), torch.randn(2, 5, 3, 1).squeeze(3)):
        g = TensorSource(x, 3).new_gradient()
        assert (g.shape, g.dtype, g.stride()) == (x.shape, x.dtype, x.stride())
        assert g[:, 3:].count_nonzero() == 0
        assert g.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("by_rows", [False, True])
def test_gradients_of_tiles_are_written_in_their_places(by_rows):
    source, wanted = TensorSource(LOGITS), Wanted(input=True)
    tiles = source.tiles(TileShape(2, 5))
    sums = source.sums_by_rows(tiles, wanted, Sweep(2)) if by_rows else None
    sums = sums or source.sums_by_classes(tiles, wanted, TileShape(2, 3))
    want = torch.randn(4, 5)
    for classes in (Span(0, 5),) if by_rows else (Span(0, 3), Span(3, 5)):
        if not by_rows:
            sums.begin(classes)
        for rows in (Span(0, 2), Span(2, 4)):
            place = sums.place(tiles.logits(rows, classes), rows)
            part = want[slice(*rows), slice(*classes)]
            assert place.shape == part.shape
            _ = place.copy_(part)
            sums.add(place, rows, classes, lambda span: torch.ones(span.size, dtype=torch.bool))
        sums.end(classes)
    found = sums.result().logits
    assert found is not None
    assert torch.equal(found, want)
    assert torch.equal(LOGITS, torch.arange(20.0).view(4, 5))


def test_costs_are_those_of_reading():
    costs = TensorSource(torch.empty(4, 6, dtype=torch.bfloat16), 5).costs
    assert (costs.rows, costs.logits, costs.features) == (4, 5, 0)
    assert costs.dtype == costs.product_dtype == torch.bfloat16
    assert costs.device is CPU
    assert TensorSource(torch.empty(4, 6, device="meta"), 5).costs.device is CPU
    assert GPU is not CPU
