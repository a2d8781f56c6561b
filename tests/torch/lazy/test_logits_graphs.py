"""Lazy logits in graphs: derivatives, changes in place, modes in which gradients and dtypes differ, checkpoints."""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from tests.torch import plain
from tests.torch.lazily import (
    REFUSED,
    B,
    S,
    V,
    expressions,
    others,
    pair,
    same,
    same_or_raises,
    value,
)


def loss_of(z, a):
    return nnf.cross_entropy(z.view(-1, V), a.y.view(-1))


# Derivatives


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * 2

    @staticmethod
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        return 2 * g + 0 * z


class Reversed(torch.autograd.Function):
    """A gradient reversal hands on what it was given."""

    @staticmethod
    def forward(ctx, z):
        return z.view_as(z)

    @staticmethod
    def backward(ctx, g):
        return -g


@pytest.mark.parametrize("function", [Doubled, Reversed])
@pytest.mark.parametrize(
    "first", ["z", "z / 2", "z.view(-1, 11)", "z[:, :-1].contiguous()", "z.float()", "torch.tanh(z)"]
)
def test_functions_of_ones_own(function, first):
    def loss(z, a):
        rows = function.apply(value(first, z)).reshape(-1, V)
        return nnf.cross_entropy(rows, a.y.reshape(-1)[: len(rows)])

    same(lambda z, a: function.apply(value(first, z)))
    same(lambda z, a: function.apply(value(first, z)) + 0)
    same(loss)
    same(lambda z, a: loss(z, a) + loss_of(z, a) + z.exp().mean())


def test_backward_from_the_logits():
    results = []
    for head, x in pair():
        g = plain.cotangent_like(torch.empty(B, S, V))
        z = head(x)
        z.backward(g, retain_graph=True)
        torch.autograd.backward([z], [g], retain_graph=True)
        torch.autograd.backward([z.view(-1, V), z.sum()], [g.view(-1, V), None], retain_graph=True)
        (z / 3).backward(g)
        more = torch.autograd.grad(head(x), [x, head.weight], g)
        more += torch.autograd.grad(outputs=[head(x)], inputs=[x], grad_outputs=[g])
        results.append([x.grad, head.weight.grad, head.bias.grad, *more])
    torch.testing.assert_close(*results)


def test_backward_twice_and_of_every_order():
    results = []
    for head, x in pair():
        a, z = others(), head(x)
        loss = loss_of(z, a) + z.square().mean() + loss_of(z / 2, a)
        first = torch.autograd.grad(loss, [x, head.weight, head.bias], retain_graph=True)
        again = torch.autograd.grad(loss, [x, head.weight, head.bias], create_graph=True)
        norm = sum((g * plain.cotangent_like(g)).sum() for g in again)
        results.append([*first, *again, *torch.autograd.grad(norm, [x, head.weight, head.bias])])
    torch.testing.assert_close(*results)


def test_gradients_add_up_in_grad():
    results = []
    for head, x in pair():
        a = others()
        for _ in range(2):
            z = head(x)
            (loss_of(z, a) + z.logsumexp(-1).mean()).backward()
            _ = loss_of(head(x), a).backward()
        results.append([x.grad, head.weight.grad, head.bias.grad])
    torch.testing.assert_close(*results)


def watched(z, a):
    """The gradient of the logits themselves."""
    z.retain_grad()
    _ = loss_of(z, a).backward()
    return z.grad


def hooked(z, a):
    seen = []
    _ = z.register_hook(lambda g: seen.append(g.clone()) or 3 * g)
    return loss_of(z, a) + 0 * z.sum()


def in_place_of_a_view(z, a):
    z[0].zero_()
    return z + 0


def of_an_old_view(z, a):
    v = z.view(-1, V)
    z[..., 3] = -5.0
    return nnf.cross_entropy(v, a.y.view(-1))


