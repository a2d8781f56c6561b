"""The chunk driver: row functions over logits that exist only a tile at a time, in one or two sweeps.

It uses sources of logits, slices of targets and the cotangents of a closing, but not the layers behind the logits,
autograd or operators. Everything here depends only on arrays and shapes. For a linear layer of N rows, D features and V
classes:

* `one_sweep`: whole rows, as many as fit; statistics and gradient of a row while it is in cache. 6 N D V operations.
* `statistics`, then `gradients`: tiles of many rows and a few thousand classes, multiplied twice. 8 N D V operations,
  but each product is as fast as it can be, the gradient of the weight is finished tile by tile and rounded once, and
  any cotangent will do.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from crossent.kernels.backend import BiasedLogits, Cotangents, LossScale, RowOutputs
from crossent.kernels.checks import check_target, check_temperatures
from crossent.spec import Scores, Target
from crossent.stats import RowStats
from crossent.torch.base.backends import backend
from crossent.torch.base.values import RowResults, loss_dtype
from crossent.torch.ranks.collectives import LogTotal, add_up
from crossent.torch.ranks.shards import NO_RANKS, Ranks
from crossent.torch.sources.plan import Rest, Sweep, TileShape, even, tile_shape
from crossent.torch.sources.probabilities import prob_grad
from crossent.torch.sources.source import (
    GradientPart,
    GradientSums,
    Source,
    Span,
    Tile,
    TileReader,
    Tiles,
    Wanted,
    spans,
)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TiledRows:
    """Rows of a source, their target and the scores: the data to compute a tile of logits and its loss.

    The target is one of N · P rows for P positions, as the kernels take it.
    """

    source: Source
    target: Target
    scores: Scores
    ranks: Ranks = NO_RANKS
    readers: tuple[TileReader, ...] = ()
    """Readers of each tile of logits besides the row statistics."""
    parts: tuple[GradientPart, ...] = ()
    """Additions to the gradient of each tile."""

    def tile_shape(self, chunk_bytes: int) -> TileShape:
        """Return the shape of a tile of two sweeps."""
        return tile_shape(self.source.costs, self.source.positions, chunk_bytes)

    def target_of(self, rows: Span, classes: Span) -> Target:
        """Return the target of rows as these classes see it."""
        target: Any = self.target
        here, own = rows.of(self.source.positions), slice(classes.begin, classes.end)
        prob = target.prob
        if prob is not None:
            prob = prob[rows.begin : rows.end, own] if target.index is None else prob[here]
        return dataclasses.replace(
            target,
            index=None if target.index is None else target.index[here],
            prob=prob,
            weight=None if target.weight is None else target.weight[own],
            first_class=target.first_class + classes.begin,
            num_classes=target.num_classes or self.source.classes,
        )

    def scores_of(self, rows: Span) -> Scores:
        """Return the scores of rows."""
        return self.scores_at(rows.of(self.source.positions))

    def scores_at(self, places: slice | Tensor) -> Scores:
        """Return the scores with the temperatures at these places among all."""
        own: Any = self.scores.row_temperature
        return self.scores if own is None else dataclasses.replace(self.scores, row_temperature=own[places])

    def shaped(self, tile: Tensor) -> Tensor:
        """Return a tile in the form of the kernels, (n, v) or (n, v, P)."""
        positions = self.source.positions
        return tile if positions == 1 else tile.unflatten(1, (-1, positions))

    def read(self, tile: Tile) -> None:
        """Pass a tile of logits to all its readers."""
        for reader in self.readers:
            reader.read(tile)

    def logits(self, tile: Tensor, bias: Tensor | None) -> Any:
        """Return a tile of logits in the form of the kernels, with the bias that these add."""
        return self.shaped(tile) if bias is None else BiasedLogits(self.shaped(tile), bias)


def check_targets(task: TiledRows, like: Tensor) -> None:
    """Raise for the first row whose target or temperature cannot be, before anything is multiplied.

    On a GPU that is to wait for it, and is done with CROSSENT_VALIDATE=1 only.
    """
    if like.is_cpu or os.environ.get("CROSSENT_VALIDATE") == "1":
        check_target(task.target, (task.source.size, task.source.classes, task.source.positions))
        check_temperatures(task.scores.row_temperature, task.target)


def statistics(task: TiledRows, tiles: Tiles, shape: TileShape, results: RowResults) -> None:
    """Write loss, lse and entropy of all N · P rows, and the record."""
    source, record = task.source, results.record
    if source.classes == 0:  # of a shard that has none
        record[0], record[1:] = float("-inf"), 0.0
        return
    for rows in spans(source.size, shape.rows):
        here = rows.of(source.positions)
        part = record.new_empty((record.shape[0], rows.size * source.positions))
        for classes in spans(source.classes, shape.classes):
            tile = tiles.logits(rows, classes)
            logits = task.logits(tile, tiles.bias(classes))
            task.read(Tile(tile, tiles.bias(classes), rows, classes))
            last = classes.end == source.classes
            written = RowOutputs(*(x[here] if last else None for x in results[:3]))
            target, scores, extend = task.target_of(rows, classes), task.scores_of(rows), classes.begin > 0
            backend(tile).row_stats(logits, target, scores, part, written, extend=extend)
        record[:, here] = part


def gradients(
    task: TiledRows, tiles: Tiles, shape: TileShape, record: Tensor, cotangents: Cotangents, wanted: Wanted
) -> Any:
    """Return the gradients of the source's operands from the record of all rows."""
    source = task.source
    sums = source.sums_by_classes(tiles, wanted, shape)
    if wanted.of_source:
        _add_gradients(task, tiles, sums, Tiling(shape, Span(0, source.classes)), Rows(record, cotangents))
    return sums.result()


