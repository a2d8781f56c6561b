"""crossent::linear_loss: the sum or mean of a linear loss and its gradients in one sweep.

The backward only scales the gradients of the forward. Gradients of half-precision operands wait for it in float32, so
that they are rounded once, with their cotangent (docs/decisions/0019). With create_graph the backward recomputes
everything in differentiable torch operations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import LossScale
from crossent.spec import Target
from crossent.torch.base.backends import backend
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Wants, in_plain_backward, keeps_graph, register
from crossent.torch.base.register import Gradients as ByName
from crossent.torch.base.values import PredictionResults, RowResults, loss_dtype
from crossent.torch.call.arguments import Closing, RowClosing
from crossent.torch.call.closings import RowFunction, RowView
from crossent.torch.operators.linear_call import LinearCall, LinearGradients, recomputed, rows_of_layer
from crossent.torch.operators.linear_stats import (
    LinearStatsCall,
    ReadPredictions,
    Squares,
    gradients_like,
    stats_gradients,
    wanted_of,
    wanted_squares,
    with_squares,
)
from crossent.torch.operators.prediction import prediction
from crossent.torch.operators.rows import row_stats
from crossent.torch.sources import driver
from crossent.torch.sources.linear import costs_of
from crossent.torch.sources.plan import Sweep, one_sweep, weight_adds_up
from crossent.torch.sources.source import Wanted


@operator_call
class LinearLossCall(OperatorCall):
    """A call with its closing, and the operands that require a gradient (`Wanted`)."""

    head: LinearCall
    sample_weight: Tensor | None
    z_loss: float
    mean: bool
    wants: tuple[bool, ...]
    chunk_bytes: int
    predicts: bool = False
    """Whether the results of the predictions are wanted."""

    @property
    def closing(self) -> RowClosing:
        """The closing of the rows."""
        closing = Closing("mean" if self.mean else "sum", self.sample_weight, self.z_loss)
        return RowClosing(closing, self.head.target, self.head.target.weight)  # pyright: ignore[reportArgumentType]

    @property
    def chunks(self) -> Sweep:
        """The chunks of the sweep."""
        costs = costs_of(self.head.input, self.head.linear_weight)
        return one_sweep(costs, self.chunk_bytes) or Sweep(max(1, costs.rows))

    @property
    def wanted(self) -> Wanted:
        """Operands that require a gradient; the target's probabilities never do here."""
        return Wanted(*self.wants)._replace(prob=False)


class LinearLoss(NamedTuple):
    """The reduced loss, the results of the rows, and the gradients of the reduced loss by each operand.

    Gradients are in the dtype of the loss; the gradient of a weight may have its own (`plan.weight_adds_up`).
    """

    reduced: Tensor
    loss: Tensor
    lse: Tensor
    entropy: Tensor
    record: Tensor
    g_input: Tensor
    g_weight: Tensor
    g_bias: Tensor
    g_adapter: Tensor
    log_sum_squares: Tensor
    squares_record: Tensor
    predicted: Tensor
    peak: Tensor

    @property
    def prediction(self) -> PredictionResults:
        """The results of the predictions."""
        return PredictionResults(self.log_sum_squares, self.squares_record, self.predicted, self.peak)

    @property
    def rows(self) -> RowResults:
        """The results of the rows."""
        return RowResults(self.loss, self.lse, self.entropy, self.record)


def _linear_loss(call: LinearLossCall) -> LinearLoss:
    found = sweep(call, lambda scale, results, places: scale, call.chunks)
    return found.loss(call.closing.reduced(found.results.loss, found.results.lse))


class Swept(NamedTuple):
    """Results of the rows of a sweep, the gradients of the operands, and results of the predictions."""

    results: RowResults
    gradients: list[Tensor]
    prediction: PredictionResults

    def loss(self, reduced: Tensor) -> LinearLoss:
        """Return the outputs of the operator."""
        return LinearLoss._make((reduced, *self.results, *self.gradients, *self.prediction))


MakeClosing = Callable[[LossScale, RowResults, Tensor | None], Any]
"""Makes the sweep's form of a closing, from the scale and the memory of the rows that have a target, and their
places among all rows (None: all rows have one)."""


def sweep(call: LinearLossCall, closing_of: MakeClosing, chunks: Sweep) -> Swept:
    """Compute the results of all rows and the gradients of the operands in one sweep."""
    head = call.head
    results, packed = head.new_results(), head.packed()
    reading = ReadPredictions(head, packed, wanted=call.predicts)
    parts = results if packed.places is None else head.new_results(packed.source.size)
    scale = call.closing.scale(results)
    taken = scale._replace(loss=packed.take(scale.loss), lse_squared=packed.take(scale.lse_squared))
    closing = closing_of(taken, parts, packed.places)
    found = driver.one_sweep(reading.task, chunks, closing, parts, call.wanted)
    packed.put(results, parts)
    gradients = head.padded(LinearGradients(**found._asdict()))
    return Swept(results, of_layer(gradients.filled(head.input)), reading.results(parts.record))


def of_layer(gradients: Sequence[Any]) -> list[Any]:
    """Return the values of the layer's operands in the order of `LinearLoss`, from the order of their call."""
    g_input, g_weight, g_bias, _, g_adapter = gradients
    return [g_input, g_weight, g_bias, g_adapter]


