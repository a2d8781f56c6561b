"""Sums over groups of rows that merge: what means, intervals and shares are made of.

For each group the sums Σ w^k (l − c)^j, j ≤ k ≤ 3, about a centre c near the losses; moving it is a polynomial. The
residuals w (l − m) about the mean m, their squares and cubes follow from them. Rows in clusters are not independent:
their residuals are summed by cluster first, so a table of Σ w (l − c) and Σ w by group and cluster is kept instead.
Every sum keeps what its additions round off, so that it does not depend on how rows came in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from crossent.score._interval import Mean, mean_of

MOMENTS = tuple((k, j) for k in (1, 2, 3) for j in range(k + 1))
_AT = {pair: place for place, pair in enumerate(MOMENTS)}
_GROUP = 1 << 32  # a cluster's key is group · 2³² + cluster


class Sum:
    """Sums (…,) of float64 with what their additions have rounded off (Neumaier 1974)."""

    def __init__(self, *shape: int) -> None:
        self.total: Any = np.zeros(shape)
        self.rest: Any = np.zeros(shape)

    @property
    def value(self) -> Any:
        """The sums."""
        return self.total + self.rest

    def add(self, more: Any) -> None:
        """Add an array of the shape of the sums."""
        total = self.total + more
        large = np.abs(self.total) >= np.abs(more)
        self.rest = self.rest + np.where(large, (self.total - total) + more, (more - total) + self.total)
        self.total = total

    def merge(self, other: Sum) -> None:
        """Add other sums of the same shape."""
        self.add(other.total)
        self.rest = self.rest + other.rest

    def grow(self, size: int) -> None:
        """Lengthen the last axis with zeros."""
        more = size - self.total.shape[-1]
        if more > 0:
            pad = [(0, 0)] * (self.total.ndim - 1) + [(0, more)]
            self.total, self.rest = np.pad(self.total, pad), np.pad(self.rest, pad)

    def take(self, places: Any, size: int) -> Sum:
        """Return sums with a last axis of `size`, those at `places` from here."""
        result = Sum(*self.total.shape[:-1], size)
        result.total[..., places], result.rest[..., places] = self.total, self.rest
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n finite rows to be added: loss about the centre, weight (None: 1), group, whether right, and cluster."""

    loss: Any
    weight: Any | None
    group: Any
    right: Any
    cluster: Any | None = None