class Tiling(NamedTuple):
    """Tiles of all rows and of some classes."""

    shape: TileShape
    classes: Span


class Rows(NamedTuple):
    """The record of all rows and the cotangents of their results."""

    record: Tensor
    cotangents: Cotangents


def _add_gradients(task: TiledRows, tiles: Tiles, sums: GradientSums, tiling: Tiling, of_rows: Rows) -> None:
    """Multiply the gradients of all tiles, one after the other."""
    source, (shape, some), (record, cotangents) = task.source, tiling, of_rows
    counted = RowsThatCount(task, record, cotangents)
    for span in spans(some.size, shape.classes):
        classes = Span(some.begin + span.begin, some.begin + span.end)
        sums.begin(classes)
        for rows in spans(source.size, shape.rows):
            here = rows.of(source.positions)
            tile = tiles.logits(rows, classes)
            gradient, logits = sums.place(tile, rows), task.logits(tile, tiles.bias(classes))
            parts = Cotangents(*(None if g is None else g[here] for g in cotangents))
            target, scores, part = task.target_of(rows, classes), task.scores_of(rows), record[:, here].contiguous()
            for further in task.parts:
                further.begin(Tile(tile, tiles.bias(classes), rows, classes))
            backend(tile).row_grad(logits, target, scores, part, parts, task.shaped(gradient))
            for further in task.parts:
                further.finish(task.shaped(gradient))
            sums.add(gradient, rows, classes, counted)
        sums.end(classes)


class Chunk(NamedTuple):
    """Rows of a sweep while their logits are there: their target, their results, and results for another target."""

    target: Target
    results: RowResults
    again: Callable[[Target], RowResults]


class SweepClosing(Protocol):
    """A closing that a sweep evaluates on each chunk, in place of a sum that is known beforehand."""

    cotangents: Cotangents
    """Cotangents of all rows, those of a chunk as soon as the closing was called with it."""

    def spans(self, most: int) -> list[Span]:
        """Return the rows of each chunk, at most so many."""
        ...

    def __call__(self, rows: slice, chunk: Chunk) -> Cotangents:
        """Return the cotangents of a chunk's loss, lse and entropy."""
        ...


