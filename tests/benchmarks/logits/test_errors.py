"""Errors of losses of logits, beside torch in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from benchmarks.logits import errors
from benchmarks.logits.contenders import losses
from tests.benchmarks.tiny import logits_case


@pytest.mark.parametrize("name", ["index", "bf16", "options", "prob"])
def test_errors_are_those_beside_autograd_in_float64(name: str):
    case = logits_case(name)
    data, logits = case.make(), case.make().logits.detach().double().requires_grad_()
    target = data.target.double() if data.target.is_floating_point() else data.target
    options = {key: x.double() if isinstance(x, torch.Tensor) else x for key, x in data.options.items()}
    value = functional.cross_entropy(logits, target, **options)
    (exact,) = torch.autograd.grad(value, logits)

    record = errors.measure(case)
    assert record["errors"].keys() == {"crossent", "eager"}
    for contender, found in losses(case, compiled=False).items():
        loss = found(data.logits, data.target, **data.options)
        (own,) = torch.autograd.grad(loss, data.logits)
        expected = {
            "loss": abs(loss.item() - value.item()) / value.item(),
            "dlogits": math.sqrt(float((own.double() - exact).square().sum() / exact.square().sum())),
        }
        assert record["errors"][contender] == pytest.approx(expected, rel=5e-5, abs=1e-13)


def test_who_is_left_out_has_no_error():
    assert errors.measure(logits_case("index"), {"eager"})["errors"].keys() == {"crossent"}
