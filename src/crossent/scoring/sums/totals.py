"""Sums over groups of rows that merge: what means, intervals and shares are made of.

For each group the sums Σ w^k (l − c)^j, j ≤ k ≤ 3, about a centre c near the group's mean m; moving it is a polynomial.
The mean, and the squares and cubes of the residuals w (l − m), follow from them. Rows in clusters are not independent:
their residuals are summed by cluster first, so there is a table of Σ w l and Σ w by group and cluster for them.
Every sum keeps what its additions round off, so that it does not depend on how rows came in blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np

from crossent.scoring.sums.interval import Mean, Residuals, even, mean_of

MOMENTS = (*((k, j) for k in (1, 2, 3) for j in range(k + 1)), (4, 0))
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
        with np.errstate(over="ignore", invalid="ignore"):
            rest = self.rest + np.where(large, (self.total - total) + more, (more - total) + self.total)
        self.total, self.rest = total, np.where(np.isfinite(rest), rest, 0.0)

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
    """n rows with finite losses to be added: loss, weight (None: 1), group, whether right, and cluster."""

    loss: Any
    weight: Any | None
    group: Any
    right: Any
    cluster: Any | None = None

    def total(self, x: Any, size: int) -> Any:
        """Return Σ w x of each group."""
        return summed(self.group, x if self.weight is None else self.weight * x, size)


class Totals:
    """The sums of G groups. `infinite` is the weight of rows with an infinite loss, which no other sum holds."""

    def __init__(self, clustered: bool, groups: int = 0) -> None:
        self.count: Any = np.zeros(groups, np.int64)
        self.right, self.infinite = Sum(groups), Sum(groups)
        self.about: Any = np.zeros(groups)  # the centres
        self.sums = Sum(len(MOMENTS), groups)
        self.table = Table() if clustered else None

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.count)

    def grow(self, groups: int) -> None:
        """Make room for more groups."""
        more = max(0, groups - self.groups)
        self.count, self.about = np.pad(self.count, (0, more)), np.pad(self.about, (0, more))
        for part in (self.right, self.infinite, self.sums):
            part.grow(groups)

    def add(self, rows: Rows) -> None:
        """Add rows with finite losses."""
        size, group, loss = self.groups, rows.group, rows.loss
        count = np.bincount(group, minlength=size)
        known = self.sums.total[_AT[1, 0]] > 0
        about, sums = self.about, None
        if known[count > 0].all():
            sums = _moments(rows, loss - about[group], count)
        if sums is None or _far(sums.value).any():
            first = np.zeros(size)
            first[group[::-1]] = loss[::-1]
            # the mean, but exactly the first loss where all are equal, so that their residuals are exactly 0
            about = first + np.bincount(group, loss - first[group], size) / np.maximum(count, 1)
            sums = _moments(rows, loss - about[group], count)
        self._join(sums, about)
        self.count = self.count + count
        right = np.bincount(group[rows.right], minlength=size) if rows.weight is None else rows.total(rows.right, size)
        self.right.add(right)
        if self.table is not None:
            weight = np.ones(len(loss)) if rows.weight is None else rows.weight
            self.table.add(group * _GROUP + rows.cluster, weight * loss, weight)

    def add_infinite(self, group: Any, weight: Any | None, cluster: Any | None) -> None:
        """Add rows with infinite losses."""
        self.count = self.count + np.bincount(group, minlength=self.groups)
        self.infinite.add(np.bincount(group, weight, self.groups))
        if self.table is not None and cluster is not None:
            nothing = np.zeros(len(group))
            self.table.add(group * _GROUP + cluster, nothing, nothing)

    @property
    def clusters(self) -> int | None:
        """Number of clusters, None if rows are independent."""
        return None if self.table is None else len(np.unique(self.table.all()[0] % _GROUP))

    def merge(self, other: Totals, groups: Any, clusters: Any | None) -> None:
        """Add other sums, whose groups and clusters have the given numbers here."""
        size, about = self.groups, np.zeros(self.groups)
        about[groups] = other.about
        self._join(other.sums.take(groups, size), about)
        self.count[groups] += other.count
        for mine, theirs in ((self.right, other.right), (self.infinite, other.infinite)):
            mine.merge(theirs.take(groups, size))
        if self.table is not None and other.table is not None and clusters is not None:
            key, loss, weight = other.table.all()
            self.table.add(groups[key // _GROUP] * _GROUP + clusters[key % _GROUP], loss, weight)

    def _join(self, sums: Sum, about: Any) -> None:
        """Add sums about other centres, and move the centre where it is farther from the mean than the losses are."""
        fresh = self.sums.total[_AT[1, 0]] == 0
        self.about = np.where(fresh, about, self.about)
        here = _moved(sums, about - self.about)
        both = self.sums.value + here.value
        far = _far(both)
        if far.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                shift = both[_AT[1, 1]] / both[_AT[1, 0]]
            target = np.where(far, self.about + shift, self.about)
            self.sums, self.about = _moved(self.sums, self.about - target), target
            here = _moved(sums, about - target)
        self.sums.merge(here)

    @property
    def weight(self) -> Any:
        """Σ w of each group, rows with infinite losses included."""
        return self.sums.value[_AT[1, 0]] + self.infinite.value

    def means(self) -> Mean:
        """Return the mean loss of each group."""
        sums = self.sums.value
        finite = sums[_AT[1, 0]]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self.about + sums[_AT[1, 1]] / finite
        if self.table is None:
            residuals = self._residuals(value)
        else:
            key, loss, weight = self.table.all()
            group = key // _GROUP
            residuals = residuals_of(loss - value[group] * weight, weight, weight, (group, self.groups))
        mean, infinite = mean_of(value, finite, residuals), self.infinite.value > 0
        value, se = np.where(infinite, np.inf, value), np.where(infinite, np.nan, mean.se)
        return replace(mean, value=value, weight=self.weight, se=se)

    def overall(self) -> Mean:
        """Return the mean loss of all rows, as one group."""
        return self.ratio(np.ones(self.groups))

    def ratio(self, price: Any) -> Mean:
        """Return Σ w l / Σ w b over all rows, as one group, with a price b (G,) for the rows of each group."""
        sums = self.sums.value
        whole = float(sums[_AT[1, 0]] @ price)
        if self.infinite.value.any():
            return _one(np.inf, whole, Residuals(int(self.count.sum()), np.nan, np.nan, np.nan, np.nan))
        if whole == 0:
            return _one(np.nan, 0.0, Residuals(0, np.nan, np.nan, np.nan, np.nan))
        value = math.fsum([*(self.about * sums[_AT[1, 0]]), *sums[_AT[1, 1]]]) / whole
        if self.table is None:
            r = self._residuals(value * price)
            parts = even(sums[_AT[2, 0]].sum(), sums[_AT[4, 0]].sum())
            return _one(value, whole, Residuals(r.n.sum(), r.square.sum(), r.cube.sum(), r.cross @ price, parts))
        key, loss, weight = self.table.all()
        group = key // _GROUP
        cluster, place = np.unique(key % _GROUP, return_inverse=True)
        place = place.reshape(-1)
        u, b, w = (np.bincount(place, x) for x in (loss - value * price[group] * weight, price[group] * weight, weight))
        return _one(value, whole, residuals_of(u, b, w, (np.zeros(len(cluster), np.int64), 1)))

    def _residuals(self, value: Any) -> Residuals:
        """Return the sums of the residuals u = w (l − value) of rows, with b = w."""
        sums, away = self.sums.value, value - self.about
        with np.errstate(over="ignore", invalid="ignore"):
            square, cube = (
                sum(comb(power, j) * sums[_AT[power, j]] * (-away) ** (power - j) for j in range(power + 1))
                for power in (2, 3)
            )
        cross = sums[_AT[2, 1]] - away * sums[_AT[2, 0]]
        return Residuals(self.count, np.maximum(square, 0.0), cube, cross, even(sums[_AT[2, 0]], sums[_AT[4, 0]]))


def residuals_of(u: Any, b: Any, weight: Any, groups: tuple[Any, int]) -> Residuals:
    """Return the sums of the residuals of parts, by group; `weight` says how unequal parts are."""
    group, size = groups
    square, cube, cross, second, fourth = (
        np.bincount(group, x, size) for x in (u**2, u**3, u * b, weight**2, weight**4)
    )
    return Residuals(np.bincount(group, minlength=size), square, cube, cross, even(second, fourth))


def _far(sums: Any) -> Any:
    """Return which groups have their mean farther from their centre than the losses are from each other."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sums[_AT[1, 1]] / sums[_AT[1, 0]]) ** 2 > 0.5 * sums[_AT[2, 2]] / sums[_AT[2, 0]]


