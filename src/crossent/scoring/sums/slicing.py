"""Slices: the totals of each value of a column, or of bins for numbers with many values.

Numbers stay apart while there are few. Beyond that they go into cells that double in width until there are few again:
the lowest bits of a float64 are dropped, as many as it takes. How many that is follows from all the numbers, so that
cells do not depend on the order of rows or on parts. Bins with about equal weights are then made of whole cells.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from crossent.scoring.input.labels import Coded
from crossent.scoring.input.plain import missing
from crossent.scoring.sums.totals import AT, GROUP, Totals, moved

CELLS = 2048
"""Numbers, or cells of numbers, that are kept apart."""
MANY = 50
"""Distinct numbers beyond which bins are made by default."""
BINS = 5
"""Number of these bins."""
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_SIGN = -(1 << 63)


class Numbering:
    """Numbers of values, from 0 in order of first appearance."""

    def __init__(self) -> None:
        self.number: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self.number)

    def of(self, coded: Coded) -> Any:
        """Return the number of each row's value, (N,); new values get new numbers."""
        table = [self.number.setdefault(value, len(self.number)) for value in coded.values]
        return np.array(table or [0], np.int64)[coded.codes]

    def of_other(self, other: Numbering) -> Any:
        """Return the number here of each number of another numbering, (n,)."""
        return self.of(Coded(np.arange(len(other)), list(other.number)))


class Binned(NamedTuple):
    """Totals of the values of a column, or of bins of numbers, and how many bins there are, 0 if there are none."""

    values: list[Hashable]
    totals: Totals
    bins: int


class Slicing:
    """A column of `by`: its values, and the totals of the rows of each.

    `numbers` counts the values that are numbers. `dropped` is the number of dropped bits, 0 while values are unchanged;
    then the value of a cell is the number of the cell, as text with a mark that no value has, and `ends` has the
    smallest and the largest number in it. `listed` numbers the values as they came, where rows are kept.
    """

    def __init__(self) -> None:
        self.values = Numbering()
        self.listed = Numbering()
        self.totals = Totals()
        self.numbers = 0
        self.dropped = 0
        self.ends: dict[Hashable, tuple[float, float]] = {}

    def groups(self, coded: Coded) -> Any:
        """Return the group of each row, (N,), with room in the totals for new ones."""
        if not self.dropped:
            self._count(coded.values)
        found = self._in_cells(coded) if self.dropped else coded
        groups = self.values.of(found)
        self.totals.grow(len(self.values))
        if self.numbers > CELLS:
            self._settle()
            groups = self.values.of(self._in_cells(coded))
        return groups

    def _settle(self) -> None:
        """Make cells of numbers, or wider cells, because there are too many."""
        low = numbers_of(list(self.values.number)) if not self.dropped else [low for low, _ in self.ends.values()]
        low = low[~np.isnan(low)] if not self.dropped else low
        cells, dropped = np.sort(_cells(np.asarray(low, float), 0)), self.dropped
        while np.count_nonzero(np.diff(cells >> dropped)) >= CELLS:
            dropped += 1
        self._widen(dropped)

    def merge(self, other: Slicing, clusters: Any | None) -> None:
        """Add the totals of other rows, whose clusters have these numbers here."""
        self._widen(other.dropped)
        if other.dropped < self.dropped:
            other = other.copied()
            other._widen(self.dropped)
        if self.dropped:
            for name, ends in other.ends.items():
                self._extend(name, ends)
        else:
            self._count(list(other.values.number))
        groups = self.values.of_other(other.values)
        self.totals.grow(len(self.values))
        self.totals.merge(other.totals, groups, clusters)
        if self.numbers > CELLS:
            self._settle()

    def copied(self) -> Slicing:
        """Return the same slices, whose totals are another object."""
        same = Slicing()
        same.values.number = dict(self.values.number)
        same.totals = regrouped(self.totals, np.arange(len(self.values)), len(self.values))
        same.numbers, same.dropped, same.ends = self.numbers, self.dropped, dict(self.ends)
        return same

    def binned(self, wanted: int | None) -> Binned:
        """Return the values and totals, numbers in `wanted` bins; by default they are binned if they are many."""
        names = list(self.values.number)
        ends = self._ends()
        if wanted is None and len(ends) <= MANY:
            return Binned(names, self.totals, 0)
        ordered = sorted(ends, key=lambda name: ends[name])
        place = {name: k for k, name in enumerate(names)}
        weight = self.totals.weight[[place[name] for name in ordered]] if ordered else np.zeros(0)
        middle = np.cumsum(weight) - weight / 2.0
        bins = wanted or BINS
        _, bin_of = np.unique(
            np.minimum(bins * middle / max(weight.sum(), 1e-300), bins - 1).astype(int), return_inverse=True
        )
        bin_of = bin_of.reshape(-1)
        count = int(bin_of.max(initial=-1)) + 1
        inside = [[ends[name] for name, k in zip(ordered, bin_of, strict=True) if k == which] for which in range(count)]
        called: list[Hashable] = [
            _between(min(low for low, _ in some), max(high for _, high in some)) for some in inside
        ]
        others = [name for name in names if name not in ends]
        places = np.zeros(len(names), np.int64)
        places[[place[name] for name in ordered]] = bin_of
        places[[place[name] for name in others]] = count + np.arange(len(others))
        totals = regrouped(self.totals, places, count + len(others))
        return Binned([*called, *others], totals, count)

    def _ends(self) -> dict[Hashable, tuple[float, float]]:
        """Return the smallest and the largest number of each value or cell that is of numbers."""
        if self.dropped:
            return self.ends
        names = list(self.values.number)
        found = zip(names, numbers_of(names).tolist(), strict=True)
        return {name: (x, x) for name, x in found if not math.isnan(x)}

    def _count(self, values: Any) -> None:
        """Count the new numbers among values."""
        known = self.values.number
        there = (~np.isnan(numbers_of(values))).tolist()
        self.numbers += sum(is_number and value not in known for value, is_number in zip(values, there, strict=True))

    def _extend(self, name: Hashable, ends: tuple[float, float]) -> None:
        low, high = self.ends.get(name, ends)
        self.ends[name] = min(low, ends[0]), max(high, ends[1])
        self.numbers = len(self.ends)

    def _in_cells(self, coded: Coded) -> Coded:
        """Return values with the names of cells in place of numbers, and make the cells hold them."""
        numbers = numbers_of(coded.values)
        there = np.flatnonzero(~np.isnan(numbers))
        found, first, place = np.unique(_cells(numbers[there], self.dropped), return_index=True, return_inverse=True)
        low = high = numbers[there][first]
        low, high = low.copy(), high.copy()
        np.minimum.at(low, place.reshape(-1), numbers[there])
        np.maximum.at(high, place.reshape(-1), numbers[there])
        names: list[Hashable] = [f"\0{cell}" for cell in found.tolist()]
        for name, *ends in zip(names, low.tolist(), high.tolist(), strict=True):
            self._extend(name, (ends[0], ends[1]))
        others = np.flatnonzero(np.isnan(numbers))
        code = np.empty(len(numbers), np.int64)
        code[there], code[others] = place.reshape(-1), len(names) + np.arange(len(others))
        return Coded(code[coded.codes], [*names, *(coded.values[k] for k in others.tolist())])

    def _widen(self, dropped: int) -> None:
        """Drop this many bits, and join the totals of the cells that become one."""
        if dropped <= self.dropped:
            return
        names = list(self.values.number)
        ends, self.ends, self.dropped = self._ends(), {}, dropped
        cells = dict(zip(ends, _cells(np.array([low for low, _ in ends.values()]), dropped).tolist(), strict=True))
        renamed = [f"\0{cells[name]}" if name in ends else name for name in names]
        for name, new in zip(names, renamed, strict=True):
            if name in ends:
                self._extend(new, ends[name])
        values = Numbering()
        places = values.of(Coded(np.arange(len(names)), renamed)) if names else np.zeros(0, np.int64)
        self.values, self.totals = values, regrouped(self.totals, places, len(values))


