"""crossent::linear_pair_stats and crossent::linear_pair_grad: rows of two linear layers, and how far apart they are.

`pair_stats` for the logits of a student's layer and of a teacher's, which exist a chunk of rows at a time. Every output
takes any cotangent: linear_pair_grad makes the logits again a tile at a time, or reads them where the forward kept
them. With create_graph everything is recomputed in differentiable torch operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Gradients, Wants, register
from crossent.torch.base.values import PairResults, loss_dtype
from crossent.torch.operators.linear_call import LinearGradients
from crossent.torch.operators.linear_pair_call import (
    OPERANDS,
    KeptLogits,
    LinearPairCall,
    LinearPairGradients,
    PackedPair,
    PairWants,
    ReadClasses,
    differentiable,
    of_both_layers,
    pair_of_layers,
    recomputed_pair,
)
from crossent.torch.operators.linear_stats import gradients_like
from crossent.torch.operators.pair import pair_stats
from crossent.torch.operators.prediction import most_probable
from crossent.torch.sources import driver, pairs
from crossent.torch.sources.linear import KeptTiles
from crossent.torch.sources.pairs import HeadCotangents, HeadsWanted, HeadTiles, PairedRows, PairRecords
from crossent.torch.sources.plan import TileShape, tile_shape


@operator_call
class LinearPairStatsCall(OperatorCall):
    """A call whose statistics are wanted, and whether the logits of both are kept for the backward."""

    pair: LinearPairCall
    keep: bool


@operator_call
class LinearPairGradCall(OperatorCall):
    """A call with the records and sums of its rows, logits that were kept (or none), and cotangents of its results."""

    pair: LinearPairCall
    record: Tensor
    teacher_record: Tensor
    sums: Tensor
    logits: Tensor
    teacher_logits: Tensor
    wants: tuple[bool, ...]
    """Those of `PairWants`."""
    g_loss: Tensor | None = None
    g_lse: Tensor | None = None
    g_entropy: Tensor | None = None
    g_teacher_lse: Tensor | None = None
    g_teacher_entropy: Tensor | None = None
    g_kl: Tensor | None = None
    g_reverse_kl: Tensor | None = None
    g_js: Tensor | None = None

    @property
    def cotangents(self) -> HeadCotangents:
        """The cotangents as the driver takes them."""
        return HeadCotangents(
            self.g_loss, self.g_lse, self.g_entropy, self.g_teacher_lse, self.g_teacher_entropy,
            self.g_kl, self.g_reverse_kl, self.g_js,
        )  # fmt: skip


class LinearPairResults(NamedTuple):
    """Results of `PairResults`, the logits if they are kept, and the most probable classes if they are wanted."""

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
    logits: Tensor
    teacher_logits: Tensor
    predicted: Tensor
    teacher_predicted: Tensor

    @property
    def pair(self) -> PairResults:
        """The results of the rows."""
        return PairResults(*self[: len(PairResults._fields)])


# Statistics --------------------------------------------------------------------------------------------------------


def _linear_pair_stats(call: LinearPairStatsCall) -> LinearPairResults:
    pair = call.pair
    packed, results, memory = PackedPair.of(pair), pair.new_results(), _kept_memory(call)
    source, reading = packed.student.source, ReadClasses(pair, packed)
    parts = results if packed.student.places is None else pair.new_results(source.size)
    most = pair.rows_at_once(spare=False)
    tiles = packed.tiles(TileShape(min(most, max(1, source.size)), source.classes), memory if call.keep else None)
    pairs.statistics(reading.task, tiles, most, parts)
    packed.student.put(results, parts)
    return LinearPairResults(*results, *memory, *reading.results())


def _kept_memory(call: LinearPairStatsCall) -> KeptLogits:
    heads = call.pair.head, call.pair.teacher_head
    return KeptLogits(
        *(
            head.input.new_empty(
                (head.input.shape[0], head.classes * head.positions) if call.keep else (0,),
                dtype=loss_dtype(head.input.dtype),
            )
            for head in heads
        )
    )


def linear_pair_stats_fake(call: LinearPairStatsCall) -> LinearPairResults:
    """Return results without numbers."""
    pair = call.pair
    results = pair.new_results()
    rows = results.loss.shape[0] if pair.predicts else 0
    classes = (results.loss.new_empty((rows,), dtype=torch.int64) for _ in range(2))
    return LinearPairResults(*results, *_kept_memory(call), *classes)


def linear_pair_stats_plain(call: LinearPairStatsCall) -> LinearPairResults:
    """Compute linear_pair_stats with all logits in memory: its slow twin, differentiable any number of times."""
    pair, none = pair_of_layers(call.pair), call.pair.head.input.new_zeros((0,))
    found: PairResults = pair_stats(pair)
    heads = (pair.rows, pair.teacher_rows) if call.pair.predicts else ()
    classes = [most_probable(head).at for head in heads] or [none.long(), none.long()]
    return LinearPairResults(*found, none, none, *classes)


def _save_linear_pair_stats(ctx: Any, call: LinearPairStatsCall, output: LinearPairResults) -> None:
    output = LinearPairResults(*output)
    keep(ctx, call, output.record, output.teacher_record, output.sums, output.logits, output.teacher_logits)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(getattr(output, name) for name in CONSTANTS))


CONSTANTS = (
    "record", "teacher_record", "sums", "logits", "teacher_logits", "predicted", "teacher_predicted",
)  # fmt: skip
"""Results that have no gradient."""


def _linear_pair_stats_backward(ctx: Any, wants: Wants, *cotangents: Tensor | None) -> Gradients:
    call, saved = kept(ctx)
    g = differentiable(LinearPairResults(*cotangents).pair, js=call.pair.beta is not None)  # pyright: ignore[reportArgumentType]
    wanted = tuple(name in wants for name in OPERANDS)
    return pair_gradients(call.pair, PairRecords(*saved[:3]), KeptLogits(*saved[3:]), g, wanted)


def pair_gradients(
    call: LinearPairCall, records: PairRecords, kept_logits: KeptLogits, g: HeadCotangents, wanted: Sequence[bool]
) -> dict[str, Tensor | None]:
    """Return the gradients of the operands by name, for cotangents of the results of the rows."""
    if torch.is_grad_enabled():
        return recomputed_pair(call, lambda _, found: differentiable(found, js=True), g)
    wanted = [want and not (name == "prob" and g.loss is None) for name, want in zip(OPERANDS, wanted, strict=True)]
    found = linear_pair_grad(LinearPairGradCall(call, *records, *kept_logits, PairWants(*wanted), *g))
    return {name: x if want else None for name, x, want in zip(OPERANDS, found, wanted, strict=True)}


# Their gradient ----------------------------------------------------------------------------------------------------


def _linear_pair_grad(call: LinearPairGradCall) -> LinearPairGradients:
    pair, wants = call.pair, PairWants(*call.wants)
    wanted = wants.heads
    packed = PackedPair.of(pair)
    task, places = packed.task(pair.beta), packed.student.places
    records = PairRecords(*(packed.student.take(x) for x in (call.record, call.teacher_record, call.sums)))
    g = call.cotangents if places is None else call.cotangents.at(places)
    shape = _tile_shape(task, pair.chunk_bytes, wanted)
    if call.logits.ndim == 2:
        both = zip((packed.student.source, packed.teacher.source), (call.logits, call.teacher_logits), strict=True)
        tiles = HeadTiles(*(KeptTiles(source, shape, logits[: source.size]) for source, logits in both))
    else:
        tiles = packed.tiles(shape)
    found = pairs.gradients(task, tiles, shape, records, g, wanted)
    student, teacher = (LinearGradients() if x is None else LinearGradients(**x._asdict()) for x in found)
    if wants.prob and g.loss is not None:
        of_prob = driver.prob_gradient(task.student, pair.chunk_bytes, records.record, g.loss)
        student = student._replace(prob=of_prob)
    student, teacher = pair.head.padded(student), pair.teacher_head.padded(teacher)
    return of_both_layers(student.filled(pair.head.input), teacher.filled(pair.head.input))


def _tile_shape(task: PairedRows, chunk_bytes: int, wanted: HeadsWanted) -> TileShape:
    """Return the shape of the tiles of both heads."""
    each = max(1, chunk_bytes // (3 if wanted.both else 2))
    sources = task.student.source, task.teacher.source
    shapes = [tile_shape(source.costs, source.positions, each) for source in sources]
    return TileShape(min(x.rows for x in shapes), min(x.classes for x in shapes))


def _linear_pair_grad_fake(call: LinearPairGradCall) -> LinearPairGradients:
    wants = PairWants(*call.wants)
    student = gradients_like(call.pair.head, wants.heads.student._replace(prob=wants.prob))
    return of_both_layers(student, gradients_like(call.pair.teacher_head, wants.heads.teacher))


def _linear_pair_grad_plain(call: LinearPairGradCall) -> LinearPairGradients:
    found = recomputed_pair(call.pair, lambda _, results: differentiable(results, js=True), call.cotangents)
    none = call.pair.head.input.new_empty((0,))
    return LinearPairGradients(*(none if x is None else x for x in found.values()))


def _linear_pair_stats_flops(call: LinearPairStatsCall) -> int:
    """Count the logits of both."""
    return call.pair.products(1, PairWants().heads)


def _linear_pair_grad_flops(call: LinearPairGradCall) -> int:
    """Count the logits where they were not kept, and the gradients of inputs and weights."""
    wants = PairWants(*call.wants)
    wanted = wants.heads
    again = (wanted.student.of_source or wanted.teacher.of_source) and call.logits.ndim != 2
    return call.pair.products(again, wanted._replace(student=wanted.student._replace(prob=wants.prob)))


linear_pair_grad = register(
    "linear_pair_grad",
    LinearPairGradCall,
    LinearPairGradients,
    Forward(_linear_pair_grad, _linear_pair_grad_fake, _linear_pair_grad_plain, _linear_pair_grad_flops),
)
linear_pair_stats = register(
    "linear_pair_stats",
    LinearPairStatsCall,
    LinearPairResults,
    Forward(_linear_pair_stats, linear_pair_stats_fake, linear_pair_stats_plain, _linear_pair_stats_flops),
    Backward(_save_linear_pair_stats, _linear_pair_stats_backward),
)
