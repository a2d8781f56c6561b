"""Losses of reinforcement learning: everyone computes the same, errors are those beside float64, and floors."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from benchmarks import run
from benchmarks.rows import contenders, errors, report
from benchmarks.rows.cases import CASES, RowsCase

KINDS = list(itertools.product(("clipped", "logprob"), (False, True)))
kinds = pytest.mark.parametrize(("loss", "frozen"), KINDS)


def tiny(loss: str, frozen: bool) -> RowsCase:
    return RowsCase("tiny", "none", 40, 8, 70, loss, frozen)


@kinds
def test_the_truth_is_that_of_autograd(loss: str, frozen: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(errors, "PART", 8 * 70 * 7)  # parts of 7 rows
    case = tiny(loss, frozen)
    data = case.make()
    x, w = (operand.detach().double().requires_grad_() for operand in contenders.operands(data))
    old, advantage = data.options["old"].double(), data.options["advantage"].double()
    q = torch.distributions.Categorical(logits=x @ w.T)
    logprob = q.log_prob(data.target)
    losses = -advantage * logprob
    if loss == "clipped":
        ratio = torch.exp(logprob - old)
        better = torch.where(advantage > 0, ratio.clamp(max=1.2), ratio.clamp(min=0.8))
        losses = -better * advantage - 0.01 * q.entropy()
    losses.mean().backward()
    exact = errors.reference(case, data)
    wanted = (x.grad,) if frozen else (x.grad, w.grad)
    torch.testing.assert_close((exact.loss, *exact.gradients), (losses.mean().item(), *wanted), rtol=1e-10, atol=1e-14)
    for error in errors.measure(case)["errors"].values():
        assert error.keys() == ({"loss", "dX"} if frozen else {"loss", "dX", "dW"})
        assert all(value < 1e-5 for value in error.values())


@kinds
def test_a_case_is_measured_and_reported(loss: str, frozen: bool):
    case = tiny(loss, frozen)
    found = run.measure(case, 3, warmup=1, compiled=False)
    assert [record["measure"] for record in found] == ["forward", "both"]
    products = 2 if frozen else 3
    assert found[1]["flops"] == 2 * products * 40 * 8 * 70
    assert {"mean", "products"} == found[1]["times_limit"].keys()
    about = {"run": {}, **{k: v for k, v in found[0].items() if k not in ("measure",)}}
    grid = report.grids({"tiny": {r["measure"]: {**about, **r} for r in found}})
    assert any(line.startswith("tiny") and "40×8×70 float32" in line for line in grid)


@pytest.mark.parametrize("frozen", [False, True])
def test_floors_are_products_and_the_mean_loss(frozen: bool):
    data = tiny("clipped", frozen).make()
    x, w = contenders.operands(data)
    floors = contenders.floors(data)
    products = floors["products"]()
    g = x @ w.T
    for a, b in zip(products, (g, g @ w, g.T @ x), strict=False):  # pyright: ignore
        torch.testing.assert_close(a, b)
    assert len(products) == (2 if frozen else 3)  # pyright: ignore
    mean = floors["mean"]()
    assert isinstance(mean, Tensor)
    torch.testing.assert_close(mean, torch.nn.functional.cross_entropy(g, data.target))


def test_the_heads_are_those_of_the_other_suite():
    assert {(case.N, case.D, case.V) for case in CASES} == {(1024, 768, 50257), (1024, 576, 49152)}
