"""The row functions in plain torch operations: slow, full-size temporaries, but differentiable as often as one likes.

They are the slow twins of the kernels: double backward runs through them, and tests hold the kernels against them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from crossent.spec import Scores, Target
from crossent.torch.ranks import collectives as _collectives

# Rows are (outer, V, inner) or (N, V): the class axis is axis 1 of logits and dense probabilities.


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of losses and statistics: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def scores_of(logits: Tensor, scores: Scores) -> Tensor:
    """Return s = phi(z) in float64 for float64 logits, else in float32."""
    z = logits.to(loss_dtype(logits.dtype))
    z = z / scores.temperature
    return z if scores.softcap is None else scores.softcap * torch.tanh(z / scores.softcap)


def target_measure(target: Target, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the measure q in the shape of `like`, and which rows (without the class axis) have a target."""
    V, classes = like.shape[1], target.num_classes or like.shape[1]
    rows = like.shape[:1] + like.shape[2:]
    valid = torch.ones(rows, dtype=torch.bool, device=like.device)
    if target.index is None:
        base = torch.as_tensor(target.prob).to(like.dtype)
    else:
        index = torch.as_tensor(target.index).long()
        if target.prob is None:
            index, prob = index[:, None], torch.ones((), dtype=like.dtype, device=like.device).expand(len(index), 1)
            valid = (index[:, 0] != target.ignore_index).reshape(rows)
        else:
            prob = torch.as_tensor(target.prob).to(like.dtype)
        exists, local = (index >= 0) & (index < classes), index - target.first_class
        here = (local >= 0) & (local < V)
        flat = like.new_zeros((len(index), V + 1)).scatter_add(1, torch.where(here, local, V), prob)[:, :V]
        if not like.is_cpu:  # where a backend cannot raise
            skipped = index == target.ignore_index if target.kind == "index" else ~exists & exists
            flat = torch.where((~exists & ~skipped).any(1, keepdim=True), float("nan"), flat)
        base = flat if like.ndim == 2 else flat.reshape(*rows, V).movedim(-1, 1)
    q = (1 - target.smoothing) * base + target.smoothing / max(1, classes)
    if target.weight is not None:
        weight = torch.as_tensor(target.weight).to(like.dtype)
        q = q * weight.reshape(1, V, *([1] * (like.ndim - 2)))
    return q, valid


def row_stats(
    logits: Tensor, target: Target, scores: Scores, groups: Sequence[str] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, lse and entropy of each row, flattened to (N,), of the columns of all ranks of the groups."""
    if target.kind == "topk":
        target = dataclasses.replace(target, prob=_collectives.share(target.prob, groups))
    q, valid = target_measure(target, logits.to(loss_dtype(logits.dtype)))
    s = scores_of(torch.where(valid.unsqueeze(1), logits, 0.0), scores)
    lse = s.logsumexp(1) if not groups else sum(_collectives.log_sum_exp(s, groups))
    logp = s - _collectives.share(lse, groups).unsqueeze(1)
    loss = -(q * torch.where(q == 0, 0.0, logp)).sum(1)
    entropy = -(logp.exp() * torch.where(torch.isneginf(logp), 0.0, logp)).sum(1)
    loss, entropy = (_collectives.sum_over(x, groups) for x in (loss, entropy))
    return tuple(torch.where(valid, x, 0.0).reshape(-1) for x in (loss, lse, entropy))  # pyright: ignore[reportReturnType]


def prob_grad(
    logits: Tensor, target: Target, scores: Scores, g_loss: Tensor, total: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Return the gradient of Σ g_loss · loss with respect to the target's probabilities, w (1 − ε) (lse − s).

    The total are peak and log Σ e^(s − peak) of each row; without one it is that of the columns at hand. Classes that
    are not among these have gradient 0.
    """
    s = scores_of(logits, scores)
    rows = s.shape[:1] + s.shape[2:]
    peak, log_total = (x.reshape(rows).unsqueeze(1) for x in (total or _collectives.log_sum_exp(s)))
    cost = log_total - (s - peak)
    if target.weight is not None:
        cost = cost * torch.as_tensor(target.weight).to(s.dtype).reshape(1, -1, *([1] * (s.ndim - 2)))
    prob = torch.as_tensor(target.prob)
    if target.index is None:
        g = g_loss.reshape(s.shape[:1] + s.shape[2:]).unsqueeze(1)
    else:
        flat = cost if s.ndim == 2 else cost.movedim(1, -1).flatten(0, -2)
        index = torch.as_tensor(target.index).long()
        local, V = index - target.first_class, flat.shape[1]
        cost = torch.nn.functional.pad(flat, (0, 1)).gather(1, local.where((local >= 0) & (local < V), V))
        cost, g = torch.where((index >= 0) & (index < (target.num_classes or V)), cost, torch.nan), g_loss[:, None]
    return ((1 - target.smoothing) * g * cost).to(prob.dtype)


def binary_loss(kind: str, x: Tensor, t: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
    """Return the binary cross-entropy of each element, from logits or from probabilities."""
    dtype = loss_dtype(x.dtype)
    x, t = x.to(dtype), t.to(dtype)
    if kind == "logits":
        positive, negative = -torch.nn.functional.logsigmoid(x), -torch.nn.functional.logsigmoid(-x)
    else:
        positive = -torch.log(torch.where(t == 0, 1.0, x))
        negative = -torch.log1p(-torch.where(t == 1, 0.0, x))
    positive, negative = (torch.where(share == 0, 0.0, cost) for share, cost in ((t, positive), (1 - t, negative)))
    loss = (t if pos_weight is None else pos_weight * t) * positive + (1 - t) * negative
    return loss if weight is None else weight * loss
