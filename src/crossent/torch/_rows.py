"""The row functions as torch operators: registered, with fake kernels and autograd, over the backends.

crossent::row_stats gives loss, lse and entropy of each row, each differentiable with any cotangent; crossent::row_loss
is the sum or mean of the losses in one step. The backward of both is crossent::row_grad, whose own backward recomputes
everything in plain torch operations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crossent.spec import Scores, Target
from crossent.torch import _plain
from crossent.torch._library import backend
from crossent.torch._operator import register
from crossent.torch._plain import loss_dtype

OPTIONS = (
    "Tensor? index, Tensor? prob, Tensor? weight, float smoothing, int ignore_index, float temperature, float softcap"
)
_Optional = Tensor | None
_Options = tuple[_Optional, _Optional, _Optional, float, int, float, float]


@functools.lru_cache
def scores_of(temperature: float, softcap: float) -> Scores:
    """Return the scores of an operator's numbers; a softcap of 0 is none."""
    return Scores(temperature, softcap or None)


def _bound(options: _Options) -> tuple[Target, Scores]:
    index, prob, weight, smoothing, ignore_index, temperature, softcap = options
    return Target(index, prob, weight, smoothing, ignore_index), scores_of(temperature, softcap)


def _new_record(logits: Tensor) -> tuple[Tensor, Tensor]:
    rows = logits.shape[0] if logits.ndim == 2 else logits.shape[0] * logits.shape[2]
    loss = logits.new_empty((rows,), dtype=loss_dtype(logits.dtype))
    return loss, logits.new_empty((5, rows), dtype=torch.float64)


# Loss, lse and entropy of each row ---------------------------------------------------------------------------------


