"""Teachers whose vocabulary differs: padding after the classes, and maps of classes."""

from __future__ import annotations

import math

import pytest
import torch

import crossent.torch as F
from tests.torch import plain, teaching

each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))


def compared(got, want, pairs):
    """Hold a loss and the gradients of leaves against those of the truth, whose leaves have the same classes first."""
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
    leaves, exacts = zip(*pairs, strict=True)
    grads, wants = torch.autograd.grad(got, leaves), torch.autograd.grad(want, exacts)
    for g, w in zip(grads, wants, strict=True):
        V = w.shape[-1]
        torch.testing.assert_close(g[..., :V], w, rtol=1e-10, atol=1e-13)
        assert (g[..., V:] == 0).all()


@each_kind
@pytest.mark.parametrize(("own", "its"), [(7, 9), (9, 7), (8, 12), (7, 7)])
def test_columns_after_the_classes_are_padding(kind, own, its):
    z, t = (torch.randn(2, 3, n, dtype=torch.float64) for n in (own, its))
    z[..., 7:], t[..., 7:] = math.nan, 1e4
    exacts = [x[..., :7].clone().requires_grad_() for x in (z, t)]
    z, t = z.requires_grad_(), t.requires_grad_()
    want = teaching.statistics(*exacts)[teaching.KINDS[kind]].mean()
    compared(F.divergence(z, t, kind=kind, num_classes=7), want, [(z, exacts[0]), (t, exacts[1])])


def test_a_teacher_padded_with_minus_infinity():
    z, t = torch.randn(4, 9, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    t[:, 7:] = -math.inf
    logq, p = z.log_softmax(1), t.softmax(1)
    want = torch.nn.functional.kl_div(logq, p, reduction="batchmean")
    torch.testing.assert_close(F.divergence(z, t), want)
    assert F.divergence(z, t, kind="reverse") == math.inf
    torch.testing.assert_close(
        F.divergence(z, t, kind="reverse", num_classes=7), F.divergence(t[:, :7], z[:, :7].contiguous())
    )


@each_kind
@pytest.mark.parametrize("scores", teaching.SCORES, ids=str)
def test_a_map_picks_columns_of_the_teacher(kind, scores):
    z, t = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    columns = torch.tensor([6, 0, 3, 3, 7], dtype=torch.int32)
    leaves, exacts = ([x.clone().requires_grad_() for x in (z, t)] for _ in range(2))
    got = F.divergence(*leaves, kind=kind, teacher_classes=columns, **scores)
    want = teaching.statistics(exacts[0], exacts[1][..., columns.long()], **scores)[teaching.KINDS[kind]].mean()
    compared(got, want, list(zip(leaves, exacts, strict=True)))


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("temperature", [0.7, torch.tensor([0.7, 2.0, 1.0, 0.5])], ids=["all rows", "each row"])
def test_a_class_that_the_teacher_lacks_has_no_probability(softcap, temperature):
    z, t = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    columns = torch.tensor([2, -1, 0, -1, 1])
    leaves, exacts = ([x.clone().requires_grad_() for x in (z, t)] for _ in range(2))
    options = {"teacher_classes": columns, "teacher_temperature": temperature, "teacher_softcap": softcap}
    _, found = F.divergence(*leaves, return_stats=True, **options)
    own = temperature.double()[:, None] if isinstance(temperature, torch.Tensor) else temperature
    s = exacts[1] / own if softcap is None else softcap * torch.tanh(exacts[1] / own / softcap)
    p, logq = s[:, [2, 0, 1]].softmax(1), exacts[0].log_softmax(1)[:, [0, 2, 4]]
    want = (p * (p.log() - logq)).sum(1)
    compared(found.kl.mean(), want.mean(), list(zip(leaves, exacts, strict=True)))
    assert (found.reverse_kl == math.inf).all()
    assert (found.js <= math.log(2)).all()
    assert plain.off(found.teacher_lse, s.logsumexp(1)) <= 1e-10


def test_a_map_beside_padding():
    z, t = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    columns = torch.tensor([8, 1, 2, 0])
    got = F.divergence(z, t, teacher_classes=columns, num_classes=4)
    torch.testing.assert_close(got, F.divergence(z[:, :4].contiguous(), t[:, columns]))


def test_what_is_wrong_is_said():
    z, t = torch.randn(3, 5), torch.randn(3, 7)
    with pytest.raises(
        ValueError, match=r"logits of 5 classes do not fit teacher_logits of 7; pass num_classes= .*teacher_c"
    ):
        _ = F.divergence(z, t)
    with pytest.raises(ValueError, match="num_classes is 6, but there are 5 classes here"):
        _ = F.divergence(z, t, num_classes=6)
    with pytest.raises(ValueError, match=r"of the 5 classes, logits holds 5 .* and teacher_logits 4"):
        _ = F.divergence(z, t[:, :4], num_classes=5)
    with pytest.raises(ValueError, match=r"teacher_logits of shape \(2, 5\) do not have the rows \(3,\) of logits"):
        _ = F.divergence(z, z[:2])
    with pytest.raises(TypeError, match=r"teacher_logits must be float32.*got torch.int64; use teacher_logits.float"):
        _ = F.divergence(z, z.long())
    with pytest.raises(TypeError, match="teacher_logits must be a tensor or a TopK, got list"):
        _ = F.divergence(z, z.tolist())
    with pytest.raises(ValueError, match=r"teacher_classes must have one place .* 5 classes .* got shape \(4,\)"):
        _ = F.divergence(z, t, teacher_classes=torch.arange(4))
    with pytest.raises(TypeError, match="teacher_classes must have an integer dtype"):
        _ = F.divergence(z, t, teacher_classes=torch.arange(5.0))
    with pytest.raises(IndexError, match=r"teacher_classes holds 7 for class 4, and the teacher has .* \[0, 6\]"):
        _ = F.divergence(z, t, teacher_classes=torch.arange(3, 8))
    with pytest.raises(ValueError, match=r"teacher_temperature must be a number, or a tensor .* rows \(3,\), got"):
        _ = F.divergence(z, z, teacher_temperature=torch.ones(2))
    with pytest.raises(ValueError, match=r"temperature must be between 1e-15 and 1e15, got 0\.0"):
        _ = F.divergence(z, z, teacher_temperature=torch.zeros(3))
