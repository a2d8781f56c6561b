"""Sums of a score beside its losses: entropy, calibration, the distribution of row losses and the worst rows."""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from crossent.scoring.parts import Bar, Row, Zero
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.curve import Curve
from crossent.scoring.sums.totals import Sum

_BARS = 1200  # quarters of octaves from 2^-150 to 2^150, and infinity
_LOWEST = (1023 - 150) * 4
FLOORS = (1e-3, 1e-6, 1e-9, 1e-15)
"""Smallest probabilities at which an infinite loss is said as well."""
_CAPS = -np.log(FLOORS)
BLAMED = 100
"""Rows with an infinite loss that are named."""


class Details:
    """Sums of rows that merge, and the `most` rows with the largest losses."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.entropy, self.top = Sum(), Sum()
        self.top_infinite = False
        self.excess = Sum(len(FLOORS))  # Σ w max(0, loss − cap) over the rows with finite losses
        self.bars: Any = np.zeros(_BARS + 1)
        self.curve = Curve()
        self.worst: list[Row] = []
        self.blamed: list[Hashable] = []  # ids of rows with an infinite loss, the first that came

    def add(self, rows: CountedRows, zero: Zero) -> None:
        """Add rows; `zero` is the smallest probability that is charged."""
        costs = rows.costs
        self.entropy.add(rows.total(costs.entropy))
        if costs.positive is None:
            truth, q = rows.right, costs.confidence
            self.top.add(rows.total(rows.loss[truth], truth))
            wrong = np.flatnonzero(~truth)
            rest = np.maximum(1.0 - q[wrong], 0.0 if zero == "inf" else zero)
            if not rest.all():  # certain, and wrong: as float32 makes of any logits that are 17 apart
                self.top_infinite = True
                wrong, rest = wrong[rest > 0.0], rest[rest > 0.0]
            self.top.add(rows.total(-np.log(rest), wrong))
        else:
            truth, q = rows.label == 1, costs.positive
        self.curve.add(np.clip(q, 0.0, 1.0), truth, rows.weight)
        self._add_excess(rows)
        if len(self.blamed) < BLAMED and rows.loss.max() == np.inf:
            infinite = np.flatnonzero(np.isposinf(rows.loss))[: BLAMED - len(self.blamed)]
            self.blamed = [*self.blamed, *(rows.name(k) for k in infinite.tolist())]
        bar = (np.maximum(rows.loss, 0.0).view(np.int64) >> 50) - _LOWEST
        np.clip(bar, 0, _BARS, out=bar)
        self.bars += np.bincount(bar, rows.weight, _BARS + 1)
        self._keep(self._candidates(rows))

    def merge(self, other: Details) -> None:
        """Add the sums of other rows."""
        for mine, theirs in ((self.entropy, other.entropy), (self.top, other.top)):
            mine.merge(theirs)
        self.top_infinite |= other.top_infinite
        self.excess.merge(other.excess)
        self.curve.merge(other.curve)
        self.bars = self.bars + other.bars
        self._keep(other.worst)
        self.blamed = [*self.blamed, *other.blamed][:BLAMED]

    def renumbered(self, first: int) -> Details:
        """Return the same sums with numbers of rows that begin at `first`."""
        later = copy(self)
        later.worst = [replace(row, id=row.id + first) for row in self.worst if isinstance(row.id, int)]
        later.blamed = [name + first for name in self.blamed if isinstance(name, int)]
        return later

    def histogram(self) -> tuple[Bar, ...]:
        """Return the bars that hold rows."""
        filled = np.flatnonzero(self.bars)
        bits = (np.concatenate([filled, filled + 1]) + _LOWEST) << 50
        low, high = bits.view(np.float64).reshape(2, -1)
        low = np.select([filled == 0, filled == _BARS], [0.0, np.inf], low)
        high = np.where(filled == _BARS, np.inf, high)
        columns = (low.tolist(), high.tolist(), self.bars[filled].tolist())
        return tuple(Bar(*bar) for bar in zip(*columns, strict=True))

    def _add_excess(self, rows: CountedRows) -> None:
        far = np.flatnonzero((rows.loss > _CAPS[0]) & (rows.loss < np.inf))
        if len(far):
            over = np.maximum(rows.loss[far] - _CAPS[:, None], 0.0)
            self.excess.add(np.array([rows.total(part, far) for part in over]))

    def _candidates(self, rows: CountedRows) -> list[Row]:
        """Return the rows that may be among the worst; among equally bad rows the first ones."""
        loss, costs, classes = rows.loss, rows.costs, rows.batch.classes
        if self.most == 0:
            return []
        least = self.worst[-1].loss if len(self.worst) == self.most else -np.inf
        places = np.flatnonzero(loss > least)
        if len(places) > self.most:
            some = loss[places]
            least = np.partition(some, len(some) - self.most)[-self.most]
            places = np.concatenate([places[some > least], places[some == least][: self.most]])
        return [
            Row(
                id=rows.name(k),
                loss=float(loss[k]),
                label=classes[rows.label[k]],
                probability=float(costs.probability[k]),
                predicted=classes[costs.predicted[k]],
                confidence=float(costs.confidence[k]),
            )
            for k in places.tolist()
        ]

    def _keep(self, more: list[Row]) -> None:
        if more:
            self.worst = sorted([*self.worst, *more], key=lambda row: -row.loss)[: self.most]