class Totals:
    """The sums of G groups. `infinite` is the weight of rows with an infinite loss, which no other sum holds."""

    def __init__(self, clustered: bool, groups: int = 0) -> None:
        self.centre = 0.0
        self.count: Any = np.zeros(groups, np.int64)
        self.sums: Sum = Sum(len(MOMENTS), groups)
        self.right, self.infinite = Sum(groups), Sum(groups)
        self.table = Table() if clustered else None

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.count)

    def grow(self, groups: int) -> None:
        """Make room for more groups."""
        self.count = np.pad(self.count, (0, max(0, groups - self.groups)))
        for part in (self.sums, self.right, self.infinite):
            part.grow(groups)

    def add(self, rows: Rows) -> None:
        """Add rows with finite losses."""
        size = self.groups
        counts = np.bincount(rows.group, minlength=size)
        self.count = self.count + counts
        self.right.add(np.bincount(rows.group, rows.right if rows.weight is None else rows.right * rows.weight, size))
        sums, loss = np.empty((len(MOMENTS), size)), rows.loss
        powers = (np.ones(0), loss, loss * loss, loss * loss * loss)
        for place, (k, j) in enumerate(MOMENTS):
            if rows.weight is not None:
                part = rows.weight**k if j == 0 else rows.weight**k * powers[j]
                sums[place] = np.bincount(rows.group, part, size)
            elif k == max(j, 1):  # without weights the power k makes no difference
                same = counts if j == 0 else np.bincount(rows.group, powers[j], size)
                for power in range(max(j, 1), 4):
                    sums[_AT[power, j]] = same
        self.sums.add(sums)
        if self.table is not None:
            weight = np.ones(len(loss)) if rows.weight is None else rows.weight
            self.table.add(rows.group * _GROUP + rows.cluster, weight * loss, weight)

    def add_infinite(self, group: Any, weight: Any | None) -> None:
        """Add rows with infinite losses."""
        self.count = self.count + np.bincount(group, minlength=self.groups)
        self.infinite.add(np.bincount(group, weight, self.groups))

    def merge(self, other: Totals, groups: Any, clusters: Any | None) -> None:
        """Add other sums, whose groups and clusters have the given numbers here."""
        size = self.groups
        if not self.count.any():
            self.centre = other.centre
        self.count[groups] += other.count
        moved = other.moved(self.centre)
        self.sums.merge(moved.take(groups, size))
        self.right.merge(other.right.take(groups, size))
        self.infinite.merge(other.infinite.take(groups, size))
        if self.table is not None and other.table is not None and clusters is not None:
            key, loss, weight = other.table.all()
            here = groups[key // _GROUP] * _GROUP + clusters[key % _GROUP]
            self.table.add(here, loss + (other.centre - self.centre) * weight, weight)

    def moved(self, centre: float) -> Sum:
        """Return the sums about another centre."""
        by, result = self.centre - centre, Sum(*self.sums.total.shape)
        if by == 0:
            return self.sums
        for k, j in MOMENTS:
            for i in range(j + 1):
                factor = comb(j, i) * by ** (j - i)
                result.total[_AT[k, j]] += factor * self.sums.total[_AT[k, i]]
                result.rest[_AT[k, j]] += factor * self.sums.rest[_AT[k, i]]
        return result

    @property
    def weight(self) -> Any:
        """Σ w of each group, rows with infinite losses included."""
        return self.sums.value[_AT[1, 0]] + self.infinite.value

    def means(self) -> Mean:
        """Return the mean loss of each group."""
        sums = self.sums.value
        weight = sums[_AT[1, 0]]
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._each(sums[_AT[1, 1]] / weight)

    def overall(self) -> Mean:
        """Return the mean loss of all rows, as one group."""
        return self.ratio(np.ones(self.groups))

    def ratio(self, price: Any) -> Mean:
        """Return Σ w l / Σ w b over all rows, as one group, with a price b (G,) for the rows of each group."""
        sums = self.sums.value
        whole = sums[_AT[1, 0]] @ price
        if whole == 0:
            nan = np.array([np.nan])
            return Mean(nan, nan, np.array([0]), nan, nan)
        value = (sums[_AT[1, 1]].sum() + self.centre * sums[_AT[1, 0]].sum()) / whole
        return self._one(value, price, whole)

    def _one(self, value: float, price: Any, whole: float) -> Mean:
        away = value * price - self.centre  # the residual of a row is w (d − away), d its loss about the centre
        if self.infinite.value.any():
            infinite = np.array([np.inf])
            return Mean(infinite, np.array([whole]), np.array([self.count.sum()]), np.array([np.nan]), np.array([0.0]))
        if self.table is None:
            square, cube = (self._residuals(power, away).sum() for power in (2, 3))
            n = int(self.count.sum())
        else:
            key, loss, weight = self.table.all()
            cluster, place = np.unique(key % _GROUP, return_inverse=True)
            residual = np.bincount(place, loss - away[key // _GROUP] * weight)
            square, cube, n = (residual**2).sum(), (residual**3).sum(), len(cluster)
        one = [np.array([x]) for x in (value, whole, n, square, cube)]
        return mean_of(*one)

    def _each(self, shift: Any) -> Mean:
        sums = self.sums.value
        value, weight, n = self.centre + shift, self.weight, self.count
        if self.table is None:
            square, cube = self._residuals(2, shift), self._residuals(3, shift)
        else:
            key, loss, share = self.table.all()
            group = key // _GROUP
            residual = loss - shift[group] * share
            square, cube = (np.bincount(group, residual**power, self.groups) for power in (2, 3))
            n = np.bincount(group, minlength=self.groups)
        mean = mean_of(value, sums[_AT[1, 0]], n, square, cube)
        infinite = self.infinite.value > 0
        return Mean(np.where(infinite, np.inf, value), weight, n, np.where(infinite, np.nan, mean.se), mean.skew)

    def _residuals(self, power: int, away: Any) -> Any:
        """Return Σ w^k (d − away)^k of each group for k = power, d the loss about the centre."""
        sums = self.sums.value
        terms = (comb(power, j) * sums[_AT[power, j]] * (-away) ** (power - j) for j in range(power + 1))
        result = sum(terms)
        return np.maximum(result, 0.0) if power == 2 else result


class Table:
    """Σ of two numbers by key, for many keys: sorted, and blocks that have not been sorted in yet."""

    def __init__(self) -> None:
        self.key: Any = np.empty(0, np.int64)
        self.sums: Any = np.empty((2, 0))
        self.blocks: list[tuple[Any, Any]] = []
        self.waiting = 0

    def add(self, key: Any, first: Any, second: Any) -> None:
        """Add rows."""
        known, place = np.unique(key, return_inverse=True)
        sums = np.stack([np.bincount(place, part, len(known)) for part in (first, second)])
        self.blocks.append((known, sums))
        self.waiting += len(known)
        if self.waiting > max(len(self.key), 1 << 16):
            self._sort_in()

    def all(self) -> tuple[Any, Any, Any]:
        """Return keys in ascending order and both sums."""
        self._sort_in()
        return self.key, *self.sums

    def _sort_in(self) -> None:
        if not self.blocks:
            return
        key = np.concatenate([self.key, *(known for known, _ in self.blocks)])
        sums = np.concatenate([self.sums, *(sums for _, sums in self.blocks)], axis=1)
        self.key, place = np.unique(key, return_inverse=True)
        self.sums = np.stack([np.bincount(place, part, len(self.key)) for part in sums])
        self.blocks, self.waiting = [], 0
