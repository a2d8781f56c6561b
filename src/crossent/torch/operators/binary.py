"""Binary cross-entropy as torch operators: registered, with fake kernels and autograd, over the backends."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import BinaryOperands
from crossent.kernels.checks import check_elements
from crossent.torch.base.backends import backend
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Gradients, Wants, in_plain_backward, register
from crossent.torch.base.transforms import look_at
from crossent.torch.base.values import aliases, derivatives, loss_dtype, without_autocast
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
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs, grad = _differentiable_binary_grad(call, create_graph=True)
        found = derivatives(grad, inputs, cotangent, again=again)
        return dict(zip(("input", "target", "cotangent"), found, strict=True))


def _binary_grad_plain(call: BinaryGradCall) -> Tensor:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        return _differentiable_binary_grad(call, create_graph=again).gradient


class _BinaryGrad(NamedTuple):
    """The gradient of the input, and the tensors that it can be differentiated by."""

    inputs: list[Any]
    gradient: Tensor


def _differentiable_binary_grad(call: BinaryGradCall, *, create_graph: bool) -> _BinaryGrad:
    elements = call.elements
    x, t, g = inputs = aliases(elements.input, elements.target, call.cotangent)
    loss = plain.binary_loss(elements.kind, BinaryOperands(x, t, elements.weight, elements.pos_weight))
    (grad,) = torch.autograd.grad(loss, x, g.to(loss.dtype).expand(loss.shape), create_graph=create_graph)
    return _BinaryGrad(inputs, grad)


binary_grad = register(
    "binary_grad",
    BinaryGradCall,
    Tensor,
    Forward(_binary_grad, _binary_grad_fake, _binary_grad_plain),
    Backward(_save, _binary_grad_backward),
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
    if elements.kind == "logits" and pos_weight is None:  # softplus(−x) − softplus(x), without two roundings
        slope = -x.to(loss_dtype(x.dtype))
        return slope if weight is None else weight * slope.masked_fill(weight == 0, 0.0)
    of_one = plain.binary_loss(elements.kind, BinaryOperands(x, torch.ones_like(t), weight, pos_weight))
    return of_one - plain.binary_loss(elements.kind, BinaryOperands(x, torch.zeros_like(t), weight))


def _check_elements(kind: Any, input: Tensor | None, target: Tensor | None, *weights: Tensor | None) -> None:
    if input is not None and target is not None:
        check_elements(kind, BinaryOperands(input, target, *weights))


def _binary_loss_plain(call: BinaryLossCall) -> Tensor:
    elements = call.elements
    with without_autocast(elements.input):
        operands: Any = elements.operands
        look_at(functools.partial(_check_elements, elements.kind), *operands)
        loss = plain.binary_loss(elements.kind, operands)
        return loss.sum() if call.summed else loss


binary_loss = register(
    "binary_loss",
    BinaryLossCall,
    Tensor,
    Forward(_binary_loss, _binary_loss_fake, _binary_loss_plain),
    Backward(_save, _binary_loss_backward),
)
