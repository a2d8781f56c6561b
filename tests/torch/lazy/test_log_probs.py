"""Log-probabilities of a fused head: each use gives torch's number and gradient, and makes no logits."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import crossent.torch as F
from crossent.torch.lazy.log_probs import _NONE_IGNORED
from crossent.torch.lazy.logits import LazyLogits
from tests.torch import plain
from tests.torch.lazily import LOGITS, Largest, V, expressions, others, pair, same, value

USES = """
nnf.log_softmax(z, dim=-1).gather(-1, a.y[..., None]); -z.log_softmax(-1).gather(dim=2, index=a.y[..., None])
torch.gather(z.log_softmax(2), 2, a.y.unsqueeze(-1)).squeeze(-1) * 3
z.view(-1, 11).log_softmax(1).gather(1, a.y.view(-1, 1))
z.log_softmax(-1).sum(-1); z.log_softmax(-1).sum(dim=2, keepdim=True); torch.sum(-z.log_softmax(-1), -1)
z.log_softmax(-1).sum((-1,)); z.log_softmax(-1).sum(-1, dtype=torch.float64); z.log_softmax(-1).mean(-1)
(z.log_softmax(-1) / 3).mean(dim=[-1], keepdim=True); z[:, 1].log_softmax(-1).sum(-1); z[0, 0].log_softmax(0).sum(0)
((z + a.row) / 2).log_softmax(-1).gather(-1, a.y[..., None]); ((z / 2 + a.row) * 3).log_softmax(-1).sum(-1)
(torch.tanh(z / 2) * 2).log_softmax(-1).gather(-1, a.y[..., None]); (torch.tanh(z / 2) * 2).log_softmax(-1).sum(-1)
z.log_softmax(-1)[:, :-1].contiguous().gather(-1, a.y[:, 1:, None]); z.log_softmax(-1).log_softmax(-1).sum(-1)
(z.log_softmax(-1) * 2).log_softmax(-1).gather(-1, a.y[..., None]); z.transpose(0, 1).log_softmax(-1).sum(-1)
nnf.nll_loss(z.view(-1, 11).log_softmax(-1), a.y.view(-1)); nnf.nll_loss(z[0, 0].log_softmax(-1), a.y[0, 0])
nnf.nll_loss(z.view(-1, 11).log_softmax(-1), a.ignored.view(-1), a.w); nn.NLLLoss()(z[0].log_softmax(1), a.ignored[0])
nnf.nll_loss(z[0].log_softmax(-1), a.y[0], reduction="sum", ignore_index=3)
nn.NLLLoss(a.w)(z[1].log_softmax(1), a.y[1])
nnf.nll_loss(z[0].log_softmax(-1), a.ignored[0], a.w, reduction="none")
nnf.nll_loss(z[0].log_softmax(-1), a.y[0].byte())
nnf.nll_loss(-z[0].log_softmax(-1) / 2, a.y[0]); nnf.nll_loss((z[0] + a.row).log_softmax(-1), a.y[0])
z.log_softmax(-1).gather(-1, a.y[..., None].expand(2, 7, 3)); z.gather(-1, a.y[..., None]).squeeze(-1)
(z / 2).gather(-1, torch.stack([a.y, a.y, a.y + 1], -1) % 11); (torch.tanh(z / 2) * 3).gather(-1, a.y[..., None])
z.logsumexp(-1); torch.logsumexp((z + a.row) / 3, 2, keepdim=True); z[1].logsumexp((-1,)); z[:, 2:].logsumexp(-1)
z.gather(-1, a.y[..., None]).squeeze(-1) - z.logsumexp(-1); selective_log_softmax(z, a.y); by_rows(z, a.y)
selective_log_softmax(z / 2, torch.stack([a.y, a.y], -1)); by_rows(z, a.y[..., None].expand(2, 7, 2))
torch.cat([part.logsumexp(-1) for part in z.flatten(0, 1).split(4)])
nnf.cross_entropy(z[0].log_softmax(-1), a.y[0]); F.cross_entropy(z[0].log_softmax(-1) / 2 + a.row, a.y[0])
"""
READ = """
z.log_softmax(-1).gather(1, a.y[..., None] % 7); z.bfloat16().gather(-1, a.y[..., None])
z.bfloat16().logsumexp(-1); z.logsumexp(1); z.logsumexp((0, 2)); z.log_softmax(-1).logsumexp(-1); z.unbind(2)[0]
z.log_softmax(-1).gather(-1, a.y[:, :3, None]); z.log_softmax(-1).sum(); z.log_softmax(-1).sum(1)
z.log_softmax(-1).sum((1, 2)); z.log_softmax(-1).mean(); z.log_softmax(-1).max(-1).values
z.log_softmax(-1).tanh().gather(-1, a.y[..., None]); (z.log_softmax(-1) + a.row).gather(-1, a.y[..., None])
z.sum(-1); z.mean(-1); (-z).log_softmax(-1).sum(-1)
nnf.nll_loss(z.log_softmax(-1).transpose(1, 2), a.y); nnf.nll_loss(z[0], a.y[0])
F.cross_entropy(z[0].log_softmax(-1) / 2, a.y[0], z_loss=0.1)
F.cross_entropy(z[0].log_softmax(-1) / 2, a.y[0], return_stats=True)[1].lse
"""


def reads(text, z, a):
    """The result, and whether logits were made for it."""
    with Largest() as seen:
        result = value(text, z, a)
    return result, seen.elements >= LOGITS


@pytest.mark.parametrize("text", expressions(USES))
def test_what_makes_no_logits(text):
    (head, x), _ = pair()
    z = head(x)
    result, made = reads(text, z, others())
    assert type(result) is Tensor
    assert not made
    assert not z.was_read()
    same(lambda z, a: value(text, z, a))


@pytest.mark.parametrize("text", expressions(READ))
def test_what_takes_the_numbers(text):
    (head, x), _ = pair()
    z = head(x)
    _ = value(text, z, others())
    assert z.was_read() or z._in_use
    same(lambda z, a: value(text, z, a))


@pytest.mark.parametrize("text", expressions(USES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(text, dtype):
    """Dtype and shape of the result are torch's; a loss is float32 at least."""
    (head, x), (twin, u) = pair(dtype)
    a = others(dtype)
    got, want = value(text, head(x), a), value(text, twin(u), a)
    exact = value(text, copy_in_double(twin)(u.double()), others())
    assert got.shape == want.shape
    assert got.dtype == (torch.float32 if "_loss(" in text or "cross" in text or "NLL" in text else want.dtype)
    plain.agree("value", got, exact, want, plain.FLOOR[dtype])


