"""Errors of losses of a linear layer beside float64, and the number of chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.common import losses
from benchmarks.linear import contenders, errors
from crossent.torch.sources import driver
from tests.benchmarks.tiny import V, linear_case


@pytest.mark.parametrize("name", ["float32", "bf16"])
def test_errors_are_those_beside_autograd_in_float64(name: str, monkeypatch: pytest.MonkeyPatch):
    for module in (errors, losses):
        monkeypatch.setattr(module, "PART", 8 * V * 7)  # parts of 7 rows
    data = linear_case(name).make()
    leaves = [x.detach().double().requires_grad_() for x in data.leaves]
    value = functional.cross_entropy(functional.linear(*leaves), data.target)
    value.backward()
    exact = errors.reference(data)
    grads = [x.grad for x in leaves]
    torch.testing.assert_close((exact.loss, *exact.gradients), (value.item(), *grads), rtol=1e-12, atol=1e-15)

    assert errors.measure(linear_case(name), {"torch chunked"})["errors"].keys() == {"crossent", "eager"}
    record = errors.measure(linear_case(name))
    extra = {"torch chunked, acc float32"} if name == "bf16" else set[str]()
    assert record["errors"].keys() == {"crossent", "eager", "torch chunked"} | extra
    for contender in ("crossent", "eager"):
        loss = contenders.losses(linear_case(name), compiled=False)[contender]
        found = loss(*data.leaves, data.target)
        own = torch.autograd.grad(found, data.leaves)
        expected = {"loss": abs(found.item() - value.item()) / value.item()}
        for key, a, b in zip(("dX", "dW"), own, grads, strict=True):
            expected[key] = float(np.linalg.norm(a.double() - b) / np.linalg.norm(b))
        assert record["errors"][contender] == pytest.approx(expected, rel=5e-5, abs=1e-13)


@pytest.mark.parametrize("name", ["float32", "bf16"])
@pytest.mark.parametrize("chunk_bytes", [128, 2000, 2**20])
def test_chunks_are_as_many_as_are_made(name: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch):
    kernels, calls = driver.backend(torch.ones(1)), []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(kernels, name)

    monkeypatch.setattr(driver, "backend", lambda _: Watched())
    data = linear_case(name).make()
    loss = contenders.linear_cross_entropy
    loss(*data.leaves, data.target, chunk_bytes=chunk_bytes).backward()
    made = calls.count("row_fused") or calls.count("row_grad")
    assert errors.number_of_chunks(data, chunk_bytes) == made
