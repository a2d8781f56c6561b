"""How far losses of a linear layer and their gradients are from float64, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.common.losses import Data

PIECE = 2**25
"""Numbers that are compared, or logits that are made, in float64 at a time."""


def distance(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference over the norm of the exact numbers, in float64, a piece at a time."""
    pairs = zip(found.reshape(-1).split(PIECE), exact.reshape(-1).split(PIECE), strict=True)
    sums = [torch.stack([(a.double() - b).square().sum(), b.double().square().sum()]) for a, b in pairs]
    difference, norm = torch.stack(sums).sum(0).sqrt().tolist()
    return difference / norm if norm else math.inf if difference else 0.0


def reference(data: Data) -> list[Tensor]:
    """Return the mean loss of a linear layer and its gradients in float64, some of the rows at a time."""
    features, weight = (x.detach() for x in data.leaves)
    softcap: float | None = data.options.get("softcap")
    wide, N, rows = weight.double(), len(features), max(1, PIECE // len(weight))
    g_features, g_weight = torch.empty_like(features, dtype=torch.float64), torch.zeros_like(wide)
    loss = wide.new_zeros(())
    for x, target, place in zip(*(x.split(rows) for x in (features, data.target, g_features)), strict=True):
        x64 = x.double()
        tanh = None if softcap is None else torch.tanh(x64 @ wide.t() / softcap)
        logprob = (x64 @ wide.t() if tanh is None else softcap * tanh).log_softmax(1)
        here = torch.arange(len(x), device=x.device), target
        loss -= logprob[here].sum() / N
        g = logprob.exp_()
        g[here] -= 1.0
        g /= N
        if tanh is not None:
            g *= 1 - tanh.square()
        _ = torch.mm(g, wide, out=place)
        _ = g_weight.addmm_(g.t(), x64)
    return [loss, g_features, g_weight]
