"""crossent::linear_stats: loss, lse and entropy of each row of a linear layer's logits, and crossent::linear_grad.

Each output is differentiable with any cotangent; the backward, linear_grad, multiplies the logits again, or reads them
where the forward kept them. Where the head is frozen, the forward may keep the derivative of each loss with respect to
its row of the input instead, and the backward of the losses multiplies nothing. With create_graph it recomputes
everything in differentiable torch operations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import Cotangents, LossScale
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Wants, register
from crossent.torch.base.register import Gradients as ByName
from crossent.torch.base.values import PredictionResults, RowResults, loss_dtype
from crossent.torch.operators.linear_call import LinearCall, LinearGradients, PackedRows, recomputed, rows_of_layer
from crossent.torch.operators.prediction import prediction
from crossent.torch.operators.rows import row_stats
from crossent.torch.ranks.records import merge, write_outputs
from crossent.torch.sources import driver
from crossent.torch.sources.beside import PredictionReaders, SquaresPart
from crossent.torch.sources.linear import KeptTiles, LinearTiles
from crossent.torch.sources.plan import Sweep, TileShape, direct, one_sweep
from crossent.torch.sources.source import Wanted
from crossent.torch.sources.squares import SquaresRecords


@operator_call
class LinearStatsCall(OperatorCall):
    """A call for statistics, and the data kept for the backward: "nothing", "logits" or "derivative".

    The derivative is of each loss with respect to its row of the input, (N, D) in the dtype of the losses. With
    `predicts` the results of the predictions are wanted too.
    """

    head: LinearCall
    keep: str
    chunk_bytes: int
    predicts: bool = False


@operator_call
class LinearGradCall(OperatorCall):
    """A call with the record of its rows, logits that were kept (or none), and the cotangents of its results."""

    head: LinearCall
    record: Tensor
    logits: Tensor
    g_loss: Tensor | None
    g_lse: Tensor | None
    g_entropy: Tensor | None
    wants: tuple[bool, ...]
    """Those of `Wanted`."""
    chunk_bytes: int
    squares_record: Tensor | None = None
    g_squares: Tensor | None = None
    """Record of doubled scores, and cotangent of log Σ q²."""


class LinearResults(NamedTuple):
    """Results of the rows, kept data, and results of the predictions if requested.

    Kept are the logits (N, V · P) or the derivative (N, D). A missing value is an empty tensor.
    """

    loss: Tensor
    lse: Tensor
    entropy: Tensor
    record: Tensor
    kept: Tensor
    log_sum_squares: Tensor
    squares_record: Tensor
    predicted: Tensor
    peak: Tensor

    @property
    def rows(self) -> RowResults:
        """The results of the rows."""
        return RowResults(self.loss, self.lse, self.entropy, self.record)

    @property
    def prediction(self) -> PredictionResults:
        """The results of the predictions."""
        return PredictionResults(self.log_sum_squares, self.squares_record, self.predicted, self.peak)


def wanted_of(wants: Wants) -> Wanted:
    """Return the operands that require a gradient, from the names of all arguments that do."""
    return Wanted(*(name in wants for name in Wanted._fields))


def gradients_like(call: LinearCall, wanted: Wanted) -> list[Tensor]:
    """Return fake gradients of the operands that require one, and empty tensors for the others."""
    found: list[Any] = [
        torch.empty_like(x, memory_format=torch.contiguous_format) if want else None  # pyright: ignore
        for x, want in zip(call.operands, wanted, strict=True)
    ]
    return LinearGradients(*found).filled(call.input)


# Statistics --------------------------------------------------------------------------------------------------------


def _linear_stats(call: LinearStatsCall) -> LinearResults:
    if call.keep == "derivative":
        return _linear_derivative(call)
    head, logits = call.head, _linear_stats_fake(call).kept
    results, packed = head.new_results(), head.packed()
    source, reading = packed.source, ReadPredictions(head, packed, wanted=call.predicts)
    task = reading.task
    parts = results if packed.places is None else head.new_results(source.size)
    shape = task.tile_shape(call.chunk_bytes)
    tiles = LinearTiles(source, shape, logits[: source.size] if call.keep == "logits" else None)
    driver.statistics(task, tiles, shape, parts)
    if head.ranks.groups:
        merge(parts.record, head.ranks.groups, head.class_range)
        write_outputs(parts.record, task.target, parts.outputs)
    packed.put(results, parts)
    return LinearResults(*results, logits, *reading.results(parts.record))


class ReadPredictions:
    """Rows of a head, with readers of their predictions, if requested."""

    def __init__(self, head: LinearCall, packed: PackedRows, *, wanted: bool) -> None:
        self._head, self._packed = head, packed
        self._readers = PredictionReaders(packed.task, head.input) if wanted else None
        readers = () if self._readers is None else self._readers.readers
        self.task = dataclasses.replace(packed.task, readers=readers)
        """The task for the driver."""

    def results(self, record: Tensor) -> PredictionResults:
        """Return the results of the predictions of all rows, or of none if they are not wanted.

        `record` covers the packed rows and the classes of all ranks.
        """
        head, packed, readers = self._head, self._packed, self._readers
        found = None if readers is None else readers.results(record, head.ranks.groups, head.class_range)
        if found is not None and packed.places is None:
            return found
        every = head.new_predictions(wanted=found is not None)
        if found is not None:
            packed.put(every, found)
        return every


def _linear_derivative(call: LinearStatsCall) -> LinearResults:
    """Compute the statistics, and the derivative of the sum of all losses: each row has the derivative of its own."""
    head = call.head
    results, packed = head.new_results(), head.packed()
    size, reading = packed.source.size, ReadPredictions(head, packed, wanted=call.predicts)
    parts = results if packed.places is None else head.new_results(size)
    each = LossScale(torch.ones(size, dtype=torch.float64, device=head.input.device))
    chunks = one_sweep(packed.source.costs, call.chunk_bytes) or Sweep(max(1, size))
    found = driver.one_sweep(reading.task, chunks, each, parts, Wanted(input=True))
    packed.put(results, parts)
    return LinearResults(*results, found.input, *reading.results(parts.record))


def _linear_stats_fake(call: LinearStatsCall) -> LinearResults:
    head, rows = call.head, call.head.features.shape[0]
    columns = {"logits": head.linear_weight.shape[0], "derivative": head.input.shape[1]}
    shape = (rows, columns[call.keep]) if call.keep in columns else (0,)
    memory = head.input.new_empty(shape, dtype=loss_dtype(head.input.dtype))
    return LinearResults(*head.new_results(), memory, *head.new_predictions(wanted=call.predicts))


def _save_linear_stats(ctx: Any, call: LinearStatsCall, output: LinearResults) -> None:
    output = LinearResults(*output)
    keep(ctx, call, output.record, output.kept, output.squares_record)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output.record, output.kept, output.squares_record, output.predicted, output.peak)


def _linear_stats_backward(ctx: Any, wants: Wants, *cotangents: Tensor | None) -> ByName:
    call, (record, memory, squares_record) = kept(ctx)
    g = LinearResults(*cotangents)  # pyright: ignore[reportArgumentType]
    of_rows = (g.loss, g.lse, g.entropy)
    squares = Squares(squares_record, wanted_squares(g.log_sum_squares))
    return stats_gradients(call, record, memory, of_rows, wanted_of(wants), squares)._asdict()


class Squares(NamedTuple):
    """Record of doubled scores, and the cotangent of log Σ q²; None is zero."""

    record: Tensor | None = None
    g: Tensor | None = None


NO_SQUARES = Squares()


def wanted_squares(g_squares: Tensor | None) -> Tensor | None:
    """Return the cotangent of log Σ q², None where it was not computed."""
    return None if g_squares is None or g_squares.shape[0] == 0 else g_squares


def stats_gradients(
    call: LinearStatsCall,
    record: Tensor,
    memory: Tensor,
    cotangents: Sequence[Tensor | None],
    wanted: Wanted,
    squares: Squares = NO_SQUARES,
) -> LinearGradients:
    """Return the gradients of the operands for cotangents of loss, lse and entropy of each row, and of the squares.

    `memory` is the data kept by the forward.
    """
    if torch.is_grad_enabled():
        g_squares = squares.g
        return recomputed(call.head, lambda head, rows: with_squares(head, rows, g_squares), (*cotangents, g_squares))
    g_loss, g_lse, g_entropy = cotangents
    of_loss = LinearGradients()
    if call.keep == "derivative":
        if g_loss is not None:
            g_each = g_loss.unsqueeze(1)
            g_input = torch.where(g_each == 0, 0.0, memory * g_each)  # a row without a part in it may hold NaN
            of_loss, g_loss = LinearGradients(g_input.to(call.head.input.dtype)), None
        if g_lse is None and g_entropy is None and squares.g is None:
            return of_loss
        memory = memory.new_empty((0,))
    wanted = wanted._replace(prob=wanted.prob and g_loss is not None)
    if squares.g is None:
        squares = NO_SQUARES
    found = linear_grad(
        LinearGradCall(call.head, record, memory, g_loss, g_lse, g_entropy, wanted, call.chunk_bytes, *squares)
    )
    return of_loss + LinearGradients(*(g if want else None for g, want in zip(found, wanted, strict=True)))


def with_squares(head: LinearCall, results: RowResults, g_squares: Tensor | None) -> tuple[Tensor, ...]:
    """Return loss, lse and entropy of each row, and log Σ q², in differentiable operations.

    Without a cotangent of the last one anything does in its place.
    """
    if g_squares is None:
        return *results[:3], results.lse
    return *results[:3], prediction(rows_of_layer(head), results.record).log_sum_squares


# Their gradient ----------------------------------------------------------------------------------------------------


def _linear_grad(call: LinearGradCall) -> LinearGradients:
    packed, wanted = call.head.packed(), Wanted(*call.wants)
    source, task = packed.source, packed.task
    record = packed.take(call.record)
    cotangents = Cotangents(*(packed.take(g) for g in (call.g_loss, call.g_lse, call.g_entropy)))
    if call.g_squares is not None:
        part = SquaresPart(task, SquaresRecords(record, packed.take(call.squares_record)), packed.take(call.g_squares))
        task = dataclasses.replace(task, parts=(part,))
    # a second gradient of a tile takes as much memory as the tile
    shape = task.tile_shape(max(1, call.chunk_bytes // 2) if task.parts else call.chunk_bytes)
    if call.logits.ndim == 2:
        if direct(source.costs):
            shape = TileShape(max(1, source.size), max(1, source.classes))
        tiles: LinearTiles = KeptTiles(source, shape, call.logits[: source.size])
    else:
        tiles = LinearTiles(source, shape)
    found = driver.gradients(task, tiles, shape, record, cotangents, wanted)
    g_prob = None
    if wanted.prob and cotangents.loss is not None:
        g_prob = driver.prob_gradient(task, call.chunk_bytes, record, cotangents.loss)
    in_shape = call.head.padded(LinearGradients(**found._asdict(), prob=g_prob))
    return LinearGradients(*in_shape.filled(call.head.input))


def _linear_grad_fake(call: LinearGradCall) -> LinearGradients:
    return LinearGradients(*gradients_like(call.head, Wanted(*call.wants)))


def _linear_grad_plain(call: LinearGradCall) -> LinearGradients:
    cotangents = (call.g_loss, call.g_lse, call.g_entropy, call.g_squares)
    found = recomputed(call.head, lambda head, rows: with_squares(head, rows, call.g_squares), cotangents)
    return LinearGradients(*found.filled(call.head.input))


def _linear_stats_plain(call: LinearStatsCall) -> LinearResults:
    rows = rows_of_layer(call.head)
    found = row_stats(rows)
    of_predictions = prediction(rows, found.record) if call.predicts else call.head.new_predictions(wanted=False)
    return LinearResults._make((*found, call.head.input.new_zeros((0,)), *of_predictions))


def _linear_stats_flops(call: LinearStatsCall) -> int:
    """Count the logits, and the derivative where it is kept."""
    return call.head.products(2 if call.keep == "derivative" else 1)


def _linear_grad_flops(call: LinearGradCall) -> int:
    """Count the logits unless they were kept, the gradients of input and weight, and the logits for p's gradient."""
    wanted = Wanted(*call.wants)
    again = wanted.of_source and call.logits.ndim != 2
    return call.head.products(again, wanted)


linear_grad = register(
    "linear_grad",
    LinearGradCall,
    LinearGradients,
    Forward(_linear_grad, _linear_grad_fake, _linear_grad_plain, _linear_grad_flops),
)
linear_stats = register(
    "linear_stats",
    LinearStatsCall,
    LinearResults,
    Forward(_linear_stats, _linear_stats_fake, _linear_stats_plain, _linear_stats_flops),
    Backward(_save_linear_stats, _linear_stats_backward),
)