def _linear_loss_fake(call: LinearLossCall) -> LinearLoss:
    head, results = call.head, call.head.new_results()
    wide = loss_dtype(head.input.dtype)
    adds_up = weight_adds_up(costs_of(head.input, head.linear_weight), call.chunks)
    dtypes = (wide, wide if adds_up else head.linear_weight.dtype, wide, wide)
    gradients = of_layer(gradients_like(head, call.wanted))
    gradients = [g.to(dtype) for g, dtype in zip(gradients, dtypes, strict=True)]
    of_predictions = head.new_predictions(wanted=call.predicts)
    return LinearLoss._make((results.loss.new_empty(()), *results, *gradients, *of_predictions))


def save_linear_loss(ctx: Any, call: LinearLossCall, output: LinearLoss, function: RowFunction | None = None) -> None:
    """Save the data for the backward, also for a loss with a caller's closing."""
    output = LinearLoss(*output)
    gradients = (output.g_input, output.g_weight, output.g_bias, output.g_adapter)
    keep(ctx, call, output.record, output.squares_record, *(() if function is None else function.tensors))
    ctx.function = function if function is None else function.map(lambda _: None)  # its tensors are saved
    # not saved with the others: the backward hands them over, and scales them in place if there is no other reference
    ctx.gradients = [g if want else None for g, want in zip(gradients, of_layer(call.wanted), strict=True)]
    ctx.dtypes = (call.head.input.dtype, *[call.head.linear_weight.dtype] * 3)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output.record, *gradients, output.squares_record, output.predicted, output.peak)


def linear_loss_backward(ctx: Any, wants: Wants, *cotangents: Tensor | None) -> ByName:
    """Return the gradients of the operands for cotangents of the loss and of the results of the rows."""
    given: Any = LinearLoss(*cotangents)  # pyright: ignore[reportArgumentType]
    g, of_rows = given.reduced, (given.loss, given.lse, given.entropy)
    of_squares = wanted_squares(given.log_sum_squares)
    if torch.is_grad_enabled():
        call: LinearLossCall
        call, (_record, _squares, *tensors) = kept(ctx)
        closing, saved = call.closing, iter(tensors)
        if ctx.function is not None:
            function = ctx.function.map(lambda _: next(saved))
            closing = closing._replace(closing=closing.closing._replace(function=function))

        def close(head: LinearCall, results: RowResults) -> tuple[Tensor, ...]:
            def again(target: Target) -> RowResults:
                return row_stats(rows_of_layer(dataclasses.replace(head, target=target)))

            reduced = closing.closed(RowView(head.target, results, again))
            return reduced, *with_squares(head, results, of_squares)

        return recomputed(call.head, close, (g, *of_rows, of_squares))._asdict()
    found = LinearGradients()
    if g is not None:
        g_input, g_weight, g_bias, g_adapter = scaled(ctx, g)
        found = LinearGradients(g_input, g_weight, g_bias, None, g_adapter)
    elif not keeps_graph():
        ctx.gradients = None
    if any(x is not None for x in (*of_rows, of_squares)):
        call, (record, squares_record, *_constants) = kept(ctx)
        stats, squares = LinearStatsCall(call.head, "nothing", call.chunk_bytes), Squares(squares_record, of_squares)
        found += stats_gradients(stats, record, record.new_empty((0,)), of_rows, wanted_of(wants), squares)
    return found._asdict()


def scaled(ctx: Any, g: Tensor) -> list[Tensor | None]:
    """Return g times the gradients that the forward computed, in their own memory if this is the last backward.

    On a GPU one kernel for each reads g, multiplies and rounds; it skips tensors for g = 1.
    """
    if ctx.gradients is None:
        _ = ctx.saved_tensors  # raises torch's error for a freed graph
        raise RuntimeError("the gradients that this forward computed are gone; use backward(retain_graph=True)")
    plain = in_plain_backward(ctx)
    last = plain and not keeps_graph()  # else others may have them too
    gradients: list[Tensor | None] = ctx.gradients
    if last:
        ctx.gradients = None
    pairs = zip(gradients, ctx.dtypes, strict=True)
    if plain and (write_scaled := getattr(backend(g), "scale", None)) is not None:
        found = [
            x if x is None or (last and x.dtype == dtype) else torch.empty_like(x, dtype=dtype) for x, dtype in pairs
        ]
        for x, out in zip(gradients, found, strict=True):
            if x is not None:
                write_scaled(x, g, out)
        return found
    if not last:
        return [None if x is None else (x.to(g.dtype) * g).to(dtype) for x, dtype in pairs]
    factor = g.item()
    if factor != 1:
        gradients = [None if x is None else x.mul_(factor) for x in gradients]
    return [None if x is None else x.to(dtype) for x, dtype in zip(gradients, ctx.dtypes, strict=True)]


def _linear_loss_plain(call: LinearLossCall) -> LinearLoss:
    rows = rows_of_layer(call.head)
    results = row_stats(rows)
    of_predictions = prediction(rows, results.record) if call.predicts else call.head.new_predictions(wanted=False)
    none = of_layer(
        LinearGradients().filled(call.head.input)
    )  # autograd differentiates this one operation by operation
    reduced = call.closing.reduced(results.loss, results.lse)
    return LinearLoss._make((reduced, *results, *none, *of_predictions))


def _linear_loss_flops(call: LinearLossCall) -> int:
    """Count the logits, with recomputed ones, and the gradients of input and weight."""
    rest, (rows, features) = call.chunks.rest, call.head.input.shape
    again = 0 if rest is None else 2 * rows * features * rest.logits
    return call.head.products(1, call.wanted) + again


linear_loss = register(
    "linear_loss",
    LinearLossCall,
    LinearLoss,
    Forward(_linear_loss, _linear_loss_fake, _linear_loss_plain, _linear_loss_flops),
    Backward(save_linear_loss, linear_loss_backward),
)
