"""The loss of few logits on a CPU: one call of the core checks, and computes the sum or mean and its gradient.

Where a kernel takes a few microseconds, the ways between Python, torch and the core take most of the time. Here the
forward goes that way once and keeps the gradient. The backward hands it over, or makes it smaller for a cotangent below
1. It is a shortcut of `cross_entropy` for the commonest small call. Observed calls, calls with more options and wrong
calls take the general way, which raises the errors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from crossent.kernels import cpu
from crossent.kernels.cpu import StepOptions
from crossent.spec import Target
from crossent.torch.base.backends import backend
from crossent.torch.base.register import is_plain, is_plain_backward, keeps_graph
from crossent.torch.base.transforms import is_watched
from crossent.torch.base.values import loss_dtype
from crossent.torch.call.arguments import scores_of
from crossent.torch.call.layout import layout_of
from crossent.torch.operators.rows import RowCall, RowLossCall, loss_gradient

MOST = 65536
"""Logits of a call that is small: the gradient takes as long as one way to the core."""
_MULTIPLIED = (torch.float32, torch.float64)
"""Dtypes of gradients that are multiplied by their cotangent; half precision is rounded once, together with it."""
_PLAIN = (Tensor, torch.nn.Parameter)


def loss_of_few(logits: Any, index: Any, weight: Any, options: StepOptions) -> Tensor | None:
    """Return the loss of a call of `cross_entropy` as it was made, or None if it has to go the general way."""
    if (
        is_watched()
        or forward_ad._current_level >= 0  # pyright: ignore
        or not (type(logits) in _PLAIN and type(index) in _PLAIN)
        or logits.numel() > MOST
        or logits.is_neg()
        or not (weight is None or (is_plain(weight) and not weight.requires_grad))
        or not (logits.is_cpu and backend(logits) is cpu)
    ):
        return None
    if logits.requires_grad and torch.is_grad_enabled():
        gradient = torch.empty_like(logits)
        loss = cpu.row_step(logits, index, weight, options, gradient)
        return None if loss is None else _apply(logits, index, weight, options, gradient, loss)
    if torch.autograd._profiler_enabled():  # pyright: ignore  # which the operator tells its name
        return None
    loss = cpu.row_step(logits, index, weight, options, None)
    return None if loss is None else torch.scalar_tensor(loss, dtype=loss_dtype(logits.dtype))


class _LossOfFew(torch.autograd.Function):
    """The loss, with its gradient kept until the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        index: Tensor,
        weight: Tensor | None,
        options: StepOptions,
        gradient: Tensor,
        loss: float,
    ) -> Tensor:
        ctx.save_for_backward(logits, index, weight)
        ctx.options = options
        ctx.gradient = gradient
        return torch.scalar_tensor(loss, dtype=loss_dtype(logits.dtype))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, index, weight = ctx.saved_tensors  # raises torch's error if one was overwritten, or the graph freed
        gradient: Tensor = ctx.gradient
        factor = g.item() if is_plain_backward(g) else math.nan
        if factor == 0.0:
            gradient = torch.zeros_like(gradient)  # for any values of the rows
        elif factor != 1.0 and not (abs(factor) <= 1.0 and gradient.dtype in _MULTIPLIED):
            # A factor beyond 1 cannot enlarge values rounded to 0, and an infinite one would give NaN.
            gradient = loss_gradient(_call(logits, index, weight, ctx.options), g).reshape(gradient.shape)
        elif keeps_graph():
            gradient = gradient * factor
        else:
            ctx.gradient = None
            gradient = gradient if factor == 1.0 else gradient.mul_(factor)
        return gradient, None, None, None, None, None


_LossOfFew.__name__ = "row_loss"  # the name in profilers and autograd graphs
_node: Any = _LossOfFew._backward_cls  # pyright: ignore
_node.__name__ = "row_lossBackward"
_node.apply = _LossOfFew.backward  # called by the engine: a microsecond faster than torch's own `apply`
_function: Any = super(torch.autograd.Function, _LossOfFew)
_apply = _function.apply
"""`apply` without what torch does in Python for function transforms, which `loss_of_few` has excluded."""


def _call(logits: Tensor, index: Tensor, weight: Tensor | None, options: StepOptions) -> RowLossCall:
    """Return the call of the operator."""
    target = Target(index.reshape(-1), None, weight, options.label_smoothing, options.ignore_index)
    scores = scores_of(options.temperature, options.softcap)
    return RowLossCall(RowCall(layout_of(logits).flat(logits), target, scores), options.mean)
