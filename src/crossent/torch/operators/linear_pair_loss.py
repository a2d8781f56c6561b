"""crossent::linear_pair_loss: the sum or mean of a divergence of two linear layers and its gradients in one sweep.

The backward only scales the gradients of the forward, as in `linear_loss`. A caller's closing takes the same sweep in
eager mode, in its own autograd.Function, because operators of torch's dispatcher take no functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.spec import Target
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import (
    Backward,
    Forward,
    Gradients,
    Wants,
    is_plain,
    is_plain_backward,
    keeps_graph,
    register,
)
from crossent.torch.base.transforms import has_tangents, is_watched
from crossent.torch.base.values import PairResults, RowResults
from crossent.torch.call.arguments import Closing, RowClosing
from crossent.torch.call.closings import RowFunction, RowView, closed
from crossent.torch.operators.closed_loss import NeedsTwoSweeps, uses_others
from crossent.torch.operators.linear_call import LinearGradients, rows_of_layer
from crossent.torch.operators.linear_loss import of_layer, scaled
from crossent.torch.operators.linear_pair import (
    LinearPairStatsCall,
    linear_pair_stats_fake,
    linear_pair_stats_plain,
    pair_gradients,
)
from crossent.torch.operators.linear_pair_call import (
    OPERANDS,
    KeptLogits,
    LinearPairCall,
    PackedPair,
    PairWants,
    ReadClasses,
    differentiable,
    recomputed_pair,
)
from crossent.torch.operators.linear_stats import gradients_like
from crossent.torch.operators.rows import row_stats
from crossent.torch.sources import pairs
from crossent.torch.sources.pairs import HeadCotangents, PairChunk, PairRecords
from crossent.torch.sources.plan import TileShape


@operator_call
class LinearPairLossCall(OperatorCall):
    """A call, its divergence ("kl", "reverse_kl", "js"), its reduction, and the operands that require a gradient.

    `wants` is a `PairWants`; the probabilities of a target never do here.
    """

    pair: LinearPairCall
    divergence: str
    sample_weight: Tensor | None
    mean: bool
    wants: tuple[bool, ...]

    @property
    def closing(self) -> RowClosing:
        """The reduction of the rows."""
        return RowClosing(Closing("mean" if self.mean else "sum", self.sample_weight, 0.0), self.pair.head.target, None)


class LinearPairLoss(NamedTuple):
    """The reduced loss, the results of the rows, and the gradients of the reduced loss by each operand.

    Gradients are in the dtype of their layer's losses.
    """

    reduced: Tensor
    loss: Tensor
    lse: Tensor
    entropy: Tensor
    record: Tensor
    teacher_lse: Tensor
    teacher_entropy: Tensor
    teacher_record: Tensor
    kl: Tensor
    reverse_kl: Tensor
    js: Tensor
    sums: Tensor
    predicted: Tensor
    teacher_predicted: Tensor
    g_input: Tensor
    g_weight: Tensor
    g_bias: Tensor
    g_adapter: Tensor
    g_teacher_input: Tensor
    g_teacher_weight: Tensor
    g_teacher_bias: Tensor
    g_teacher_adapter: Tensor

    @property
    def pair(self) -> PairResults:
        """The results of the rows."""
        return PairResults(*self[1 : 1 + len(PairResults._fields)])


_GRADIENTS = {
    "g_input": "input", "g_weight": "linear_weight", "g_bias": "linear_bias", "g_adapter": "linear_adapter",
    "g_teacher_input": "teacher_input", "g_teacher_weight": "teacher_weight", "g_teacher_bias": "teacher_bias",
    "g_teacher_adapter": "teacher_adapter",
}  # fmt: skip
"""The last outputs, and the operands that they are the gradients of."""


class _OfKind:
    """The closing that takes a divergence of each row for its loss."""

    def __init__(self, divergence: str, scale: Tensor) -> None:
        self.cotangents, self.whole_chunks = HeadCotangents(**{divergence: scale}), False

    def __call__(self, rows: slice, chunk: PairChunk) -> HeadCotangents:
        """Return the cotangents of a chunk."""
        return self.cotangents.at(rows)


ViewOf = Callable[[Target, PairResults, Callable[[Target], RowResults]], RowView]
"""Makes a closing's view of rows from a target and results, and of results for another target."""


