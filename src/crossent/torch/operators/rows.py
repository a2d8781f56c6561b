"""The row functions as torch operators, over the backends: logits that exist.

crossent::row_stats gives loss, lse and entropy of each row, each differentiable with any cotangent; crossent::row_loss
is the sum or mean of the losses in one step. The backward of both is crossent::row_grad, whose own backward recomputes
everything in plain torch operations.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import Cotangents
from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from crossent.torch.base.backends import backend, few_classes
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Gradients, Wants, in_plain_backward, register
from crossent.torch.base.values import RowRecord, RowResults, aliases, derivatives, loss_dtype, new_record
from crossent.torch.call.arguments import Closing, RowClosing
from crossent.torch.operators import plain
from crossent.torch.ranks.collectives import LogTotal, log_sum_exp, share, sum_over
from crossent.torch.ranks.records import ClassRange, merge, write_outputs
from crossent.torch.ranks.shards import held
from crossent.torch.sources.probabilities import prob_grad, scores_of
from crossent.torch.sources.tensor import TensorSource


@operator_call
class RowCall(OperatorCall):
    """Logits (N, V) or (outer, V, inner), their target and scores, and the groups of ranks with other classes.

    Columns beyond the last class (`target.num_classes`) are padding. The record is `recorded` if the caller wants it;
    else it is only for the backward, which needs none for few classes.
    """

    logits: Tensor
    target: Target
    scores: Scores
    groups: tuple[str, ...] = ()
    recorded: bool = False

    @property
    def number(self) -> int:
        """Number of rows."""
        logits = self.logits
        return logits.shape[0] if logits.ndim == 2 else logits.shape[0] * logits.shape[2]

    @property
    def keeps_record(self) -> bool:
        """Whether a backward needs the record of the rows."""
        if self.groups or (self.target.index is not None and self.target.prob is not None):
            return True
        return not 0 < self.source.classes <= few_classes(self.logits)

    @property
    def new_record(self) -> RowRecord:
        """Memory for the losses and, if it is wanted or needed, the record; else a record of no rows."""
        return new_record(self.number, self.logits, recorded=self.recorded or self.keeps_record)

    @property
    def source(self) -> TensorSource:
        """The logits as a source."""
        target = self.target
        if target.num_classes is None:
            return TensorSource(self.logits)
        columns = self.logits.shape[1]
        here = held(columns, target.first_class, target.num_classes)
        return TensorSource(self.logits, here if here < columns else None)

    def target_of(self, source: TensorSource) -> Target:
        """Return the target without padding."""
        target = self.target
        if source.held is None or target.kind != "dense":
            return target
        prob: Any = target.prob
        return dataclasses.replace(target, prob=prob[:, : source.held])

    def class_range(self, source: TensorSource) -> ClassRange:
        """Return which classes these are."""
        return ClassRange(self.target.first_class, source.classes, self.target.num_classes or source.classes)


@operator_call
class RowLossCall(OperatorCall):
    """A call whose row losses become their mean, or their sum."""

    rows: RowCall
    mean: bool


@operator_call
class RowGradCall(OperatorCall):
    """A call with the record of its rows (of none if none is kept), and cotangents (N,) of loss, lse and entropy."""

    rows: RowCall
    record: Tensor
    g_loss: Tensor | None
    g_lse: Tensor | None
    g_entropy: Tensor | None


class ReducedLoss(NamedTuple):
    """The sum or mean of row losses, its derivative by each of them, and the record of the rows."""

    loss: Tensor
    scale: Tensor
    record: Tensor


def _new_results(call: RowCall) -> RowResults:
    loss, record = call.new_record
    return RowResults(loss, torch.empty_like(loss), torch.empty_like(loss), record)


# Loss, lse and entropy of each row ---------------------------------------------------------------------------------


def _row_stats(call: RowCall) -> RowResults:
    results, source = _new_results(call), call.source
    target = call.target_of(source)
    record = results.record if call.recorded or call.keeps_record else None
    backend(call.logits).row_stats(source.logits, target, call.scores, record, results.outputs)
    if call.groups:
        merge(results.record, call.groups, call.class_range(source))
        write_outputs(results.record, target, results.outputs)
    return results


def _save_row_stats(ctx: Any, call: RowCall, output: RowResults) -> None:
    record = output[-1]
    keep(ctx, call, record if call.keeps_record else record[:, :0])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(record)


def _row_stats_backward(
    ctx: Any, wants: Wants, g_loss: Tensor | None, g_lse: Tensor | None, g_entropy: Tensor | None, *_: Any
) -> Gradients:
    call, (of_rows,) = kept(ctx)
    return _gradients(ctx, RowGradCall(call, of_rows, g_loss, g_lse, g_entropy), wants)


def _gradients(ctx: Any, call: RowGradCall, wants: Wants) -> Gradients:
    found: dict[str, Tensor | None] = {}
    if "logits" in wants:
        found["logits"] = row_grad(call, plain=in_plain_backward(ctx))
    if "prob" in wants and call.g_loss is not None:
        found["prob"] = prob_gradient(call.rows, call.record, call.g_loss)
    return found


def prob_gradient(call: RowCall, record: Tensor, g_loss: Tensor) -> Tensor:
    """Return the gradient with respect to the target's probabilities, zero in padding."""
    source, scores = call.source, call.scores
    z, target = source.logits, call.target_of(source)
    if not call.groups:
        grad = prob_grad(z, target, scores, g_loss)
    else:
        if torch.is_grad_enabled():
            peak, log_total = log_sum_exp(scores_of(z, scores), call.groups)
            total, g_loss = LogTotal(peak, share(log_total, call.groups)), share(g_loss, call.groups)
        else:
            total = LogTotal(record[0].to(g_loss.dtype), record[1].log().to(g_loss.dtype))
        grad = prob_grad(z, target, scores, g_loss, total)
        if target.kind == "topk":
            grad = sum_over(grad, call.groups)
    padding = call.logits.shape[1] - source.classes
    if padding and target.kind == "dense":
        grad = torch.nn.functional.pad(grad, (0, 0) * (grad.ndim - 2) + (0, padding))
    return grad


