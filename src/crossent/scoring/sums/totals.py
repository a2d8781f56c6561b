"""Sums over groups of rows that merge, from which means, intervals and shares follow.

For each group the sums Σ w^k (l − c)^j, j ≤ k ≤ 3, about a centre c near the group's mean m; moving it is a polynomial.
The mean, and the squares and cubes of the residuals w (l − m), follow from them. Rows in clusters are not independent:
their residuals are summed by cluster first, so there is a table of Σ w l and Σ w by group and cluster for them. Every
sum keeps its rounding errors, so that it does not depend on the blocks of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from math import comb
from typing import Any, NamedTuple

import numpy as np

from crossent.scoring.sums.interval import Mean, Residuals, even, mean_of

MOMENTS = (*((k, j) for k in (1, 2, 3) for j in range(k + 1)), (4, 0))
AT = {pair: place for place, pair in enumerate(MOMENTS)}
GROUP = 1 << 32
"""A cluster's key is group · 2³² + cluster."""


class Sum:
    """Sums (…,) of float64 that keep the rounding errors of their additions (Neumaier 1974)."""

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
        """Return sums with a last axis of `size`, with these sums at `places`."""
        result = Sum(*self.total.shape[:-1], size)
        result.total[..., places], result.rest[..., places] = self.total, self.rest
        return result


@dataclass(frozen=True, slots=True, eq=False)
class LossRows:
    """n rows to add to totals, (n,) each: loss, weight (None: 1), group, whether right, and cluster (None: none)."""

    loss: Any
    weight: Any | None
    group: Any
    right: Any
    cluster: Any | None = None

    def take(self, rows: Any) -> LossRows:
        """Return the chosen rows."""
        parts = (getattr(self, field.name) for field in fields(self))
        return LossRows(*(None if part is None else part[rows] for part in parts))

    def total(self, x: Any, size: int) -> Any:
        """Return Σ w x of each of `size` groups."""
        return summed(self.group, x if self.weight is None else self.weight * x, size)