def _row_stats(logits: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, lse, entropy, record = _row_stats_fake(logits)
    backend(logits).row_stats(logits, *_bound(options), record, (loss, lse, entropy))
    return loss, lse, entropy, record


def _row_stats_fake(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, record = _new_record(logits)
    return loss, torch.empty_like(loss), torch.empty_like(loss), record


def _save_row_stats(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, index, prob, weight, *ctx.numbers = inputs
    ctx.save_for_backward(logits, index, prob, weight, output[-1])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[-1])


def _row_stats_backward(ctx: Any, *cotangents: _Optional) -> tuple[_Optional, ...]:
    logits, index, prob, weight, record = ctx.saved_tensors
    options: _Options = (index, prob, weight, *ctx.numbers)
    return *_gradients(ctx, logits, options, record, cotangents[:3]), None, None, None, None, None


def _gradients(
    ctx: Any, logits: Tensor, options: _Options, record: Tensor, cotangents: tuple[_Optional, ...]
) -> tuple[_Optional, None, _Optional]:
    g_logits = g_prob = None
    if ctx.needs_input_grad[0]:
        g_logits = row_grad(logits, *options, record, *cotangents)
    if ctx.needs_input_grad[2] and cotangents[0] is not None:
        g_prob = _plain.prob_grad(logits, *_bound(options), cotangents[0])
    return g_logits, None, g_prob


# Their sum or mean as one operator ---------------------------------------------------------------------------------


def _row_loss(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *options, mean = arguments
    target, scores = _bound(options)  # pyright: ignore[reportArgumentType]
    losses, record = _new_record(logits)
    rows = backend(logits)
    rows.row_stats(logits, target, scores, record, (losses, None, None))
    loss, weight = rows.sums(
        losses, target.index if target.kind == "index" else None, target.weight, target.ignore_index
    )
    if isinstance(loss, Tensor):  # not known here, and not waited for
        scale = weight.reciprocal() if mean else torch.ones_like(weight)
        return (loss * scale).to(losses.dtype), scale, record
    scale = float("nan") if weight == 0 else 1.0 / weight
    loss, scale = (loss * scale, scale) if mean else (loss, 1.0)
    return _scalar(loss, losses.dtype), _scalar(scale, torch.float64), record


def _scalar(value: float, dtype: torch.dtype) -> Tensor:
    return torch.scalar_tensor(value, dtype=dtype, device="cpu")


def _row_loss_fake(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    loss, record = _new_record(logits)
    return loss.new_empty(()), record.new_empty(()), record


def _save_row_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, index, prob, weight, *ctx.numbers, _ = inputs
    ctx.save_for_backward(logits, index, prob, weight, output[1], output[2])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1], output[2])


def _row_loss_backward(ctx: Any, g: _Optional, *_: Any) -> tuple[_Optional, ...]:
    logits, index, prob, weight, scale, record = ctx.saved_tensors
    if g is None:
        return (None,) * 9
    g_loss = (g * scale).expand(record.shape[1])
    options: _Options = (index, prob, weight, *ctx.numbers)
    return *_gradients(ctx, logits, options, record, (g_loss, None, None)), None, None, None, None, None, None


# The gradient of either --------------------------------------------------------------------------------------------


def _row_grad(logits: Tensor, *arguments: Any) -> Tensor:
    *options, record, g_loss, g_lse, g_entropy = arguments
    grad = torch.empty_like(logits)
    backend(logits).row_grad(logits, *_bound(options), record, (g_loss, g_lse, g_entropy), grad)  # pyright: ignore[reportArgumentType]
    return grad


def _row_grad_fake(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _save_row_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, index, prob, weight, *ctx.numbers, _record, g_loss, g_lse, g_entropy = inputs
    ctx.save_for_backward(logits, index, prob, weight, g_loss, g_lse, g_entropy)


def _row_grad_backward(ctx: Any, cotangent: Tensor) -> tuple[_Optional, ...]:
    logits, index, prob, weight, *cotangents = ctx.saved_tensors
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        z, prob_, *g = inputs = aliases(logits, prob, *cotangents)
        outputs = _plain.row_stats(z, *_bound((index, prob_, weight, *ctx.numbers)))
        pairs = [(out, g_) for out, g_ in zip(outputs, g, strict=True) if g_ is not None]
        (grad,) = torch.autograd.grad([o for o, _ in pairs], [z], [g_ for _, g_ in pairs], create_graph=True)
        g_logits, g_prob, *g_g = derivatives(grad, inputs, cotangent, again=again)
    return g_logits, None, g_prob, None, None, None, None, None, None, *g_g


def aliases(first: Tensor, *others: _Optional) -> list[Any]:
    """Return a view of each tensor that requires a gradient, and the first one in any case.

    Derivatives with respect to the views are partial ones: they do not follow how one tensor came from another. Yet
    the views belong to the graph, so that these derivatives can be differentiated in turn.
    """
    head = first.view_as(first) if first.requires_grad else first.detach().requires_grad_()
    return [head, *(x.view_as(x) if x is not None and x.requires_grad else x for x in others)]


def derivatives(output: Tensor, inputs: Sequence[_Optional], cotangent: Tensor, *, again: bool) -> list[_Optional]:
    """Return the gradient with respect to each input that requires one, and None for the others."""
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, cotangent, create_graph=again, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]


row_stats = register(
    f"row_stats(Tensor logits, {OPTIONS}) -> (Tensor loss, Tensor lse, Tensor entropy, Tensor record)",
    _row_stats,
    _row_stats_fake,
    _save_row_stats,
    _row_stats_backward,
)
row_loss = register(
    f"row_loss(Tensor logits, {OPTIONS}, bool mean) -> (Tensor loss, Tensor scale, Tensor record)",
    _row_loss,
    _row_loss_fake,
    _save_row_loss,
    _row_loss_backward,
    first=True,
)
row_grad = register(
    f"row_grad(Tensor logits, {OPTIONS}, Tensor record, Tensor? g_loss, Tensor? g_lse, Tensor? g_entropy) -> Tensor",
    _row_grad,
    _row_grad_fake,
    _save_row_grad,
    _row_grad_backward,
)
