"""Who takes part where logits are given: crossent, torch eager and compiled, and floors, which only move memory.

Every contender is a call without arguments, under a key of measure and name:

    forward    the loss alone, for logits that require no gradient
    both       the loss and its gradient in fresh memory, as a training step has it
    backward   the gradient alone, into an array that is there already
    floor      read: x.sum();  copy: into an array that is there already;  clone: into fresh memory. Where the targets
               are as large as the logits, each floor reads them too.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.divergences import BETA, KINDS, in_torch
from benchmarks.common.losses import (
    Call,
    Contenders,
    Data,
    Key,
    Loss,
    compiled_by_torch,
    floors_as_calls,
    forward,
    timed,
)
from benchmarks.logits.cases import LogitsCase
from crossent import kernels
from crossent.kernels.backend import BinaryOperands, Cotangents
from crossent.spec import Scores, Target
from crossent.torch import TopK, binary_cross_entropy_with_logits, cross_entropy, divergence

LIMITS = {
    "forward": {"limit": ("read",), "raw": ("raw",)},
    "backward": {"limit": ("copy",)},
    "both": {"limit": ("read", "clone")},
}
"""For each measure, the floors whose times add up to the least that it can take, under a name for the quotient."""

FEWER: dict[str, int] = {}
"""Contenders so slow that they take part in some rounds only, and in how many at most."""


def losses(case: LogitsCase, *, compiled: bool) -> dict[str, Loss]:
    """Return the loss of crossent and those of its rivals, as functions of logits, target and options."""
    ours, theirs = {
        "index": (cross_entropy, functional.cross_entropy),
        "prob": (cross_entropy, functional.cross_entropy),
        "topk": (cross_entropy, topk_in_torch),
        "binary": (binary_cross_entropy_with_logits, functional.binary_cross_entropy_with_logits),
        **{kind: (partial(divergence, kind=kind, beta=BETA), partial(in_torch, kind)) for kind in KINDS},
    }[case.target]
    return {
        "crossent": ours,
        "eager": theirs,
        **({"compile": compiled_by_torch(theirs)} if compiled and "compile" in case.rivals else {}),
    }


def topk_in_torch(logits: Tensor, target: TopK) -> Tensor:
    """Return what one writes where there is no sparse target, without the dense one that F.cross_entropy would need."""
    logprob = functional.log_softmax(logits, 1).gather(1, target.index)
    return -(target.prob * logprob).sum(1).mean()


def calls(case: LogitsCase, data: Data, *, compiled: bool) -> Contenders:
    """Return the calls of every contender in this case."""
    found = timed(losses(case, compiled=compiled), data)
    if case.repeat > 1:
        return Contenders(found, {})
    only_moving = floors(data)
    if case.backward_alone:
        found[Key("backward", "crossent")] = backward(case, data)
    else:
        del only_moving["copy"]
    found |= floors_as_calls(only_moving)
    return Contenders(found, {})


def backward(case: LogitsCase, data: Data) -> Call:
    """Return the call by which crossent's autograd gets the gradient, but into an array that is there already."""
    _ = forward(losses(case, compiled=False)["crossent"], data)  # crossent.torch lends its threads at its first call
    cpu = kernels.get("cpu")
    logits, share = data.logits.detach(), 1.0 / case.rows
    if case.target == "binary":
        operands = BinaryOperands(logits, data.target)
        cotangent = torch.tensor(share).expand(logits.shape)
        return partial(cpu.binary_grad, "logits", operands, cotangent, torch.zeros_like(logits))

    options = {"weight": data.options.get("weight"), "smoothing": data.options.get("label_smoothing", 0.0)}
    target = dataclasses.replace(_plain_target(case, data), **options)
    logits = logits if logits.ndim == 2 else logits.flatten(2)
    few = logits.shape[1] <= cpu.FEW_CLASSES and target.kind != "topk"  # which are summed again, as autograd does it
    record = None if few else torch.empty(5, case.rows, dtype=torch.float64)
    cpu.row_stats(logits, target, Scores(), record)
    cotangents = Cotangents(loss=torch.tensor(share, dtype=torch.float64).expand(case.rows))
    return partial(cpu.row_grad, logits, target, Scores(), record, cotangents, torch.zeros_like(logits))


def _plain_target(case: LogitsCase, data: Data) -> Target:
    """Return the target without class weight and smoothing."""
    if case.target == "topk":
        return Target(data.target.index, data.target.prob)
    return Target(prob=data.target) if case.target == "prob" else Target(data.target.reshape(-1))


def floors(data: Data) -> dict[str, Call]:
    """Return the calls that only move memory."""
    logits, *others = data.operands()
    into = torch.zeros_like(logits)
    found: dict[str, Call] = {
        "read": lambda: [x.sum() for x in (logits, *others)],
        "copy": lambda: [into.copy_(logits), *(x.sum() for x in others)],
        "clone": lambda: [logits.clone(), *(x.sum() for x in others)],
    }
    if logits.element_size() < 4 and math.prod(logits.shape) % 2 == 0:
        # torch adds half-precision numbers more slowly than memory delivers them: the same bytes, added as float32
        raw = [x.flatten().view(torch.float32) for x in (logits, *others)]
        found["raw"] = lambda: [x.sum() for x in raw]
    return found


def work(data: Data, measure: str) -> dict[str, int]:
    """Return the bytes that the limit of a measure moves."""
    read = sum(x.nbytes for x in data.operands())
    written = data.logits.nbytes
    return {"bytes": {"forward": read, "backward": read + written, "both": 2 * read + written}[measure]}
