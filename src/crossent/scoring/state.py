"""`ScoreState`: everything a score needs to know of rows, in little memory, mergeable and picklable."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.scoring.finish import finish
from crossent.scoring.input.ahead import ahead
from crossent.scoring.input.arguments import (
    RowArguments,
    ScoreOptions,
    ignored_labels,
    ordered_classes,
    smallest_charged,
)
from crossent.scoring.input.batch import Batch, Layout, batch
from crossent.scoring.input.labels import Coded
from crossent.scoring.parts import Zero
from crossent.scoring.result import Score
from crossent.scoring.sums.costs import Costs, costs
from crossent.scoring.sums.details import Charged, Details
from crossent.scoring.sums.notes import Names, Notes
from crossent.scoring.sums.temperature import Temperatures
from crossent.scoring.sums.totals import Rows, Totals

BLOCK = 1 << 16
"""Rows that are worked on at a time."""


@dataclass(slots=True, eq=False)
class Slicing:
    """The totals of each value of a column."""

    number: dict[Hashable, int]
    totals: Totals

    def numbers(self, coded: Coded) -> Any:
        """Return the group of each row; new values get new groups."""
        table = [self.number.setdefault(value, len(self.number)) for value in coded.values]
        self.totals.grow(len(self.number))
        return np.array(table or [0], np.int64)[coded.codes]


@dataclass(slots=True, eq=False)
class KeptRows:
    """Every row's loss, class, weight, cluster, id and number, in blocks, for comparisons of pairs."""

    blocks: list[dict[str, Any]]

    def column(self, name: str) -> Any:
        """Return one of them for all rows, or None."""
        parts = [block[name] for block in self.blocks]
        return None if not parts or parts[0] is None else np.concatenate(parts)


