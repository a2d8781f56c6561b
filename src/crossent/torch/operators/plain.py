"""Slow twins of the kernels: the row functions in plain torch operations, differentiable any number of times.

They make temporaries as large as the logits. Double backward runs through them; tests hold the kernels against them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import BinaryOperands
from crossent.spec import Scores, Target
from crossent.torch.base.values import loss_dtype
from crossent.torch.ranks.collectives import extreme_over, log_sum_exp, share, sum_over
from crossent.torch.sources.probabilities import scores_of

# Rows are (outer, V, inner) or (N, V): the class axis is axis 1 of logits and dense probabilities.


class TargetMeasure(NamedTuple):
    """The measure p in the shape of the logits, and which rows (without the class axis) have a target."""

    p: Tensor
    valid: Tensor


class Outputs(NamedTuple):
    """Loss, lse and entropy of each row, (N,)."""

    loss: Tensor
    lse: Tensor
    entropy: Tensor


def target_measure(target: Target, like: Tensor) -> TargetMeasure:
    """Return the measure that `Target` describes, in the shape and dtype of the logits `like`."""
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
        if not like.is_cpu:  # where a backend cannot raise, a class that does not exist makes its row NaN
            wrong = ~exists & (index != target.ignore_index if target.kind == "index" else prob != 0)
            flat = torch.where(wrong.any(1, keepdim=True), float("nan"), flat)
        base = flat if like.ndim == 2 else flat.reshape(*rows, V).movedim(-1, 1)
    p = (1 - target.smoothing) * base + target.smoothing / max(1, classes)
    if target.weight is not None:
        weight = torch.as_tensor(target.weight).to(like.dtype)
        p = p * weight.reshape(1, V, *([1] * (like.ndim - 2)))
    return TargetMeasure(p, valid)


def row_outputs(logits: Tensor, target: Target, scores: Scores, groups: Sequence[str] = ()) -> Outputs:
    """Return loss, lse and entropy of each row, of the columns of all ranks of the groups."""
    if target.kind == "topk":
        target = dataclasses.replace(target, prob=share(target.prob, groups))
    p, valid = target_measure(target, logits.to(loss_dtype(logits.dtype)))
    s = scores_of(torch.where(valid.unsqueeze(1), logits, 0.0), scores)
    raw = log_sum_exp(s.detach(), groups).lse
    # a target without mass costs nothing whatever its row holds, and no derivative may meet what it holds
    has_mass = extreme_over((p != 0).any(1).to(s.dtype), "max", groups) > 0
    removed = ~has_mass & ~raw.isfinite()
    s = torch.where(removed.unsqueeze(1), 0.0, s)
    lse = log_sum_exp(s, groups).lse if groups else s.logsumexp(1)
    logq = s - share(lse, groups).unsqueeze(1)
    loss = -(p * torch.where(p == 0, 0.0, logq)).sum(1)
    entropy = -(logq.exp() * torch.where(torch.isneginf(logq), 0.0, logq)).sum(1)
    loss, entropy = (sum_over(x, groups) for x in (loss, entropy))
    lse, entropy = torch.where(removed, raw, lse), torch.where(removed, torch.nan, entropy)
    return Outputs(*(torch.where(valid, x, 0.0).reshape(-1) for x in (loss, lse, entropy)))


def binary_loss(kind: str, operands: BinaryOperands) -> Tensor:
    """Return the binary cross-entropy of each element, from logits or from probabilities; a weight of 0 removes."""
    x: Any = operands.input
    t: Any = operands.target
    weight: Any = operands.weight
    pos_weight: Any = operands.pos_weight
    dtype = loss_dtype(x.dtype)
    x, t = x.to(dtype), t.to(dtype)
    if weight is not None:  # what is removed is replaced, so that no derivative meets it
        x, t = torch.where(weight == 0, 0.5, x), torch.where(weight == 0, 0.5, t)
    of_positive, of_negative = t if pos_weight is None else pos_weight * t, 1 - t
    if kind == "logits":
        log = torch.nn.functional.logsigmoid
        loss = _share(of_positive, x, lambda x: -log(x)) + _share(of_negative, x, lambda x: -log(-x))
    else:
        loss = _share(of_positive, x, lambda q: -q.log()) + _share(of_negative, x, lambda q: -(-q).log1p())
    return loss if weight is None else weight * loss


def _share(part: Tensor, x: Tensor, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """Return part · cost(x), and 0 where the part is 0 and the cost infinite or NaN."""
    removed = (part == 0) & ~cost(x.detach()).isfinite()
    return part * cost(torch.where(removed, 0.5, x))
