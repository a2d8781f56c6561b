"""Hooks on lazy logits, of every sort, see and change the gradients that they see and change on ordinary ones."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import plain
from tests.torch.lazily import LOGITS, Largest, V, others, pair

# Which logits are watched, and which the loss is of: (the watched ones, those of the loss) from the head's output

PLACES = {
    "the head's": lambda z: (z, z.view(-1, V)),
    "a view": lambda z: (v := z.view(-1, V), v),
    "rows": lambda z: (v := z[:, 1:], v.reshape(-1, V)),
    "copied rows": lambda z: (v := z[:, 1:].contiguous(), v.view(-1, V)),
    "scaled": lambda z: (v := z / 3, v.view(-1, V)),
    "before a cap": lambda z: (z, (torch.tanh(z / 2) * 2)[:, :-1].reshape(-1, V)),
    "capped": lambda z: (v := torch.tanh(z / 2) * 2, v.flatten(0, 1)),
    "inside of a cap": lambda z: (v := z / 2, (torch.tanh(v) * 2).view(-1, V)),
}


def stats_of(z, y):
    loss, stats = F.cross_entropy(z, y, reduction="none", return_stats=True, temperature=2.0)
    return loss.square().sum() + stats.entropy.mean() + (stats.lse * stats.logprob).sum()


LOSSES = {
    "mean": lambda z, y, a: nnf.cross_entropy(z, y, a.w, label_smoothing=0.1),
    "sum": lambda z, y, a: 2.5 * nnf.cross_entropy(z, y, reduction="sum"),
    "none": lambda z, y, a: nnf.cross_entropy(z, y, reduction="none").square().sum(),
    "statistics": lambda z, y, a: stats_of(z, y),
    "probabilities": lambda z, y, a: nnf.cross_entropy(z, a.p.view(-1, V)[: len(y)]),
    "two": lambda z, y, a: nnf.cross_entropy(z, y) * nnf.cross_entropy(z / 2, y.flip(0), reduction="sum"),
    "and an ordinary use": lambda z, y, a: nnf.cross_entropy(z, y) + z.logsumexp(-1).square().mean(),
    "none at all": lambda z, y, a: z.logsumexp(-1).square().mean(),
}


# How they are watched: a function of the watched logits, a list for the gradients, and the change that a hook makes


def register_hook(z, seen, change):
    _ = z.register_hook(lambda g: seen.append(g.clone()) or change(g))


def node_prehook(z, seen, change):
    def hook(grads):
        seen.append(grads[0].clone())
        changed = change(grads[0])
        return None if changed is None else (changed, *grads[1:])

    _ = z.grad_fn.register_prehook(hook)


def node_hook(z, seen, change):
    _ = z.grad_fn.register_hook(lambda of_inputs, of_outputs: seen.append(of_outputs[0].clone()))


def multi_all(z, seen, change):
    _ = torch.autograd.graph.register_multi_grad_hook([z], lambda grads: seen.append(grads[0].clone()))


def multi_any(z, seen, change):
    _ = torch.autograd.graph.register_multi_grad_hook([z], lambda g: seen.append(g.clone()), mode="any")


def retain_grad(z, seen, change):
    z.retain_grad()
    seen.append(lambda: z.grad)


WATCHES = {f.__name__: f for f in (register_hook, node_prehook, node_hook, multi_all, multi_any, retain_grad)}


def halved(g):
    return g / 2 + 0.01


def in_place(g):
    _ = g.mul_(3)


def a_view_in_place(g):
    g[0] = 0.5


CHANGES = {"nothing": lambda g: None, "another": halved, "in place": in_place, "a view": a_view_in_place}
READS = ("never", "before the loss", "after the loss", "before the hook")


def step(head, x, case):
    """Gradients that were seen, and those of all leaves, after a backward."""
    place, loss, watch, change, when, read = case
    a, seen = others(), []
    z = head(x)
    watched, z = place(z)
    y = a.y.reshape(-1)[: len(z)]
    if when == "before":
        watch(watched, seen, change)
    if read == "before the loss":
        _ = watched.argmax(-1), z.exp().sum().item()
    value = loss(z, y, a)
    if read == "after the loss":
        _ = z.argmax(-1), watched.exp().sum().item()
    if when == "after":
        if read == "before the hook":
            _ = watched.argmax(-1)
        watch(watched, seen, change)
    value.backward()
    seen = [g() if callable(g) else g for g in seen]
    return [*seen, x.grad, *(p.grad for p in head.parameters())]


def same_steps(place, loss, watch, change=CHANGES["nothing"]):
    for when, read in itertools.product(("before", "after"), READS):
        if read == "before the hook" and when == "before":
            continue
        case = place, loss, watch, change, when, read
        (got, want) = (step(head, x, case) for head, x in pair())
        assert len(got) == len(want) == 4, (when, read)  # seen once
        for k, (g, w) in enumerate(zip(got, want, strict=True)):
            plain.agree(f"{when} the loss, read {read}: {k}", g, w, None, plain.FLOOR[torch.float64])


@pytest.mark.parametrize("watch", WATCHES.values(), ids=WATCHES)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_hook_sees_the_gradient_of_the_logits_once(place, loss, watch):
    same_steps(place, loss, watch)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("watch", [register_hook, node_prehook])
@pytest.mark.parametrize("loss", ["mean", "none", "two", "and an ordinary use"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_hook_may_change_the_gradient(place, loss, watch, change):
    same_steps(place, LOSSES[loss], watch, change)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("again", [False, True], ids=["once", "create_graph"])
def test_gradients_by_the_logits(place, loss, again):
    for read in ("never", "before", "after"):
        results = []
        for head, x in pair():
            a = others()
            watched, z = place(head(x))
            y = a.y.reshape(-1)[: len(z)]
            _ = watched.argmax(-1) if read == "before" else None
            value = loss(z, y, a)
            _ = watched.argmax(-1) if read == "after" else None
            inputs = [watched, x, *head.parameters()]
            found = torch.autograd.grad(value, inputs, create_graph=again)
            if again:
                norm = sum((g * plain.cotangent_like(g)).sum() for g in found)
                found += torch.autograd.grad(norm, inputs)
            results.append([g.detach() + 0 for g in found])
        for g, w in zip(*results, strict=True):
            plain.agree(read, g, w, None, plain.FLOOR[torch.float64])


# What it costs


@pytest.mark.parametrize("watch", ["nothing", "a hook that only waits", "a module's hook"])
def test_a_hook_that_only_waits_costs_nothing(watch):
    (head, x), _ = pair(torch.float32)
    y, waited = others().y[:, 1:].reshape(-1), []
    if watch == "a module's hook":
        _ = head.register_full_backward_pre_hook(lambda *_: waited.append(1))
    with Largest() as seen:
        z = head(x)
        loss = nnf.cross_entropy(z[:, :-1].contiguous().view(-1, V), y)
        if watch == "a hook that only waits":
            _ = z.register_hook(lambda g: waited.append(1))
        loss.backward()
    assert seen.elements < LOGITS
    assert waited == ([] if watch == "nothing" else [1])


# Functions of engines, which stand around a module and wait


class Itself(torch.autograd.Function):
    """As torch's own for hooks of modules."""

    @staticmethod
    def forward(ctx, z):
        return z

    @staticmethod
    def backward(ctx, g):
        return g