UNUSUAL = {
    "retain_grad": watched,
    "hooks": hooked,
    "hooks of a scaled one": lambda z, a: hooked(z / 2, a),
    "grad of a loss": lambda z, a: torch.autograd.grad(loss_of(z, a), z, create_graph=True)[0],
    "grad of a reading": lambda z, a: torch.autograd.grad(z.square().sum(), z, create_graph=True)[0],
    "in place of a view": in_place_of_a_view,
    "view before a change": of_an_old_view,
    "in place of a narrow view": lambda z, a: z[:, 0].mul_(2).sum() + z.sum(),
    "in place of a data": lambda z, a: (z.data.zero_(), z.clone())[1],
    "in place of detached": lambda z, a: (z.detach().mul_(2), loss_of(z, a))[1],
    "set_": lambda z, a: (z.detach().copy_(a.real.detach()), z.detach() + 0)[1],
    "out": lambda z, a: (torch.add(a.real.detach(), 1, out=z.detach()), z.detach() + 0)[1],
    "func.grad": lambda z, a: torch.func.grad(lambda t: loss_of(z.detach() * t, a))(a.t.detach()),
    "vmap": lambda z, a: torch.vmap(lambda row: row.logsumexp(-1))(z),
    "jvp": lambda z, a: torch.func.jvp(lambda t: t * z.detach(), (a.t.detach(),), (a.t.detach(),))[1],
    "leaf": lambda z, a: torch.autograd.grad(loss_of(leaf := z.detach().requires_grad_(), a), leaf)[0],
    "clone as leaf": lambda z, a: torch.autograd.grad(loss_of(leaf := z.detach().clone().requires_grad_(), a), leaf)[0],
    "parameter": lambda z, a: torch.autograd.grad(loss_of(p := nn.Parameter(z.detach()), a), p)[0],
    "resize": lambda z, a: z.resize_(2, 3) if not z.requires_grad else z + 0,
    "checkpoint of the logits": lambda z, a: checkpoint(lambda t: t / 2, z, use_reentrant=False) + 0,
    "checkpoint of their loss": lambda z, a: checkpoint(loss_of, z, a, use_reentrant=False),
    "named tuple of torch": lambda z, a: torch.return_types.max(z.max(-1)).values,
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by the first jvp of a process
@pytest.mark.parametrize("use", UNUSUAL.values(), ids=UNUSUAL)
def test_right_or_refused(use):
    same_or_raises(use)


# Changes in place

CHANGES = """
z.mul_(2); z.div_(2); z.add_(a.real); z.sub_(1); z.zero_(); z.fill_(3); z.clamp_(-1, 1); z.tanh_(); z.exp_()
z.masked_fill_(a.real > 1, -9.0); z.__setitem__((..., 3), -5.0); z.__setitem__(0, 1.0); z.__setitem__(a.real > 1, 0.0)
z.index_fill_(-1, a.y[0], -9.0); z.copy_(a.real); z.scatter_(-1, a.y[..., None], -9.0)
z.scatter_add_(-1, a.y[..., None], a.t.expand(2, 7, 1)); operator.imul(z, 2); operator.iadd(z, a.real)
operator.itruediv(z, 2); operator.isub(z, a.row); operator.ipow(z, 2); nnf.relu_(z); nnf.dropout(z, 0.0, inplace=True)
nnf.relu(z, inplace=True)
"""


@pytest.mark.parametrize("text", expressions(CHANGES))
@pytest.mark.parametrize("grad", [True, False])
def test_changes_in_place(text, grad):
    def changed(z, a):
        z = z if grad else z.detach()
        got = value(text, z, a)
        assert got is None or got is z or torch.equal(got, z)
        return z

    same(lambda z, a: changed(z, a) + 0)
    same(lambda z, a: loss_of(changed(z, a), a))
    same(lambda z, a: (z.logsumexp(-1), loss_of(changed(z, a), a))[1])


# Modes


def test_a_first_look_without_gradients_leaves_them():
    looks = (torch.no_grad, torch.inference_mode)
    results = []
    for head, x in pair():
        a, z = others(), head(x)
        for look in looks:
            with look():
                assert not (z + 0).requires_grad
                assert z.requires_grad
                _ = z.argmax(-1), z.sum().item(), z.view(-1, V).max(), loss_of(z, a).item()
        results.append(
            torch.autograd.grad(z.square().sum() + z.view(-1, V).exp().sum() + loss_of(z, a), [x, *head.parameters()])
        )
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_made_without_gradients(mode):
    (head, x), (twin, u) = pair()
    a = others()
    with mode():
        z, want = head(x.detach() * 1), twin(u.detach() * 1)
        plain.agree("loss", loss_of(z, a), loss_of(want, a), None, plain.FLOOR[torch.float64])
    assert not z.requires_grad
    for text in ("z + 0", "z / 2", "z.view(-1, 11)", "z.argmax(-1)", "z[:, -1]"):
        assert torch.equal(value(text, z), value(text, want))
        assert not value(text, z).requires_grad
    loss = loss_of(z, a)
    assert not loss.requires_grad
    plain.agree("loss", loss, loss_of(want, a), None, plain.FLOOR[torch.float64])
    again = (z * a.t).sum() if mode is torch.no_grad else z.clone().sum()
    assert again.requires_grad == (mode is torch.no_grad)


def test_enabled_within_disabled():
    with torch.no_grad():
        same(lambda z, a: loss_of(z, a) + z.sum())
        with torch.enable_grad():
            same(lambda z, a: loss_of(z, a) + z.sum())


@pytest.mark.parametrize("where", ["everything", "head", "loss", "reading"])
def test_autocast(where):
    """Made in an autocast region they are bfloat16 for good; made outside of one they are not."""
    results = []
    (fused, alone), a = pair(torch.float32), others(torch.float32)

    def region(*places):
        return torch.autocast("cpu", torch.bfloat16, enabled=where in places)

    for head, x in (fused, alone):
        with region("everything", "head"):
            z = head(x)
        with region("everything", "loss"):
            loss = loss_of(z, a) + loss_of(z.float() / 2, a)
        with region("everything", "reading"):
            read = z + 0, z.view(-1, V).exp(), z[0].float()
            product = z @ z.mT
        assert z.dtype == (torch.bfloat16 if where in {"everything", "head"} else torch.float32)
        grads = torch.autograd.grad(loss + read[1].mean(), [x, *head.parameters()])
        results.append((read, product, loss, grads))
    (got, *more), (want, *wants) = results
    for g, w in zip((*got, more[0]), (*want, wants[0]), strict=True):
        assert g.dtype == w.dtype
        assert torch.equal(g, w)
    twin, u = (t.double() if isinstance(t, Tensor) else copy.deepcopy(t).double() for t in alone)
    z = twin(u)
    exact = loss_of(z, a) + loss_of(z / 2, a)
    exacts = torch.autograd.grad(exact + z.exp().mean(), [u, *twin.parameters()])
    floor = plain.FLOOR[torch.bfloat16 if where != "loss" else torch.float32]
    plain.agree("loss", more[1], exact, wants[1], floor)
    for g, w, r in zip(more[2], exacts, wants[2], strict=True):
        plain.agree("gradient", g, w, r, floor)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    results = []
    for head, x in pair():
        a = others()

        def part(x):
            z = head(x)  # noqa: B023
            return loss_of(z, a) + z.square().mean()  # noqa: B023

        loss = checkpoint(part, x, use_reentrant=reentrant)
        loss.backward()
        results.append([loss.detach(), x.grad, head.weight.grad, head.bias.grad])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    "use", [lambda z, a: z + 0, loss_of, lambda z, a: loss_of(z / 2, a)], ids=["read", "loss", "scaled"]
)
def test_what_a_checkpoint_hands_out(use, reentrant):
    (fused, alone), a = pair(), others()

    def grads(head, x):
        use(checkpoint(head, x, use_reentrant=reentrant), a).sum().backward()
        return [x.grad, head.weight.grad, head.bias.grad]

    want = grads(*alone)
    try:
        got = grads(*fused)
    except REFUSED:
        return
    torch.testing.assert_close(got, want)


