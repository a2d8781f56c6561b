"""One pass over rows before a fit: they are checked, counted, and looked at."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from crossent.errors import InputError, Message
from crossent.scoring.calibration.rows import Rows, pieces
from crossent.scoring.calibration.temperature import Look
from crossent.scoring.input.batch import Batch
from crossent.scoring.state import ScoreState
from crossent.scoring.sums.costs import costs
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.notes import Notes
from crossent.scoring.sums.row_sums import BLOCK, Numbering


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """Facts about the rows before a fit: their classes, how many count, in how many clusters, and warnings."""

    classes: tuple[Hashable, ...]
    binary: bool
    n: int
    clusters: int | None
    warnings: tuple[Message, ...]
    look: Look

    @property
    def parts(self) -> int:
        """How many independent parts there are: clusters, or rows."""
        return self.n if self.clusters is None else self.clusters


def survey(rows: Rows) -> Survey:
    """Return the results of one pass over the rows.

    Raises
    ------
    InputError
        If rows cannot be scored, as `crossent.score` says it, or there are none.
    """
    look, notes, clusters = Look(), Notes(), Numbering()
    first, n, weight = 0, 0, 0.0
    last: Batch | None = None
    for batch in rows.batches():
        if batch.kind != "logits" or notes.distributions or notes.opposite:
            _check(batch, first, notes)  # logits may be any numbers, and a non-number shows in the loss
        cluster = None if batch.cluster is None else clusters.of(batch.cluster)
        for piece in pieces(batch, first, cluster):
            if len(piece):
                look.add(piece)
                n, weight = n + len(piece), weight + piece.mass
        first, last = first + len(batch), batch
    if last is None or n == 0:
        raise InputError("there are no rows to fit: every row is left out or has a weight of 0")
    if np.isnan(look.loss) and not notes.impossible:
        _refuse(rows)
    said = tuple(notes.warnings(weight, last.kind, "inf"))
    return Survey(last.classes, last.binary, n, len(clusters) if len(clusters) else None, said, look)


def _check(batch: Batch, first: int, notes: Notes) -> None:
    """Record suspicious rows of a batch; of many rows of logits, only the first; raise for invalid ones."""
    for begin in range(0, len(batch), BLOCK):
        end = min(begin + BLOCK, len(batch))
        found = CountedRows.of(batch, begin, costs(batch, begin, end, normalize=False), first, "inf")
        if len(found):
            notes.check(found, normalize=False)
        if batch.kind == "logits" and not (notes.distributions or notes.opposite):
            return


def _refuse(rows: Rows) -> None:
    """Score rows with a non-number, to raise the error that names its place."""
    state = ScoreState(worst=0)
    for batch in rows.batches():
        state.sums.add(batch)
