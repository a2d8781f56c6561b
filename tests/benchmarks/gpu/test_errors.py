"""The exact results that contenders on a GPU are compared with."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.gpu import contenders, errors
from benchmarks.gpu.cases import make
from tests.benchmarks.gpu.small import CPU, tiny


@pytest.mark.parametrize("name", ["llama3-head", "gemma2-head"])
def test_the_reference_is_autograd_in_float64(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(errors, "PIECE", 7 * 70)  # 7 rows
    data = make(tiny(name), CPU)
    leaves = [x.detach().double().requires_grad_() for x in data.leaves]
    loss = contenders.eager(*leaves, data.target, **data.options)
    exact = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    torch.testing.assert_close(errors.reference(data), exact, rtol=1e-12, atol=1e-15)


def test_a_distance_from_zero_is_zero_or_infinite():
    zero, one = torch.zeros(3), torch.ones(3)
    assert errors.distance(zero, zero) == 0.0
    assert errors.distance(one, zero) == math.inf
    assert errors.distance(2 * one, one) == 1.0
