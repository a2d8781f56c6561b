"""The kernel whose second pass reads from a cache, behind its switch, against the two kernels and torch in float64.

The interpreter runs programs one after the other, so that its two halves are launched apart here: nobody waits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf

from crossent.kernels.backend import BiasedLogits, LossScale, RowOutputs
from crossent.kernels.triton.launch import Launch
from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from tests.kernels.triton.calls import DEVICE, PLAIN, backend, bound

ROWS, IGNORED = 3, -100
CASES = {  # columns, dtype of the logits, smoothing, scores, and whether there are a bias and an ignored row
    "one part": (8205, torch.float32, 0.0, PLAIN, False),
    "three parts": (24600, torch.float32, 0.0, PLAIN, True),
    "half, smoothed": (12001, torch.bfloat16, 0.1, Scores(0.8), False),
    "capped": (12001, torch.float32, 0.1, Scores(0.8, 5.0), True),
    "a temperature a row": (24600, torch.float32, 0.0, Scores(row_temperature=torch.tensor([0.3, 1.0, 4.0])), True),
}


def called(z: Any, bias: Any, target: Target, scores: Scores, in_place: bool) -> Any:
    """Results of `row_fused`, NaN beforehand."""
    scale = LossScale(torch.tensor([1.0, 0.5, 2.0], device=DEVICE), torch.full((ROWS,), 0.1, device=DEVICE))
    record = torch.full((len(FIELDS), ROWS), torch.nan, dtype=torch.float64, device=DEVICE)
    found = {name: torch.full((ROWS,), torch.nan, device=DEVICE) for name in RowOutputs._fields}
    z = z.to(DEVICE, copy=True)
    given, own = z if bias is None else BiasedLogits(z, bias.to(DEVICE)), scores.row_temperature
    scores = scores if own is None else dataclasses.replace(scores, row_temperature=own.to(DEVICE))
    grad = z if in_place else torch.full_like(z, torch.nan, dtype=torch.float32)
    backend.module.row_fused(given, target, scores, scale, record, grad, RowOutputs(**found))
    return found | {"grad": grad, "record": record}


def watched(monkeypatch: Any) -> list[str]:
    """Names of the kernels that are launched from now on."""
    names: list[str] = []
    run = Launch.__call__

    def call(launch: Launch, *arrays: Any) -> None:
        names.append(launch.kernel.fn.__name__)
        run(launch, *arrays)

    monkeypatch.setattr(Launch, "__call__", call)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_one_kernel_has_the_results_of_two(case, monkeypatch):
    V, dtype, smoothing, scores, more = CASES[case]
    z, bias = (2 * torch.randn(ROWS, V)).to(dtype), torch.randn(V) if more else None
    if not smoothing:
        z[0, : V // 2] = -torch.inf  # whole parts without any number
    labels = torch.tensor([V - 1, 0, IGNORED if more else V // 2])
    target = Target(labels.to(DEVICE), smoothing=smoothing, ignore_index=IGNORED)
    two = called(z, bias, target, scores, in_place=dtype == torch.float32)
    launches = watched(monkeypatch)
    monkeypatch.setenv("CROSSENT_GPU_ONE_KERNEL", "1")
    one = called(z, bias, target, scores, in_place=dtype == torch.float32)
    again = called(z, bias, target, scores, in_place=dtype == torch.float32)
    assert set(launches) - {"own_temperatures"} == {"row_cached", "finish"}

    s = exact = z.double().requires_grad_()
    own: Any = scores.row_temperature
    s = (s if bias is None else s + bias.double()) / (scores.temperature if own is None else own.double()[:, None])
    s = s if scores.softcap is None else scores.softcap * torch.tanh(s / scores.softcap)
    loss = nnf.cross_entropy(s, labels, label_smoothing=smoothing, ignore_index=IGNORED, reduction="none")
    lse = s.logsumexp(1)
    weight, kept = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64), (labels != IGNORED).double()
    (grad,) = torch.autograd.grad((weight * loss + 0.1 * kept * lse.square()).sum(), exact)
    limit = 4 * bound(s.detach().float())
    rows = labels != IGNORED
    for name, want in (("loss", loss), ("lse", lse), ("grad", grad)):
        for found in (one, two):
            torch.testing.assert_close(found[name].cpu().double()[rows], want.detach()[rows], rtol=0, atol=limit)
    assert torch.equal(one["grad"].cpu()[~rows], torch.zeros_like(one["grad"].cpu()[~rows]))
    for name, x in one.items():
        torch.testing.assert_close(x.cpu().double(), two[name].cpu().double(), rtol=0, atol=limit)
        assert torch.equal(x, again[name])
