"""Results of lazy logits in the graph of autograd: computed from the layer, with a gradient that goes to the logits.

Logits -> _Open -> the layer's operands -> a function of the layer -> _Close -> results. So the gradients of the
operands come back to _Open, which makes the gradient of the logits from them, and _Close keeps the cotangents, in case
that gradient's numbers are needed.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crossent.torch.base.register import is_plain, keeps_graph
from crossent.torch.base.values import without_autocast
from crossent.torch.call.layout import LayerOperands
from crossent.torch.lazy.gradient import OperandGradients, Results, Sources, lazy_gradient
from crossent.torch.lazy.logits import LazyLogits, read

Outputs = tuple[Tensor, ...]


def results_of(
    logits: LazyLogits, of_numbers: Callable[[Tensor], Outputs], of_operands: Callable[[LayerOperands], Outputs]
) -> Outputs:
    """Return differentiable results of lazy logits, computed from the operands of their layer.

    `of_numbers` makes the same results of the numbers of the logits; it is called if the gradient of the logits, or a
    derivative of it, is needed.
    """
    call = _Call(logits, of_numbers, {})
    if logits._deferred.notice is not None:
        logits._deferred.notice.fused = True
    with without_autocast(logits._deferred.hidden):
        outputs = of_operands(_open(call))
    if not any(x.requires_grad for x in outputs):
        return outputs
    return _Close.apply(call.cotangents, *outputs)  # pyright: ignore[reportReturnType]


@dataclasses.dataclass(slots=True, eq=False)
class _Call:
    """Operands of results, and their cotangents in each running backward."""

    logits: LazyLogits
    of_numbers: Callable[[Tensor], Outputs]
    cotangents: dict[int, tuple[Tensor | None, ...]]

    def results(self, numbers: Tensor, cotangents: tuple[Tensor | None, ...]) -> Results:
        """Return the results that have a cotangent, of the numbers of the logits."""
        pairs = zip(self.of_numbers(numbers), cotangents, strict=True)
        wanted = [(out, g) for out, g in pairs if g is not None]
        return Results(tuple(out for out, _ in wanted), tuple(g for _, g in wanted))


def _open(call: _Call) -> LayerOperands:
    """Return the operands of the layer, whose gradients go to the logits."""
    logits = call.logits
    if torch.is_grad_enabled() and logits.requires_grad:
        _ = logits.use()
        return LayerOperands(*_Open.apply(logits, call))
    return LayerOperands(*(None if x is None else x.detach() for x in logits._deferred.fused_operands()))  # pyright: ignore


def _task() -> int:
    """Return which of the backwards that run this one is."""
    return torch._C._current_graph_task_id()  # pyright: ignore


class _Open(torch.autograd.Function):
    """From lazy logits to the operands of their layer."""

    @staticmethod
    def forward(ctx: Any, logits: LazyLogits, call: _Call) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        deferred = logits._deferred
        operands = [None if x is None else x.detach() for x in deferred.fused_operands()]
        pairs = zip(operands, deferred.wants, strict=True)
        ctx.mark_non_differentiable(*(x for x, wants in pairs if x is not None and not wants))
        ctx.set_materialize_grads(False)
        ctx.call = call
        return tuple(operands)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _ = ctx.saved_tensors  # raises torch's error for a freed graph
        call: _Call = ctx.call
        if not keeps_graph():
            ctx.call = None  # frees the layer's input even if the results are kept
        logits, cotangents = call.logits, call.cotangents.pop(_task())
        if torch.is_grad_enabled() or not all(g is None or is_plain(g) for g in (*gradients, *cotangents)):
            return _ordinary_gradient(call, cotangents), None
        sources = Sources((OperandGradients(*gradients),), (), lambda numbers: call.results(numbers, cotangents))
        return lazy_gradient(logits, sources), None


def _ordinary_gradient(call: _Call, cotangents: tuple[Tensor | None, ...]) -> Tensor:
    """Return the gradient of the logits as torch would compute it, differentiable if gradients are switched on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        numbers = read(call.logits)
        outputs, given = call.results(numbers, cotangents)
        (found,) = torch.autograd.grad(outputs, numbers, given, create_graph=again)
    return found


class _Close(torch.autograd.Function):
    """The results of a loss, unchanged."""

    @staticmethod
    def forward(ctx: Any, cotangents: dict[int, tuple[Tensor | None, ...]], *outputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.cotangents = cotangents
        ctx.set_materialize_grads(False)
        return tuple(x.clone() for x in outputs)  # not themselves, which would be read-only

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.cotangents[_task()] = cotangents
        return None, *cotangents
