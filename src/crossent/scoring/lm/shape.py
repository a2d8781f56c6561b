"""Tokens by their place in a document, and by their loss: sums in a few ranges, for any number of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from crossent.scoring.lm.document import Token
from crossent.scoring.lm_values import PositionLoss
from crossent.scoring.parts import Bar

_PLACES = 64
"""Ranges of positions: 0, 1, 2 to 3, 4 to 7, and so on, each twice as long as the one before."""
_UNITS = 2**32
"""Losses are summed as whole multiples of 1 / `_UNITS` nats, so that the order of documents changes nothing."""
_LEAST = -64
_BARS = 256
"""Half octaves of losses, from 2 to the power of half of `_LEAST` on; the first also has smaller ones."""


class TokenShape:
    """Numbers of tokens and sums of losses by ranges of positions, and numbers of tokens by ranges of losses."""

    def __init__(self) -> None:
        self.tokens = np.zeros(_PLACES)
        self.loss = [0] * _PLACES
        self.beyond = np.zeros(_PLACES)
        self.unknown = np.zeros(_PLACES)
        self.bars = np.zeros(_BARS)
        self.zero = 0
        self.infinite = 0

    def add(self, tokens: Sequence[Token]) -> None:
        """Add the tokens of a document."""
        position = np.array([token.position for token in tokens], dtype=np.int64)
        known = np.array([token.logprob for token in tokens])
        outside = np.isnan(known)
        loss = -np.where(outside, [token.ceiling for token in tokens], known)
        place = np.frexp(np.maximum(position, 0).astype(float))[1]
        self.tokens += np.bincount(place, minlength=_PLACES)
        for k in np.unique(place):
            here = loss[place == k]
            finite = here[np.isfinite(here)]
            self.loss[k] += sum(map(int, np.rint(finite * _UNITS).tolist()))
            self.beyond[k] += len(here) - len(finite)
        self.unknown += np.bincount(place, weights=outside, minlength=_PLACES)
        losses = loss[~outside]
        finite = losses[np.isfinite(losses) & (losses > 0)]
        self.zero += int((losses <= 0).sum())
        self.infinite += int(np.isinf(losses).sum())
        bar = np.clip(np.floor(2.0 * np.log2(finite)).astype(np.int64) - _LEAST, 0, _BARS - 1)
        self.bars += np.bincount(bar, minlength=_BARS)

    def positions(self) -> tuple[PositionLoss, ...]:
        """Return the losses by ranges of positions that hold tokens."""
        found: list[PositionLoss] = []
        for k in np.flatnonzero(self.tokens):
            first, last = (0, 0) if k == 0 else (2 ** int(k - 1), 2 ** int(k) - 1)
            n = int(self.tokens[k])
            loss = math.inf if self.beyond[k] else self.loss[k] / (_UNITS * n)
            found.append(PositionLoss(first, last, n, loss, bool(self.unknown[k] == 0)))
        return tuple(found)

    def histogram(self) -> tuple[Bar, ...]:
        """Return the numbers of tokens by their loss, without the ranges that hold none."""
        bars = [
            Bar(0.0 if k == 0 else 2.0 ** ((k + _LEAST) / 2), 2.0 ** ((k + 1 + _LEAST) / 2), float(self.bars[k]))
            for k in map(int, np.flatnonzero(self.bars))
        ]
        zero = [Bar(0.0, 0.0, float(self.zero))] if self.zero else []
        return (*zero, *bars, *([Bar(float("inf"), float("inf"), float(self.infinite))] if self.infinite else []))