def _row_stats_plain(call: RowCall) -> RowResults:
    source = call.source
    return plain.row_results(source.logits, call.target_of(source), call.scores, call.groups)


row_stats = register(
    "row_stats",
    RowCall,
    RowResults,
    Forward(_row_stats, _new_results, _row_stats_plain),
    Backward(_save_row_stats, _row_stats_backward),
)


# Their sum or mean as one operator ---------------------------------------------------------------------------------


def _row_loss(call: RowLossCall) -> ReducedLoss:
    rows, source = call.rows, call.rows.source
    target, dtype = rows.target_of(source), loss_dtype(rows.logits.dtype)
    if rows.keeps_record:
        losses, record = new_record(rows.number, rows.logits)
        kept_record: Tensor | None = record
    else:
        losses, kept_record, record = None, None, rows.logits.new_empty((len(FIELDS), 0), dtype=torch.float64)
    loss, scale = backend(rows.logits).row_loss(source.logits, target, rows.scores, kept_record, losses, mean=call.mean)
    if isinstance(loss, Tensor):  # not known here, and not waited for
        return ReducedLoss(loss, scale, record)
    return ReducedLoss(_scalar(loss, dtype), _scalar(scale, torch.float64), record)


def _scalar(value: float, dtype: torch.dtype) -> Tensor:
    return torch.scalar_tensor(value, dtype=dtype, device="cpu")


def _row_loss_fake(call: RowLossCall) -> ReducedLoss:
    losses, record = call.rows.new_record
    return ReducedLoss(losses.new_empty(()), record.new_empty(()), record)


def _save_row_loss(ctx: Any, call: RowLossCall, output: ReducedLoss) -> None:
    _, scale, of_rows = output
    keep(ctx, call.rows, scale, of_rows)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(scale, of_rows)