def _one(value: float, weight: float, residuals: Residuals) -> Mean:
    found = Residuals(*(np.reshape(getattr(residuals, name), 1) for name in ("n", "square", "cube", "cross", "even")))
    return mean_of(np.array([value]), np.array([weight]), found)


def _moments(rows: Rows, away: Any, count: Any) -> Sum:
    """Return Σ w^k d^j of each group for the distances d from its centre."""
    size = len(count)
    result = Sum(len(MOMENTS), size)
    with np.errstate(over="ignore"):
        powers = (np.ones(0), away, away * away, away * away * away)
    for place, (k, j) in enumerate(MOMENTS):
        if rows.weight is not None:
            part = rows.weight**k if j == 0 else rows.weight**k * powers[j]
            result.total[place] = (summed if k == 1 else np.bincount)(rows.group, part, size)
        elif k == max(j, 1):  # without weights the power k makes no difference
            same = count if j == 0 else (summed if j == 1 else np.bincount)(rows.group, powers[j], size)
            for power in range(max(j, 1), 5 if j == 0 else 4):
                result.total[_AT[power, j]] = same
    return result


def summed(group: Any, x: Any, size: int) -> Any:
    """Return Σ x of each group, right to the last digits in any order of rows.

    Each x is cut where the digits of the sum of all would end. The upper parts add up without rounding, and the
    rounding of the lower ones is below the last digit.
    """
    largest = float(np.abs(x).max(initial=0.0)) * len(x)
    if not 0.0 < largest < 1e300:
        return np.bincount(group, x, size)
    edge = 2.0 ** (math.frexp(largest)[1] + 1)
    upper = (x + edge) - edge
    return np.bincount(group, upper, size) + np.bincount(group, x - upper, size)


def _moved(sums: Sum, by: Any) -> Sum:
    """Return the sums about centres that are lower by so much."""
    if not np.any(by):
        return sums
    result = Sum(*sums.total.shape)
    for k, j in MOMENTS:
        for i in range(j + 1):
            factor = comb(j, i) * by ** (j - i)
            result.total[_AT[k, j]] += factor * sums.total[_AT[k, i]]
            result.rest[_AT[k, j]] += factor * sums.rest[_AT[k, i]]
    return result


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
