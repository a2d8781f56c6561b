"""Spans of rows and classes, and the contract of sources."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from crossent.torch.sources import source as contract
from crossent.torch.sources.linear import KeptTiles, LinearSource, LinearTiles, SumsByClasses, SumsByRows
from crossent.torch.sources.parts import SumsInParts
from crossent.torch.sources.source import Span, Wanted, spans
from crossent.torch.sources.tensor import TensorSource, TensorSums, TensorTiles


@pytest.mark.parametrize("whole", [0, 1, 7, 12])
@pytest.mark.parametrize("part", [1, 3, 4, 12, 100])
def test_spans_cut_everything_once_and_in_order(whole, part):
    cut = spans(whole, part)
    assert [k for span in cut for k in range(*span)] == list(range(whole))
    assert all(span.size == part for span in cut[:-1])
    assert all(1 <= span.size <= part for span in cut)


@pytest.mark.parametrize("positions", [1, 3])
def test_a_span_knows_its_place_in_an_array_with_entries_for_each(positions):
    array = np.arange(10 * positions)
    want = np.concatenate([array.reshape(10, positions)[k] for k in range(2, 5)])
    np.testing.assert_array_equal(array[Span(2, 5).of(positions)], want)


def test_what_is_wanted_of_the_source():
    for k in range(16):
        wanted = Wanted(*(k >> at & 1 == 1 for at in range(4)))
        operands = [name for name, want in wanted._asdict().items() if want and name != "prob"]
        assert wanted.of_source == bool(operands)
    assert Wanted() == Wanted(False, False, False, False)


@pytest.mark.parametrize(
    ("protocol", "classes"),
    [
        (contract.Source, [TensorSource, LinearSource]),
        (contract.Tiles, [TensorTiles, LinearTiles, KeptTiles]),
        (contract.GradientSums, [TensorSums, SumsByClasses, SumsByRows, SumsInParts]),
    ],
)
def test_every_source_has_what_the_driver_asks_for(protocol, classes):
    for name, member in vars(protocol).items():
        if name.startswith("_"):
            continue
        for cls in classes:
            if isinstance(member, property):  # also a plain field
                assert hasattr(cls, name) or name in inspect.get_annotations(cls), f"{cls.__name__}.{name}"
                continue
            wanted = list(inspect.signature(member).parameters.values())
            found = list(inspect.signature(getattr(cls, name)).parameters.values())
            assert [p.name for p in found[: len(wanted)]] == [p.name for p in wanted], f"{cls.__name__}.{name}"
            assert all(p.default is not p.empty for p in found[len(wanted) :]), f"{cls.__name__}.{name}"


def test_sources_of_the_same_logits_say_the_same_sizes():
    x, w = torch.randn(4, 3), torch.randn(10, 3)
    layer, logits = LinearSource(x, w, None), TensorSource(x @ w.t())
    for name in ("size", "classes", "positions"):
        assert getattr(layer, name) == getattr(logits, name)
    assert (layer.costs.rows, layer.costs.logits) == (logits.costs.rows, logits.costs.logits) == (4, 10)
    assert (layer.costs.features, logits.costs.features) == (3, 0)