def one_sweep(
    task: TiledRows, sweep: Sweep, closing: LossScale | SweepClosing, results: RowResults, wanted: Wanted
) -> Any:
    """Write loss, lse and entropy of all rows and the record, and return the gradients of the source's operands.

    The function differentiated is Σ scale.loss · loss + scale.lse_squared · lse², or a closing's loss of each row.
    """
    if sweep.rest is not None:
        return _partly_twice(task, sweep, closing, results, wanted)
    source, classes = task.source, Span(0, task.source.classes)
    counted = RowsThatCount(task, results.record, _known(closing))
    tiles = source.tiles(TileShape(min(sweep.rows, source.size), source.classes))
    sums = source.sums_by_rows(tiles, wanted, sweep)
    for rows in _chunks(source, sweep, closing):
        here = rows.of(source.positions)
        tile = tiles.logits(rows, classes)
        task.read(Tile(tile, tiles.bias(classes), rows, classes))
        gradient, logits = sums.place(tile, rows), task.logits(tile, tiles.bias(classes))
        to, scores = task.shaped(gradient), task.scores_of(rows)
        if isinstance(closing, LossScale):
            part, scale = _new_part(results, here), _part(closing, here)
            written, target = RowOutputs(*(x[here] for x in results[:3])), task.target_of(rows, classes)
            backend(tile).row_fused(logits, target, scores, scale, part, to, written)
            results.record[:, here] = part
        else:
            chunk = _chunk(task, logits, rows, results)
            parts = closing(here, chunk)
            backend(tile).row_grad(logits, chunk.target, scores, chunk.results.record, parts, to)
        sums.add(gradient, rows, classes, counted)
    return sums.result()


def _chunks(source: Source, sweep: Sweep, closing: LossScale | SweepClosing) -> list[Span]:
    """Return the rows of each chunk of a sweep."""
    return spans(source.size, sweep.rows) if isinstance(closing, LossScale) else closing.spans(sweep.rows)


def _chunk(task: TiledRows, logits: Any, rows: Span, results: RowResults) -> Chunk:
    """Write the results of whole rows, whose logits are there, and return them."""
    here = rows.of(task.source.positions)
    loss, lse, entropy = (x[here] for x in results[:3])
    part = RowResults(loss, lse, entropy, _new_part(results, here))
    target, scores = task.target_of(rows, Span(0, task.source.classes)), task.scores_of(rows)
    backend(part.loss).row_stats(logits, target, scores, part.record, part.outputs)
    results.record[:, here] = part.record

    def again(other: Target) -> RowResults:
        found = RowResults(*map(torch.empty_like, part))
        backend(part.loss).row_stats(logits, other, scores, found.record, found.outputs)
        return found

    return Chunk(target, part, again)


def _new_part(results: RowResults, here: slice) -> Tensor:
    """Return memory for the record of some rows."""
    return results.record.new_empty((len(results.record), here.stop - here.start))


