"""The nodes of lazy logits in the graph of autograd: where they come from the layer, and where from other lazy logits.

The gradient at a node is a `LazyGradient` unless it was changed: it is handed on without a multiplication. Any other
gradient is taken through the operation itself, as torch does it.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crossent.torch.base.register import keeps_graph
from crossent.torch.call.layout import LayerOperands
from crossent.torch.lazy.deferred import Deferred
from crossent.torch.lazy.gradient import (
    LazyGradient,
    OperandGradients,
    Results,
    Sources,
    lazy_gradient,
    ordinary_source,
)
from crossent.torch.lazy.logits import LazyLogits, Origin, new_logits, read, remember


def defer(deferred: Deferred) -> LazyLogits:
    """Return the lazy logits of a layer."""
    return remember(_Layer.apply(*deferred.operands, deferred), deferred, None)


def derive(origin: Origin, deferred: Deferred) -> LazyLogits:
    """Return lazy logits derived from others."""
    return remember(_Derived.apply(origin.logits, origin.added, origin, deferred), deferred, origin)


class _Layer(torch.autograd.Function):
    """From the operands of a layer to its lazy logits."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, adapter: Tensor | None, deferred: Deferred
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, adapter)
        ctx.deferred = weakref.ref(deferred)
        return new_logits(deferred)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, adapter = ctx.saved_tensors
        found = OperandGradients()
        sources = _sources(grad, ctx.deferred())
        del grad
        for gradients in sources.operands:
            found += gradients
        if sources.ordinary:
            layer = LayerOperands(hidden, weight, None, adapter)
            found += _products(functools.reduce(torch.add, sources.ordinary), layer, ctx.needs_input_grad)
        wanted = (g if wants else None for g, wants in zip(found, ctx.needs_input_grad, strict=False))
        return *wanted, None  # the bias of the layer may be None where one was added to its output


class _Derived(torch.autograd.Function):
    """From lazy logits to scaled ones, to a view, to another dtype, or to logits with another bias."""

    @staticmethod
    def forward(ctx: Any, logits: LazyLogits, added: Tensor | None, origin: Origin, deferred: Deferred) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.origin, ctx.deferred = origin, weakref.ref(deferred)
        return new_logits(deferred)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _ = ctx.saved_tensors  # raises torch's error for a freed graph
        origin: Origin = ctx.origin
        sources = _sources(grad, ctx.deferred())
        if not keeps_graph():
            ctx.origin = None  # frees the layer's input even if later tensors are kept
        added = _of_added(origin, sources) if ctx.needs_input_grad[1] else None
        if not sources.operands:
            return _back(origin, functools.reduce(torch.add, sources.ordinary)), added, None, None
        return lazy_gradient(origin.logits, _sources_of_origin(origin, sources)), added, None, None


def _of_added(origin: Origin, sources: Sources) -> Tensor:
    """Return the gradient of a bias that was added to logits."""
    bias: Any = origin.added
    factor = origin.logits._deferred.factor
    fused: list[Any] = [x.bias for x in sources.operands]
    parts = [g / factor for g in fused] + [g.reshape(-1, bias.numel()).sum(0) for g in sources.ordinary]
    return functools.reduce(torch.add, parts).reshape(bias.shape).to(bias.dtype)


def _sources(grad: Tensor, deferred: Deferred | None) -> Sources:
    """Return the sources of a gradient, if the graph node of these logits has them."""
    if not isinstance(grad, LazyGradient):
        return ordinary_source(grad)
    return grad.taken() if grad.belongs_to(deferred) else ordinary_source(grad.numbers())


def _products(grad: Tensor, layer: LayerOperands, wants: Sequence[bool]) -> OperandGradients:
    """Return the gradients of a layer's operands from the gradient of its output."""
    hidden, weight, _, adapter = layer
    (V, D), rows = weight.shape, hidden.shape[:-1].numel()
    flat, features = grad.reshape(rows, V), hidden.reshape(rows, hidden.shape[-1])
    of_input, of_weight, of_bias, of_adapter, *_ = wants
    g_input = grad @ weight if of_input else None
    if adapter is not None and g_input is not None:
        g_input = torch.cat((g_input, grad @ adapter), -1)
    return OperandGradients(
        g_input,
        flat.mT @ features[:, :D] if of_weight else None,
        flat.sum(0) if of_bias else None,
        flat.mT @ features[:, D:] if of_adapter else None,
    )


def _back(origin: Origin, grad: Tensor) -> Tensor:
    """Return the gradient of the original logits."""
    if origin.back is not None:
        return origin.back(grad)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        logits = read(origin.logits) if again else origin.logits.recomputed().detach().requires_grad_()
        (found,) = torch.autograd.grad(origin.make(logits), logits, grad, create_graph=again)
    return found


def _sources_of_origin(origin: Origin, sources: Sources) -> Sources:
    """Return the sources of the gradient of the original logits."""
    operands, rows, results = sources.operands, origin.rows, sources.results
    if rows is not None:
        shape = origin.logits._deferred.hidden.shape
        operands = tuple(
            x._replace(hidden=None if x.hidden is None else of_rows(rows, shape, x.hidden)) for x in operands
        )

    def of_origin(logits: Tensor) -> Results:
        return results(origin.make(logits))

    return Sources(operands, tuple(_back(origin, g) for g in sources.ordinary), of_origin)


def of_rows(rows: Callable[[Tensor], Tensor], shape: torch.Size, grad: Tensor) -> Tensor:
    """Return the gradient of a tensor of this shape from the gradient of its selected rows."""
    with torch.enable_grad():
        whole = torch.zeros((), dtype=grad.dtype, device=grad.device).expand(shape).requires_grad_()
        (found,) = torch.autograd.grad(rows(whole), whole, grad, create_graph=grad.requires_grad)
    return found