class ScoreState:
    """The score of rows that come in parts: `update` with each, `merge` states, `finalize` to a `Score`.

    Parts and states may come in any order; the numbers are the same up to rounding of float64 (1e-13), whatever the
    parts. A state is a few tens of kilobytes for ten classes, and grows with the number of classes, slices and
    clusters alone. It may be pickled.

    Parameters
    ----------
    classes
        The classes of the columns, in their order; by default the names of the columns if they have some, else
        0 … C − 1. With one column per row, the second class is the positive one.
    ignore
        Labels of rows to leave out; `float("nan")` for missing ones.
    normalize
        Divide probabilities by their sum.
    zero
        The smallest probability to charge, or "inf" to charge none, so that a probability of 0 costs infinity.
    ci
        Level of confidence of intervals.
    worst
        How many of the most expensive rows to name.
    rows
        Keep the loss of every row, so that `compare` can pair them: some 30 bytes a row.

    Examples
    --------
    >>> import numpy as np
    >>> from crossent import ScoreState
    >>> first = ScoreState().update([0, 1], probs=np.array([[0.7, 0.3], [0.4, 0.6]]))
    >>> second = ScoreState().update([1], probs=np.array([[0.2, 0.8]]))
    >>> round(first.merge(second).finalize().loss, 6)
    0.363548
    """

    def __init__(
        self,
        *,
        classes: Sequence[Hashable] | None = None,
        ignore: Any = None,
        normalize: bool = False,
        zero: Zero = "inf",
        ci: float = 0.95,
        worst: int = 10,
        rows: bool = False,
    ) -> None:
        self._start(
            ScoreOptions(
                classes=ordered_classes(classes),
                ignore=ignored_labels(ignore),
                normalize=normalize,
                zero=smallest_charged(zero),
                ci=ci,
                worst=worst,
                rows=rows,
            )
        )

    def _start(self, chosen: ScoreOptions) -> None:
        self.options = chosen
        self.layout: Layout | None = None
        self.whole, self.seen = True, 0
        self.notes, self.details, self.temperatures = Notes(), Details(chosen.worst), Temperatures()
        self.kept = KeptRows([]) if chosen.rows else None
        self.cluster: dict[Hashable, int] | None = None
        self.totals = Totals(clustered=False)
        self.by: dict[str, Slicing] = {}

    def update(
        self,
        y: Any,
        *,
        probs: Any = None,
        logits: Any = None,
        logprobs: Any = None,
        weight: Any = None,
        cluster: Any = None,
        by: Any = None,
        id: Any = None,
    ) -> ScoreState:
        """Add rows, and return the state itself.

        Parameters
        ----------
        y
            The true class of each row, (N,).
        probs, logits, logprobs
            One of the three, (N, C), or (N,) for the positive one of two classes: probabilities, unnormalised
            log-probabilities (for one column log-odds), or log-probabilities.
        weight
            Weight of each row, ≥ 0; a row of weight 0 is left out.
        cluster
            Rows with the same value are not independent of each other.
        by
            Columns to slice the rows by: one, a mapping of names to columns, or a frame.
        id
            Names of the rows.

        Returns
        -------
        ScoreState
            The state itself.

        Raises
        ------
        ValueError, TypeError
            If the rows cannot be scored, with row, cause and fix. If some had been added by then, the state says so
            whenever it is used again.

        Examples
        --------
        >>> ScoreState().update(["no", "yes"], probs=[0.5, 0.5], by=["a", "b"]).finalize()
        Traceback (most recent call last):
        ...
        ValueError: y holds names such as 'no'; pass classes= with the 2 names in the order of the columns, the \
positive class last
        """
        given = RowArguments(y, probs, logits, logprobs, weight, cluster, by, id)
        self._require_whole()
        rows = batch(given, self.options)
        if len(rows):
            self.whole = False
            self._add(rows)
            self.whole = True
        return self

    def _require_whole(self) -> None:
        if not self.whole:
            raise ValueError("a previous update failed midway; create a new ScoreState")

    def merge(self, other: ScoreState) -> ScoreState:
        """Add the rows of another state, and return the state itself.

        Parameters
        ----------
        other
            A state with the same options and classes; it is left as it is.

        Returns
        -------
        ScoreState
            The state itself.

        Raises
        ------
        ValueError
            If the states do not have the same options, classes, kind of predictions, slices, or use of clusters.

        Examples
        --------
        >>> a, b = ScoreState(), ScoreState(zero=1e-9)
        >>> a.merge(b)
        Traceback (most recent call last):
        ...
        ValueError: these states were made with different options (zero: 'inf' and 1e-09), and cannot be merged
        """
        if not isinstance(other, ScoreState):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a state merges with another ScoreState, not with {type(other).__name__}")
        for state in (self, other):
            state._require_whole()
        self.options.require_same(other.options)
        if other.layout is None:
            return self
        layout = self._settle(other.layout)
        other = other if layout.named else other._renumbered(self.seen)
        clusters = None
        if self.cluster is not None and other.cluster is not None:
            table = [self.cluster.setdefault(value, len(self.cluster)) for value in other.cluster]
            clusters = np.array(table, np.int64)
        self.totals.merge(other.totals, np.arange(len(layout.classes)), clusters)
        for name, theirs in other.by.items():
            mine = self.by[name]
            groups = mine.numbers(Coded(np.arange(len(theirs.number)), list(theirs.number)))
            mine.totals.merge(theirs.totals, groups, clusters)
        self.notes.merge(other.notes)
        self.details.merge(other.details)
        self.temperatures.merge(other.temperatures, len(layout.classes))
        if self.kept is not None and other.kept is not None:
            self.kept.blocks.extend(other.kept.blocks)
        self.seen += other.seen
        return self

    def finalize(self) -> Score:
        """Return the score of the rows so far; more may be added afterwards.

        Raises
        ------
        ValueError
            If no row counts.

        Examples
        --------
        >>> ScoreState().finalize()
        Traceback (most recent call last):
        ...
        ValueError: there are no rows to score
        """
        self._require_whole()
        return finish(self)

    def all_reduce(self, group: Any = None) -> ScoreState:
        """Merge the states of all ranks of a torch.distributed process group, so that each rank has the whole.

        Every rank must call it. The states travel pickled, between the ranks of one program.

        Parameters
        ----------
        group
            A process group, by default that of all ranks.

        Returns
        -------
        ScoreState
            The state itself, with the rows of all ranks.

        Raises
        ------
        ValueError
            If the states cannot be merged.

        Examples
        --------
        >>> state = ScoreState().update([1], probs=[0.5])
        >>> state.all_reduce().finalize().n                   # doctest: +SKIP
        8
        """
        from torch import distributed

        states: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(states, self, group=group)
        self._start(self.options)
        for state in states:
            self.merge(state)
        return self

    def _settle(self, layout: Layout) -> Layout:
        """Take over the layout of the first rows, or check that others have it."""
        if self.layout is None:
            self.layout = layout
            self.cluster = {} if layout.clustered else None
            self.totals = Totals(layout.clustered, len(layout.classes))
            self.by = {name: Slicing({}, Totals(layout.clustered)) for name in layout.by}
        self.layout.require_same(layout)
        return layout

    def _renumbered(self, first: int) -> ScoreState:
        """Return the same state, as if `first` rows had come before its own; rows go by their number."""
        later = copy(self)
        later.details, later.notes = self.details.renumbered(first), self.notes.renumbered(first)
        if self.kept is not None:
            later.kept = KeptRows([{**block, "number": block["number"] + first} for block in self.kept.blocks])
        return later

    def _add(self, rows: Batch) -> None:
        layout = self._settle(rows.layout)
        cluster = None
        if rows.cluster is not None and self.cluster is not None:
            table = [self.cluster.setdefault(value, len(self.cluster)) for value in rows.cluster.values]
            cluster = np.array(table or [0], np.int64)[rows.cluster.codes]
        groups = {name: self.by[name].numbers(coded) for name, coded in rows.by.items()}
        self.temperatures.expect(len(rows), len(layout.classes))
        blocks = [(begin, min(begin + BLOCK, len(rows))) for begin in range(0, len(rows), BLOCK)]
        found = (costs(rows, *block, normalize=self.options.normalize) for block in blocks)
        for block, part in zip(blocks, ahead(found) if len(blocks) > 1 else found, strict=True):
            self._add_block(rows, block, part, (cluster, groups))
        self.seen += len(rows)

    def _add_block(self, rows: Batch, block: tuple[int, int], found: Costs, parts: tuple[Any, dict[str, Any]]) -> None:
        begin, end = block
        places, label = np.arange(begin, end), rows.label[begin:end]
        weight = None if rows.weight is None else rows.weight[begin:end]
        counts = label >= 0
        self.notes.left_out += len(label) - int(counts.sum())
        if weight is not None:
            self.notes.weightless += int((counts & (weight == 0)).sum())
            counts &= weight > 0
        if not counts.all():
            found, places, label = found.rows(counts), places[counts], label[counts]
            weight = None if weight is None else weight[counts]
        if len(label) == 0:
            return
        share = np.ones(len(label)) if weight is None else weight
        names = Names(rows.id, self.seen, places, share)
        self.notes.check(rows, found, names, self.options.normalize)
        loss, right = self._charged(found), found.predicted == label
        self.details.add(Charged(found, loss, label, right, weight, names), rows.classes, self.options.zero)
        cluster, groups = parts
        here = None if cluster is None else cluster[places]
        self._add_totals(self.totals, Rows(loss, weight, label, right, here))
        for name, group in groups.items():
            self._add_totals(self.by[name].totals, Rows(loss, weight, group[places], right, here))
        self.temperatures.add(rows, self.seen, (places, found))
        if self.kept is not None:
            ids = None if rows.id is None else rows.id[places]
            number = self.seen + places
            self.kept.blocks.append(
                {"loss": loss, "label": label, "weight": weight, "cluster": here, "id": ids, "number": number}
            )

    def _charged(self, found: Costs) -> Any:
        if self.options.zero == "inf":
            return found.loss
        return np.where(found.probability < self.options.zero, -np.log(self.options.zero), found.loss)

    def _add_totals(self, totals: Totals, rows: Rows) -> None:
        if rows.loss.max(initial=0.0) == np.inf:
            infinite = np.isposinf(rows.loss)
            weight, cluster = (None if part is None else part[infinite] for part in (rows.weight, rows.cluster))
            totals.add_infinite(rows.group[infinite], weight, cluster)
            cluster = None if rows.cluster is None else rows.cluster[~infinite]
            weight = None if rows.weight is None else rows.weight[~infinite]
            rows = Rows(rows.loss[~infinite], weight, rows.group[~infinite], rows.right[~infinite], cluster)
        if len(rows.loss) == 0:
            return
        totals.add(rows)
