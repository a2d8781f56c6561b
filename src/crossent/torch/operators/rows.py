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
from crossent.torch.base.libtorch import backend
from crossent.torch.base.register import register
from crossent.torch.operators import plain as _plain
from crossent.torch.operators.plain import loss_dtype
from crossent.torch.ranks.collectives import log_sum_exp, share, sum_over
from crossent.torch.ranks.shards import held, merge, summary

OPTIONS = (
    "Tensor? index, Tensor? prob, Tensor? weight, float smoothing, int ignore_index, float temperature, float softcap, "
    "int first_class, int num_classes, str[] groups"
)
_NONE = (None,) * 8
"""Gradients of the options after the target's."""
_Optional = Tensor | None
_Options = tuple[_Optional, _Optional, _Optional, float, int, float, float, int, int, Sequence[str]]


@functools.lru_cache
def scores_of(temperature: float, softcap: float) -> Scores:
    """Return the scores of an operator's numbers; a softcap of 0 is none."""
    return Scores(temperature, softcap or None)


def _bound(logits: Tensor, options: _Options) -> tuple[Tensor, Target, Scores]:
    """Return the columns that are classes, their target and the scores; 0 classes are all columns."""
    index, prob, weight, smoothing, ignore_index, temperature, softcap, first, classes, _ = options
    if classes:
        columns = held(logits.shape[1], first, classes)
        if columns < logits.shape[1]:
            logits = logits[:, :columns]
            prob = prob[:, :columns] if prob is not None and index is None else prob
    target = Target(index, prob, weight, smoothing, ignore_index, first, classes or None)
    return logits, target, scores_of(temperature, softcap)


def _new_record(logits: Tensor) -> tuple[Tensor, Tensor]:
    rows = logits.shape[0] if logits.ndim == 2 else logits.shape[0] * logits.shape[2]
    loss = logits.new_empty((rows,), dtype=loss_dtype(logits.dtype))
    return loss, logits.new_empty((5, rows), dtype=torch.float64)


# Loss, lse and entropy of each row ---------------------------------------------------------------------------------


def _row_stats(logits: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, lse, entropy, record = _row_stats_fake(logits)
    z, target, scores = _bound(logits, options)
    backend(logits).row_stats(z, target, scores, record, (loss, lse, entropy))
    if options[-1]:
        merge(record, options[-1], (options[-3], z.shape[1], options[-2]))
        summary(record, target, (loss, lse, entropy))
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
    return *_gradients(ctx, logits, options, record, cotangents[:3]), *_NONE


def _gradients(
    ctx: Any, logits: Tensor, options: _Options, record: Tensor, cotangents: tuple[_Optional, ...]
) -> tuple[_Optional, None, _Optional]:
    g_logits = g_prob = None
    if ctx.needs_input_grad[0]:
        g_logits = row_grad(logits, *options, record, *cotangents)
    if ctx.needs_input_grad[2] and cotangents[0] is not None:
        g_prob = _prob_grad(_bound(logits, options), record, cotangents[0], options[-1])
        if options[0] is None and g_prob.shape != logits.shape:
            g_prob = torch.nn.functional.pad(
                g_prob, (0, 0) * (logits.ndim - 2) + (0, logits.shape[1] - g_prob.shape[1])
            )
    return g_logits, None, g_prob


def _prob_grad(call: tuple[Tensor, Target, Scores], record: Tensor, g_loss: Tensor, groups: Sequence[str]) -> Tensor:
    if not groups:
        return _plain.prob_grad(*call, g_loss)
    z, target, scores = call
    if torch.is_grad_enabled():
        peak, log_total = log_sum_exp(_plain.scores_of(z, scores), groups)
        total, g_loss = (peak, share(log_total, groups)), share(g_loss, groups)
    else:
        total = (record[0].to(g_loss.dtype), record[1].log().to(g_loss.dtype))
    grad = _plain.prob_grad(z, target, scores, g_loss, total)
    return sum_over(grad, groups) if target.kind == "topk" else grad


# Their sum or mean as one operator ---------------------------------------------------------------------------------


def _row_loss(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *options, mean = arguments
    z, target, scores = _bound(logits, options)  # pyright: ignore[reportArgumentType]
    losses, record = _new_record(logits)
    rows = backend(logits)
    rows.row_stats(z, target, scores, record, (losses, None, None))
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
        return None, None, None, *_NONE, None
    g_loss = (g * scale).expand(record.shape[1])
    options: _Options = (index, prob, weight, *ctx.numbers)
    return *_gradients(ctx, logits, options, record, (g_loss, None, None)), *_NONE, None


# The gradient of either --------------------------------------------------------------------------------------------


def _row_grad(logits: Tensor, *arguments: Any) -> Tensor:
    *options, record, g_loss, g_lse, g_entropy = arguments
    grad = torch.empty_like(logits)
    z, target, scores = _bound(logits, options)  # pyright: ignore[reportArgumentType]
    to = grad
    if z is not logits:
        to, _ = grad[:, : z.shape[1]], grad[:, z.shape[1] :].zero_()
    backend(logits).row_grad(z, target, scores, record, (g_loss, g_lse, g_entropy), to)
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
        options: _Options = (index, prob_, weight, *ctx.numbers)
        outputs = _plain.row_stats(*_bound(z, options), options[-1])
        pairs = [(out, g_) for out, g_ in zip(outputs, g, strict=True) if g_ is not None]
        (grad,) = torch.autograd.grad([o for o, _ in pairs], [z], [g_ for _, g_ in pairs], create_graph=True)
        g_logits, g_prob, *g_g = derivatives(grad, inputs, cotangent, again=again)
    return g_logits, None, g_prob, *_NONE, None, *g_g


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
