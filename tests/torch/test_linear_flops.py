"""The linear loss counts the products that it multiplies: torch's counter of the kernels says which these are."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import crossent.torch as F
from crossent.torch.base import register
from crossent.torch.operators import linear_loss, linear_stats

N, D, V = 24, 6, 10


def counted(step):
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


@pytest.fixture
def kernels_in_sight(monkeypatch):
    """Run kernels without the dispatcher, so that a counter sees their products."""

    def directly():
        for module in (register, linear_loss, linear_stats):
            if hasattr(module, "is_watched"):
                monkeypatch.setattr(module, "is_watched", lambda: False)

    return directly


def calls():
    x, w, y = torch.randn(N, D), torch.randn(V, D), torch.randint(V, (N,))
    y[::3] = -100
    for target, reduction, frozen, chunk_bytes in itertools.product(
        (y, torch.rand(N, V)), ("mean", "none"), ((), ("x",), ("w",)), (None, 300)
    ):
        leaves = [a.clone().requires_grad_(name not in frozen) for name, a in (("x", x), ("w", w))]
        soft = target.requires_grad_(False) if target is y else target.clone().requires_grad_(reduction == "none")

        def step(leaves=leaves, target=soft, reduction=reduction, chunk_bytes=chunk_bytes):
            F.linear_cross_entropy(*leaves, target, reduction=reduction, chunk_bytes=chunk_bytes).sum().backward()

        yield step


def test_what_is_counted_is_what_is_multiplied(kernels_in_sight):
    steps = list(calls())
    got = [counted(step) for step in steps]
    kernels_in_sight()
    want = [counted(step) for step in steps]
    assert got == want
    assert min(want) > 0


def test_three_products_of_the_rows_that_have_a_target():
    x, w, y = torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True), torch.randint(V, (N,))
    y[: N // 2] = -100
    assert counted(lambda: F.linear_cross_entropy(x, w, y).backward()) == 3 * 2 * (N // 2) * D * V
    twin = counted(lambda: torch.nn.functional.cross_entropy(x[N // 2 :] @ w.T, y[N // 2 :]).backward())
    assert counted(lambda: F.linear_cross_entropy(x, w, y).backward()) == twin


def test_fake_rows_all_count():
    with FakeTensorMode():
        x, w = torch.empty(N, D, requires_grad=True), torch.empty(V, D, requires_grad=True)
        y = torch.zeros(N, dtype=torch.long)
        assert counted(lambda: F.linear_cross_entropy(x, w, y).backward()) == 3 * 2 * N * D * V


def test_a_loss_of_logits_multiplies_nothing():
    z, y = torch.randn(N, V, requires_grad=True), torch.randint(V, (N,))
    assert counted(lambda: F.cross_entropy(z, y).backward()) == 0
    assert counted(lambda: torch.nn.functional.cross_entropy(z, y).backward()) == 0
