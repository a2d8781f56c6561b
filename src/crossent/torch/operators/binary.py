"""Binary cross-entropy as torch operators: registered, with fake kernels and autograd, over the backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossent.torch.base.libtorch import backend
from crossent.torch.base.register import register
from crossent.torch.operators import plain as _plain
from crossent.torch.operators.plain import loss_dtype
from crossent.torch.operators.rows import aliases, derivatives

_Optional = Tensor | None
_OPERANDS = "str kind, Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight"


def _operands(input: Tensor, target: Tensor, weight: _Optional, pos_weight: _Optional) -> tuple[Any, ...]:
    weights = (None if w is None else w.expand(input.shape) for w in (weight, pos_weight))
    return (input, target, *weights)


def _binary_loss(
    kind: str, input: Tensor, target: Tensor, weight: _Optional, pos_weight: _Optional, summed: bool
) -> Tensor:
    dtype = loss_dtype(input.dtype)
    out = None if summed else torch.empty(input.shape, dtype=dtype, device=input.device)
    total = backend(input).binary_loss(kind, _operands(input, target, weight, pos_weight), out)
    if out is not None:
        return out
    return total if isinstance(total, Tensor) else torch.tensor(total, dtype=dtype, device="cpu")


def _binary_loss_fake(kind: str, input: Tensor, *rest: Any) -> Tensor:
    return input.new_empty(() if rest[-1] else input.shape, dtype=loss_dtype(input.dtype))


def _binary_grad(
    kind: str, input: Tensor, target: Tensor, weight: _Optional, pos_weight: _Optional, cotangent: Tensor
) -> Tensor:
    out = torch.empty(input.shape, dtype=input.dtype, device=input.device)
    operands = _operands(input, target, weight, pos_weight)
    backend(input).binary_grad(kind, operands, cotangent.expand(input.shape), out)
    return out


def _binary_grad_fake(kind: str, input: Tensor, *rest: Any) -> Tensor:
    return torch.empty(input.shape, dtype=input.dtype, device=input.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.kind, *tensors = inputs
    ctx.save_for_backward(*(x for x in tensors if not isinstance(x, bool)))


def _binary_loss_backward(ctx: Any, cotangent: Tensor) -> tuple[_Optional, ...]:
    x, t, weight, pos_weight = ctx.saved_tensors
    g_x = g_t = None
    if ctx.needs_input_grad[1]:
        g_x = binary_grad(ctx.kind, x, t, weight, pos_weight, cotangent)
    if ctx.needs_input_grad[2]:  # the loss is linear in the target
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        slope = _plain.binary_loss(ctx.kind, x, one, weight, pos_weight) - _plain.binary_loss(
            ctx.kind, x, zero, weight, None
        )
        g_t = (cotangent * slope).to(t.dtype)
    return None, g_x, g_t, None, None, None


def _binary_grad_backward(ctx: Any, cotangent: Tensor) -> tuple[_Optional, ...]:
    x, t, weight, pos_weight, g = ctx.saved_tensors
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        x_, t_, g_ = inputs = aliases(x, t, g)
        loss = _plain.binary_loss(ctx.kind, x_, t_, weight, pos_weight)
        (grad,) = torch.autograd.grad(loss, x_, g_.to(loss.dtype).expand(loss.shape), create_graph=True)
        g_x, g_t, g_g = derivatives(grad, inputs, cotangent, again=again)
    return None, g_x, g_t, None, None, g_g


binary_grad = register(
    f"binary_grad({_OPERANDS}, Tensor cotangent) -> Tensor",
    _binary_grad,
    _binary_grad_fake,
    _save,
    _binary_grad_backward,
)
binary_loss = register(
    f"binary_loss({_OPERANDS}, bool summed) -> Tensor", _binary_loss, _binary_loss_fake, _save, _binary_loss_backward
)