class Totals:
    """The sums of G groups.

    `infinite` is the weight of rows with an infinite loss, which no other sum holds, and `infinite_count` their number,
    which `count` includes.

    `by_cluster` is None until rows with clusters come; then all rows must have them.
    """

    def __init__(self, groups: int = 0) -> None:
        self.count: Any = np.zeros(groups, np.int64)
        self.infinite_count: Any = np.zeros(groups, np.int64)
        self.right, self.infinite = Sum(groups), Sum(groups)
        self.about: Any = np.zeros(groups)  # the centres
        self.sums = Sum(len(MOMENTS), groups)
        self.by_cluster: ClusterSums | None = None

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.count)

    def grow(self, groups: int) -> None:
        """Make room for more groups."""
        more = max(0, groups - self.groups)
        self.count, self.about = np.pad(self.count, (0, more)), np.pad(self.about, (0, more))
        self.infinite_count = np.pad(self.infinite_count, (0, more))
        for part in (self.right, self.infinite, self.sums):
            part.grow(groups)

    def add(self, rows: LossRows) -> None:
        """Add rows."""
        if rows.loss.max(initial=0.0) == np.inf:
            infinite = np.isposinf(rows.loss)
            self._add_infinite(rows.take(infinite))
            rows = rows.take(~infinite)
        if len(rows.loss):
            self._add_finite(rows)

    def _add_finite(self, rows: LossRows) -> None:
        size, group, loss = self.groups, rows.group, rows.loss
        count = np.bincount(group, minlength=size)
        known = self.sums.total[AT[1, 0]] > 0
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
        if rows.cluster is not None:
            weight = np.ones(len(loss)) if rows.weight is None else rows.weight
            self._of_clusters().add(group * GROUP + rows.cluster, weight * loss, weight)

    def _add_infinite(self, rows: LossRows) -> None:
        count = np.bincount(rows.group, minlength=self.groups)
        self.count, self.infinite_count = self.count + count, self.infinite_count + count
        self.infinite.add(np.bincount(rows.group, rows.weight, self.groups))
        if rows.cluster is not None:
            nothing = np.zeros(len(rows.loss))
            self._of_clusters().add(rows.group * GROUP + rows.cluster, nothing, nothing)

    def clusters_of(self, key: Any, loss: Any, weight: Any) -> None:
        """Add terms of clusters: their keys, w l and w."""
        self._of_clusters().add(key, loss, weight)

    def _of_clusters(self) -> ClusterSums:
        if self.by_cluster is None:
            self.by_cluster = ClusterSums()
        return self.by_cluster

    @property
    def clusters(self) -> int | None:
        """Number of clusters, None if rows are independent."""
        return None if self.by_cluster is None else len(np.unique(self.by_cluster.sorted().cluster))

    def merge(self, other: Totals, groups: Any, clusters: Any | None) -> None:
        """Add other sums, whose groups and clusters have the given numbers here."""
        size, about = self.groups, np.zeros(self.groups)
        about[groups] = other.about
        self._join(other.sums.take(groups, size), about)
        self.count[groups] += other.count
        self.infinite_count[groups] += other.infinite_count
        for mine, theirs in ((self.right, other.right), (self.infinite, other.infinite)):
            mine.merge(theirs.take(groups, size))
        if other.by_cluster is not None and clusters is not None:
            theirs = other.by_cluster.sorted()
            self._of_clusters().add(groups[theirs.group] * GROUP + clusters[theirs.cluster], theirs.loss, theirs.weight)

    def _join(self, sums: Sum, about: Any) -> None:
        """Add sums about other centres, and move the centre where it is farther from the mean than the losses are."""
        fresh = self.sums.total[AT[1, 0]] == 0
        self.about = np.where(fresh, about, self.about)
        here = moved(sums, about - self.about)
        both = self.sums.value + here.value
        far = _far(both)
        if far.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                shift = both[AT[1, 1]] / both[AT[1, 0]]
            target = np.where(far, self.about + shift, self.about)
            self.sums, self.about = moved(self.sums, self.about - target), target
            here = moved(sums, about - target)
        self.sums.merge(here)

    @property
    def weight(self) -> Any:
        """Σ w of each group, rows with infinite losses included."""
        return self.sums.value[AT[1, 0]] + self.infinite.value

    def means(self) -> Mean:
        """Return the mean loss of each group."""
        sums = self.sums.value
        finite = sums[AT[1, 0]]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self.about + sums[AT[1, 1]] / finite
        if self.by_cluster is None:
            residuals = self._residuals(value)
        else:
            found = self.by_cluster.sorted()
            u = found.loss - value[found.group] * found.weight
            residuals = residuals_of(u, found.weight, found.weight, found.group, self.groups)
        mean, infinite = mean_of(value, finite, residuals), self.infinite.value > 0
        value, se = np.where(infinite, np.inf, value), np.where(infinite, np.nan, mean.se)
        return replace(mean, value=value, weight=self.weight, se=se)

    def overall(self) -> Mean:
        """Return the mean loss of all rows, as one group."""
        return self.ratio(np.ones(self.groups))

    def ratio(self, price: Any) -> Mean:
        """Return Σ w l / Σ w b over all rows, as one group, with a price b (G,) for the rows of each group."""
        if self.infinite.value.any():
            whole = float(self.sums.value[AT[1, 0]] @ price)
            return _one(np.inf, whole, Residuals(int(self.count.sum()), np.nan, np.nan, np.nan, np.nan))
        return self._finite_ratio(price)

    def finite(self) -> Mean:
        """Return the mean loss of the rows with a finite one, as one group."""
        return self._finite_ratio(np.ones(self.groups))

    def _finite_ratio(self, price: Any) -> Mean:
        sums = self.sums.value
        whole = float(sums[AT[1, 0]] @ price)
        if whole == 0:
            return _one(np.nan, 0.0, Residuals(0, np.nan, np.nan, np.nan, np.nan))
        value = math.fsum([*(self.about * sums[AT[1, 0]]), *sums[AT[1, 1]]]) / whole
        if self.by_cluster is None:
            r = self._residuals(value * price)
            parts = even(sums[AT[2, 0]].sum(), sums[AT[4, 0]].sum())
            return _one(value, whole, Residuals(r.n.sum(), r.square.sum(), r.cube.sum(), r.cross @ price, parts))
        found = self.by_cluster.sorted()
        priced = price[found.group] * found.weight
        cluster, place = np.unique(found.cluster, return_inverse=True)
        place = place.reshape(-1)
        u, b, w = (np.bincount(place, x) for x in (found.loss - value * priced, priced, found.weight))
        if self.infinite_count.any():  # clusters without a finite loss are none of these rows
            cluster, u, b, w = (part[w > 0] for part in (cluster, u, b, w))
        return _one(value, whole, residuals_of(u, b, w, np.zeros(len(cluster), np.int64), 1))

    def _residuals(self, value: Any) -> Residuals:
        """Return the sums of the residuals u = w (l − value) of rows, with b = w."""
        sums, away = self.sums.value, value - self.about
        with np.errstate(over="ignore", invalid="ignore"):
            square, cube = (
                sum(comb(power, j) * sums[AT[power, j]] * (-away) ** (power - j) for j in range(power + 1))
                for power in (2, 3)
            )
        cross = sums[AT[2, 1]] - away * sums[AT[2, 0]]
        return Residuals(
            self.count - self.infinite_count,
            np.maximum(square, 0.0),
            cube,
            cross,
            even(sums[AT[2, 0]], sums[AT[4, 0]]),
        )


