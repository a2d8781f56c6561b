"""Differences of the losses of pairs of rows: means by slice with interval and p-value, and their distribution."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.scoring.compared import SliceDifference
from crossent.scoring.input.classes import in_order
from crossent.scoring.pairing import Pair
from crossent.scoring.parts import Bar, Interval
from crossent.scoring.sums.interval import Mean, ratio, tested

BARS = 40


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference, with its interval, standard error and p-value, and how many clusters it rests on."""

    value: float
    ci: Interval
    se: float
    p_value: float
    clusters: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """Differences of n pairs of rows, (n,) each: loss in a less loss in b, weights, and clusters or None."""

    difference: Any
    weight: Any
    cluster: Any | None
    loss_a: Any
    loss_b: Any

    @classmethod
    def of(cls, pair: Pair) -> Differences:
        """Return the differences of pairs of rows."""
        mine, theirs = pair
        weight = np.ones(len(mine)) if mine.weight is None else mine.weight
        return cls(mine.loss - theirs.loss, weight, mine.cluster, mine.loss, theirs.loss)

    def take(self, rows: Any) -> Differences:
        """Return the chosen rows."""
        cluster = None if self.cluster is None else self.cluster[rows]
        return Differences(self.difference[rows], self.weight[rows], cluster, self.loss_a[rows], self.loss_b[rows])

    def mean(self, level: float) -> Difference:
        """Return the mean difference with its interval at a level."""
        found = self.moments()
        with np.errstate(invalid="ignore"):
            ci, p = tested(found, level)
        clusters = None if self.cluster is None else int(found.n)
        return Difference(float(found.value), ci, float(found.se), p, clusters)

    def moments(self) -> Mean:
        """Return the mean difference with its moments, of rows or of the totals of clusters."""
        with np.errstate(invalid="ignore"):
            total, share = self.weight * self.difference, self.weight
            if self.cluster is not None:
                _, place = np.unique(self.cluster, return_inverse=True)
                total, share = (np.bincount(place.reshape(-1), part) for part in (total, share))
            return ratio(total, share)

    def share(self, rows: Any) -> float:
        """Return the share of the weight that rows have."""
        return float(self.weight @ rows / self.weight.sum())

    def slices(self, codes: Any, names: Iterable[tuple[Hashable, int]], level: float) -> list[SliceDifference]:
        """Return the difference of the rows of each value, by its code, for values that have rows."""
        order = np.argsort(codes, kind="stable")
        ascending = codes[order]
        found: list[tuple[Hashable, Differences, Difference]] = []
        for name, code in names:
            begin, end = np.searchsorted(ascending, (code, code + 1))
            if end > begin:
                rows = self.take(order[begin:end])
                found.append((name, rows, rows.mean(level)))
        many = len(found)
        return [
            SliceDifference(
                value=name,
                n=len(rows.difference),
                weight=float(rows.weight.sum()),
                difference=mean.value,
                ci=mean.ci,
                se=mean.se,
                p_value=mean.p_value,
                p_adjusted=min(1.0, many * mean.p_value) if mean.p_value == mean.p_value else mean.p_value,
                loss_a=float(rows.weight @ rows.loss_a / rows.weight.sum()),
                loss_b=float(rows.weight @ rows.loss_b / rows.weight.sum()),
            )
            for name, rows, mean in found
        ]

    def histogram(self) -> tuple[Bar, ...]:
        """Return bars of equal width about 0 for nearly all differences; the first and last hold everything beyond."""
        finite = np.isfinite(self.difference)
        size = np.abs(self.difference[finite])
        top = float(np.quantile(size, 0.99)) if len(size) else 0.0
        if not top > 0.0:
            top = float(size.max(initial=0.0)) or 1.0
        edges = np.linspace(-top, top, BARS + 1)
        place = np.clip(np.searchsorted(edges, self.difference, side="right") - 1, 0, BARS - 1)
        heights = np.bincount(place, self.weight, BARS)
        edges[0], edges[-1] = min(edges[0], self.difference.min()), max(edges[-1], self.difference.max())
        return tuple(
            Bar(float(low), float(high), float(w)) for low, high, w in zip(edges, edges[1:], heights, strict=False)
        )


def by_value(found: Iterable[SliceDifference]) -> tuple[SliceDifference, ...]:
    """Return slices in the order of their values."""
    return tuple(sorted(found, key=lambda part: in_order(part.value)))
