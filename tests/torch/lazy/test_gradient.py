"""Gradients of lazy logits: what they cost, how long they can be read, and what happens to them before that."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from crossent.torch.lazy import gradient
from crossent.torch.lazy.gradient import LazyGradient, OperandGradients, Results, Sources, ordinary_source
from tests.torch import plain
from tests.torch.lazily import LOGITS, Largest, V, others, pair

FLOOR = plain.FLOOR[torch.float64]


def loss_of(z):
    return nnf.cross_entropy(z.view(-1, V), others().y.view(-1), label_smoothing=0.1)


def hooked(hook, head, x):
    z = head(x)
    _ = z.register_hook(hook)
    loss_of(z).backward()
    return [x.grad, *(p.grad for p in head.parameters())]


def same(hook):
    for got, want in zip(*(hooked(hook, *of_one) for of_one in pair()), strict=True):
        plain.agree("gradient", got, want, None, FLOOR)


# Reading


def test_a_hook_gets_a_tensor_that_is_not_computed_before_it_is_read():
    (head, x), (twin, u) = pair()
    seen = []

    def hook(g):
        assert isinstance(g, torch.Tensor)
        seen.append((type(g), g.shape, g.dtype, g.device, g.stride(), g.requires_grad, g.is_contiguous(), g.ndim))

    with Largest() as largest:
        _ = hooked(hook, head, x)
    _ = hooked(hook, twin, u)
    assert seen[0][0] is LazyGradient
    assert seen[0][1:] == seen[1][1:]
    assert largest.elements <= LOGITS + V * 2  # of others(), made meanwhile


READS = {
    "a norm": lambda g: g.norm().item(),
    "a list": lambda g: g.tolist(),
    "numpy": lambda g: g.numpy().sum(),
    "text": lambda g: str(g)[:0],
    "a stack": lambda g: torch.stack([g, g])[1, 0].max().item(),
    "foreach": lambda g: torch._foreach_norm([g])[0].item(),
    "out of torch": lambda g: torch.from_dlpack(g).sum().item(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reading(read):
    found = []
    same(lambda g: found.append(read(g)))
    if not isinstance(found[0], str):
        torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]))


WRITES = {
    "in place": lambda g: g.mul_(2),
    "a number": lambda g: g.fill_(0.25),
    "an item": lambda g: g.__setitem__((0, 1), 3.0),
    "a view": lambda g: g[1].view(-1).zero_(),
    "detached": lambda g: g.detach().neg_(),
    "its data": lambda g: g.data.mul_(3),
    "numpy": lambda g: g.numpy().fill(0.5),
    "foreach": lambda g: torch._foreach_mul_([g], 0.5),
    "out": lambda g: torch.add(g, 1, out=g),
    "clipped": lambda g: g.clamp_(-0.01, 0.01),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writing(write):
    def hook(g):
        _ = write(g)

    same(hook)


def test_several_hooks_see_what_those_before_them_did():
    results = []
    for head, x in pair():
        z, seen = head(x), []
        loss = loss_of(z)
        for factor in (2.0, 3.0, 5.0):
            _ = z.register_hook(
                lambda g, factor=factor, seen=seen: seen.append(g.sum(-1).abs() + g.norm()) or g * factor
            )
        loss.backward()
        results.append([*seen, x.grad, head.weight.grad])
    for got, want in zip(*results, strict=True):
        plain.agree("seen", got, want, None, FLOOR)


def test_a_hook_that_was_removed():
    (head, x), _ = pair()
    z, seen = head(x), []
    handle = z.register_hook(seen.append)
    handle.remove()
    loss_of(z).backward()
    assert seen == []


# How long they live


def test_a_gradient_that_somebody_keeps_can_be_read_after_the_optimizer():
    results = []
    for head, x in pair():
        z, kept = head(x), []
        z.retain_grad()
        _ = z.register_hook(kept.append)
        loss_of(z).backward()
        _ = torch.optim.SGD(head.parameters(), lr=1.0).step()
        results.append([kept[0] + 0, z.grad])
    for got, want in zip(*results, strict=True):
        plain.agree("kept", got, want, None, FLOOR)


def test_nothing_keeps_gradients_and_inputs_alive():
    gc.disable()
    try:
        (head, x), _ = pair()
        alive = []

        def hook(g):
            alive.append(weakref.ref(g))

        hidden = x * 1
        alive.append(weakref.ref(hidden))
        z = head(hidden)
        _ = z.register_hook(hook)
        loss = loss_of(z)
        loss.backward()
        del hidden, z
        assert [ref() for ref in alive] == [None, None]
        assert loss.isfinite()
    finally:
        gc.enable()


@pytest.mark.parametrize("watched", [False, True])
def test_the_gradient_of_the_weight_is_handed_over_without_a_copy(watched, monkeypatch):
    (head, x), _ = pair()
    found, make = [], gradient.lazy_gradient

    def noted(logits, sources):
        found.extend(g.weight.data_ptr() for g in sources.operands)
        return make(logits, sources)

    monkeypatch.setattr("crossent.torch.lazy.results.lazy_gradient", noted)
    z = head(x)
    if watched:
        _ = z.register_hook(lambda g: None)
    loss_of(z).backward()
    assert found == [head.weight.grad.data_ptr()]


# Sums


def test_gradients_of_operands_add_up_where_there_are_any():
    a = OperandGradients(torch.ones(2), None, torch.ones(1))
    b = OperandGradients(torch.ones(2), torch.ones(3), None)
    total = a + b
    assert total.hidden.tolist() == [2.0, 2.0]
    assert (total.weight.tolist(), total.bias.tolist()) == ([1.0] * 3, [1.0])


def test_sources_of_a_sum_are_those_of_both():
    g = torch.arange(3.0)
    fused = Sources((OperandGradients(None, None, None),), (), lambda z: Results((z.square(),), (torch.ones(3),)))
    total = fused + ordinary_source(g)
    assert (len(total.operands), len(total.ordinary)) == (1, 1)
    z = torch.ones(3, requires_grad=True)
    (found,) = torch.autograd.grad(*total.results(z)[:1], z, total.results(z).cotangents)
    assert found.tolist() == [2.0, 3.0, 4.0]


def test_a_sum_of_two_losses_is_not_computed():
    (head, x), _ = pair()
    y = others().y.view(-1)
    z, kinds = head(x).view(-1, V), []
    with Largest() as seen:
        loss = nnf.cross_entropy(z, y) + nnf.cross_entropy(z / 2, y, reduction="sum")
        _ = z.register_hook(lambda g: kinds.append(type(g)))
        loss.backward()
    assert kinds == [LazyGradient]
    assert seen.elements < LOGITS


def test_a_gradient_used_elsewhere_is_an_ordinary_tensor():
    (head, x), (twin, u) = pair()

    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a.view_as(a)

        @staticmethod
        def backward(ctx, g):
            return g, g

    def step(head, x):
        z = head(x)
        other = nn.functional.linear(x, head.weight.detach() * 2)
        loss_of(Both.apply(z, other)).backward()
        return [x.grad, head.weight.grad]

    for got, want in zip(step(head, x), step(twin, u), strict=True):
        plain.agree("gradient", got, want, None, FLOOR)