def copy_in_double(layer):
    twin = torch.nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
    _ = twin.load_state_dict(layer.state_dict())
    return twin


def smoothed(log_probs, y, ignored):
    """The label smoother of Hugging Face's Trainer, which writes to what gather and sum return."""
    loss = log_probs.gather(dim=-1, index=y[..., None].clamp(min=0))
    total = log_probs.sum(dim=-1, keepdim=True, dtype=torch.float32)
    _ = loss.masked_fill_(ignored[..., None], 0.0)
    _ = total.masked_fill_(ignored[..., None], 0.0)
    return 0.9 * loss.sum() / 5 + 0.1 * total.sum() / (5 * log_probs.shape[-1])


@pytest.mark.parametrize("cap", [False, True])
def test_gather_and_sum_of_the_same_log_probabilities(cap):
    def use(z, a):
        z = torch.tanh(z) if cap else z
        return smoothed(-z.log_softmax(-1), a.ignored, a.ignored == -100)

    same(use)
    (head, x), _ = pair()
    a = others()
    with Largest() as seen:
        use(head(x), a).backward()
    assert seen.elements < LOGITS


def test_a_sum_after_gather_needs_no_second_product(monkeypatch):
    from crossent.torch.lazy import log_probs

    calls = []
    loss_of_layer = log_probs.loss_of_layer
    monkeypatch.setattr(log_probs, "loss_of_layer", lambda *args: calls.append(1) or loss_of_layer(*args))
    (head, x), (twin, u) = pair()
    a = others()
    z = head(x).log_softmax(-1)
    picked = z.gather(-1, a.y[..., None])
    first = z.sum(-1)
    _ = first.detach().zero_()  # what somebody writes to stays his
    second = z.sum(-1)
    assert len(calls) == 1
    torch.testing.assert_close(second, twin(u).log_softmax(-1).sum(-1))
    del picked
    _ = z.sum(-1)
    assert len(calls) == 2  # nobody kept what they share
    with torch.no_grad():
        picked = z.gather(-1, a.y[..., None])
    total = z.sum(-1)
    assert len(calls) == 4  # of the two, only one has a gradient
    assert total.requires_grad
    assert not picked.requires_grad


