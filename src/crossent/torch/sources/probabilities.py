"""The gradient with respect to the probabilities of a target: losses of all classes, in torch operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossent.kernels.checks import in_range
from crossent.spec import Scores, Target
from crossent.torch.base.values import loss_dtype
from crossent.torch.ranks.collectives import LogTotal, log_sum_exp

# Rows are (outer, V, inner) or (N, V): the class axis is axis 1 of logits and dense probabilities.


def scores_of(logits: Tensor, scores: Scores) -> Tensor:
    """Return s = phi(z) in float64 for float64 logits, else in float32."""
    z = logits.to(loss_dtype(logits.dtype))
    z = z / temperature_of(z, scores)
    return z if scores.softcap is None else scores.softcap * torch.tanh(z / scores.softcap)


def temperature_of(logits: Tensor, scores: Scores) -> Any:
    """Return the temperature of all rows, or one of each row, with a class axis and in the dtype of the logits.

    A temperature of a row that is out of range is NaN, because no error can be raised there.
    """
    if scores.row_temperature is None:
        return scores.temperature
    own = torch.as_tensor(scores.row_temperature)
    own = torch.where(in_range(own), own, torch.nan).to(logits.dtype)
    return own.reshape(logits.shape[:1] + logits.shape[2:]).unsqueeze(1)


def prob_grad(logits: Tensor, target: Target, scores: Scores, g_loss: Tensor, total: LogTotal | None = None) -> Tensor:
    """Return the gradient of Σ g_loss · loss with respect to the target's probabilities, w (1 − ε) (lse − s).

    Without a `total`, the normaliser covers the local columns. Classes that are not among these have gradient 0, and so
    has a row whose loss has the cotangent 0.
    """
    s = scores_of(logits, scores)
    rows = s.shape[:1] + s.shape[2:]
    peak, log_total = (x.reshape(rows).unsqueeze(1) for x in (total or log_sum_exp(s)))
    cost = log_total - (s - peak)
    if target.weight is not None:
        weight = torch.as_tensor(target.weight).to(s.dtype).reshape(1, -1, *([1] * (s.ndim - 2)))
        cost = torch.where(weight == 0, 0.0, cost * weight)
    prob = torch.as_tensor(target.prob)
    if target.index is None:
        g = g_loss.reshape(s.shape[:1] + s.shape[2:]).unsqueeze(1)
    else:
        flat = cost if s.ndim == 2 else cost.movedim(1, -1).flatten(0, -2)
        index = torch.as_tensor(target.index).long()
        local, V = index - target.first_class, flat.shape[1]
        cost = torch.nn.functional.pad(flat, (0, 1)).gather(1, local.where((local >= 0) & (local < V), V))
        exists = (index >= 0) & (index < (target.num_classes or V))
        cost, g = torch.where(exists | (prob == 0), cost, torch.nan), g_loss[:, None]
    share = (1 - target.smoothing) * g
    cost = torch.where((share == 0) & ~cost.isfinite(), 0.0, cost)  # a share of 0 costs nothing for any cost
    return (share * cost).to(prob.dtype)
