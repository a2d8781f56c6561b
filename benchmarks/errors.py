"""How far losses and their gradients are from float64, which is made of the same operands."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions, functional

from benchmarks import contenders as logits_contenders
from benchmarks.cases import Case, Data
from benchmarks.contenders import Loss, step
from benchmarks.linear_cases import LinearCase
from benchmarks.linear_contenders import losses, ours
from benchmarks.run import Record, describe, rounded
from benchmarks.suites import AnyCase
from crossent.torch import TopK
from crossent.torch.sources import plan as _plan

PART = 2**28
"""Bytes of float64 numbers that are made at a time beside the weight, its gradient and their counterparts."""

Exact = tuple[Any, ...]
"""The loss and the gradients of the leaves, in float64."""


def measure(case: AnyCase, without: Collection[str] = ()) -> Record:
    """Return the record of the errors of everyone but some contenders in this case."""
    return measure_linear(case, without) if isinstance(case, LinearCase) else measure_logits(case)


def measure_logits(case: Case) -> Record:
    """Return the record of the errors where logits are given; torch's own loss in float64 is exact."""
    data, wide = case.make(), double(case.make())
    found = logits_contenders.losses(case, compiled=False)
    value = float(step(found["eager"], wide))
    errors = {name: compare(loss, data, (value, wide.logits.grad), ("dlogits",)) for name, loss in found.items()}
    return {**describe(case), "measure": "error", "errors": errors}


def double(data: Data) -> Data:
    """Return the same arguments in float64."""
    target, options = data.target, {name: _double(option) for name, option in data.options.items()}
    target = TopK(target.index, _double(target.prob)) if isinstance(target, TopK) else _double(target)
    return Data(tuple(x.detach().double().requires_grad_() for x in data.leaves), target, options)


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def measure_linear(case: LinearCase, without: Collection[str] = ()) -> Record:
    """Return the record of the errors of a linear layer's loss."""
    data = case.make()
    sizes = {"crossent": _plan.default_chunk_bytes(*data.leaves)}
    sizes |= dict(zip(list(ours(case))[1:], case.chunk_bytes, strict=True))
    chunks = {name: number_of_chunks(data, size) for name, size in sizes.items()}
    exact = reference(data)
    errors = {name: compare(loss, data, exact) for name, loss in contenders(case).items() if name not in without}
    return {**describe(case), "measure": "error", "chunks": chunks, "errors": errors}


def contenders(case: LinearCase) -> dict[str, Loss]:
    """Return the losses that round in their own way."""
    found = losses(case, compiled=False)
    _ = found.pop("torch linear", None)  # eager's
    if case.dtype != "float32":
        options = LinearCrossEntropyOptions(acc_dtype=torch.float32)
        found["torch chunked, acc float32"] = partial(functional.linear_cross_entropy, options=options)
    return found


def compare(loss: Loss, data: Data, exact: Exact, names: tuple[str, ...] = ("dX", "dW")) -> dict[str, float]:
    """Return the relative error of the loss, and those of the gradients in the Euclidean norm."""
    value = float(step(loss, data))
    found = {"loss": abs(value - exact[0]) / abs(exact[0])}
    leaves: Any = data.leaves
    for name, x, grad in zip(names, leaves, exact[1:], strict=True):
        found[name] = distance(x.grad, grad)
    data.forget()
    return {name: rounded(error) for name, error in found.items()}


def distance(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference over the norm of the exact gradient, a part of the rows at a time."""
    part = max(1, PART // (8 * exact.shape[1]))
    sums = [
        ((a.double() - b).square().sum(), b.square().sum())
        for a, b in zip(found.split(part), exact.split(part), strict=True)
    ]
    return float((sum(a for a, _ in sums) / sum(b for _, b in sums)) ** 0.5)


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
    return loss, g_features, g_weight


def number_of_chunks(data: Data, chunk_bytes: int) -> int:
    """Return in how many chunks crossent makes the logits where gradients are wanted."""
    features, weight = (x.detach() for x in data.leaves)
    sweep, (N, V) = _plan.one_sweep(features, weight, chunk_bytes), (len(features), len(weight))
    if sweep is not None:
        return -(-N // sweep.rows)
    n, v = _plan.tile_shape(features, N, V, 1, chunk_bytes)
    return -(-N // n) * -(-V // v)