class ChunkClosing:
    """A caller's closing evaluated on chunks of rows: their losses, and the cotangents of their results."""

    def __init__(self, function: RowFunction, view_of: ViewOf, scale: Tensor, call: LinearPairLossCall) -> None:
        self.losses = torch.zeros_like(scale)
        self.cotangents = HeadCotangents(*(torch.zeros_like(scale) for _ in HeadCotangents._fields))
        self.whole_chunks = True
        self._function, self._view_of, self._scale = function, view_of, scale
        wanted = PairWants(*call.wants).heads
        frozen = () if wanted.student.of_source else ("loss", "lse", "entropy")
        self._frozen = (*frozen, *(() if wanted.teacher.of_source else ("teacher_lse", "teacher_entropy")))

    def __call__(self, rows: slice, chunk: PairChunk) -> HeadCotangents:
        """Return the cotangents of a chunk's results."""
        scale = self._scale[rows]
        with torch.enable_grad():
            names = [name for name in HeadCotangents._fields if name not in self._frozen]
            leaves = {name: getattr(chunk.results, name).detach().requires_grad_() for name in names}
            view = self._view_of(chunk.target, chunk.results._replace(**leaves), chunk.again)
            losses = closed(self._function.take(rows), view, scale == 0)
            if rows.start == 0 and uses_others(losses, list(leaves.values())):
                raise NeedsTwoSweeps
            given: dict[str, Tensor | None] = dict.fromkeys(names)
            if losses.requires_grad:  # else all rows were left out
                inputs, factor = list(leaves.values()), scale.to(losses.dtype)
                given = dict(zip(names, torch.autograd.grad(losses, inputs, factor, allow_unused=True), strict=True))
        self.losses[rows] = losses.detach().to(self.losses.dtype)
        for name, g in given.items():
            if g is not None:
                getattr(self.cotangents, name)[rows] = g
        return HeadCotangents(**given)


class _Swept(NamedTuple):
    """Results of all rows, the most probable classes of both heads, and gradients by all operands but the target."""

    results: PairResults
    predicted: list[Tensor]
    gradients: list[Tensor]

    def loss(self, reduced: Tensor) -> LinearPairLoss:
        """Return the outputs of the operator."""
        return LinearPairLoss._make((reduced, *self.results, *self.predicted, *self.gradients))


MakeClosing = Callable[[Tensor, Tensor | None], Any]
"""Makes the sweep's form of a closing, from the scale of the rows that have a target and their places among all."""


def _sweep(call: LinearPairLossCall, closing_of: MakeClosing) -> _Swept:
    """Compute the results of all rows and the gradients of the operands in one sweep."""
    pair, wanted = call.pair, PairWants(*call.wants).heads
    packed, results = PackedPair.of(pair), pair.new_results()
    source, places, reading = packed.student.source, packed.student.places, ReadClasses(pair, packed)
    parts = results if places is None else pair.new_results(source.size)
    scale: Any = call.closing.scale(results.student).loss
    closing = closing_of(packed.student.take(scale), places)
    most = pair.rows_at_once(spare=wanted.both)
    tiles = packed.tiles(TileShape(min(most, max(1, source.size)), source.classes))
    found = pairs.one_sweep(reading.task, tiles, most, closing, parts, wanted)
    packed.student.put(results, parts)
    gradients = list[Tensor]()
    for head, of_head in zip((pair.head, pair.teacher_head), found, strict=True):
        padded = LinearGradients() if of_head is None else head.padded(LinearGradients(**of_head._asdict()))
        gradients += of_layer(padded.filled(pair.head.input))
    return _Swept(results, reading.results(), gradients)


def _linear_pair_loss(call: LinearPairLossCall) -> LinearPairLoss:
    found = _sweep(call, lambda scale, _: _OfKind(call.divergence, scale))
    return found.loss(call.closing.reduced(getattr(found.results, call.divergence), found.results.lse))


def _linear_pair_loss_fake(call: LinearPairLossCall) -> LinearPairLoss:
    pair = call.pair
    found = linear_pair_stats_fake(LinearPairStatsCall(pair, False))
    gradients = list[Tensor]()
    for head, want in zip((pair.head, pair.teacher_head), PairWants(*call.wants).heads, strict=True):
        wide = head.new_results(0).loss.dtype
        gradients += [g.to(wide) for g in of_layer(gradients_like(head, want))]
    classes = (found.predicted, found.teacher_predicted)
    return LinearPairLoss._make((found.loss.new_empty(()), *found.pair, *classes, *gradients))


def _linear_pair_loss_plain(call: LinearPairLossCall) -> LinearPairLoss:
    found = linear_pair_stats_plain(LinearPairStatsCall(call.pair, False))
    none = [call.pair.head.input.new_empty((0,)) for _ in _GRADIENTS]
    reduced = call.closing.reduced(getattr(found, call.divergence), found.lse)
    return LinearPairLoss._make((reduced, *found.pair, found.predicted, found.teacher_predicted, *none))


class _Closed(NamedTuple):
    """A caller's closing, and its view of the rows."""

    function: RowFunction
    view_of: ViewOf


def _save(ctx: Any, call: LinearPairLossCall, output: LinearPairLoss, closed_by: _Closed | None = None) -> None:
    output = LinearPairLoss(*output)
    constants = () if closed_by is None else closed_by.function.tensors
    keep(ctx, call, output.record, output.teacher_record, output.sums, *constants)
    ctx.closed_by = closed_by and closed_by._replace(function=closed_by.function.map(lambda _: None))
    # not saved with the others: the backward hands them over, and scales them in place if there is no other reference
    gradients, wants = output[-len(_GRADIENTS) :], PairWants(*call.wants)
    ctx.gradients = [
        g if getattr(wants, name) else None for g, name in zip(gradients, _GRADIENTS.values(), strict=True)
    ]
    pair = call.pair
    ctx.dtypes = [
        (pair.teacher_input if name.startswith("teacher") else pair.head.input).dtype for name in _GRADIENTS.values()
    ]
    ctx.set_materialize_grads(False)
    classes = (output.predicted, output.teacher_predicted)
    ctx.mark_non_differentiable(output.record, output.teacher_record, output.sums, *classes, *gradients)


