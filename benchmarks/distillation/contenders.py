"""Who takes part in distillation through two heads, and what bounds it.

Contenders are crossent, what one writes with the logits of both heads (eager), and TRL's chunked function, if it is
installed. Only the student learns.

    both       the loss and the gradients of the student's input and weight, in fresh memory
    floor      products: the four products that nobody can do without, in the dtype of the case: logits of the student,
               logits of the teacher, and from an array of their size the gradients of the student's input and weight.
               They are written into four arrays that exist and have been written before.
               products fresh: the same into memory that the allocator has to get.
               products float32: the same as products, in float32 where the case is in half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.divergences import BETA, in_torch, log_probabilities
from benchmarks.common.losses import Call, Contenders, Data, Key, Loss, floors_as_calls, step
from benchmarks.distillation.cases import DistillationCase
from crossent.torch import linear_divergence

LIMITS = {"both": {name: (name,) for name in ("products", "products fresh", "products float32")}}
"""For each measure, what it is compared with."""

FEWER = {"trl": 3, "eager": 3}
"""Contenders so slow that they take part in some rounds only, and in how many at most."""

ALPHA, TAU = 0.1, 2.0
"""The share of the labels, and the temperature of both heads, where labels are mixed in."""

TRL = "trl.kernels.chunked_divergence"
"""The module of TRL's function."""

TRL_BETAS = {"forward": 0.0, "reverse": 1.0, "js": BETA}
"""The kinds of divergence as TRL's function takes them."""


def losses(case: DistillationCase, *, compiled: bool = False) -> dict[str, Loss]:
    """Return the loss of everyone, as a function of the student's head, labels and the teacher's head."""
    found: dict[str, Callable[..., Tensor]] = {"crossent": ours, "eager": eager}
    if "trl" in case.rivals and find_spec("trl") is not None:
        _ = import_module(TRL)  # here, not in the first step: it takes seconds
        found["trl"] = trl
    return {name: partial(loss, case) for name, loss in found.items()}


def ours(
    case: DistillationCase,
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    teacher_input: Tensor,
    teacher_weight: Tensor,
) -> Tensor:
    """Return the divergence, or with labels a closing of it."""
    heads = features, weight, teacher_input, teacher_weight
    if case.labels:
        return linear_divergence(*heads, target=target, closing=mixed, temperature=TAU)
    return linear_divergence(*heads, kind=case.kind, beta=BETA)


def mixed(rows: Any) -> Tensor:
    """Return Hinton's loss of each row, of labels and of a teacher at the same temperature."""
    return -ALPHA * rows.logprob + (1 - ALPHA) * TAU**2 * rows.kl


def eager(
    case: DistillationCase,
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    teacher_input: Tensor,
    teacher_weight: Tensor,
) -> Tensor:
    """Return what one writes with logits."""
    with torch.no_grad():
        teacher = functional.linear(teacher_input, teacher_weight)
    student = functional.linear(features, weight)
    if case.labels:
        logq, logp = (log_probabilities(z / TAU) for z in (student, teacher))
        kl = functional.kl_div(logq, logp, reduction="batchmean", log_target=True)
        return ALPHA * functional.nll_loss(logq, target) + (1 - ALPHA) * TAU**2 * kl
    return in_torch(case.kind, student, teacher)


def trl(
    case: DistillationCase,
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    teacher_input: Tensor,
    teacher_weight: Tensor,
) -> Tensor:
    """Return the divergence by TRL's function as its trainer calls it, with its own sizes of tiles."""
    function = import_module(TRL).ChunkedDivergenceFunction
    heads = features, weight, None, teacher_input, teacher_weight, None
    return function.apply(*heads, TRL_BETAS[case.kind])[0].sum() / len(features)


def calls(case: DistillationCase, data: Data, *, compiled: bool) -> Contenders:
    """Return the calls of every contender, and why the others cannot take part."""
    found = losses(case)
    missing = {name: "it is not installed" for name in case.rivals if name not in found}
    steps: dict[Key, Call] = {Key("both", name): partial(step, loss, data) for name, loss in found.items()}
    return Contenders(steps | floors_as_calls(floors(data, fresh=case.fresh)), missing)


def floors(data: Data, *, fresh: bool = True) -> dict[str, Call]:
    """Return the calls that only multiply, with those into fresh memory or without."""
    heads = [x.detach() for x in data.leaves], list(data.options.values())
    found: dict[str, Call] = {"products": products(*heads[0], *heads[1])}
    if fresh:
        found["products fresh"] = partial(fresh_products, *heads[0], *heads[1])
    if data.leaves[0].element_size() < 4:
        found["products float32"] = products(*(x.float() for head in heads for x in head))
    return found


def products(features: Tensor, weight: Tensor, teacher_input: Tensor, teacher_weight: Tensor) -> Call:
    """Return the call that multiplies into memory that is there; the student's logits stand for their own gradient."""
    student = features.new_zeros(len(features), len(weight))
    teacher = torch.zeros_like(student)
    g_features, g_weight = torch.zeros_like(features), torch.zeros_like(weight)

    def multiply() -> list[Tensor]:
        return [
            torch.mm(features, weight.t(), out=student),
            torch.mm(teacher_input, teacher_weight.t(), out=teacher),
            torch.mm(student, weight, out=g_features),
            torch.mm(student.t(), features, out=g_weight),
        ]

    return multiply


def fresh_products(features: Tensor, weight: Tensor, teacher_input: Tensor, teacher_weight: Tensor) -> list[Tensor]:
    """Return the same four products in fresh memory."""
    student, teacher = features @ weight.t(), teacher_input @ teacher_weight.t()
    return [student, teacher, student @ weight, student.t() @ features]


def work(data: Data, measure: str) -> dict[str, int]:
    """Return the operations of the four products, two for each number that is multiplied and added."""
    features, weight = data.leaves
    columns = 3 * features.shape[1] + data.options["teacher_input"].shape[1]
    return {"flops": 2 * len(features) * len(weight) * columns}
