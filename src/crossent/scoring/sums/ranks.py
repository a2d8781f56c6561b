"""Probabilities and truth of each class: single values up to a million numbers, beyond that in cells of a grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from crossent.scoring.parts import Bin
from crossent.scoring.sums.costs import as_float64
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.curve import BINS, Curve, Points, binned
from crossent.scoring.sums.grid import CELLS, ClassGrid, cells

LIMIT = 1 << 20
"""Numbers that are kept as they are: rows, or rows · classes if there are more than two."""
SMALL = 1 << 12
"""Numbers that a pickled state holds as they are, unless it holds every row."""


class Pairs(NamedTuple):
    """Rows with q, (n,) of the positive one of two classes or (n, V), the number of the true class, and the weight."""

    q: Any
    label: Any
    weight: Any


class Ranks:
    """Pairs of all rows until there are too many; then cells, of two classes those of the calibration curve.

    `held` counts the numbers in `blocks`, which is empty once `few` is False. `whole` is whether a pickle keeps all.
    """

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.few = True
        self.held = 0
        self.blocks: list[Any] = []
        self.grid = ClassGrid()

    def add_two(self, rows: CountedRows) -> None:
        """Add rows of two classes."""
        if self.few and rows.costs.positive is not None:
            self._hold(Pairs(np.clip(rows.costs.positive, 0.0, 1.0), rows.label, rows.weight))

    def add_piece(self, q: Any, label: Any, weight: Any | None) -> Any:
        """Add rows with the probabilities of more classes, (n, V), and return their square losses Σ q² − 2 q_y + 1."""
        if self.few and self.held + len(label) * q.shape[1] > LIMIT:
            self._coarsen()
        if not self.few:
            return self.grid.add(q, label, weight)
        exact = np.clip(as_float64(q), 0.0, 1.0)
        self._hold(Pairs(exact, label, weight))
        return np.einsum("nk,nk->n", exact, exact) - 2.0 * exact[np.arange(len(label)), label] + 1.0

    def merge(self, other: Ranks) -> None:
        """Add the pairs of other rows."""
        if not other.few:
            self._coarsen()
            self.grid.merge(other.grid)
        for block in other.blocks:
            if self.few:
                self._hold(Pairs(*block))
            elif block[0].ndim == 2:
                _ = self.grid.add(*block)

    def points(self, number: int, curve: Curve | None) -> Points:
        """Return the points of a class, the cells of `curve` if it is the second of two and there are too many rows."""
        if not self.few:
            return self.grid.points(number) if curve is None else curve.points()
        q, label, weight = self._column(number, two=curve is not None)
        order = np.argsort(q)
        q, true = q[order], label[order] == number
        starts = np.flatnonzero(np.concatenate([[True], q[1:] != q[:-1]]))
        each = np.ones(len(q)) if weight is None else weight[order]
        return Points(q[starts], np.add.reduceat(each, starts), np.add.reduceat(each * true, starts))

    def lead(self, number: int, *, two: bool) -> Any | None:
        """Return the lead of a class in each of its cells, None if rows are not in cells of the grid."""
        return None if self.few or two else self.grid.lead(number)

    def reliability(self, number: int) -> tuple[Bin, ...]:
        """Return the bins of a class among more than two."""
        if not self.few:
            grid = self.grid
            tenth = np.searchsorted(cells(np.arange(BINS) / BINS), np.arange(CELLS), side="right") - 1
            sums = np.stack([*grid.sums[:3, number], grid.count[number]])
            return binned(tenth, sums)
        q, label, weight = self._column(number, two=False)
        each = np.ones(len(q)) if weight is None else weight
        sums = np.stack([each, each * q, each * (label == number), np.ones(len(q))])
        return binned(np.minimum((q * BINS).astype(np.int64), BINS - 1), sums)

    def _column(self, number: int, *, two: bool) -> Pairs:
        blocks = [Pairs(*block) for block in self.blocks]
        q = np.concatenate([block.q if two else block.q[:, number] for block in blocks])
        label = np.concatenate([block.label for block in blocks])
        if all(block.weight is None for block in blocks):
            return Pairs(q, label, None)
        weights = [np.ones(len(block.label)) if block.weight is None else block.weight for block in blocks]
        return Pairs(q, label, np.concatenate(weights))

    def _hold(self, pairs: Pairs) -> None:
        self.blocks = [*self.blocks, tuple(pairs)]
        self.held += pairs.q.size
        if self.held > LIMIT:
            self._coarsen()

    def _coarsen(self) -> None:
        """Put the pairs into cells, from now on."""
        blocks, self.few, self.held, self.blocks = self.blocks, False, 0, []
        for q, label, weight in blocks:
            if q.ndim == 2:
                _ = self.grid.add(q, label, weight)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with cells in place of many pairs, so that a state stays small."""
        if self.whole or self.held <= SMALL:
            return vars(self)
        small = self._copied()
        small._coarsen()
        return vars(small)

    def __deepcopy__(self, memo: Any) -> Ranks:
        return self._copied()

    def _copied(self) -> Ranks:
        same = Ranks(self.whole)
        vars(same).update(vars(self))
        same.grid = ClassGrid()
        same.grid.merge(self.grid)
        return same
