"""The loss of few logits on a CPU: one call of the core computes the sum or mean, and its gradient for the backward.

Where a kernel takes a few microseconds, the ways between Python, torch and the core take most of the time. Here the
forward goes that way once and keeps the gradient. The backward hands it over, or makes it smaller for a cotangent below
1. It is a shortcut of `rows.row_loss` for the commonest small call; whoever looks at a call, or wants more of it, gets
the operator.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crossent.kernels import cpu
from crossent.torch.base.backends import backend
from crossent.torch.base.operator_call import keep, kept
from crossent.torch.base.register import is_plain, is_plain_backward, keeps_graph
from crossent.torch.base.transforms import has_tangents, is_watched
from crossent.torch.operators.rows import RowLossCall, loss_gradient

MOST = 65536
"""Logits of a call that is small: the gradient takes as long as one way to the core."""
_DTYPES = (torch.float32, torch.float64)  # gradients of others are rounded with their cotangent


def takes(call: RowLossCall) -> bool:
    """Return whether a call may go this way."""
    rows, z = call.rows, call.rows.logits
    target = rows.target
    if z.numel() > MOST or z.dtype not in _DTYPES or not z.requires_grad or target.prob is not None or rows.groups:
        return False
    if target.num_classes is not None or not torch.is_grad_enabled() or is_watched():
        return False
    index: Any = target.index
    weight: Any = target.weight
    plain = is_plain(z) and is_plain(index) and (weight is None or is_plain(weight))
    return plain and not has_tangents((z,)) and backend(z) is cpu


def loss_of_few(call: RowLossCall) -> Tensor:
    """Return the loss of a call that `takes` has taken."""
    return _LossOfFew.apply(call.rows.logits, call)  # pyright: ignore[reportReturnType]


class _LossOfFew(torch.autograd.Function):
    """The loss, with its gradient kept until the backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, call: RowLossCall) -> Tensor:
        rows = call.rows
        gradient = torch.empty_like(logits)
        loss, ctx.scale = cpu.row_step(logits, rows.target, rows.scores, gradient, mean=call.mean)
        keep(ctx, rows)
        ctx.gradient = gradient
        return torch.scalar_tensor(loss, dtype=logits.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits: Tensor = ctx.saved_tensors[0]  # raises what torch raises if they were overwritten, or the graph is gone
        gradient: Tensor = ctx.gradient
        factor = g.item() if is_plain_backward(g) else math.nan
        if not abs(factor) <= 1:  # it would enlarge what was rounded to 0, and an infinite one make NaN of it
            return loss_gradient(kept(ctx).call, g, ctx.scale), None
        if factor == 0.0:
            return torch.zeros_like(logits), None  # whatever the rows hold
        if keeps_graph():
            return gradient * factor, None
        ctx.gradient = None
        return gradient if factor == 1.0 else gradient.mul_(factor), None


_LossOfFew._backward_cls.__name__ = "row_lossBackward"  # pyright: ignore  # what profilers and graphs of autograd show
