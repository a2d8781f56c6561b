"""Divergences of fused heads: each use gives the numbers and gradients of ordinary heads, and makes no logits."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn
from torch.nn.functional import kl_div

import crossent.torch as F
from crossent.torch.lazy.logits import LazyLogits
from tests.torch import plain, teaching
from tests.torch.lazily import Largest, expressions, memory_for_logits

ROWS, D, D2, V = (3, 4), 5, 6, 17
LAZY = """
F.divergence(z, t); F.divergence(z, t, kind="reverse"); F.divergence(z, t, kind="js", beta=0.3)
F.divergence(z, t, reduction="none"); F.divergence(z, t, reduction="sum", sample_weight=w)
F.divergence(z / 2, t * 1.5, kind="js", temperature=0.7, teacher_temperature=1.3)
F.divergence(z / 2, t, temperature=0.7); F.divergence(3 * torch.tanh(z / 2), 2 * torch.tanh(t), temperature=1.5)
F.divergence(z, t / 2, softcap=3.0, teacher_softcap=2.0); F.divergence(z, t, temperature=w + 0.5)
F.divergence(z.flatten(0, 1), t.flatten(0, 1)); F.divergence(z[:, 1:], t[:, :-1])
F.divergence(z.log_softmax(-1), (t / 3).log_softmax(-1)); F.divergence(z, t.detach()); F.divergence(z.detach(), t)
F.divergence(z, t, target=y, closing=mixed); F.divergence(z, t, target=y, reduction="none")
F.divergence(z, topk); F.divergence(z, topk, kind="js", tail="bucket"); F.divergence(z / 3, topk, reduction="none")
kl_div(z.log_softmax(-1), t.log_softmax(-1), reduction="batchmean", log_target=True)
kl_div(z.log_softmax(-1), t.softmax(-1), reduction="sum")
kl_div(nnf.log_softmax(z / 2, dim=-1), nnf.softmax(t / 2, dim=-1), reduction="batchmean")
kl_div(nnf.log_softmax(2 * torch.tanh(z), -1), torch.softmax(t, 2).detach(), reduction="sum")
nn.KLDivLoss(reduction="batchmean", log_target=True)(z.log_softmax(-1), (t / 3).log_softmax(-1))
"""
BESIDE = """
kl_div(z.log_softmax(-1), p, reduction="batchmean"); kl_div(z.log_softmax(-1), p.log(), None, None, "sum", True)
"""  # probabilities that exist
READ = """
kl_div(z.log_softmax(-1), t.softmax(-1), reduction="none"); kl_div(z.log_softmax(1), t.softmax(1), reduction="sum")
kl_div(z, t.softmax(-1), reduction="sum"); kl_div(z.log_softmax(-1) / 2, t.softmax(-1), reduction="sum")
kl_div(z.log_softmax(-1), t.softmax(-1) / 2, reduction="sum"); kl_div(z.log_softmax(-1), t, reduction="sum")
kl_div(z.log_softmax(-1), t.softmax(-1).softmax(-1), reduction="batchmean"); kl_div(z.softmax(-1), p, reduction="sum")
kl_div(z.log_softmax(-1), p - 0.1, reduction="sum"); kl_div(z.log_softmax(-1), t.log_softmax(-1), reduction="sum")
kl_div(z.log_softmax(-1), t.softmax(-1), reduction="sum", log_target=True)
(z.softmax(-1) * t.softmax(-1)).sum(); z.softmax(-1).log().sum(); z.softmax(1).sum(-1)[..., 0].exp().sum()
z.softmax(-1).gather(-1, y[..., None].abs() % V); z.softmax(-1).logsumexp(-1); z.softmax(-1).sum(-1)
z.softmax(-1).tanh().sum()
F.divergence(z.softmax(-1), t); F.divergence(z, t.softmax(-1)); F.cross_entropy(z[0].softmax(-1), y[0])
F.divergence(z, t + p); F.divergence(z * p, t); F.divergence(z.log_softmax(-1), t, closing=lse)
"""


def heads(dtype=torch.float64):
    """A student's and a teacher's head with inputs of their own: fused, and left alone."""
    generator = torch.Generator().manual_seed(5)
    alone = [nn.Linear(size, V, dtype=dtype) for size in (D, D2)]
    inputs = [2 * torch.randn(*ROWS, size, generator=generator, dtype=torch.float64).to(dtype) for size in (D, D2)]
    fused = [F.fuse_lm_head(copy.deepcopy(head)) for head in alone]
    return [(list(both), [x.clone().requires_grad_() for x in inputs]) for both in (fused, alone)]


def companions(dtype):
    generator = torch.Generator().manual_seed(6)
    p = torch.rand(*ROWS, V, generator=generator, dtype=torch.float64).softmax(-1).to(dtype).requires_grad_()
    index = torch.rand(*ROWS, V, generator=generator).topk(4, -1).indices
    y = torch.randint(V, ROWS, generator=generator)
    y[0, 1] = -100
    return {
        "p": p,
        "y": y,
        "w": torch.rand(ROWS, generator=generator, dtype=torch.float64),
        "topk": F.TopK(index, torch.full((*ROWS, 4), 0.2, dtype=torch.float64)),
        "mixed": lambda rows: rows.kl - 0.3 * rows.logprob + rows.js * rows.teacher_entropy,
        "lse": lambda rows: rows.kl + rows.lse,
        "V": V, "F": F, "nn": nn, "nnf": nnf, "torch": torch, "kl_div": kl_div,
    }  # fmt: skip


def outcome(text, both, inputs):
    """The value and the gradients of inputs, heads and what is beside them."""
    dtype = inputs[0].dtype
    names = companions(dtype)
    out = eval(text, names | dict(zip("zt", (head(x) for head, x in zip(both, inputs, strict=True)), strict=True)))
    leaves = [*inputs, *(w for head in both for w in head.parameters()), names["p"]]
    g = plain.cotangent_like(out).to(out.dtype)
    return out, torch.autograd.grad((out * g).sum(), leaves, allow_unused=True, materialize_grads=True)


def agree(text, dtype=torch.float64):
    (got, grads), (want, wants) = (outcome(text, *each) for each in heads(dtype))
    assert type(got) is torch.Tensor
    assert got.dtype == want.dtype
    assert plain.off(got, want) <= teaching.BAR[dtype]
    for g, w in zip(grads, wants, strict=True):
        assert g.dtype == w.dtype
        assert plain.off(g, w) <= teaching.BAR[dtype] or float((g - w).abs().max()) < 1e-14


@pytest.mark.parametrize("text", expressions(LAZY + BESIDE))
def test_what_makes_no_logits(text, monkeypatch):
    memory_for_logits(monkeypatch, 2 * V)
    both, inputs = heads()[0]
    z, t = (head(x) for head, x in zip(both, inputs, strict=True))
    names = companions(torch.float64) | {"z": z, "t": t}
    with Largest() as seen:
        _ = eval(text, names)
    assert not z.was_read()
    assert not t.was_read()
    assert text in BESIDE or seen.elements < math.prod(ROWS) * V
    agree(text)


@pytest.mark.parametrize("text", expressions(READ))
@pytest.mark.filterwarnings("ignore:.*asked for the logits:UserWarning")
def test_what_takes_the_numbers(text):
    both, inputs = heads()[0]
    z, t = (head(x) for head, x in zip(both, inputs, strict=True))
    _ = eval(text, companions(torch.float64) | {"z": z, "t": t})
    assert any(x.was_read() or x._in_use for x in (z, t))
    agree(text)


@pytest.mark.parametrize("text", expressions(LAZY)[:5] + expressions(LAZY + BESIDE)[-8:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(text, dtype):
    (fused, inputs), (alone, _) = heads(dtype)
    both = [copy.deepcopy(head).double() for head in alone]
    got, grads = outcome(text, fused, inputs)
    want, wants = outcome(text, both, [x.detach().double().requires_grad_() for x in inputs])
    assert plain.off(got, want) <= teaching.BAR[dtype]
    for g, w in zip(grads[:-1], wants[:-1], strict=True):
        assert plain.off(g, w) <= teaching.BAR[dtype]


def test_statistics_of_both_and_their_gradients():
    names = {"target": torch.arange(12).view(ROWS), "beta": 0.3}
    found = []
    for both, inputs in heads():
        z, t = (head(x) for head, x in zip(both, inputs, strict=True))
        _, stats = F.divergence(z, t, return_stats=True, **names)
        leaves = [*inputs, *(w for head in both for w in head.parameters())]
        found.append((teaching.as_dict(stats), torch.autograd.grad(teaching.summed(stats), leaves)))
        if isinstance(z, LazyLogits):
            assert not z.was_read()
            assert not t.was_read()
    (got, grads), (want, wants) = found
    for name, x in want.items():
        torch.testing.assert_close(got[name], x)
    for g, w in zip(grads, wants, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("kind", ["forward", "js"])
def test_second_derivatives(kind):
    found = []
    for both, inputs in heads():
        loss = F.divergence(*(head(x) for head, x in zip(both, inputs, strict=True)), kind=kind)
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for g, w in zip(*found, strict=True):
        torch.testing.assert_close(g, w)


def test_a_teacher_whose_numbers_exist_is_read_as_they_are():
    """Somebody may have written to them."""
    both, inputs = heads()[0]
    z, t = (head(x) for head, x in zip(both, inputs, strict=True))
    with torch.no_grad():
        t.mul_(2)
    numbers = [torch.nn.functional.linear(x, h.weight, h.bias) for h, x in zip(both, inputs, strict=True)]
    torch.testing.assert_close(F.divergence(z, t), F.divergence(numbers[0], 2 * numbers[1]))


@pytest.mark.parametrize("others", [False, True])
def test_the_gradient_of_the_logits_themselves(others):
    """Hooks and `retain_grad` see it, as on any tensor."""
    found = []
    for both, inputs in heads():
        z, t = (head(x) for head, x in zip(both, inputs, strict=True))
        (t if others else z).retain_grad()
        F.divergence(z, t, kind="js").backward()
        found.append((t if others else z).grad + 0)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "use",
    [
        lambda z, p, y: nnf.cross_entropy(z.flatten(0, 1), p.flatten(0, 1)),
        lambda z, p, y: F.cross_entropy(z[0], p[0], label_smoothing=0.1),
        lambda z, p, y: nn.CrossEntropyLoss()(z[1], p[1].detach()),
        lambda z, p, y: F.divergence(z, y, target=p, closing=lambda rows: rows.kl - rows.logprob),
    ],
)
@pytest.mark.filterwarnings("ignore:.*asked for the logits:UserWarning")
def test_a_teachers_probabilities_as_a_target_leave_the_student_lazy(use):
    found = []
    for both, inputs in heads():
        z, t = (head(x) for head, x in zip(both, inputs, strict=True))
        loss = use(z, (t / 2).softmax(-1), both[1](inputs[1]))
        assert not isinstance(z, LazyLogits) or not z.was_read()
        found.append((loss, *torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("capped", [False, True])
def test_a_capped_teacher_that_lacks_classes_is_read(capped):
    classes = torch.randperm(V)
    classes[:3] = -1
    found = []
    for both, inputs in heads():
        z, t = (head(x) for head, x in zip(both, inputs, strict=True))
        how = {} if capped else {"teacher_softcap": 2.0}
        found.append(F.divergence(z, 2 * torch.tanh(t / 2) if capped else t, teacher_classes=classes, **how))
    torch.testing.assert_close(*found)


def test_kl_div_under_autocast_is_float32():
    found = []
    for both, inputs in heads(torch.float32):
        with torch.autocast("cpu", torch.bfloat16):
            z, t = (head(x) for head, x in zip(both, inputs, strict=True))
            found.append(kl_div(z.log_softmax(-1), t.softmax(-1), reduction="batchmean"))
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(*found, rtol=2e-2, atol=0)
