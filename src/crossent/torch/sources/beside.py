"""Values read from tiles of logits besides the row statistics, and additions to their gradients.

Statistics of rows that need more than the record are read while a tile is in cache, so that they cost no product: the
normaliser of doubled scores, the most probable class, and the logits of selected classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from crossent.kernels.backend import NO_OUTPUTS
from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from crossent.torch.base.backends import backend
from crossent.torch.base.values import PredictionResults, loss_dtype
from crossent.torch.ranks.records import ClassRange, merge, write_outputs
from crossent.torch.sources import squares
from crossent.torch.sources.driver import TiledRows
from crossent.torch.sources.most_probable import Peaks, no_peaks, peaks_of
from crossent.torch.sources.selected import (
    Columns,
    RowCotangents,
    SelectedCotangents,
    SelectedRows,
    columns_of,
    logits_at,
    write_gradient,
)
from crossent.torch.sources.source import Span, Tile
from crossent.torch.sources.squares import SquaresRecords


def without_target(target: Target, rows: int, device: torch.device) -> Target:
    """Return a target that only marks ignored rows, for statistics of scores; it costs nothing to read.

    Classes of rows stay the same. Elsewhere the first class stands in, which every call has.
    """
    if target.kind == "index":
        return dataclasses.replace(target, weight=None, smoothing=0.0)
    index = torch.zeros(rows, dtype=torch.int64, device=device)
    return Target(index, first_class=target.first_class, num_classes=target.num_classes)


def doubled(task: TiledRows) -> TiledRows:
    """Return a task with doubled scores, whose rows have no target but that they may be ignored."""
    source, target = task.source, task.target
    known = target.index if target.prob is None else target.prob
    device = torch.as_tensor(known).device
    rows = source.size * source.positions
    return dataclasses.replace(task, scores=task.scores.doubled, target=without_target(target, rows, device))


class SquaresReader:
    """Writes the record (5, N) of doubled scores, for log Σ q²."""

    def __init__(self, task: TiledRows, record: Tensor) -> None:
        self._task, self._record = doubled(task), record
        self._part = record

    def read(self, tile: Tile) -> None:
        """Read a tile."""
        task, source = self._task, self._task.source
        here = tile.rows.of(source.positions)
        first, last = tile.classes.begin == 0, tile.classes.end == source.classes
        if first:
            self._part = self._record.new_empty((len(self._record), tile.rows.size * source.positions))
        target, logits = task.target_of(tile.rows, tile.classes), task.logits(tile.logits, tile.bias)
        backend(tile.logits).row_stats(logits, target, task.scores_of(tile.rows), self._part, extend=not first)
        if last:
            self._record[:, here] = self._part


class PeaksReader:
    """Finds the largest logit of each row, and its class."""

    def __init__(self, task: TiledRows, peaks: Peaks) -> None:
        self._task, self._peaks = task, peaks

    def read(self, tile: Tile) -> None:
        """Read a tile."""
        task = self._task
        found = peaks_of(task.shaped(tile.logits), tile.bias)
        first = (task.target.first_class or 0) + tile.classes.begin
        self._peaks.update(tile.rows.of(task.source.positions), found, first)


class PredictionReaders:
    """Reads the results of the predictions of all rows of a task, in memory like that of a tensor."""

    def __init__(self, task: TiledRows, like: Tensor) -> None:
        rows = task.source.size * task.source.positions
        self._task = task
        self._record = like.new_zeros((len(FIELDS), rows), dtype=torch.float64)
        _ = self._record[0].fill_(-torch.inf)  # the record of no columns
        self._dtype = loss_dtype(like.dtype)
        self._peaks = no_peaks(rows, task.target.first_class, like)
        self.readers = SquaresReader(task, self._record), PeaksReader(task, self._peaks)
        """Which the driver calls with each tile."""

    def results(self, record: Tensor, groups: Sequence[str], classes: ClassRange) -> PredictionResults:
        """Return the results, of the classes of all ranks of the groups; `record` is the merged record."""
        if groups:
            merge(self._record, groups, classes)
            write_outputs(self._record, doubled(self._task).target, NO_OUTPUTS)
            self._peaks = self._peaks.over(groups)
        value = SquaresRecords(record, self._record).log_sum_squares().to(self._dtype)
        return PredictionResults(value, self._record, self._peaks.at, self._peaks.value)


class SelectedReader:
    """Takes the logits (N, K) of selected classes from the tiles that hold them; there is one position."""

    def __init__(self, task: TiledRows, classes: Tensor, z: Tensor) -> None:
        self._task, self._classes, self._z = task, classes, z

    def read(self, tile: Tile) -> None:
        """Read a tile."""
        rows = slice(*tile.rows)
        columns = columns_of(self._classes[rows], _global(tile.classes, self._task))
        self._z[rows] += logits_at(tile.logits, columns, tile.bias)


class SquaresPart:
    """The gradient through log Σ q², from both records and its cotangent."""

    def __init__(self, task: TiledRows, records: SquaresRecords, cotangent: Tensor) -> None:
        self._task, self._records, self.cotangent = task, records, cotangent
        self._part: Tensor | None = None

    def begin(self, tile: Tile) -> None:
        """Write the part of a tile into memory of its own."""
        task = self._task
        here, target = tile.rows.of(task.source.positions), task.target_of(tile.rows, tile.classes)
        self._part = task.shaped(squares.new_gradient(tile.logits))
        logits = task.shaped(tile.logits if tile.bias is None else tile.logits + tile.bias)
        records, g = self._records.at(here), self.cotangent[here]
        squares.write_gradient(logits, target, task.scores_of(tile.rows), records, g, self._part)

    def finish(self, gradient: Tensor) -> None:
        """Add the part to the gradient of the tile begun with."""
        if self._part is not None:
            _ = gradient.add_(self._part)


class SelectedPart:
    """The gradient through the log-probabilities of selected classes, besides the part from the row functions."""

    def __init__(self, task: TiledRows, classes: Tensor, rows: SelectedRows) -> None:
        self._task, self._classes, self._rows = task, classes, rows
        self._begun: tuple[Tensor, Columns, SelectedRows, Scores] | None = None

    @property
    def cotangent(self) -> Tensor:
        """Which rows have a cotangent of a log-probability."""
        return self._rows.selected.counts

    def begin(self, tile: Tile) -> None:
        """Take the logits of the selected classes from a tile."""
        here, (record, cotangents, selected) = slice(*tile.rows), self._rows
        columns = columns_of(self._classes[here], _global(tile.classes, self._task))
        rows = SelectedRows(
            record[:, here], RowCotangents(*cotangents).at(here), SelectedCotangents(*(x[here] for x in selected))
        )
        scores = self._task.scores_of(tile.rows)
        self._begun = logits_at(tile.logits, columns, tile.bias), columns, rows, scores

    def finish(self, gradient: Tensor) -> None:
        """Write the entries of the selected classes."""
        if self._begun is not None:
            z, columns, rows, scores = self._begun
            write_gradient(gradient, z, columns, scores, rows)


def _global(classes: Span, task: TiledRows) -> Span:
    first = task.target.first_class
    return Span(first + classes.begin, first + classes.end)
