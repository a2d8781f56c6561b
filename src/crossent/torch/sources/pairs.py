"""Two heads side by side: pair terms of the rows of a student and of a teacher, and the gradients of both.

A divergence needs the records of both rows, and then both rows once more. So the forward takes whole rows of both, as
many as fit (`plan.pair_rows`). For a teacher that gets no gradient:

* `one_sweep`: the gradient of each chunk of rows while the logits of both heads are there. Four products.
* `statistics` of chunks, then `gradients` of tiles of many rows and some classes, whose logits are made again: six
  products. But the gradient of the weight is finished tile by tile and rounded once, and any cotangent will do.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from crossent.kernels.backend import PairCotangents, Teacher
from crossent.spec import Target
from crossent.stats import PAIR_SUMS
from crossent.torch.base.backends import backend
from crossent.torch.base.values import SWAPPED, PairResults, RowResults, loss_dtype, new_record, pair_results
from crossent.torch.ranks.collectives import add_up
from crossent.torch.ranks.records import ClassRange, merge, write_outputs
from crossent.torch.sources.driver import RowsThatCount, TiledRows
from crossent.torch.sources.plan import Sweep, TileShape
from crossent.torch.sources.source import GradientSums, Span, Tile, Tiles, Wanted, spans


class HeadCotangents(NamedTuple):
    """Cotangents (N,) of the pair terms of a student and a teacher; None is zero."""

    loss: Any = None
    lse: Any = None
    entropy: Any = None
    teacher_lse: Any = None
    teacher_entropy: Any = None
    kl: Any = None
    reverse_kl: Any = None
    js: Any = None

    def at(self, rows: Any) -> HeadCotangents:
        """Return the values of some rows."""
        return HeadCotangents(*(None if g is None else g[rows] for g in self))

    @property
    def of_student(self) -> PairCotangents:
        """Cotangents of values that depend on the student's logits."""
        return PairCotangents(self.loss, self.lse, self.entropy, self.kl, self.reverse_kl, self.js)

    @property
    def of_teacher(self) -> PairCotangents:
        """Cotangents of values that depend on the teacher's logits, with the roles swapped."""
        return PairCotangents(None, self.teacher_lse, self.teacher_entropy, self.reverse_kl, self.kl, self.js)


class HeadTiles(NamedTuple):
    """Tiles of a student's and of a teacher's logits."""

    student: Tiles
    teacher: Tiles


class Heads(NamedTuple):
    """A tile of logits of a student, and of its teacher: the same rows and classes of both."""

    student: Tile
    teacher: Tile

    def at(self, block: Span) -> Heads:
        """Return some of the rows."""
        rows = Span(self.student.rows.begin + block.begin, self.student.rows.begin + block.end)
        return Heads(*(tile._replace(logits=tile.logits[slice(*block)], rows=rows) for tile in self))


class HeadsWanted(NamedTuple):
    """Operands of a student and of a teacher that require a gradient."""

    student: Wanted
    teacher: Wanted

    @property
    def both(self) -> bool:
        """Whether operands of both do."""
        return self.student.of_source and self.teacher.of_source


class HeadGradients(NamedTuple):
    """Gradients of the operands of a student and of a teacher, by name; None where none is wanted."""

    student: Any = None
    teacher: Any = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PairedRows:
    """The same rows of a student and a teacher, with a target that marks ignored ones; with β the mixture is wanted."""

    student: TiledRows
    teacher: TiledRows
    beta: float | None

    @property
    def all_classes(self) -> Span:
        """All classes at hand."""
        return Span(0, self.student.source.classes)

    def heads(self, tiles: HeadTiles, rows: Span, classes: Span) -> Heads:
        """Return a tile of both heads; the reader of its tiles has read it."""
        made: list[Tile] = []
        for task, workspace in zip((self.student, self.teacher), tiles, strict=True):
            tile = Tile(workspace.logits(rows, classes), workspace.bias(classes), rows, classes)
            task.read(tile)
            made.append(tile)
        return Heads(*made)

    def ignored(self, rows: Span) -> Tensor | None:
        """Return which rows are ignored, None if no row can be."""
        target = self.student.target
        if target.kind != "index":
            return None
        index: Any = target.index
        return index[rows.of(self.student.source.positions)].long() == target.ignore_index