class Detached(Itself):
    """As DeepSpeed's ZeRO-3 has them."""

    @staticmethod
    def forward(ctx, z):
        return z.detach()


class Seen(Itself):
    @staticmethod
    def forward(ctx, z):
        return z.view_as(z)


class Clipped(Seen):
    @staticmethod
    def backward(ctx, g):
        return g.clamp(-0.01, 0.01)


class StraightThrough(Itself):
    """The gradient of twice the logits for that of the logits."""

    @staticmethod
    def forward(ctx, z):
        return z * 2


@pytest.mark.parametrize("function", [Itself, Detached, Seen, Clipped, StraightThrough])
@pytest.mark.parametrize("loss", ["mean", "two", "and an ordinary use", "none at all"])
@pytest.mark.parametrize("around", ["the head", "rows", "two of them"])
def test_functions_that_hand_logits_on(function, loss, around):
    for read in ("never", "before", "after"):
        results = []
        for head, x in pair():
            a, z, seen = others(), head(x), []
            if around == "rows":
                z = z[:, 1:]
            _ = z.register_hook(lambda g, seen=seen: seen.append(g + 0))
            z = function.apply(z)
            z = function.apply(z / 2) if around == "two of them" else z
            _ = z.argmax() if read == "before" else None
            flat = z.reshape(-1, V)
            value = LOSSES[loss](flat, a.y.view(-1)[: len(flat)], a)
            _ = z.register_hook(lambda g, seen=seen: seen.append(g + 0))
            _ = z.exp().sum().item() if read == "after" else None
            value.backward()
            results.append([*seen, x.grad, *(p.grad for p in head.parameters())])
        got, want = results
        assert len(got) == len(want) == 5
        for k, (g, w) in enumerate(zip(got, want, strict=True)):
            plain.agree(f"read {read}: {k}", g, w, None, plain.FLOOR[torch.float64])


@pytest.mark.parametrize("function", [Itself, Detached, Seen])
def test_functions_that_hand_logits_on_leave_them_lazy(function):
    (head, x), _ = pair(torch.float32)
    y = others().y.view(-1)
    with Largest() as seen:
        z = function.apply(head(x))
        nnf.cross_entropy(function.apply(z.view(-1, V)), y).backward()
    assert seen.elements < LOGITS
    assert x.grad is not None


# Backwards


def test_a_graph_is_gone_after_one_backward_and_stays_with_retain_graph():
    for make in (lambda z: z, lambda z: z / 2, lambda z: z[:, 1:]):
        for use in (lambda z: nnf.cross_entropy(z.reshape(-1, V), others().y.view(-1)[: z.numel() // V]), torch.sum):
            (head, x), (twin, u) = pair()
            loss, other = use(make(head(x))), use(make(twin(u)))
            for of_one in (loss, other):
                of_one.backward(retain_graph=True)
                of_one.backward()
                with pytest.raises(RuntimeError, match=r"second time|are gone"):
                    of_one.backward()
            plain.agree("twice", x.grad, u.grad, None, plain.FLOOR[torch.float64])
            plain.agree("twice", head.weight.grad, twin.weight.grad, None, plain.FLOOR[torch.float64])


def test_batched_cotangents():
    results = []
    for head, x in pair():
        z = head(x)
        loss = nnf.cross_entropy(z.view(-1, V), others().y.view(-1), reduction="none")
        batch = torch.randn(3, len(loss), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        results.append(torch.autograd.grad(loss, [z, x, head.weight], batch, is_grads_batched=True))
    for g, w in zip(*results, strict=True):
        plain.agree("gradient", g, w, None, plain.FLOOR[torch.float64])


def test_inputs_of_backward():
    results = []
    for head, x in pair():
        z = head(x)
        loss = nnf.cross_entropy(z.view(-1, V), others().y.view(-1))
        loss.backward(inputs=[z, head.weight])
        results.append([z.grad, head.weight.grad])
        assert x.grad is None
    for g, w in zip(*results, strict=True):
        plain.agree("gradient", g, w, None, plain.FLOOR[torch.float64])