def _partly_twice(
    task: TiledRows, sweep: Sweep, closing: LossScale | SweepClosing, results: RowResults, wanted: Wanted
) -> Any:
    """Do one sweep in which the gradients of the first classes are kept; make the logits of the others twice."""
    source, rest = task.source, sweep.rest or Rest(0, 1)
    first = Span(0, source.classes - -(-rest.logits // source.positions))
    shape = TileShape(max(1, source.size), max(1, rest.at_once // source.positions))
    tiles = source.tiles(shape)
    sums = source.sums_in_parts(tiles, wanted, shape)
    sums.begin(first)
    _keep_gradients(task, sweep, closing, results, sums, first)
    sums.end(first)
    tiling = Tiling(shape, Span(first.end, source.classes))
    every = _cotangents(closing, results.lse) if isinstance(closing, LossScale) else closing.cotangents
    _add_gradients(task, tiles, sums, tiling, Rows(results.record, every))
    return sums.result()


def _keep_gradients(
    task: TiledRows,
    sweep: Sweep,
    closing: LossScale | SweepClosing,
    results: RowResults,
    sums: GradientSums,
    first: Span,
) -> None:
    """Write the results of all rows, and the gradients of the first classes."""
    source, every = task.source, Span(0, task.source.classes)
    counted = RowsThatCount(task, results.record, _known(closing))
    tiles = source.tiles(TileShape(min(sweep.rows, source.size), source.classes))
    for rows in _chunks(source, sweep, closing):
        here = rows.of(source.positions)
        tile = tiles.logits(rows, every)
        task.read(Tile(tile, tiles.bias(every), rows, every))
        chunk = _chunk(task, task.logits(tile, tiles.bias(every)), rows, results)
        if isinstance(closing, LossScale):
            parts = _cotangents(_part(closing, here), chunk.results.lse)
        else:
            parts = closing(here, chunk)
        tile, target = tile[:, first.of(source.positions)], task.target_of(rows, first)
        gradient, logits = sums.place(tile, rows), task.logits(tile, tiles.bias(first))
        backend(tile).row_grad(logits, target, task.scores_of(rows), chunk.results.record, parts, task.shaped(gradient))
        sums.add(gradient, rows, first, counted)


def _part(scale: LossScale, here: slice) -> LossScale:
    """Return the scale of some rows."""
    loss: Any = scale.loss
    squared: Any = scale.lse_squared
    return LossScale(loss[here], None if squared is None else squared[here])


def _cotangents(scale: LossScale, lse: Tensor) -> Cotangents:
    """Return the cotangents of loss and lse that the scale of a sum of losses and squares of lse leads to."""
    factor: Any = scale.lse_squared
    return Cotangents(scale.loss, None if factor is None else 2 * factor * lse)


def _known(closing: LossScale | SweepClosing) -> Cotangents | LossScale:
    """Return the mask of rows with a gradient: a scale, or the cotangents that a closing leads to."""
    return closing if isinstance(closing, LossScale) else closing.cotangents


class RowsThatCount:
    """Which rows of the source have a gradient at all (`rows_with_gradient`), once their record is there."""

    def __init__(self, task: TiledRows, record: Tensor, given: Sequence[Any]) -> None:
        self._task, self._record = task, record
        self._given = given
        self._found: dict[Span, Tensor] = {}

    def __call__(self, rows: Span) -> Tensor:
        """Return a boolean for each of these rows."""
        if rows not in self._found:
            task, positions = self._task, self._task.source.positions
            here = rows.of(positions)
            given = [None if g is None else g[here] for g in self._given]
            given += [part.cotangent[here] for part in task.parts]
            target = task.target_of(rows, Span(0, task.source.classes))
            self._found[rows] = rows_with_gradient(target, self._record[:, here], given, positions)
        return self._found[rows]


def rows_with_gradient(target: Target, record: Tensor, cotangents: Sequence[Any], positions: int) -> Tensor:
    """Return which rows of the source have a gradient at all: counted rows whose target has a mass.

    The cotangents are of the loss and any number of others, None for none. The other rows have gradient 0 for any
    values, and a product must not multiply their values by it: 0 · NaN is NaN.
    """
    of_loss, *others = cotangents
    stats = RowStats(*record)
    found = torch.zeros_like(stats.mass, dtype=torch.bool)
    if of_loss is not None:
        found = (of_loss != 0) & ((stats.mass != 0) | (stats.target_score != 0))
    for g in others:
        found = found if g is None else found | (g != 0)
    if target.kind == "index":
        index: Any = target.index
        found = found & (index.long() != target.ignore_index)
    return found if positions == 1 else found.view(-1, positions).any(1)


def prob_gradient(task: TiledRows, chunk_bytes: int, record: Tensor, g_loss: Tensor) -> Tensor:
    """Return the gradient of Σ g_loss · loss with respect to the target's probabilities, from recomputed logits."""
    source, groups = task.source, task.ranks.groups
    wide = loss_dtype(source.costs.dtype)
    row_bytes = 4 * wide.itemsize * source.classes * source.positions  # the logits and temporaries of prob_grad
    rows_of_tile = even(source.size, max(1, chunk_bytes // max(1, row_bytes)), 1)
    tiles, classes = source.tiles(TileShape(rows_of_tile, source.classes)), Span(0, source.classes)
    prob: Any = task.target.prob
    gradient = torch.empty_like(prob, memory_format=torch.contiguous_format)
    for rows in spans(source.size, rows_of_tile):
        own = rows.of(source.positions)
        tile, bias = tiles.logits(rows, classes), tiles.bias(classes)
        logits = task.shaped(tile if bias is None else tile.add_(bias))
        total = LogTotal(record[0, own].to(wide), record[1, own].log().to(wide)) if groups else None
        here = slice(rows.begin, rows.end) if task.target.kind == "dense" else own
        gradient[here] = prob_grad(logits, task.target_of(rows, classes), task.scores_of(rows), g_loss[own], total)
    if task.target.kind == "topk":
        add_up((gradient,), groups)
    return gradient
