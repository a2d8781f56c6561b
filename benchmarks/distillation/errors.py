"""How far divergences between two heads and their gradients are from float64, made of the same operands."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from benchmarks.common.divergences import BETA
from benchmarks.common.losses import PART, Data, Exact, errors_of
from benchmarks.common.records import Record
from benchmarks.distillation.cases import DistillationCase
from benchmarks.distillation.contenders import ALPHA, TAU, losses


def measure(case: DistillationCase, without: Collection[str] = ()) -> Record:
    """Return the errors of everyone but some contenders in this case, or of nobody if it is not judged."""
    if not case.judged:
        return {"measure": "error", "errors": {}}
    data = case.make()
    exact = reference(case, data)
    found = {name: loss for name, loss in losses(case).items() if name not in without}
    return {"measure": "error", "errors": {k: errors_of(loss, data, exact, ("dX", "dW")) for k, loss in found.items()}}


def reference(case: DistillationCase, data: Data) -> Exact:
    """Return the mean loss and the gradients of the student's head, in float64, a part of the rows at a time."""
    features, weight = (x.detach() for x in data.leaves)
    teacher = data.options["teacher_weight"].double()
    wide, N = weight.double(), len(features)
    part, loss = max(1, PART // (8 * len(weight))), 0.0
    g_features, g_weight = torch.empty_like(features, dtype=torch.float64), torch.zeros_like(wide)
    for rows in torch.arange(N).split(part):
        x = features[rows].double()
        scores = (x @ wide.t()).requires_grad_()
        value = _sum(case, scores, data.options["teacher_input"][rows].double() @ teacher.t(), data.target[rows]) / N
        (g,) = torch.autograd.grad(value, scores)
        loss += float(value.detach())
        g_features[rows] = g @ wide
        _ = g_weight.addmm_(g.t(), x)
    return Exact(loss, (g_features, g_weight))


def _sum(case: DistillationCase, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Return the sum of the rows' losses by the definitions of the divergences."""
    tau = TAU if case.labels else 1.0
    logq, logp = ((z / tau).log_softmax(1) for z in (student, teacher))
    p, q = logp.exp(), logq.exp()
    if case.kind == "reverse":
        return (q * (logq - logp)).sum()
    if case.kind == "js":
        logm = (BETA * p + (1 - BETA) * q).log()
        return (BETA * p * (logp - logm) + (1 - BETA) * q * (logq - logm)).sum()
    kl = (p * (logp - logq)).sum()
    if not case.labels:
        return kl
    return (1 - ALPHA) * TAU**2 * kl - ALPHA * logq.gather(1, target[:, None]).sum()
