"""How far losses of reinforcement learning and their gradients are from float64, made of the same operands."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from benchmarks.common.losses import PART, Data, Exact, errors_of
from benchmarks.common.records import Record
from benchmarks.rows.cases import RowsCase
from benchmarks.rows.contenders import clipped, losses, of_logprob, operands


def measure(case: RowsCase, without: Collection[str] = ()) -> Record:
    """Return the errors of everyone but some contenders in this case."""
    data = case.make()
    exact = reference(case, data)
    names = ("dX", "dW")[: len(data.leaves)]
    found = {name: loss for name, loss in losses(case).items() if name not in without}
    return {"measure": "error", "errors": {k: errors_of(loss, data, exact, names) for k, loss in found.items()}}


def reference(case: RowsCase, data: Data) -> Exact:
    """Return the mean loss and the gradients of what learns, in float64, a part of the rows at a time."""
    features, weight = operands(data)
    wide, N = weight.double().requires_grad_(not case.frozen), len(features)
    part, loss = max(1, PART // (8 * len(weight))), 0.0
    g_features = list[Tensor]()
    old, advantage = (data.options[name].double() for name in ("old", "advantage"))
    for rows in torch.arange(N).split(part):
        x = features[rows].double().requires_grad_()
        logq = (x @ wide.t()).log_softmax(1)
        logprob = logq.gather(1, data.target[rows, None]).squeeze(1)
        if case.loss == "logprob":
            value = of_logprob(logprob, advantage[rows]).sum() / N
        else:
            value = clipped(logprob, -(logq.exp() * logq).sum(1), old[rows], advantage[rows]).sum() / N
        value.backward()
        loss += float(value.detach())
        assert x.grad is not None
        g_features.append(x.grad)
    gradients = (torch.cat(g_features),) if wide.grad is None else (torch.cat(g_features), wide.grad)
    return Exact(loss, gradients)
