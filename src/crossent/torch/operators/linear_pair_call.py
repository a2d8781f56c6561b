"""The call of two linear layers as operators take it: a student's and a teacher's, without padding and ignored rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.stats import PAIR_SUMS
from crossent.torch.base.operator_call import OperatorCall, operator_call
from crossent.torch.base.values import PairResults, partial_view
from crossent.torch.operators.linear_call import LinearCall, PackedRows, rows_of_layer
from crossent.torch.operators.pair import PairCall, TeacherScores, pair_stats
from crossent.torch.ranks.collectives import least_over
from crossent.torch.sources.beside import PeaksReader, without_target
from crossent.torch.sources.linear import LinearTiles, costs_of
from crossent.torch.sources.most_probable import Peaks, no_peaks
from crossent.torch.sources.pairs import HeadCotangents, HeadsWanted, HeadTiles, PairedRows
from crossent.torch.sources.plan import SourceCosts, TileShape, pair_rows
from crossent.torch.sources.source import Wanted


@operator_call
class LinearPairCall(OperatorCall):
    """A student's layer with its target, and a teacher's: input (N, D2), weight (V · P, D2), bias, scores and adapter.

    With β the divergences from the mixture are wanted, with `predicts` the most probable classes.
    """

    head: LinearCall
    teacher_input: Tensor
    teacher_weight: Tensor
    teacher_bias: Tensor | None
    teacher: TeacherScores
    beta: float | None
    chunk_bytes: int
    predicts: bool = False
    teacher_adapter: Tensor | None = None

    @property
    def teacher_head(self) -> LinearCall:
        """The teacher's layer, of whose rows the same are ignored."""
        head = self.head
        target = without_target(head.target, head.input.shape[0] * head.positions, head.input.device)
        return LinearCall(
            self.teacher_input, self.teacher_weight, self.teacher_bias,
            head.positions, target, self.teacher.scores, head.ranks, self.teacher_adapter,
        )  # fmt: skip

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        """Operands of the student and of the teacher, in the order of `OPERANDS`."""
        of_teacher = self.teacher_input, self.teacher_weight, self.teacher_bias, self.teacher_adapter
        return *self.head.operands, *of_teacher

    def with_operands(self, operands: Sequence[Any]) -> LinearPairCall:
        """Return the call with other operands."""
        *of_student, x, weight, bias, adapter = operands
        head = self.head.with_operands(of_student)
        return dataclasses.replace(
            self, head=head, teacher_input=x, teacher_weight=weight, teacher_bias=bias, teacher_adapter=adapter
        )

    @property
    def costs(self) -> tuple[SourceCosts, SourceCosts]:
        """Costs of both layers."""
        student, teacher = (
            costs_of(x.input, x.linear_weight) for x in (self.head.unpadded(), self.teacher_head.unpadded())
        )
        return student, teacher

    def rows_at_once(self, *, spare: bool) -> int:
        """Return how many whole rows of logits of both there are at a time, the same on ranks that share classes."""
        student, teacher = self.costs
        rows = pair_rows(student, teacher, self.chunk_bytes, spare=spare)
        return least_over(rows, self.head.input, self.head.ranks.groups)

    def new_results(self, rows: int | None = None) -> PairResults:
        """Return memory for the results of so many rows of the input, or of all, as of ignored rows."""
        own, other = self.head.new_results(rows), self.teacher_head.new_results(rows)
        divergences = (torch.zeros_like(own.loss) for _ in range(3))
        sums = own.record.new_zeros((PAIR_SUMS, own.record.shape[1]))
        return PairResults._make((*own, *other[1:], *divergences, sums))

    def products(self, number: int, wanted: HeadsWanted) -> int:
        """Return the floating-point operations of so many products of the logits of both, and of their gradients."""
        return self.head.products(number, wanted.student) + self.teacher_head.products(number, wanted.teacher)


class PackedPair(NamedTuple):
    """The rows of both layers that have a target; the student's tiles hold their position among all."""

    student: PackedRows
    teacher: PackedRows

    @staticmethod
    def of(call: LinearPairCall) -> PackedPair:
        """Return the rows of a call."""
        return PackedPair(call.head.packed(), call.teacher_head.packed())

    def task(self, beta: float | None) -> PairedRows:
        """Return the rows for the driver."""
        return PairedRows(self.student.task, self.teacher.task, beta)

    def tiles(self, shape: TileShape, kept: KeptLogits | None = None) -> HeadTiles:
        """Return workspaces for tiles of at most this shape; tiles of whole rows are kept in place."""
        sources = self.student.source, self.teacher.source
        if kept is None:
            return HeadTiles(*(LinearTiles(source, shape) for source in sources))
        pairs_of = zip(sources, kept, strict=True)
        return HeadTiles(*(LinearTiles(source, shape, logits[: source.size]) for source, logits in pairs_of))


