"""Rows of long vocabularies on a GPU: every kind of target, classes that are masked, and confident rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.common.records import Record
from benchmarks.gpu.prove.lab import Lab, verdict
from benchmarks.gpu.prove.truth import Results, Rows, of_this_checkout, shares
from crossent import kernels
from crossent.kernels.backend import Cotangents, RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from crossent.torch import cross_entropy

IGNORED = -100
NAN = math.nan


def rows(lab: Lab, kind: str, dtype: str, V: int) -> Iterator[Record]:
    """Yield the errors of few rows with all outputs and cotangents, and of many rows with their loss alone."""
    for N, everything in ((lab.pick(32, 3), True), (lab.pick(600, 5), False)):
        random = torch.Generator(lab.device.device).manual_seed(N)
        logits = normal(lab, random, N, V).mul_(3).to(getattr(torch, dtype))
        target = target_of(lab, kind, random, (N, V))
        scores = Scores(1.0, 30.0 if kind == "softcap" else None)
        one = normal(lab, random, N)
        given = Rows(
            logits, target, scores, (one, *((normal(lab, random, N) for _ in range(2)) if everything else (None, None)))
        )
        yield {"shape": [N, V], "dtype": dtype, **verdict(shares(given, compute(given), lab.threads))}


def masked(lab: Lab, dtype: str) -> Iterator[Record]:
    """Yield the errors where a block of logits is −∞ and a label lies behind it: as if these classes were not there."""
    V, low = lab.pick(50257, 4103), lab.pick(36000, 2900)
    kept = torch.tensor([*range(low), V - 1], device=lab.device.device)
    for N in (lab.pick(32, 3), lab.pick(600, 5)):
        random = torch.Generator(lab.device.device).manual_seed(N)
        logits = normal(lab, random, N, V).mul_(3).to(getattr(torch, dtype))
        logits[:, low : V - 1] = -math.inf
        label = torch.full((N,), V - 1, device=lab.device.device)
        label[0] = 0
        given = Rows(logits, Target(label, ignore_index=IGNORED), Scores(), (normal(lab, random, N), None, None))
        found = compute(given)
        inside = Target(label.clamp(max=low), ignore_index=IGNORED)
        without = Rows(logits[:, kept], inside, Scores(), given.cotangents)
        errors = shares(without, found._replace(gradient=found.gradient[:, kept]), lab.threads)
        errors["masked"] = math.inf if bool((found.gradient[:, low : V - 1] != 0).any()) else 0.0
        yield {"shape": [N, V], "dtype": dtype, **verdict(errors)}


def confident(lab: Lab, dtype: str) -> Iterator[Record]:
    """Yield the errors of rows that are nearly certain of their label: loss = log(1 + (V − 1) e^−gap)."""
    of_this_checkout()
    from tests import oracle

    V, eps = lab.pick(50257, 4103), {"bfloat16": 2.0**-8}.get(dtype, 0.0)
    for gap in (20.0, 40.0):
        logits = torch.full((2, V), -gap, dtype=getattr(torch, dtype), device=lab.device.device)
        logits[0, 0] = logits[1, V - 1] = 0.0
        _ = logits.requires_grad_()
        label = torch.tensor([0, V - 1], device=lab.device.device)
        loss = cross_entropy(logits, label, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        rest = (V - 1) * math.exp(-gap)
        allowed = oracle.K * 2.0**-24 * (1 + gap)  # as tests/conformance/test_special.py has it
        found = {
            "loss": share_of(loss.detach(), math.log1p(rest), allowed),
            "gradient": share_of(gradient[[0, 1], label], -rest / (1 + rest), allowed + eps),
        }
        yield {"shape": [2, V], "dtype": dtype, "gap": gap, **verdict(found)}


def share_of(got: Tensor, want: float, relative: float) -> float:
    """Return the largest error as a share of what is allowed; a record holds 1 + rest in double."""
    return (got.double() - want).abs().max().item() / (relative * abs(want) + 2.0**-51)


def compute(given: Rows) -> Results:
    """Return what the backend makes of rows (N, V): NaN stays where it writes nothing."""
    backend, N = kernels.get("triton"), len(given.logits)
    like = given.logits.new_empty((), dtype=torch.float32)
    outputs = {"loss": like.new_full((N,), NAN)}
    if given.cotangents[1] is not None:
        outputs |= {name: like.new_full((N,), NAN) for name in ("lse", "entropy")}
    record = like.new_full((len(FIELDS), N), NAN, dtype=torch.float64)
    gradient = torch.full_like(given.logits, NAN)
    backend.row_stats(given.logits, given.target, given.scores, record, RowOutputs(**outputs))
    backend.row_grad(given.logits, given.target, given.scores, record, Cotangents(*given.cotangents), gradient)
    return Results(outputs, record, gradient)


def target_of(lab: Lab, kind: str, random: torch.Generator, shape: tuple[int, int]) -> Target:
    """Return a target with labels in the first and in the last column, and an ignored row."""
    N, V = shape
    device = lab.device.device
    label = torch.randint(V, (N, 3), generator=random, device=device)
    label[0, 0], label[1, 0] = 0, V - 1
    if kind == "top-k":
        return Target(label, torch.rand((N, 3), generator=random, device=device))
    label = label[:, 0].contiguous()
    label[2] = IGNORED
    return Target(label, ignore_index=IGNORED, smoothing=0.1 if kind == "smoothing" else 0.0)


def normal(lab: Lab, random: torch.Generator, *shape: int) -> Tensor:
    """Return random numbers in float32."""
    return torch.randn(shape, generator=random, device=lab.device.device)