def _row_loss_backward(ctx: Any, wants: Wants, g: Tensor | None, *_: Any) -> Gradients:
    call, (scale, of_rows) = kept(ctx)
    if g is None:
        return {}
    g_loss = (g * scale).expand(call.number)
    return _gradients(ctx, RowGradCall(call, of_rows, g_loss, None, None), wants)


def _row_loss_plain(call: RowLossCall) -> ReducedLoss:
    loss, lse, _, record = _row_stats_plain(call.rows)
    closing = Closing("mean" if call.mean else "sum", None, 0.0)
    target: Any = call.rows.target
    rows = RowClosing(closing, target, target.weight)
    scale: Any = rows.scale(RowResults(loss, lse, lse, record)).loss
    return ReducedLoss(rows.reduced(loss, lse), scale, record)


row_loss = register(
    "row_loss",
    RowLossCall,
    ReducedLoss,
    Forward(_row_loss, _row_loss_fake, _row_loss_plain),
    Backward(_save_row_loss, _row_loss_backward),
    first=True,
)


def loss_gradient(call: RowLossCall, g: Tensor) -> Tensor:
    """Return the gradient of the sum or mean, times g, which can be differentiated again."""
    with torch.no_grad():
        _, scale, record = _row_loss(call)
    return row_grad(RowGradCall(call.rows, record, (g * scale).expand(call.rows.number), None, None))


# The gradient of either --------------------------------------------------------------------------------------------


def _row_grad(call: RowGradCall) -> Tensor:
    rows, source = call.rows, call.rows.source
    gradient = source.new_gradient()
    cotangents = Cotangents(call.g_loss, call.g_lse, call.g_entropy)
    to, target = source.unpadded(gradient), rows.target_of(source)
    record = call.record if rows.keeps_record else None
    backend(rows.logits).row_grad(source.logits, target, rows.scores, record, cotangents, to)
    return gradient


def _row_grad_fake(call: RowGradCall) -> Tensor:
    return torch.empty_like(call.rows.logits)


def _save_row_grad(ctx: Any, call: RowGradCall, output: Tensor) -> None:
    keep(ctx, call)


def _row_grad_backward(ctx: Any, wants: Wants, cotangent: Tensor) -> Gradients:
    """Differentiate the gradient by everything that it depends on, in plain torch operations.

    The record is not differentiated: it is a function of the logits and the target, and is recomputed.
    """
    call, _ = kept(ctx)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs, grad = _differentiable_row_grad(call, create_graph=True)
        names = ("logits", "prob", "g_loss", "g_lse", "g_entropy")
        return dict(zip(names, derivatives(grad, inputs, cotangent, again=again), strict=True))


def _row_grad_plain(call: RowGradCall) -> Tensor:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        return _differentiable_row_grad(call, create_graph=again).gradient


class _RowGrad(NamedTuple):
    """The gradient of the logits, and the tensors that it can be differentiated by."""

    inputs: list[Any]
    gradient: Tensor


def _differentiable_row_grad(call: RowGradCall, *, create_graph: bool) -> _RowGrad:
    prob: Any = call.rows.target.prob
    z, prob, *g = inputs = aliases(call.rows.logits, prob, call.g_loss, call.g_lse, call.g_entropy)
    rows = dataclasses.replace(call.rows, logits=z, target=dataclasses.replace(call.rows.target, prob=prob))
    source = rows.source
    outputs = plain.row_outputs(source.logits, rows.target_of(source), rows.scores, rows.groups)
    pairs = [(out, g_) for out, g_ in zip(outputs, g, strict=True) if g_ is not None]
    (grad,) = torch.autograd.grad([o for o, _ in pairs], [z], [g_ for _, g_ in pairs], create_graph=create_graph)
    return _RowGrad(inputs, grad)


row_grad = register(
    "row_grad",
    RowGradCall,
    Tensor,
    Forward(_row_grad, _row_grad_fake, _row_grad_plain),
    Backward(_save_row_grad, _row_grad_backward),
)
