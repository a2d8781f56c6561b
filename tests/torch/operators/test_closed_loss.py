"""The sweep with a closing: chunks end where sequences do, and products are counted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import crossent.torch as F
from crossent.torch.operators.closed_loss import spans_of_sequences
from crossent.torch.sources.source import Span
from tests.torch import linear, plain
from tests.torch.linear import draw


def test_chunks_end_where_sequences_do():
    assert spans_of_sequences([3, 5, 9], 5) == [Span(0, 5), Span(5, 9)]
    assert spans_of_sequences([3, 5, 9], 4) == [Span(0, 3), Span(3, 5), Span(5, 9)]
    assert spans_of_sequences([3, 5, 9], 100) == [Span(0, 9)]
    assert spans_of_sequences([3, 5, 9], 3) is None
    assert spans_of_sequences(None, 100) is None
    assert spans_of_sequences([], 3) == []


def test_every_chunk_has_whole_sequences():
    args, _ = draw(linear.LONG, "index")
    segments = torch.repeat_interleave(torch.arange(30), torch.randint(1, 9, (30,)))[:150]
    segments = torch.cat([segments, segments.new_full((150 - len(segments),), 31)])
    seen = list[torch.Tensor]()

    def closing(rows: Any) -> torch.Tensor:
        seen.append(rows.segments)
        return rows.loss

    longest = int(segments.bincount().max())
    _ = F.linear_cross_entropy(*args[:3], closing=closing, segments=segments, chunk_bytes=8 * 13 * max(128, longest))
    assert torch.equal(torch.cat(seen), segments)
    assert len(seen) > 1
    for a, b in itertools.pairwise(seen):
        assert a[-1] != b[0]


@pytest.mark.parametrize("chunk_bytes", [2**20, 8 * 13 * 128])
def test_three_products(products, chunk_bytes):
    args, _ = draw(linear.LONG, "index")
    loss = F.linear_cross_entropy(*args[:3], closing=lambda rows: rows.loss**2 - rows.entropy, chunk_bytes=chunk_bytes)
    loss.backward()
    assert sum(products) == 3 * 150 * 5 * 13


def test_a_counter_of_operations_gets_the_same_loss():
    args, _ = draw(linear.LONG, "index")

    def closing(rows: Any) -> torch.Tensor:
        return rows.loss**2 - rows.entropy

    want = F.linear_cross_entropy(*args[:3], closing=closing)
    with FlopCounterMode(display=False):
        got = F.linear_cross_entropy(*args[:3], closing=closing)
    plain.agree("loss", got, want, None, 1e-12)
    for a, b in zip(torch.autograd.grad(got, args[:2]), torch.autograd.grad(want, args[:2]), strict=True):
        plain.agree("gradient", a, b, None, 1e-12)


def test_a_sweep_hands_its_gradients_over_once():
    args, _ = draw(linear.LONG, "index")
    loss = F.linear_cross_entropy(*args[:3], closing=lambda rows: rows.loss**2)
    first = torch.autograd.grad(loss, args[:2], retain_graph=True)
    second = torch.autograd.grad(2 * loss, args[:2])
    for a, b in zip(first, second, strict=True):
        assert torch.equal(2 * a, b)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
