"""How far losses of a linear layer and their gradients are from float64, which is made of the same operands."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch.nn import LinearCrossEntropyOptions, functional

from benchmarks.common.losses import PART, Data, Exact, Loss, errors_of
from benchmarks.common.records import Record
from benchmarks.linear.cases import LinearCase
from benchmarks.linear.contenders import losses, ours
from crossent.torch.sources import plan
from crossent.torch.sources.linear import costs_of


def measure(case: LinearCase, without: Collection[str] = ()) -> Record:
    """Return the errors of everyone but some contenders in this case, and in how many chunks crossent works."""
    data = case.make()
    features, weight = data.leaves
    sizes = {"crossent": plan.default_chunk_bytes(costs_of(features, weight))}
    sizes |= dict(zip(list(ours(case))[1:], case.chunk_bytes, strict=True))
    chunks = {name: number_of_chunks(data, size) for name, size in sizes.items()}
    exact = reference(data)
    found = {name: loss for name, loss in contenders(case).items() if name.partition(",")[0] not in without}
    errors = {name: errors_of(loss, data, exact, ("dX", "dW")) for name, loss in found.items()}
    return {"measure": "error", "chunks": chunks, "errors": errors}


def contenders(case: LinearCase) -> dict[str, Loss]:
    """Return the losses that round in their own way."""
    found = losses(case, compiled=False)
    if case.dtype != "float32" and "torch chunked" in found:
        options = LinearCrossEntropyOptions(acc_dtype=torch.float32)
        found["torch chunked, acc float32"] = partial(functional.linear_cross_entropy, options=options)
    return found


def reference(data: Data) -> Exact:
    """Return the mean loss and its gradients in float64, a part of the rows at a time."""
    features, weight = (x.detach() for x in data.leaves)
    wide, N = weight.double(), len(features)
    g_features, g_weight = features.new_empty(features.shape, dtype=torch.float64), torch.zeros_like(wide)
    part, loss = max(1, PART // (8 * len(weight))), 0.0
    for x, target, place in zip(*(x.split(part) for x in (features, data.target, g_features)), strict=True):
        rows = x.double()
        logprob = (rows @ wide.t()).log_softmax(1)
        here = torch.arange(len(rows)), target
        loss -= float(logprob[here].sum()) / N
        g = logprob.exp_()
        g[here] -= 1.0
        g /= N
        _ = place.copy_(g @ wide)
        _ = g_weight.addmm_(g.t(), rows)
    return Exact(loss, (g_features, g_weight))


def number_of_chunks(data: Data, chunk_bytes: int) -> int:
    """Return in how many chunks crossent makes the logits where gradients are wanted."""
    features, weight = (x.detach() for x in data.leaves)
    costs = costs_of(features, weight)
    sweep, (N, V) = plan.one_sweep(costs, chunk_bytes), (len(features), len(weight))
    if sweep is not None:
        return -(-N // sweep.rows)
    n, v = plan.tile_shape(costs, 1, chunk_bytes)
    return -(-N // n) * -(-V // v)
