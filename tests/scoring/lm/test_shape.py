"""Sums by place and by loss, beside a plain loop."""

from __future__ import annotations

import math

import numpy as np

from crossent.scoring.lm import Token
from crossent.scoring.lm.shape import TokenShape

RANDOM = np.random.default_rng(3)


def made(losses, begin=0):
    return [Token(begin + k, "a", -float(x), -float(x), 1) for k, x in enumerate(losses)]


def test_positions_are_means_of_ranges_that_double():
    documents = [made(RANDOM.exponential(2.0, n), begin) for n, begin in ((70, 0), (9, 1), (1, 40))]
    shape = TokenShape()
    for document in documents:
        shape.add(document)
    every = [token for document in documents for token in document]
    found = shape.positions()
    assert [(part.first, part.last) for part in found[:4]] == [(0, 0), (1, 1), (2, 3), (4, 7)]
    for part in found:
        inside = [-token.logprob for token in every if part.first <= token.position <= part.last]
        assert part.tokens == len(inside)
        assert math.isclose(part.loss, np.mean(inside), abs_tol=2.0**-32)
        assert part.exact
    assert sum(part.tokens for part in found) == len(every)


def test_the_order_of_documents_changes_nothing():
    documents = [made(RANDOM.exponential(2.0, 50)) for _ in range(20)]
    shapes = [TokenShape(), TokenShape()]
    for document, other in zip(documents, documents[::-1], strict=True):
        shapes[0].add(document)
        shapes[1].add(other)
    assert shapes[0].positions() == shapes[1].positions()
    assert shapes[0].histogram() == shapes[1].histogram()


def test_bars_hold_every_known_token_once():
    losses = [0.0, 1e-30, 0.7, 0.7, 1.5, 20.0, math.inf]
    shape = TokenShape()
    shape.add([*made(losses), Token(9, "x", math.nan, -5.0, 1)])
    bars = shape.histogram()
    assert sum(bar.weight for bar in bars) == len(losses)
    for loss in losses[1:-1]:
        assert any(bar.low <= loss < bar.high for bar in bars)
    assert bars[0].high == 0.0
    assert bars[-1].low == math.inf
    assert not shape.positions()[-1].exact
