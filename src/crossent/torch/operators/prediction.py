"""crossent::most_probable and crossent::log_sum_squares: fields of `Stats` on the prediction of each row."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Gradients, Wants, register
from crossent.torch.base.values import PredictionResults, aliases, derivatives, new_record
from crossent.torch.operators import plain
from crossent.torch.operators.rows import RowCall, row_stats
from crossent.torch.sources import squares
from crossent.torch.sources.beside import without_target
from crossent.torch.sources.most_probable import Peaks, no_peaks, peaks_of
from crossent.torch.sources.squares import SquaresRecords


@operator_call
class MostProbableCall(OperatorCall):
    """Logits (N, V) or (outer, V, inner), the first of their classes, and the groups of ranks with other classes."""

    logits: Tensor
    first_class: int = 0
    groups: tuple[str, ...] = ()


def _most_probable(call: MostProbableCall) -> Peaks:
    value, at = peaks_of(call.logits)
    return Peaks(value, at + call.first_class).over(call.groups)


def _most_probable_fake(call: MostProbableCall) -> Peaks:
    logits = call.logits
    rows = logits.shape[0] if logits.ndim == 2 else logits.shape[0] * logits.shape[2]
    value = logits.new_empty((rows,), dtype=torch.float64)
    return Peaks(value, torch.empty_like(value, dtype=torch.int64))


def _most_probable_plain(call: MostProbableCall) -> Peaks:
    logits = call.logits.detach()
    if logits.shape[1] == 0:
        return no_peaks(_most_probable_fake(call).at.shape[0], call.first_class, logits).over(call.groups)
    value, at = logits.max(1)
    return Peaks(value.reshape(-1).double(), at.reshape(-1) + call.first_class).over(call.groups)


_peaks = register(
    "most_probable", MostProbableCall, Peaks, Forward(_most_probable, _most_probable_fake, _most_probable_plain)
)


def most_probable(call: RowCall) -> Peaks:
    """Return the largest logit and its class of each row of a call; they are constants."""
    return _peaks(MostProbableCall(call.source.logits.detach(), call.target.first_class, call.groups))


# log Σ q² ----------------------------------------------------------------------------------------------------------


@operator_call
class SquaresCall(OperatorCall):
    """Rows without a target, and the record of their scores."""

    rows: RowCall
    record: Tensor

    @property
    def doubled(self) -> RowCall:
        """The rows with doubled scores."""
        return dataclasses.replace(self.rows, scores=self.rows.scores.doubled)


@operator_call
class SquaresGradCall(OperatorCall):
    """A call with the record of its doubled scores, and the cotangent (N,) of log Σ q²."""

    squares: SquaresCall
    doubled_record: Tensor
    g: Tensor


class SquaresResults(NamedTuple):
    """log Σ q² of each row, (N,), and the record of its doubled scores."""

    log_sum_squares: Tensor
    record: Tensor


def _squares(call: SquaresCall) -> SquaresResults:
    found = row_stats(call.doubled, plain=True)
    return SquaresResults(SquaresRecords(call.record, found.record).log_sum_squares().to(found.lse.dtype), found.record)


def _squares_fake(call: SquaresCall) -> SquaresResults:
    return SquaresResults(*new_record(call.rows.number, call.rows.logits))


def _squares_plain(call: SquaresCall) -> SquaresResults:
    record = row_stats(call.doubled).record
    through, exact = _log_sum_squares(call), SquaresRecords(call.record, record).log_sum_squares()
    return SquaresResults(through + (exact.to(through.dtype) - through).detach(), record)


def _log_sum_squares(call: SquaresCall) -> Tensor:
    """Return log Σ q² in plain torch operations, to differentiate."""
    rows, source = call.rows, call.rows.source
    target = rows.target_of(source)
    both = (rows.scores, call.doubled.scores)
    once, twice = (plain.row_outputs(source.logits, target, x, rows.groups).lse for x in both)
    return twice - 2 * once


def _save_squares(ctx: Any, call: SquaresCall, output: SquaresResults) -> None:
    _, record = output
    keep(ctx, call, record)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(record)


def _squares_backward(ctx: Any, wants: Wants, g: Tensor | None, *_: Any) -> Gradients:
    call, (record,) = kept(ctx)
    return {} if g is None or "logits" not in wants else {"logits": _squares_grad_of(SquaresGradCall(call, record, g))}


def _squares_grad(call: SquaresGradCall) -> Tensor:
    own, rows, source = call.squares, call.squares.rows, call.squares.rows.source
    gradient, records = source.new_gradient(), SquaresRecords(own.record, call.doubled_record)
    to, target = source.unpadded(gradient), rows.target_of(source)
    squares.write_gradient(source.logits, target, rows.scores, records, call.g, to)
    return gradient


def _squares_grad_fake(call: SquaresGradCall) -> Tensor:
    return torch.empty_like(call.squares.rows.logits)


def _save_squares_grad(ctx: Any, call: SquaresGradCall, output: Tensor) -> None:
    keep(ctx, call)


def _squares_grad_backward(ctx: Any, wants: Wants, cotangent: Tensor) -> Gradients:
    """Differentiate the gradient in plain torch operations; the records are recomputed."""
    call, _ = kept(ctx)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs, grad = _differentiable_squares_grad(call, create_graph=True)
        return dict(zip(("logits", "g"), derivatives(grad, inputs, cotangent, again=again), strict=True))


def _squares_grad_plain(call: SquaresGradCall) -> Tensor:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        return _differentiable_squares_grad(call, create_graph=again)[1]


def _differentiable_squares_grad(call: SquaresGradCall, *, create_graph: bool) -> tuple[list[Any], Tensor]:
    """Return the tensors that the gradient can be differentiated by, and the gradient of the logits."""
    z, g = inputs = aliases(call.squares.rows.logits, call.g)
    own = dataclasses.replace(call.squares, rows=dataclasses.replace(call.squares.rows, logits=z))
    (grad,) = torch.autograd.grad(_log_sum_squares(own), z, g, create_graph=create_graph)
    return inputs, grad


_squares_grad_of = register(
    "log_sum_squares_grad",
    SquaresGradCall,
    Tensor,
    Forward(_squares_grad, _squares_grad_fake, _squares_grad_plain),
    Backward(_save_squares_grad, _squares_grad_backward),
)
_squares_of = register(
    "log_sum_squares",
    SquaresCall,
    SquaresResults,
    Forward(_squares, _squares_fake, _squares_plain),
    Backward(_save_squares, _squares_backward),
)


def prediction(call: RowCall, record: Tensor) -> PredictionResults:
    """Return the results of the predictions of a call with this record; log Σ q² is differentiable by the logits."""
    target = without_target(call.target, call.number, call.logits.device)
    rows = dataclasses.replace(call, target=target, recorded=True)
    value, doubled = _squares_of(SquaresCall(rows, record))
    peaks = most_probable(call)
    return PredictionResults(value, doubled, peaks.at, peaks.value)
