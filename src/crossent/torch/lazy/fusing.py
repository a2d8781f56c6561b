"""A cross-entropy of lazy logits is a linear cross-entropy of the layer that would have made them."""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from crossent.spec import Scores
from crossent.torch.base.register import is_plain
from crossent.torch.base.values import loss_dtype, without_autocast
from crossent.torch.call.arguments import NOT_SHARDED, Arguments, Closing, checked
from crossent.torch.call.layout import LayerOperands, layout_of
from crossent.torch.call.results import Stats, finished, reduction_of
from crossent.torch.call.targets import TargetKind
from crossent.torch.lazy import operations
from crossent.torch.lazy.gradient import OperandGradients, Results, Sources, lazy_gradient
from crossent.torch.lazy.logits import LazyLogits, lazily, read
from crossent.torch.linear import loss_of_layer
from crossent.torch.operators.linear_loss import keeps_graph
from crossent.torch.operators.rows import RowCall, row_stats
from crossent.torch.ranks.shards import NO_SHARDS

__all__ = ["fused_loss", "operations"]


@lazily("cross_entropy")
def _cross_entropy(
    logits: LazyLogits,
    target: Any,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Return torch.nn.functional.cross_entropy of lazy logits."""
    closing = Closing(reduction_of(reduction, size_average, reduce), None, 0.0)
    return fused_loss(
        Arguments(
            logits, target, weight, ignore_index, label_smoothing, Scores(), closing, False, NOT_SHARDED, NO_SHARDS
        ).bound()
    )


def fused_loss(arguments: Arguments) -> Any:
    """Return the linear cross-entropy of lazy logits (V) or (N, V), or NotImplemented if it takes their numbers."""
    logits: LazyLogits = arguments.operands
    layer, target, ignore_index = logits._deferred, arguments.target, arguments.ignore_index
    same_dtype = loss_dtype(layer.dtype) == loss_dtype(layer.hidden.dtype)
    scores = _scores(layer.scores(), arguments.scores)
    if scores is None or not same_dtype or logits.ndim > 2 or isinstance(target, LazyLogits):
        return NotImplemented
    logits.check()
    if not isinstance(target, (Tensor, TargetKind)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return NotImplemented
    soft = isinstance(target, TargetKind) or target.shape == logits.shape
    if soft and ignore_index is not None and ignore_index < 0:
        ignore_index = None
    arguments = arguments._replace(ignore_index=ignore_index)
    loss = _Loss(logits, arguments, {})
    with without_autocast(layer.hidden):
        found: Any = loss_of_layer(arguments._replace(operands=_open(loss), scores=scores))
    return _closed(loss, found)


def _scores(steps: Scores | None, loss: Scores) -> Scores | None:
    """Return the scores of logits after their own steps, or None if temperature and softcap do not say them."""
    if steps is None or (steps.softcap is not None and loss.softcap is not None):  # a cap of a cap is neither
        return None
    softcap = loss.softcap
    if steps.softcap is not None:  # cap tanh(z) / t = (cap / t) tanh(z)
        softcap = steps.softcap / loss.temperature
    return Scores(steps.temperature * loss.temperature, softcap)


# The loss in the graph ---------------------------------------------------------------------------------------------
#
# Logits -> _Open -> the layer's operands -> linear cross-entropy -> _Close -> results. So the gradients of the operands
# come back to _Open, which makes the gradient of the logits of them, and the cotangents are known to _Close, in case
# somebody wants that gradient's numbers.


@dataclasses.dataclass(slots=True, eq=False)
class _Loss:
    """A loss of lazy logits, and the cotangents of its results in each backward that runs."""

    logits: LazyLogits
    arguments: Arguments
    cotangents: dict[int, tuple[Tensor | None, ...]]

    def results(self, logits: Tensor, cotangents: tuple[Tensor | None, ...]) -> Results:
        """Return the results that have a cotangent, of the numbers of the logits."""
        arguments = self.arguments._replace(operands=logits).sharded()
        layout = layout_of(logits, shard=bool(arguments.shards.ranks.groups))
        rows = checked(arguments, layout)
        call = RowCall(layout.flat(logits), rows.target, arguments.scores, rows.ranks.groups)
        found = finished(rows, row_stats(call), lambda target: row_stats(dataclasses.replace(call, target=target)))
        pairs = zip(_differentiable(found), cotangents, strict=True)
        wanted = [(out, g) for out, g in pairs if g is not None]
        return Results(tuple(out for out, _ in wanted), tuple(g for _, g in wanted))


def _differentiable(found: Any) -> tuple[Tensor, ...]:
    """Return the results of a loss that have gradients."""
    if isinstance(found, Tensor):
        return (found,)
    loss, stats = found
    return loss, stats.lse, stats.logprob, stats.entropy


def _open(loss: _Loss) -> LayerOperands:
    """Return the operands of the layer, whose gradients go to the logits."""
    logits = loss.logits
    if torch.is_grad_enabled() and logits.requires_grad:
        _ = logits.use()
        return LayerOperands(*_Open.apply(logits, loss))
    return LayerOperands(*(None if x is None else x.detach() for x in logits._deferred.operands))  # pyright: ignore


def _closed(loss: _Loss, found: Any) -> Any:
    """Return the results of a loss, whose cotangents `loss` gets to know."""
    outputs = _differentiable(found)
    if not any(x.requires_grad for x in outputs):
        return found
    closed = _Close.apply(loss.cotangents, *outputs)
    if isinstance(found, Tensor):
        return closed[0]
    value, lse, logprob, entropy = closed
    stats: Stats = found[1]
    return value, dataclasses.replace(stats, lse=lse, logprob=logprob, entropy=entropy)


def _task() -> int:
    """Return which of the backwards that run this one is."""
    return torch._C._current_graph_task_id()  # pyright: ignore


class _Open(torch.autograd.Function):
    """From lazy logits to the operands of their layer."""

    @staticmethod
    def forward(ctx: Any, logits: LazyLogits, loss: _Loss) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        deferred = logits._deferred
        operands = [None if x is None else x.detach() for x in deferred.operands]
        pairs = zip(operands, deferred.wants, strict=True)
        ctx.mark_non_differentiable(*(x for x, wants in pairs if x is not None and not wants))
        ctx.set_materialize_grads(False)
        ctx.loss = loss
        return tuple(operands)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _ = ctx.saved_tensors  # raises what torch raises when a graph is gone
        loss: _Loss = ctx.loss
        if not keeps_graph():
            ctx.loss = None  # and with it the layer's input, though somebody may keep the results
        logits, cotangents = loss.logits, loss.cotangents.pop(_task())
        if torch.is_grad_enabled() or not all(g is None or is_plain(g) for g in (*gradients, *cotangents)):
            return _ordinary_gradient(loss, cotangents), None
        sources = Sources((OperandGradients(*gradients),), (), lambda numbers: loss.results(numbers, cotangents))
        return lazy_gradient(logits, sources), None


def _ordinary_gradient(loss: _Loss, cotangents: tuple[Tensor | None, ...]) -> Tensor:
    """Return the gradient of the logits as torch would compute it, differentiable if gradients are switched on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        numbers = read(loss.logits)
        outputs, given = loss.results(numbers, cotangents)
        (found,) = torch.autograd.grad(outputs, numbers, given, create_graph=again)
    return found


class _Close(torch.autograd.Function):
    """The results of a loss, as they are."""

    @staticmethod
    def forward(ctx: Any, cotangents: dict[int, tuple[Tensor | None, ...]], *outputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.cotangents = cotangents
        ctx.set_materialize_grads(False)
        return tuple(x.clone() for x in outputs)  # not themselves, which nobody could write to

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.cotangents[_task()] = cotangents
        return None, *cotangents