def residuals_of(u: Any, b: Any, weight: Any, group: Any, size: int) -> Residuals:
    """Return the sums of the residuals of parts, for each of `size` groups; `weight` measures their inequality."""
    square, cube, cross, second, fourth = (
        np.bincount(group, x, size) for x in (u**2, u**3, u * b, weight**2, weight**4)
    )
    return Residuals(np.bincount(group, minlength=size), square, cube, cross, even(second, fourth))


def _far(sums: Any) -> Any:
    """Return which groups have their mean farther from their centre than the losses are from each other."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sums[AT[1, 1]] / sums[AT[1, 0]]) ** 2 > 0.5 * sums[AT[2, 2]] / sums[AT[2, 0]]


def _one(value: float, weight: float, residuals: Residuals) -> Mean:
    found = Residuals(*(np.reshape(getattr(residuals, name), 1) for name in ("n", "square", "cube", "cross", "even")))
    return mean_of(np.array([value]), np.array([weight]), found)


def _moments(rows: LossRows, away: Any, count: Any) -> Sum:
    """Return Σ w^k d^j of each group for the distances d from its centre."""
    size = len(count)
    result = Sum(len(MOMENTS), size)
    with np.errstate(over="ignore"):
        powers = (np.ones(0), away, away * away, away * away * away)
    add = summed if size > 1 else _whole
    tally = np.bincount if size > 1 else _whole
    for place, (k, j) in enumerate(MOMENTS):
        if rows.weight is not None:
            part = rows.weight**k if j == 0 else rows.weight**k * powers[j]
            result.total[place] = (add if k == 1 else tally)(rows.group, part, size)
        elif k == max(j, 1):  # without weights the power k makes no difference
            same = count if j == 0 else (add if j == 1 else tally)(rows.group, powers[j], size)
            for power in range(max(j, 1), 5 if j == 0 else 4):
                result.total[AT[power, j]] = same
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


def _whole(group: Any, x: Any, size: int) -> Any:
    """Return Σ x of one group."""
    return np.array([x.sum()])


def moved(sums: Sum, by: Any) -> Sum:
    """Return the sums about centres that are lower by so much."""
    if not np.any(by):
        return sums
    result = Sum(*sums.total.shape)
    for k, j in MOMENTS:
        for i in range(j + 1):
            factor = comb(j, i) * by ** (j - i)
            result.total[AT[k, j]] += factor * sums.total[AT[k, i]]
            result.rest[AT[k, j]] += factor * sums.rest[AT[k, i]]
    return result


class ClusterLosses(NamedTuple):
    """Groups and clusters that have rows, in ascending order, (K,) each: their numbers, Σ w l and Σ w."""

    group: Any
    cluster: Any
    loss: Any
    weight: Any


class ClusterSums:
    """Σ w l and Σ w of each cluster in each group: sorted by key, and blocks that are not sorted in yet."""

    def __init__(self) -> None:
        self.key: Any = np.empty(0, np.int64)
        self.sums: Any = np.empty((2, 0))
        self.blocks: list[_Block] = []
        self.waiting = 0

    def add(self, key: Any, loss: Any, weight: Any) -> None:
        """Add rows: their keys, group · 2³² + cluster, and the terms of the sums, w l and w."""
        known, place = np.unique(key, return_inverse=True)
        sums = np.stack([np.bincount(place, part, len(known)) for part in (loss, weight)])
        self.blocks.append(_Block(known, sums))
        self.waiting += len(known)
        if self.waiting > max(len(self.key), 1 << 16):
            self._sort_in()

    def sorted(self) -> ClusterLosses:
        """Return the sums in the order of their groups and clusters."""
        self._sort_in()
        loss, weight = self.sums
        return ClusterLosses(self.key // GROUP, self.key % GROUP, loss, weight)

    def _sort_in(self) -> None:
        if not self.blocks:
            return
        key = np.concatenate([self.key, *(block.key for block in self.blocks)])
        sums = np.concatenate([self.sums, *(block.sums for block in self.blocks)], axis=1)
        self.key, place = np.unique(key, return_inverse=True)
        self.sums = np.stack([np.bincount(place, part, len(self.key)) for part in sums])
        self.blocks, self.waiting = [], 0


class _Block(NamedTuple):
    """Keys in ascending order, and their sums (2, K)."""

    key: Any
    sums: Any
