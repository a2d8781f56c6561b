"""Divergences between two predictions as one writes them with torch's own functions of logits that are in memory."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

KINDS = ("forward", "reverse", "js")
BETA = 0.5
"""The teacher's share of the mixture of js."""


def in_torch(kind: str, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean divergence of rows, with logarithms of probabilities in float32 or float64."""
    logq, logp = log_probabilities(student), log_probabilities(teacher)
    kl = partial(functional.kl_div, reduction="batchmean", log_target=True)
    if kind == "forward":
        return kl(logq, logp)
    if kind == "reverse":
        return kl(logp, logq)
    logm = torch.logaddexp(logp + math.log(BETA), logq + math.log(1 - BETA))
    return BETA * kl(logm, logp) + (1 - BETA) * kl(logm, logq)


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log_softmax in float32, or float64 for such logits: half precision is converted on the way."""
    return functional.log_softmax(logits, 1, dtype=torch.promote_types(logits.dtype, torch.float32))
