"""Binary cross-entropy as torch operators: registered, with fake kernels and autograd, over the backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossent.kernels.backend import BinaryOperands
from crossent.torch.base.backends import backend
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Gradients, Wants, in_plain_backward, register
from crossent.torch.base.values import aliases, derivatives, loss_dtype
from crossent.torch.operators import plain


@operator_call
class BinaryCall(OperatorCall):
    """Input and target of one shape, and weights that expand to it; the kind is "logits" or "probabilities"."""

    kind: str
    input: Tensor
    target: Tensor
    weight: Tensor | None
    pos_weight: Tensor | None

    @property
    def operands(self) -> BinaryOperands:
        """The operands as a backend takes them, all of one shape."""
        weights = (None if w is None else w.expand(self.input.shape) for w in (self.weight, self.pos_weight))
        return BinaryOperands(self.input, self.target, *weights)


@operator_call
class BinaryLossCall(OperatorCall):
    """A call whose losses are added up, or not."""

    elements: BinaryCall
    summed: bool


@operator_call
class BinaryGradCall(OperatorCall):
    """A call, and the cotangent of its losses or of their sum."""

    elements: BinaryCall
    cotangent: Tensor


def _binary_grad(call: BinaryGradCall) -> Tensor:
    elements, x = call.elements, call.elements.input
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    backend(x).binary_grad(elements.kind, elements.operands, call.cotangent.expand(x.shape), out)
    return out


def _binary_grad_fake(call: BinaryGradCall) -> Tensor:
    x = call.elements.input
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _save(ctx: Any, call: OperatorCall, output: Tensor) -> None:
    keep(ctx, call)


def _binary_grad_backward(ctx: Any, wants: Wants, cotangent: Tensor) -> Gradients:
    call, _ = kept(ctx)
    elements, again = call.elements, torch.is_grad_enabled()
    with torch.enable_grad():
        x, t, g = inputs = aliases(elements.input, elements.target, call.cotangent)
        loss = plain.binary_loss(elements.kind, BinaryOperands(x, t, elements.weight, elements.pos_weight))
        (grad,) = torch.autograd.grad(loss, x, g.to(loss.dtype).expand(loss.shape), create_graph=True)
        found = derivatives(grad, inputs, cotangent, again=again)
        return dict(zip(("input", "target", "cotangent"), found, strict=True))


binary_grad = register(
    "binary_grad", BinaryGradCall, Tensor, _binary_grad, _binary_grad_fake, _save, _binary_grad_backward
)


def _binary_loss(call: BinaryLossCall) -> Tensor:
    elements, x = call.elements, call.elements.input
    dtype = loss_dtype(x.dtype)
    out = None if call.summed else torch.empty(x.shape, dtype=dtype, device=x.device)
    total = backend(x).binary_loss(elements.kind, elements.operands, out)
    if out is not None:
        return out
    return total if isinstance(total, Tensor) else torch.tensor(total, dtype=dtype, device="cpu")


def _binary_loss_fake(call: BinaryLossCall) -> Tensor:
    x = call.elements.input
    return x.new_empty(() if call.summed else x.shape, dtype=loss_dtype(x.dtype))


def _binary_loss_backward(ctx: Any, wants: Wants, cotangent: Tensor) -> Gradients:
    elements = kept(ctx).call.elements
    found: dict[str, Tensor | None] = {}
    if "input" in wants:
        found["input"] = binary_grad(BinaryGradCall(elements, cotangent), plain=in_plain_backward(ctx))
    if "target" in wants:
        slope = _slope(elements)
        slope = torch.where((cotangent == 0) & ~slope.isfinite(), 0.0, slope)  # a loss that is not used counts nothing
        found["target"] = (cotangent * slope).to(elements.target.dtype)
    return found


def _slope(elements: BinaryCall) -> Tensor:
    """Return the derivative of each loss with respect to its target, in which it is linear."""
    x, t, weight, pos_weight = elements.input, elements.target, elements.weight, elements.pos_weight
    of_one = plain.binary_loss(elements.kind, BinaryOperands(x, torch.ones_like(t), weight, pos_weight))
    return of_one - plain.binary_loss(elements.kind, BinaryOperands(x, torch.zeros_like(t), weight))


binary_loss = register(
    "binary_loss", BinaryLossCall, Tensor, _binary_loss, _binary_loss_fake, _save, _binary_loss_backward
)