class PairRecords(NamedTuple):
    """Records of a student's rows and of a teacher's, and the sums of both: all that a gradient needs."""

    record: Tensor
    teacher_record: Tensor
    sums: Tensor

    def at(self, rows: Any) -> PairRecords:
        """Return the values of some rows."""
        return PairRecords(*(x[:, rows].contiguous() for x in self))


class SweepClosing(Protocol):
    """The loss of the rows in a sweep."""

    cotangents: HeadCotangents
    """Cotangents of all rows, those of a chunk as soon as this was called with it."""
    whole_chunks: bool
    """Whether to call it with a whole chunk: a caller's Python takes longer than blocks of rows in cache save."""

    def __call__(self, rows: slice, chunk: PairChunk) -> HeadCotangents:
        """Return the cotangents of a chunk."""
        ...


class PairChunk(NamedTuple):
    """Whole rows of both heads while their logits are there."""

    task: PairedRows
    heads: Heads
    results: PairResults

    @property
    def target(self) -> Target:
        """The student's target."""
        return self.task.student.target_of(self.heads.student.rows, self.task.all_classes)

    def again(self, target: Target) -> RowResults:
        """Return the results of the student's rows for another target."""
        task, tile = self.task.student, self.heads.student
        found = RowResults(*map(torch.empty_like, self.results.student))
        scores = task.scores_of(tile.rows)
        backend(found.loss).row_stats(_logits(task, tile), target, scores, found.record, found.outputs)
        return found


def statistics(task: PairedRows, tiles: HeadTiles, most: int, results: PairResults) -> None:
    """Write the results of all rows, from whole rows of both heads, at most so many at a time."""
    for rows in spans(task.student.source.size, most):
        _write(results, task, rows, _results(task, task.heads(tiles, rows, task.all_classes)))


def one_sweep(
    task: PairedRows, tiles: HeadTiles, most: int, closing: SweepClosing, results: PairResults, wanted: HeadsWanted
) -> HeadGradients:
    """Write the results of all rows, and return the gradients of a closing for both heads."""
    classes, chunks = task.all_classes, Sweep(most)
    sums = _Sums(task, PairRecords(results.record, results.teacher_record, results.sums), closing.cotangents)
    for head, want in zip(HeadsWanted._fields, wanted, strict=True):
        if want.of_source:
            source, workspace = getattr(task, head).source, getattr(tiles, head)
            sums.add_head(head, source.sums_by_rows(workspace, want, chunks))
    for rows in spans(task.student.source.size, most):
        chunk = task.heads(tiles, rows, classes)
        places = sums.places(chunk)
        for block in spans(rows.size, rows.size if closing.whole_chunks else _rows_in_cache(task)):
            heads = chunk.at(block)
            part = _results(task, heads)
            _write(results, task, heads.student.rows, part)
            here = heads.student.rows.of(task.student.source.positions)
            g = closing(here, PairChunk(task, heads, part))
            records = PairRecords(part.record, part.teacher_record, part.sums)
            sums.write(heads, records, g, [to[slice(*block)] for to in places])
        sums.multiply(chunk, places)
    return sums.result()


