"""Slow twins of the kernels: the row functions in plain torch operations, differentiable any number of times.

They make temporaries as large as the logits. Double backward runs through them; tests hold the kernels against them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import BinaryOperands
from crossent.spec import Scores, Target
from crossent.torch.base.values import loss_dtype
from crossent.torch.ranks.collectives import log_sum_exp, share, sum_over
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
            wrong = ~exists
            if target.kind == "index":
                wrong &= index != target.ignore_index
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
    lse = log_sum_exp(s, groups).lse if groups else s.logsumexp(1)
    logq = s - share(lse, groups).unsqueeze(1)
    loss = -(p * torch.where(p == 0, 0.0, logq)).sum(1)
    entropy = -(logq.exp() * torch.where(torch.isneginf(logq), 0.0, logq)).sum(1)
    loss, entropy = (sum_over(x, groups) for x in (loss, entropy))
    return Outputs(*(torch.where(valid, x, 0.0).reshape(-1) for x in (loss, lse, entropy)))


def binary_loss(kind: str, operands: BinaryOperands) -> Tensor:
    """Return the binary cross-entropy of each element, from logits or from probabilities."""
    x: Any = operands.input
    t: Any = operands.target
    weight: Any = operands.weight
    pos_weight: Any = operands.pos_weight
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
