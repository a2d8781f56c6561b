"""crossent::linear_selected: its contract, the products that it counts and makes, and the memory that it takes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import crossent.torch as F
from crossent.torch.base import register
from tests.torch import logq
from tests.torch.operators.test_linear_stats import Recording

N, D, V = 24, 6, 50
PRODUCT = 2 * N * D * V


def summed(stats):
    return sum((k * getattr(stats, name)).sum() for k, name in enumerate(logq.SMOOTH, 1))


@pytest.fixture
def operands():
    return torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("chunk_bytes", [None, 500])
def test_operators_keep_their_contracts(operands, chunk_bytes):
    x, w = operands
    with Recording() as forward:
        found = summed(F.linear_logprobs(x, w, torch.randint(V, (N, 2)), chunk_bytes=chunk_bytes))
    with Recording() as backward:
        found.backward()
    assert [name for name in forward.calls if "linear_selected" in name]
    assert [name for name in backward.calls if "linear_selected_grad" in name]
    for function, _, kept in [*(c[0] for c in forward.calls.values()), *(c[0] for c in backward.calls.values())]:
        _ = torch.library.opcheck(function, tuple(kept))


@pytest.mark.parametrize("K", [1, 2, 7])
@pytest.mark.parametrize(("chunk_bytes", "again"), [(None, 0), (500, 1)])
@pytest.mark.parametrize("frozen", [(), ("x",), ("w",)])
def test_any_number_of_classes_costs_the_products_of_one(operands, K, chunk_bytes, again, frozen, monkeypatch):
    classes = torch.randint(V, (N, K))
    leaves = [a.detach().requires_grad_(name not in frozen) for name, a in zip("xw", operands, strict=True)]
    for watched in (True, False):  # what the operators say of themselves, and what they multiply
        if not watched:
            monkeypatch.setattr(register, "is_watched", lambda: False)
        with FlopCounterMode(display=False) as forward:
            found = F.linear_logprobs(*leaves, classes, chunk_bytes=chunk_bytes)
        with FlopCounterMode(display=False) as backward:
            summed(found).backward()
        assert forward.get_total_flops() == PRODUCT
        assert backward.get_total_flops() == (again + 2 - len(frozen)) * PRODUCT


def test_no_tensor_of_gathered_rows_of_the_weight_is_made(operands):
    x, w = operands
    K = 40

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, (tuple, list)) else [out]:
                self.size = max(self.size, t.numel()) if isinstance(t, torch.Tensor) else self.size
            return out

    with Largest() as largest:
        summed(F.linear_logprobs(x, w, torch.randint(V, (N, K)), chunk_bytes=600)).backward()
    assert largest.size < N * K * D