def _backward(ctx: Any, wants: Wants, *cotangents: Tensor | None) -> Gradients:
    given: Any = LinearPairLoss(*cotangents)  # pyright: ignore[reportArgumentType]
    g = given.reduced
    if torch.is_grad_enabled():
        return _recomputed(ctx, g, given.pair)
    found: dict[str, Tensor | None] = {}
    if g is not None:
        found = dict(zip(_GRADIENTS.values(), scaled(ctx, g), strict=True))
    elif not keeps_graph():
        ctx.gradients = None
    if any(x is not None for x in given.pair):
        call, (record, teacher_record, sums, *_) = kept(ctx)
        none = record.new_empty((0,))
        of_rows = differentiable(given.pair, js=call.pair.beta is not None)
        wanted = [name in wants for name in OPERANDS]
        records = PairRecords(record, teacher_record, sums)
        more = pair_gradients(call.pair, records, KeptLogits(none, none), of_rows, wanted)
        found = {name: _sum(found.get(name), x) for name, x in more.items()}
    return found


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _recomputed(ctx: Any, g: Tensor | None, of_rows: Any) -> Gradients:
    """Return differentiable gradients, for cotangents of the reduced loss and of the results of the rows."""
    call: LinearPairLossCall
    call, (_record, _teacher_record, _sums, *tensors) = kept(ctx)
    closing, saved, closed_by = call.closing, iter(tensors), ctx.closed_by
    if closed_by is not None:
        function = closed_by.function.map(lambda _: next(saved))
        closing = closing._replace(closing=closing.closing._replace(function=function))

    def outputs(pair: LinearPairCall, found: PairResults) -> tuple[Tensor, ...]:
        of_rows = differentiable(found, js=True)
        if closed_by is None:
            return closing.reduced(getattr(found, call.divergence), found.lse), *of_rows

        def again(target: Target) -> RowResults:
            return row_stats(rows_of_layer(dataclasses.replace(pair.head, target=target)))

        return closing.closed(closed_by.view_of(pair.head.target, found, again)), *of_rows  # pyright: ignore

    return recomputed_pair(call.pair, outputs, (g, *differentiable(of_rows, js=call.pair.beta is not None)))


def _linear_pair_loss_flops(call: LinearPairLossCall) -> int:
    """Count the logits of both, and the gradients of inputs and weights."""
    return call.pair.products(1, PairWants(*call.wants).heads)


linear_pair_loss = register(
    "linear_pair_loss",
    LinearPairLossCall,
    LinearPairLoss,
    Forward(_linear_pair_loss, _linear_pair_loss_fake, _linear_pair_loss_plain, _linear_pair_loss_flops),
    Backward(_save, _backward),
)
_NAMES = tuple(leaf.name for leaf in LinearPairLossCall.leaves() if leaf.is_tensor)


class ClosedPairLoss(torch.autograd.Function):
    """The loss of a call with a closing; its arguments are both, and the tensors of the call for autograd."""

    @staticmethod
    def forward(ctx: Any, call: LinearPairLossCall, closed_by: _Closed, *_: Any) -> Any:
        """Return the results of `linear_pair_loss`."""
        made: list[ChunkClosing] = []

        def closing_of(scale: Tensor, places: Tensor | None) -> ChunkClosing:
            function = closed_by.function if places is None else closed_by.function.take(places)
            made.append(ChunkClosing(function, closed_by.view_of, scale, call))
            places_of.append(places)
            return made[0]

        places_of: list[Tensor | None] = []
        found = _sweep(call, closing_of)
        losses, (places,) = made[0].losses.to(found.results.loss.dtype), places_of
        if places is not None:
            losses = torch.zeros_like(found.results.loss).index_copy_(0, places, losses)
        output = found.loss(call.closing.reduced(losses, found.results.lse))
        _save(ctx, call, output, closed_by)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        """Return the gradients of the operands, which the forward found already."""
        ctx.plain = is_plain_backward(*cotangents)
        needs = ctx.needs_input_grad[2:]
        wants = frozenset(name for name, need in zip(_NAMES, needs, strict=True) if need)
        found = _backward(ctx, wants, *cotangents)
        return None, None, *[found.get(name) for name in _NAMES]


def closed_pair_loss(call: LinearPairLossCall, function: RowFunction, view_of: ViewOf) -> LinearPairLoss | None:
    """Return the sum or mean of a closing over the rows, or None if that needs two sweeps."""
    if is_watched():
        return None
    tensors = call.tensors()
    if has_tangents(tensors) or not all(x is None or is_plain(x) for x in tensors):
        return None
    try:
        return LinearPairLoss(*ClosedPairLoss.apply(call, _Closed(function, view_of), *tensors))  # pyright: ignore
    except NeedsTwoSweeps:
        return None
