"""Everything that a state keeps of its rows, summed batch by batch: it reads costs, counts rows, and feeds each sum."""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.scoring.input.ahead import ahead
from crossent.scoring.input.arguments import ScoreOptions
from crossent.scoring.input.batch import Batch, Layout
from crossent.scoring.input.labels import Coded
from crossent.scoring.sums.costs import Costs, costs
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.details import Details
from crossent.scoring.sums.kept import KeptColumns, KeptRows
from crossent.scoring.sums.notes import Notes
from crossent.scoring.sums.temperature import Temperatures
from crossent.scoring.sums.totals import LossRows, Totals

BLOCK = 1 << 16
"""Rows that are worked on at a time."""


class Numbering:
    """Numbers of values, counted from 0 in the order in which the values first came."""

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


class Slicing:
    """A column of `by`: its values, and the totals of the rows of each."""

    def __init__(self) -> None:
        self.values = Numbering()
        self.totals = Totals()

    def groups(self, coded: Coded) -> Any:
        """Return the group of each row, (N,), with room in the totals for new ones."""
        groups = self.values.of(coded)
        self.totals.grow(len(self.values))
        return groups

    def merge(self, other: Slicing, clusters: Any | None) -> None:
        """Add the totals of other rows, whose clusters have these numbers here."""
        groups = self.values.of_other(other.values)
        self.totals.grow(len(self.values))
        self.totals.merge(other.totals, groups, clusters)


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Numbers of the rows of a batch, (N,) each: of their clusters, and of their groups in each column of `by`."""

    cluster: Any | None
    by: dict[str, Any]


class RowSums:
    """Sums over all rows of a state, which merge: totals by class and slice, details, notes, and kept rows.

    `layout` holds what all rows have in common, None before the first. `seen` counts the rows that came, left out or
    not.
    """

    def __init__(self, options: ScoreOptions) -> None:
        self.options = options
        self.layout: Layout | None = None
        self.seen = 0
        self.notes, self.details, self.temperatures = Notes(), Details(options.worst), Temperatures()
        self.kept = KeptRows() if options.rows else None
        self.clusters = Numbering()
        self.totals = Totals()
        self.by: dict[str, Slicing] = {}

    @property
    def n(self) -> int:
        """Number of rows that count."""
        return int(self.totals.count.sum())

    def add(self, batch: Batch) -> None:
        """Add the rows of a batch.

        Raises
        ------
        InputError
            If the batch has another layout than earlier ones, or holds invalid rows; some may have been added by then.
        """
        if self.layout is not None:
            batch = batch.in_order_of(self.layout.classes)
        self._settle(batch.layout)
        cluster = None if batch.cluster is None else self.clusters.of(batch.cluster)
        groups = _Groups(cluster, {name: self.by[name].groups(coded) for name, coded in batch.by.items()})
        self.temperatures.expect(len(batch), len(batch.classes))
        begins = range(0, len(batch), BLOCK)
        found = (costs(batch, k, min(k + BLOCK, len(batch)), normalize=self.options.normalize) for k in begins)
        for begin, block in zip(begins, ahead(found) if len(begins) > 1 else found, strict=True):
            self._add_block(batch, begin, block, groups)
        self.seen += len(batch)

    def merge(self, other: RowSums) -> None:
        """Add the rows of other sums, which must have the same options.

        Raises
        ------
        InputError
            If the layouts differ.
        """
        layout = other.layout
        if layout is None:
            return
        self._settle(layout)
        if not layout.named:
            other = other._renumbered(self.seen)
        clusters = self.clusters.of_other(other.clusters) if layout.clustered else None
        self.totals.merge(other.totals, np.arange(len(layout.classes)), clusters)
        for name, theirs in other.by.items():
            self.by[name].merge(theirs, clusters)
        self.notes.merge(other.notes)
        self.details.merge(other.details)
        self.temperatures.merge(other.temperatures, len(layout.classes))
        if self.kept is not None and other.kept is not None:
            by = {name: self.by[name].values.of_other(theirs.values) for name, theirs in other.by.items()}
            self.kept.merge(other.kept, clusters, by)
        self.seen += other.seen

    def _settle(self, layout: Layout) -> None:
        """Take over the layout of the first rows, or require it of later ones."""
        if self.layout is None:
            self.layout = layout
            self.totals.grow(len(layout.classes))
            self.by = {name: Slicing() for name in layout.by}
        else:
            self.layout.require_same(layout)

    def _renumbered(self, first: int) -> RowSums:
        """Return the same sums as if `first` rows had come before; rows without ids go by their numbers."""
        later = copy(self)
        later.details, later.notes = self.details.renumbered(first), self.notes.renumbered(first)
        later.kept = None if self.kept is None else self.kept.renumbered(first)
        return later

    def _add_block(self, batch: Batch, begin: int, found: Costs, groups: _Groups) -> None:
        """Add the rows of a batch from `begin` on, whose costs are known."""
        rows = CountedRows.of(batch, begin, found, self.seen, self.options.zero)
        self.notes.left_out += rows.ignored
        self.notes.weightless += rows.weightless
        if len(rows) == 0:
            return
        self.notes.check(rows, normalize=self.options.normalize)
        self.details.add(rows, self.options.zero)
        self.temperatures.add(rows)
        places = rows.places
        cluster = None if groups.cluster is None else groups.cluster[places]
        self.totals.add(LossRows(rows.loss, rows.weight, rows.label, rows.right, cluster))
        for name, group in groups.by.items():
            self.by[name].totals.add(LossRows(rows.loss, rows.weight, group[places], rows.right, cluster))
        if self.kept is not None:
            ids = None if batch.id is None else batch.id[places]
            self.kept.add(
                KeptColumns(
                    *(rows.loss, rows.label, rows.weight, cluster, ids, rows.numbers),
                    *(rows.costs.probability, rows.costs.predicted, rows.costs.confidence),
                    by={name: group[places] for name, group in groups.by.items()},
                )
            )