def test_logits_without_a_backward_are_let_go():
    (head, x), _ = pair()
    z = head(x).log_softmax(-1)
    there = weakref.ref(z)
    kept = z.gather(-1, others().y[..., None]), z.sum(-1)
    del z, kept
    _ = gc.collect()
    assert there() is None


@pytest.mark.parametrize("use", ["gather", "sum", "nll_loss"])
@pytest.mark.parametrize("hook", ["logits", "log-probabilities"])
def test_hooks_see_the_gradient_that_torch_gives(use, hook):
    (head, x), (twin, u) = pair()
    a, seen = others(), []
    for layer, inputs in ((head, x), (twin, u)):
        z = layer(inputs)[0]
        lp = z.log_softmax(-1)
        _ = (z if hook == "logits" else lp).register_hook(lambda g: seen.append(g + 0) or g * 2)
        out = {"gather": lambda lp=lp: lp.gather(-1, a.y[0, :, None]), "sum": lambda lp=lp: lp.sum(-1)}.get(
            use, lambda lp=lp: nnf.nll_loss(lp, a.y[0], a.w)
        )()
        (out * plain.cotangent_like(out)).sum().backward()
        seen.append(inputs.grad)
    for k in (0, 1):
        torch.testing.assert_close(seen[k], seen[k + 2])


def test_second_derivatives():
    results = []
    for layer, x in pair():
        lp = layer(x).log_softmax(-1)
        a = others()
        out = lp.gather(-1, a.y[..., None]).sin().sum() + lp.sum(-1).cos().sum()
        (g,) = torch.autograd.grad(out, x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), [x, *layer.parameters()]))
    torch.testing.assert_close(*results)


def test_labels_that_are_no_class():
    (head, x), _ = pair()
    for y in (-100, -1, V, _NONE_IGNORED + 1):
        with pytest.raises((IndexError, RuntimeError), match=rf"{y}|out of bounds"):
            _ = head(x).log_softmax(-1).gather(-1, torch.full((2, 7, 1), y))
    with pytest.raises(IndexError):
        _ = nnf.nll_loss(head(x)[0].log_softmax(-1), torch.full((7,), V))


def test_without_gradients():
    (head, x), (twin, u) = pair()
    a = others()
    with torch.no_grad():
        z = head(x).log_softmax(-1)
        assert isinstance(z, LazyLogits)
        got, want = (
            smoothed(-z, a.ignored, a.ignored == -100),
            smoothed(-twin(u).log_softmax(-1), a.ignored, a.ignored == -100),
        )
    torch.testing.assert_close(got, want)
    assert not got.requires_grad
    assert not z.was_read()


def test_a_changed_weight_is_noticed():
    (head, x), _ = pair()
    bias = torch.zeros(V, dtype=torch.float64)
    for change in (head.weight, head.bias, bias):
        lp = (head(x) + bias).log_softmax(-1)
        with torch.no_grad():
            _ = change.add_(1)
        for use in (lambda lp: lp.sum(-1), lambda lp: lp.gather(-1, others().y[..., None]), lambda lp: lp + 0):
            with pytest.raises(RuntimeError, match="changed"):
                _ = use(lp)


def test_the_loss_of_ours_reads_the_bias():
    (head, x), (twin, u) = pair()
    a = others()
    got = F.cross_entropy((head(x) + a.w)[0], a.y[0], temperature=2.0)
    torch.testing.assert_close(got, nnf.cross_entropy((twin(u) + a.w)[0] / 2, a.y[0]))
