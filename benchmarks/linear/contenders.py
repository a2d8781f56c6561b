"""Who takes part where the logits are those of a linear layer, and the floors, which only multiply.

Every contender is a call without arguments, under a key of measure and name:

    forward    the loss alone, where no gradient is wanted; neither compiled nor chunked by torch
    both       the loss and the gradients of input and weight in fresh memory, as a training step has it
    floor      gemm: the logits, into memory that is there;  gemms: the logits and the products that make two gradients
               of them, into fresh memory;  gemms warm: the same into memory that is there. They are torch's own
               products in the dtype of the case; for half precision the same three exist in float32 too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions, functional

from benchmarks.common import machine, patience
from benchmarks.common.losses import Call, Contenders, Data, Loss, compiled_by_torch, floors_as_calls, timed
from benchmarks.linear.cases import MIB, LinearCase
from crossent.torch import linear_cross_entropy

LIMITS = {
    measure: {name: (name,) for floor in floors for name in (floor, f"{floor} float32")}
    for measure, floors in (("forward", ["gemm"]), ("both", ["gemms", "gemms warm"]))
}
"""For each measure, the floors that it is compared with."""

FEWER = {"torch chunked": 3}
"""Contenders so slow that they take part in some rounds only, and in how many at most."""

NO_FORWARD = ("torch chunked", "compile")
"""Contenders whose forward alone is not timed."""

WHOLE = ("eager", "compile")
"""Contenders that hold all logits: their logarithms, the gradient of these and that of the logits in a backward."""


def losses(case: LinearCase, *, compiled: bool) -> dict[str, Loss]:
    """Return the losses of crossent and of its rivals, as functions of input, weight and target."""
    theirs: dict[str, Loss] = {
        "eager": eager,
        "torch chunked": partial(functional.linear_cross_entropy, options=LinearCrossEntropyOptions()),
    }
    if compiled:
        theirs["compile"] = compiled_by_torch(eager)
    return ours(case) | {name: loss for name, loss in theirs.items() if name in case.rivals}


def ours(case: LinearCase) -> dict[str, Loss]:
    """Return crossent's loss, with chunks of the default size and of those in the case."""
    sized = {f"crossent {size / MIB:g} MiB": size for size in case.chunk_bytes}
    return {
        "crossent": linear_cross_entropy,
        **{name: partial(linear_cross_entropy, chunk_bytes=size) for name, size in sized.items()},
    }


def eager(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return what one writes without a loss of a linear layer."""
    return functional.cross_entropy(functional.linear(features, weight), target)


def calls(case: LinearCase, data: Data, *, compiled: bool) -> Contenders:
    """Return the calls of every contender that there is memory for, and why the others cannot take part.

    Raise TooSlowError if torch's products of these operands take too long: nobody could be compared with anything.
    """
    patience.check(*data.leaves)
    without = missing(case, machine.free_memory())
    without = {name: why for name, why in without.items() if name in case.rivals or name.startswith("gemm")}
    if not compiled:
        _ = without.pop("compile", None)
    found = timed({k: loss for k, loss in losses(case, compiled=compiled).items() if k not in without}, data)
    found = {key: call for key, call in found.items() if key.measure == "both" or key.contender not in NO_FORWARD}
    if "gemm" not in without:
        found |= floors_as_calls(floors(data, fresh="gemms" not in without))
    return Contenders(found, without)


def missing(case: LinearCase, free: int | None) -> dict[str, str]:
    """Return who needs more memory than is free, and as a reason how much: Linux would end the process."""
    if free is None:
        return {}
    logits, weight = case.logits_bytes, case.weight_bytes
    warm = fresh = logits + weight
    if case.dtype != "float32":  # the same in float32, and operands for it
        warm, fresh = 3 * warm + 2 * weight, 2 * fresh
    whole = 3 * logits + 3 * weight  # the gradient of the weight, the one that it is compared with, and the difference
    most = free - free // 8  # of a machine that is shared
    held = warm if warm <= most else 0  # by the floors as long as others run
    needs = {"gemm": warm, "gemms": warm + fresh, "gemms warm": warm} | dict.fromkeys(WHOLE, held + whole)
    return {
        name: f"{size / 1e9:.1f} GB of memory needed, {free / 1e9:.1f} GB free"
        for name, size in needs.items()
        if size > most
    }


def floors(data: Data, *, fresh: bool = True) -> dict[str, Call]:
    """Return the calls that only multiply, with those into fresh memory or without."""
    operands = [x.detach() for x in data.leaves]
    found = products(*operands)
    if operands[0].element_size() < 4:
        found |= {f"{name} float32": call for name, call in products(*(x.float() for x in operands)).items()}
    return {name: call for name, call in found.items() if fresh or name.removesuffix(" float32") != "gemms"}


def products(features: Tensor, weight: Tensor) -> dict[str, Call]:
    """Return the calls that multiply in the dtype of the operands; the logits stand for their own gradient."""
    logits = features.new_zeros(len(features), len(weight))
    g_features, g_weight = torch.zeros_like(features), torch.zeros_like(weight)

    def gemm() -> Tensor:
        return torch.mm(features, weight.t(), out=logits)

    def gemms() -> list[Tensor]:
        g = features @ weight.t()
        return [g, g @ weight, g.t() @ features]

    def gemms_warm() -> list[Tensor]:
        g = gemm()
        return [g, torch.mm(g, weight, out=g_features), torch.mm(g.t(), features, out=g_weight)]

    return {"gemm": gemm, "gemms": gemms, "gemms warm": gemms_warm}


def work(data: Data, measure: str) -> dict[str, int]:
    """Return the operations of the products in a measure, two for each number that is multiplied and added."""
    features, weight = data.leaves
    return {"flops": {"forward": 2, "both": 6}[measure] * features.numel() * len(weight)}