def number_of(value: Hashable) -> float | None:
    """Return the number that a value is, or that a text writes; None if it is none, or not finite.

    Examples
    --------
    >>> number_of(3), number_of("2.5"), number_of("x"), number_of(True), number_of(float("nan"))
    (3.0, 2.5, None, None, None)
    """
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool | np.bool_) or value is None or missing(value):
        return None
    if not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found + 0.0 if math.isfinite(found) else None


def numbers_of(values: Any) -> Any:
    """Return the numbers that values are, or that texts write, (n,) float64; NaN in place of all others."""
    if {type(value) for value in values} <= {float} or {type(value) for value in values} <= {int}:
        try:
            found = np.array(values, float)
        except OverflowError:
            return np.array([math.nan if (x := number_of(value)) is None else x for value in values])
        return np.where(np.isfinite(found), found + 0.0, np.nan)
    return np.array([math.nan if (x := number_of(value)) is None else x for value in values])


def _cells(x: Any, dropped: int) -> Any:
    """Return the numbers of the cells of float64 numbers, in ascending order, (n,) int64."""
    bits = np.asarray(x, float).view(np.int64)
    return np.where(bits >= 0, bits, np.int64(_SIGN) - bits) >> dropped


def _between(low: float, high: float) -> str:
    """Return the name of a bin.

    Examples
    --------
    >>> _between(18.0, 29.0), _between(0.25, 0.5), _between(3.0, 3.0)
    ('18 to 29', '0.25 to 0.5', '3')
    """
    first, last = (f"{x:.0f}" if x == int(x) and abs(x) < 1e15 else f"{x:.6g}" for x in (low, high))
    return first if low == high else f"{first} to {last}"


def regrouped(totals: Totals, places: Any, size: int) -> Totals:
    """Return totals whose groups are joined: each goes to one of `size` places."""
    result = Totals(size)
    if not len(places):
        return result
    weight = totals.sums.value[AT[1, 0]]
    first = np.zeros(size)
    there = np.flatnonzero(weight > 0)[::-1]
    first[places[there]] = totals.about[there]
    share = np.bincount(places, weight, size)
    away = np.bincount(places, weight * (totals.about - first[places]), size)
    result.about = first + away / np.where(share > 0, share, 1.0)
    here = moved(totals.sums, totals.about - result.about[places])
    for mine, theirs in (
        (result.sums, here),
        (result.right, totals.right),
        (result.infinite, totals.infinite),
    ):
        mine.total, mine.rest = (_joined(part, places, size) for part in (theirs.total, theirs.rest))
    result.count = _joined(totals.count, places, size).astype(np.int64)
    result.infinite_count = _joined(totals.infinite_count, places, size).astype(np.int64)
    if totals.by_cluster is not None:
        found = totals.by_cluster.sorted()
        result.clusters_of(places[found.group] * GROUP + found.cluster, found.loss, found.weight)
    return result


def _joined(part: Any, places: Any, size: int) -> Any:
    """Return an array (…, G) with the sums of the groups that go to each place, (…, size)."""
    rows = part.reshape(-1, part.shape[-1])
    return np.stack([np.bincount(places, row, size) for row in rows]).reshape(*part.shape[:-1], size)