def test_hooks_on_saved_tensors():
    with torch.autograd.graph.save_on_cpu():
        same(lambda z, a: loss_of(z, a) + z.exp().mean())


def test_under_anomaly_detection():
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        same(lambda z, a: loss_of(z, a) + z.exp().mean())


def test_numerical_derivatives():
    (head, x), _ = pair()
    a = others()

    def logits(x, weight, bias):
        return torch.func.functional_call(head, {"weight": weight, "bias": bias}, (x,))

    assert gradcheck(lambda *args: loss_of(torch.tanh(logits(*args) / 2), a), (x, head.weight, head.bias))
    assert gradcheck(lambda *args: torch.tanh(logits(*args) / 2), (x, head.weight, head.bias))


def test_read_in_another_thread_and_after_backward():
    results = []
    for head, x in pair():
        z, seen = head(x), []
        _ = loss_of(z, others()).backward()
        thread = threading.Thread(target=lambda z=z, seen=seen: seen.append((z + 0).detach()))
        thread.start()
        thread.join()
        results.append([*seen, z.argmax(-1), z.detach() + 0])
    torch.testing.assert_close(*results, rtol=0, atol=0)


# Several, and none


def test_two_heads_in_one_graph():
    results = []
    a = others()
    for (head, x), (other, u) in zip(pair(), pair(), strict=True):
        z, w = head(x), other(u)
        loss = nnf.cross_entropy(z[0], a.y[0]) + nnf.kl_div(z.log_softmax(-1), w.softmax(-1), reduction="batchmean")
        loss = loss + (z * w).sum() + torch.stack([z, w]).exp().mean() + (torch.cat([z, w]) > 0).sum()
        results.append(torch.autograd.grad(loss, [x, u, *head.parameters(), *other.parameters()]))
    torch.testing.assert_close(*results)


def test_an_input_that_changes():
    head, x = pair()[0]
    with torch.no_grad():
        want = nnf.linear(x, head.weight, head.bias)
        z = head(x)
        _ = x.zero_()
        with contextlib.suppress(RuntimeError):
            assert torch.equal(z, want)


def test_nothing_keeps_them_alive():
    gc.disable()
    try:
        head, x = pair()[0]
        for read in (
            lambda z: None,
            lambda z: z + 0,
            lambda z: nnf.cross_entropy(z.view(-1, V), torch.zeros(B * S).long()),
        ):
            z = head(x * 1)
            _ = read(z)
            alive = weakref.ref(z)
            del z, _
            assert alive() is None
    finally:
        gc.enable()