class KeptLogits(NamedTuple):
    """Logits (N, V · P) of both heads that the forward keeps for the backward; empty where it does not."""

    logits: Tensor
    teacher_logits: Tensor


class ReadClasses:
    """Reads the most probable class of each row of both heads together with their statistics, if requested."""

    def __init__(self, call: LinearPairCall, packed: PackedPair) -> None:
        self._call, self._packed = call, packed
        task = packed.task(call.beta)
        first = call.head.target.first_class
        self._peaks = list[Peaks]()
        if call.predicts:
            rows = task.student.source.size * call.head.positions
            self._peaks = [no_peaks(rows, first, call.head.input) for _ in range(2)]
            readers = [
                PeaksReader(x, peaks) for x, peaks in zip((task.student, task.teacher), self._peaks, strict=True)
            ]
            own, other = (
                dataclasses.replace(x, readers=(reader,))
                for x, reader in zip((task.student, task.teacher), readers, strict=True)
            )
            task = PairedRows(own, other, task.beta)
        self.task = task
        """The task for the driver."""

    def results(self) -> list[Tensor]:
        """Return the most probable classes of all rows of both heads, empty if they are not wanted."""
        head, found = self._call.head, list[Tensor]()
        if not self._call.predicts:
            return [head.input.new_empty((0,), dtype=torch.int64) for _ in range(2)]
        for peaks in self._peaks:
            at = peaks.over(head.ranks.groups).at
            every = at.new_full((head.input.shape[0] * head.positions,), -1)
            every[slice(None) if self._packed.student.places is None else self._packed.student.places] = at
            found.append(every)
        return found


class LinearPairGradients(NamedTuple):
    """Gradients of the operands; an empty tensor where none is wanted."""

    input: Tensor
    linear_weight: Tensor
    linear_bias: Tensor
    prob: Tensor
    linear_adapter: Tensor
    teacher_input: Tensor
    teacher_weight: Tensor
    teacher_bias: Tensor
    teacher_adapter: Tensor


OPERANDS = LinearPairGradients._fields
"""The names of the operands that may get a gradient."""


class PairWants(NamedTuple):
    """Operands that require a gradient, by the names of `OPERANDS`."""

    input: bool = False
    linear_weight: bool = False
    linear_bias: bool = False
    prob: bool = False
    linear_adapter: bool = False
    teacher_input: bool = False
    teacher_weight: bool = False
    teacher_bias: bool = False
    teacher_adapter: bool = False

    @property
    def heads(self) -> HeadsWanted:
        """Required gradients of each head."""
        student = Wanted(self.input, self.linear_weight, self.linear_bias, False, self.linear_adapter)
        teacher = Wanted(self.teacher_input, self.teacher_weight, self.teacher_bias, False, self.teacher_adapter)
        return HeadsWanted(student, teacher)


def of_both_layers(of_student: Sequence[Any], of_teacher: Sequence[Any]) -> LinearPairGradients:
    """Return values in the order of `OPERANDS`, from the order of `LinearGradients` for each layer."""
    x, weight, bias, _, adapter = of_teacher
    return LinearPairGradients._make((*of_student, x, weight, bias, adapter))


def pair_of_layers(call: LinearPairCall) -> PairCall:
    """Return the call of all logits of both layers, made in differentiable operations."""
    student, teacher = rows_of_layer(call.head), rows_of_layer(call.teacher_head)
    return PairCall(student, teacher.logits, call.teacher, call.beta)


def differentiable(found: PairResults, *, js: bool) -> HeadCotangents:
    """Return the differentiable results, or their cotangents; without js if it was not computed."""
    return HeadCotangents(
        found.loss, found.lse, found.entropy, found.teacher_lse, found.teacher_entropy,
        found.kl, found.reverse_kl, found.js if js else None,
    )  # fmt: skip


def recomputed_pair(
    call: LinearPairCall,
    outputs_of: Callable[[LinearPairCall, PairResults], Sequence[Tensor]],
    cotangents: Sequence[Tensor | None],
) -> dict[str, Tensor | None]:
    """Return differentiable gradients of all operands: everything once more, with all logits of both in memory.

    `outputs_of` returns the tensors that the cotangents belong to, from a copy of the call and the results of its rows.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [partial_view(x) for x in call.operands]
        copy = call.with_operands(inputs)
        outputs = outputs_of(copy, pair_stats(pair_of_layers(copy)))
        given = [(out, g) for out, g in zip(outputs, cotangents, strict=True) if g is not None and out.requires_grad]
        if not given:
            return dict.fromkeys(OPERANDS)
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        found = iter(
            torch.autograd.grad(
                [out for out, _ in given], wanted, [g.to(out.dtype) for out, g in given],
                create_graph=again, allow_unused=True,
            )
        )  # fmt: skip
        return {
            name: next(found) if x is not None and x.requires_grad else None
            for name, x in zip(OPERANDS, inputs, strict=True)
        }
