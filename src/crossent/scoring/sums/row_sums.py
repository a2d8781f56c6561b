"""Everything that a state keeps of its rows, summed batch by batch: it reads costs, counts rows, and feeds each sum."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.errors import Argument, InputError, Message, quoted
from crossent.scoring.input.ahead import ahead
from crossent.scoring.input.arguments import ScoreOptions, mistake_costs
from crossent.scoring.input.batch import Batch, Layout
from crossent.scoring.input.labels import listing
from crossent.scoring.sums.costs import Costs, costs
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.details import Details
from crossent.scoring.sums.grid import MOST, pieces
from crossent.scoring.sums.kept import KeptColumns, KeptRows
from crossent.scoring.sums.notes import Notes
from crossent.scoring.sums.outcomes import Outcomes
from crossent.scoring.sums.ranks import Ranks
from crossent.scoring.sums.slicing import Numbering, Slicing
from crossent.scoring.sums.temperature import Temperatures
from crossent.scoring.sums.totals import LossRows, Totals

BLOCK = 1 << 16
"""Rows that are worked on at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Numbers of the rows of a batch, (N,) each: of their clusters, and of their groups in each column of `by`.

    `listed` are the numbers of the values themselves, where rows are kept.
    """

    cluster: Any | None
    by: dict[str, Any]
    listed: dict[str, Any]


class RowSums:
    """Sums over all rows of a state, which merge: totals by class and slice, details, notes, and kept rows.

    `layout` holds the facts shared by all rows, None before the first. `seen` counts the rows that came, left out or
    not.
    """

    def __init__(self, options: ScoreOptions) -> None:
        self.options = options
        self.layout: Layout | None = None
        self.seen = 0
        self.notes, self.details, self.temperatures = Notes(), Details(options.worst), Temperatures()
        self.kept = KeptRows() if options.rows else None
        self.outcomes, self.ranks, self.brier = Outcomes(), Ranks(options.rows), Totals(1)
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
        by = {name: self.by[name].groups(coded) for name, coded in batch.by.items()}
        kept = batch.by if self.kept is not None else {}
        groups = _Groups(cluster, by, {name: self.by[name].listed.of(coded) for name, coded in kept.items()})
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
        self.outcomes.merge(other.outcomes, clusters)
        self.ranks.merge(other.ranks)
        self.brier.merge(other.brier, np.zeros(1, np.int64), clusters)
        self.temperatures.merge(other.temperatures, len(layout.classes))
        if self.kept is not None and other.kept is not None:
            by = {name: self.by[name].listed.of_other(theirs.listed) for name, theirs in other.by.items()}
            self.kept.merge(other.kept, clusters, by)
        self.seen += other.seen

    def _settle(self, layout: Layout) -> None:
        """Take over the layout of the first rows, or require it of later ones."""
        if self.layout is None:
            self._require_use(layout)
            self.layout = layout
            self.totals.grow(len(layout.classes))
            self.outcomes.grow(len(layout.classes))
            self.by = {name: Slicing() for name in layout.by}
        else:
            self.layout.require_same(layout)

    def _require_use(self, layout: Layout) -> None:
        """Raise InputError if an option is about something that the rows do not have."""
        unknown = [name for name, _ in self.options.bins if name not in layout.by]
        if unknown:
            sliced = f"the slices are by {listing(list(layout.by))}" if layout.by else "there are no slices"
            raise InputError(
                Message(f"bins of {quoted(unknown[0])}, but {sliced}; name the column in ", Argument("by"), " too"),
                argument="bins",
            )
        if self.options.costs != mistake_costs(None) and len(layout.classes) != 2:
            raise InputError(
                f"costs of false positives and false negatives need two classes, and these rows have "
                f"{len(layout.classes)}; leave them out",
                argument="costs",
            )

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
        self.outcomes.add(rows.label, rows.costs.predicted, rows.weight, cluster)
        self._add_squares(rows, cluster)
        if self.kept is not None:
            ids = None if batch.id is None else batch.id[places]
            self.kept.add(
                KeptColumns(
                    *(rows.loss, rows.label, rows.weight, cluster, ids, rows.numbers),
                    *(rows.costs.probability, rows.costs.predicted, rows.costs.confidence),
                    by={name: group[places] for name, group in groups.listed.items()},
                )
            )

    def _add_squares(self, rows: CountedRows, cluster: Any | None) -> None:
        """Add the sums of each class against the others, and Brier's squared losses."""
        costs, label, weight = rows.costs, rows.label, rows.weight
        if costs.positive is not None:
            self.ranks.add_two(rows)
            square = (costs.positive - label) ** 2
        elif len(rows.batch.classes) > MOST:
            return
        else:
            square = np.empty(len(rows))
            for part, q in pieces(rows, normalize=self.options.normalize):
                square[part] = self.ranks.add_piece(q, label[part], None if weight is None else weight[part])
        nothing = np.zeros(len(rows), np.int64)
        self.brier.add(LossRows(square, weight, nothing, nothing > 0, cluster))