def _rows_in_cache(task: PairedRows) -> int:
    """Return of how many rows the logits of both heads, which are read three times, stay in cache."""
    costs = task.student.source.costs
    tile_logits = costs.device.tile_logits
    return max(1, costs.rows if tile_logits is None else tile_logits // max(1, 2 * costs.logits))


def gradients(
    task: PairedRows,
    tiles: HeadTiles,
    shape: TileShape,
    records: PairRecords,
    cotangents: HeadCotangents,
    wanted: HeadsWanted,
) -> HeadGradients:
    """Return the gradients of both heads' operands from the records of all rows."""
    source = task.student.source
    sums = _Sums(task, records, cotangents)
    for head, want in zip(HeadsWanted._fields, wanted, strict=True):
        if want.of_source:
            sums.add_head(head, getattr(task, head).source.sums_by_classes(getattr(tiles, head), want, shape))
    for classes in spans(source.classes, shape.classes):
        sums.begin(classes)
        for rows in spans(source.size, shape.rows):
            here = rows.of(source.positions)
            heads = task.heads(tiles, rows, classes)
            places = sums.places(heads)
            sums.write(heads, records.at(here), cotangents.at(here), places)
            sums.multiply(heads, places)
        sums.end(classes)
    if source.classes == 0:  # other ranks have classes, and add up the rows of one head and the other in turn
        for rows in spans(source.size, shape.rows):
            sums.finish(rows)
    return sums.result()


def _write(results: PairResults, task: PairedRows, rows: Span, part: PairResults) -> None:
    here = rows.of(task.student.source.positions)
    for to, x in zip(results, part, strict=True):
        to[..., here] = x


def _results(task: PairedRows, heads: Heads) -> PairResults:
    """Return the results of whole rows whose logits are there, of the classes of all ranks."""
    own, other = _row_results(task.student, heads.student), _row_results(task.teacher, heads.teacher)
    sums = own.record.new_zeros((PAIR_SUMS, own.record.shape[1]))
    if task.all_classes.size:
        rows = heads.student.rows
        logits, scores = _logits(task.student, heads.student), task.student.scores_of(rows)
        teacher = _other_head(task.teacher, heads.teacher, other.record)
        backend(sums).pair_stats(logits, scores, own.record, teacher, task.beta, sums, extend=False)
    add_up((sums if task.beta is not None else sums[:2],), task.student.ranks.groups)
    return pair_results(own, other, sums, task.beta, task.ignored(heads.student.rows))


def _row_results(task: TiledRows, tile: Tile) -> RowResults:
    """Return the results of whole rows of one head, of the classes of all ranks."""
    source, groups = task.source, task.ranks.groups
    loss, record = new_record(tile.rows.size * source.positions, tile.logits)
    found = RowResults(loss, torch.empty_like(loss), torch.empty_like(loss), record)
    target = task.target_of(tile.rows, tile.classes)
    if source.classes:
        backend(loss).row_stats(_logits(task, tile), target, task.scores_of(tile.rows), record, found.outputs)
    else:  # of a shard that has none
        record[0], record[1:] = float("-inf"), 0.0
    if groups:
        merge(record, groups, ClassRange(task.target.first_class, source.classes, _number(task)))
        write_outputs(record, target, found.outputs)
    return found


def _number(task: TiledRows) -> int:
    return task.target.num_classes or task.source.classes


def _logits(task: TiledRows, tile: Tile) -> Any:
    return task.logits(tile.logits, tile.bias)


def _other_head(task: TiledRows, tile: Tile, record: Tensor) -> Teacher:
    """Return a head as the partner of the other."""
    return Teacher(_logits(task, tile), task.scores_of(tile.rows), record)


class _Sums:
    """The gradients of both heads, as sums over tiles."""

    def __init__(self, task: PairedRows, records: PairRecords, cotangents: HeadCotangents) -> None:
        self._task = task
        self._sums: dict[str, GradientSums] = {}
        self._counted = {
            "student": RowsThatCount(task.student, records.record, cotangents.of_student),
            "teacher": RowsThatCount(task.teacher, records.teacher_record, cotangents.of_teacher),
        }
        self._spare: Tensor | None = None

    def add_head(self, head: str, sums: GradientSums) -> None:
        """Request the gradient of a head."""
        self._sums[head] = sums

    def begin(self, classes: Span) -> None:
        """Begin with the tiles of these classes."""
        for sums in self._sums.values():
            sums.begin(classes)

    def end(self, classes: Span) -> None:
        """Finish the sums that depend only on the tiles of these classes."""
        for sums in self._sums.values():
            sums.end(classes)

    def finish(self, rows: Span) -> None:
        """Finish rows of a shard that has no classes."""
        for sums in self._sums.values():
            of_layer: Any = sums
            of_layer.finish(rows)

    def places(self, heads: Heads) -> list[Tensor]:
        """Return the memory for the gradients of a tile: in place of the logits, after their last read."""
        found: list[Tensor] = []
        for head, sums in self._sums.items():
            tile: Tile = getattr(heads, head)
            to = sums.place(tile.logits, tile.rows)
            if head == "student" and len(self._sums) == 2 and to.data_ptr() == tile.logits.data_ptr():
                to = self._spare_tile(to)  # the teacher's gradient reads the student's logits
            found.append(to)
        return found

    def write(self, heads: Heads, records: PairRecords, g: HeadCotangents, places: list[Tensor]) -> None:
        """Write the gradients of a tile, or of some of its rows, by the logits of both heads."""
        for head, to in zip(self._sums, places, strict=True):
            of_head, task = _of_student if head == "student" else _of_teacher, self._task
            of_head(task, heads, records, g, getattr(task, head).shaped(to))

    def multiply(self, heads: Heads, places: list[Tensor]) -> None:
        """Add the gradients of a tile to the operands."""
        for (head, sums), gradient in zip(self._sums.items(), places, strict=True):
            tile: Tile = getattr(heads, head)
            sums.add(gradient, tile.rows, tile.classes, self._counted[head])

    def _spare_tile(self, tile: Tensor) -> Tensor:
        """Return memory like that of a tile, the same each time."""
        (rows, columns), step = tile.shape, tile.stride(0)
        if self._spare is None or self._spare.numel() < rows * step:
            self._spare = tile.new_zeros(rows * step)
        return self._spare[: rows * step].view(rows, step)[:, :columns]

    def result(self) -> HeadGradients:
        """Return the gradients of the operands."""
        return HeadGradients(**{head: sums.result() for head, sums in self._sums.items()})


def _of_student(task: PairedRows, heads: Heads, records: PairRecords, g: HeadCotangents, grad: Tensor) -> None:
    """Write the gradient of a tile of the student's logits."""
    other = _other_head(task.teacher, heads.teacher, records.teacher_record)
    of_pair = _OfPair(records.record, other, task.beta, records.sums, g.of_student)
    _write_gradient(task.student, heads.student, of_pair, grad)


def _of_teacher(task: PairedRows, heads: Heads, records: PairRecords, g: HeadCotangents, grad: Tensor) -> None:
    """Write the gradient of a tile of the teacher's logits: the student's with the roles swapped."""
    other = _other_head(task.student, heads.student, records.record)
    beta = None if task.beta is None else 1 - task.beta
    of_pair = _OfPair(records.teacher_record, other, beta, records.sums[SWAPPED], g.of_teacher)
    _write_gradient(task.teacher, heads.teacher, of_pair, grad)


class _OfPair(NamedTuple):
    """Data for a gradient besides the logits."""

    record: Tensor
    beside: Teacher
    beta: float | None
    sums: Tensor
    cotangents: PairCotangents


def _write_gradient(task: TiledRows, tile: Tile, of_pair: _OfPair, grad: Tensor) -> None:
    record, beside, beta, sums, g = of_pair
    dtype = loss_dtype(tile.logits.dtype)
    g = PairCotangents(*(None if x is None else x.to(dtype) for x in g))
    target, scores = task.target_of(tile.rows, tile.classes), task.scores_of(tile.rows)
    logits = _logits(task, tile)
    if g.kl is None and g.reverse_kl is None and g.js is None:
        backend(record).row_grad(logits, target, scores, record, g[:3], grad)
    else:
        backend(record).pair_grad(logits, target, scores, record, beside, beta, sums, g, grad)
