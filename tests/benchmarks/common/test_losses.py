"""The ways in which a loss is called, and distances of tensors."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from benchmarks.common import losses
from benchmarks.common.losses import Data, Exact, Key


def data() -> Data:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(5, 7, generator=random).requires_grad_()
    return Data((x,), torch.randint(7, (5,), generator=random), {"label_smoothing": 0.1})


def test_a_step_leaves_one_gradient_however_often_it_is_made_and_a_forward_none():
    ours = data()
    expected = functional.cross_entropy(ours.logits, ours.target, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(expected, ours.logits)
    calls = losses.timed({"eager": functional.cross_entropy}, ours)
    assert calls.keys() == {Key("forward", "eager"), Key("both", "eager")}
    for _ in range(2):
        assert torch.equal(calls[Key("both", "eager")](), expected.detach())
        assert torch.equal(ours.logits.grad, gradient)
    ours.forget()
    assert torch.equal(calls[Key("forward", "eager")](), expected)
    assert ours.logits.grad is None


@pytest.mark.parametrize("part", [8 * 7, 8 * 7 * 3, 2**28])
def test_a_distance_does_not_depend_on_the_parts_in_which_it_is_summed(part: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(losses, "PART", part)
    found, exact = torch.randn(5, 7), torch.randn(5, 7, dtype=torch.float64)
    norm = torch.linalg.vector_norm
    assert losses.distance(found, exact) == pytest.approx(float(norm(found - exact) / norm(exact)), rel=1e-12)


def test_errors_are_relative_and_gradients_are_forgotten():
    ours = data()
    value = functional.cross_entropy(ours.logits, ours.target, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(value, ours.logits)
    exact = Exact(2.0 * value.item(), (2.0 * gradient.double(),))
    found = losses.errors_of(functional.cross_entropy, ours, exact, ("dlogits",))
    assert found == pytest.approx({"loss": 0.5, "dlogits": 0.5}, rel=1e-5)
    assert ours.logits.grad is None
