"""crossent::linear_selected: log-probabilities of K classes of each row of a linear layer, and their gradient.

K log-probabilities cost the same as one: a product in the forward and three in the backward, with recomputed logits.
The logits of the classes are taken from the tiles that hold them, never as products of gathered rows of the weight.
With create_graph the backward recomputes everything in differentiable torch operations.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import Cotangents
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Wants, register
from crossent.torch.base.register import Gradients as ByName
from crossent.torch.base.values import PredictionResults, loss_dtype
from crossent.torch.operators.linear_call import LinearCall, LinearGradients, PackedRows, recomputed, rows_of_layer
from crossent.torch.operators.linear_stats import gradients_like, wanted_of
from crossent.torch.operators.prediction import prediction
from crossent.torch.operators.selected import SelectedCall, SelectedResults, selected_stats
from crossent.torch.ranks.collectives import add_up
from crossent.torch.ranks.records import merge, write_outputs
from crossent.torch.sources import driver, selected
from crossent.torch.sources.beside import PredictionReaders, SelectedPart, SelectedReader, SquaresPart
from crossent.torch.sources.linear import KeptTiles, LinearTiles
from crossent.torch.sources.plan import TileShape, direct
from crossent.torch.sources.selected import RowCotangents, SelectedRows
from crossent.torch.sources.source import Wanted
from crossent.torch.sources.squares import SquaresRecords


@operator_call
class LinearSelectedCall(OperatorCall):
    """A layer of one position whose rows have no target, and K classes of each: (N, K) int64, `NO_CLASS` for no entry.

    The layer's own target is a class that stands in. With `keep` the logits are kept for the backward.
    """

    head: LinearCall
    classes: Tensor
    keep: bool
    chunk_bytes: int


@operator_call
class LinearSelectedGradCall(OperatorCall):
    """A call with its records, logits that were kept (or none), and the cotangents of its differentiable results."""

    own: LinearSelectedCall
    record: Tensor
    squares_record: Tensor
    logits: Tensor
    g_lse: Tensor | None
    g_entropy: Tensor | None
    g_logprob: Tensor | None
    g_squares: Tensor | None
    wants: tuple[bool, ...]
    """Those of `Wanted`."""


class LinearSelected(NamedTuple):
    """Results of `SelectedResults` and `PredictionResults`, the largest logit of each row, and the logits if kept.

    The first four are differentiable.
    """

    lse: Tensor
    entropy: Tensor
    logprob: Tensor
    log_sum_squares: Tensor
    z: Tensor
    record: Tensor
    squares_record: Tensor
    predicted: Tensor
    peak: Tensor
    logits: Tensor

    @property
    def selected(self) -> SelectedResults:
        """Results of the rows and of the selected classes."""
        return SelectedResults(self.lse, self.entropy, self.logprob, self.z, self.record)

    @property
    def prediction(self) -> PredictionResults:
        """Results of the predictions."""
        return PredictionResults(self.log_sum_squares, self.squares_record, self.predicted, self.peak)


def _linear_selected(call: LinearSelectedCall) -> LinearSelected:
    head, classes, (*_, logits) = call.head, call.classes, _linear_selected_fake(call)
    number, groups, packed = head.class_range.total, head.ranks.groups, head.packed()
    if classes.is_cpu or os.environ.get("CROSSENT_VALIDATE") == "1":
        selected.check_classes(classes, number)
    source, task, results = packed.source, packed.task, head.new_results()
    z = torch.zeros_like(classes, dtype=torch.float64)
    predictions = PredictionReaders(task, head.input)
    task = dataclasses.replace(task, readers=(SelectedReader(task, classes, z), *predictions.readers))
    shape = task.tile_shape(call.chunk_bytes)
    driver.statistics(task, LinearTiles(source, shape, logits if call.keep else None), shape, results)
    if groups:
        merge(results.record, groups, head.class_range)
        write_outputs(results.record, task.target, results.outputs)
        add_up((z,), groups)
    log_sum_squares, *of_predictions = predictions.results(results.record, groups, head.class_range)
    logprob = selected.log_probabilities(z, head.scores, results.record, classes, number).to(results.lse.dtype)
    return LinearSelected._make(
        (results.lse, results.entropy, logprob, log_sum_squares, z, results.record, *of_predictions, logits)
    )


def _linear_selected_fake(call: LinearSelectedCall) -> LinearSelected:
    head, classes = call.head, call.classes
    _, lse, entropy, record = head.new_results()
    shape = (head.features.shape[0], head.linear_weight.shape[0]) if call.keep else (0,)
    logits = head.input.new_empty(shape, dtype=loss_dtype(head.input.dtype))
    logprob, z = lse.new_empty(classes.shape), record.new_empty(classes.shape)
    predicted, peak = torch.empty_like(lse, dtype=torch.int64), record.new_empty(lse.shape)
    return LinearSelected(
        lse, entropy, logprob, torch.empty_like(lse), z, record, torch.empty_like(record), predicted, peak, logits
    )


def _linear_selected_plain(call: LinearSelectedCall) -> LinearSelected:
    rows = rows_of_layer(call.head)
    found = selected_stats(SelectedCall(rows, call.classes))
    of_predictions = prediction(rows, found.record)
    log_sum_squares, *others = of_predictions
    none = call.head.input.new_zeros((0,))
    of_rows = (found.lse, found.entropy, found.logprob, log_sum_squares, found.z, found.record)
    return LinearSelected._make((*of_rows, *others, none))


def _save_linear_selected(ctx: Any, call: LinearSelectedCall, output: LinearSelected) -> None:
    output = LinearSelected(*output)
    keep(ctx, call, output.record, output.squares_record, output.logits)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[4:])


def _linear_selected_backward(ctx: Any, wants: Wants, *cotangents: Tensor | None) -> ByName:
    call, saved = kept(ctx)
    of_results, wanted = cotangents[:4], wanted_of(wants)
    if torch.is_grad_enabled():
        return recomputed(call.head, lambda copy, _: _differentiable(call, copy), of_results)._asdict()
    found = linear_selected_grad(LinearSelectedGradCall(call, *saved, *of_results, wanted))  # pyright: ignore[reportCallIssue]
    return LinearGradients(*(g if want else None for g, want in zip(found, wanted, strict=True)))._asdict()


def _differentiable(call: LinearSelectedCall, head: LinearCall) -> tuple[Tensor, ...]:
    """Return the differentiable results of a call with another layer in its place."""
    return _linear_selected_plain(dataclasses.replace(call, head=head))[:4]


# Their gradient ----------------------------------------------------------------------------------------------------


def _linear_selected_grad(call: LinearSelectedGradCall) -> LinearGradients:
    own, head, packed = call.own, call.own.head, call.own.head.packed()
    source, task = packed.source, _with_parts(call, packed)
    # a second gradient of a tile takes as much memory as the tile
    shape = task.tile_shape(own.chunk_bytes if call.g_squares is None else max(1, own.chunk_bytes // 2))
    if call.logits.ndim == 2:
        if direct(source.costs):
            shape = TileShape(max(1, source.size), max(1, source.classes))
        tiles: LinearTiles = KeptTiles(source, shape, call.logits)
    else:
        tiles = LinearTiles(source, shape)
    cotangents = RowCotangents(call.g_lse, call.g_entropy)
    if call.g_logprob is not None:
        of_classes = selected.cotangents_of(call.g_logprob, own.classes, head.class_range.total)
        cotangents = cotangents.beside(of_classes, call.g_logprob)
    found = driver.gradients(task, tiles, shape, call.record, Cotangents(None, *cotangents), Wanted(*call.wants))
    return LinearGradients(*head.padded(LinearGradients(**found._asdict())).filled(head.input))


def _with_parts(call: LinearSelectedGradCall, packed: PackedRows) -> driver.TiledRows:
    """Return the rows with the parts of their gradient outside the row functions."""
    own, task, parts = call.own, packed.task, []
    if call.g_logprob is not None:  # first, because the other one adds to its result
        of_classes = selected.cotangents_of(call.g_logprob, own.classes, own.head.class_range.total)
        rows = SelectedRows(call.record, RowCotangents(call.g_lse, call.g_entropy), of_classes)
        parts.append(SelectedPart(task, own.classes, rows))
    if call.g_squares is not None:
        parts.append(SquaresPart(task, SquaresRecords(call.record, call.squares_record), call.g_squares))
    return dataclasses.replace(task, parts=tuple(parts))


def _linear_selected_grad_fake(call: LinearSelectedGradCall) -> LinearGradients:
    return LinearGradients(*gradients_like(call.own.head, Wanted(*call.wants)))


def _linear_selected_grad_plain(call: LinearSelectedGradCall) -> LinearGradients:
    cotangents = (call.g_lse, call.g_entropy, call.g_logprob, call.g_squares)
    found = recomputed(call.own.head, lambda copy, _: _differentiable(call.own, copy), cotangents)
    return LinearGradients(*found.filled(call.own.head.input))


def _linear_selected_flops(call: LinearSelectedCall) -> int:
    """Count the logits."""
    return call.head.products(1)


def _linear_selected_grad_flops(call: LinearSelectedGradCall) -> int:
    """Count the logits where they were not kept, and the gradients of input and weight."""
    wanted = Wanted(*call.wants)
    return call.own.head.products(call.logits.ndim != 2, wanted)


linear_selected_grad = register(
    "linear_selected_grad",
    LinearSelectedGradCall,
    LinearGradients,
    Forward(
        _linear_selected_grad, _linear_selected_grad_fake, _linear_selected_grad_plain, _linear_selected_grad_flops
    ),
)
linear_selected = register(
    "linear_selected",
    LinearSelectedCall,
    LinearSelected,
    Forward(_linear_selected, _linear_selected_fake, _linear_selected_plain, _linear_selected_flops),
    Backward(_save_linear_selected, _linear_selected_backward),
)
