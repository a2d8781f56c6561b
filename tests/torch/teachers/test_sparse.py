"""Divergences from a teacher's most probable classes, against sums over vectors of all classes in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain, teaching

each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))
each_tail = pytest.mark.parametrize("tail", ["ignore", "bucket"])


def drawn(rows: tuple[int, ...], V: int, K: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, classes and probabilities that add up to less than 1; the classes of a row differ."""
    z = (2 * torch.randn(*rows, V)).to(dtype)
    index = torch.rand(*rows, V).topk(K, -1).indices
    prob = 0.9 * torch.randn(*rows, K, dtype=torch.float64).softmax(-1)
    return z.requires_grad_(), index, prob


@each_tail
@pytest.mark.parametrize("scores", [{}, {"temperature": 0.7}, {"temperature": 1.5, "softcap": 3.0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("V", "K"), [(5, 1), (40, 6), (300, 20)])
def test_values_and_gradients(tail, scores, dtype, V, K):
    z, index, prob = drawn((7,), V, K, dtype)
    prob = prob.float().double()
    p = prob.clone().requires_grad_()
    exact, q = z.detach().double().requires_grad_(), prob.clone().requires_grad_()
    _, got = F.divergence(z, TopK(index, p), tail=tail, beta=0.3, return_stats=True, **scores)
    want = teaching.of_topk(exact, index, q, tail, 0.3, **scores)
    assert got.teacher_lse is None
    for k, (name, x) in enumerate(want.items()):
        found = getattr(got, name)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert plain.off(found, x) <= teaching.BAR[found.dtype], name
        g = plain.cotangent_like(x, k)
        leaves, exacts = ([z, p], [exact, q]) if name != "teacher_entropy" else ([p], [q])
        grads = torch.autograd.grad(found, leaves, g.to(found.dtype), retain_graph=True)
        wants = torch.autograd.grad(x, exacts, g, retain_graph=True)
        for a, b, leaf in zip(grads, wants, leaves, strict=True):
            assert plain.off(a, b) <= teaching.BAR[dtype if leaf is z else found.dtype], name
    log = teaching.log_softmax(exact, **scores).log_softmax(-1)
    assert plain.off(got.entropy, -(log.exp() * log).sum(-1)) <= teaching.BAR[got.entropy.dtype]
    best = index.gather(-1, p.argmax(-1, keepdim=True))[..., 0]
    assert torch.equal(got.agreement, best == exact.argmax(-1))


@each_kind
@each_tail
def test_all_classes_of_a_teacher_are_the_teacher(kind, tail):
    z, t = (2 * torch.randn(6, 9, dtype=torch.float64) for _ in range(2))
    own = [x.requires_grad_() for x in (z, z.detach().clone())]
    sparse = TopK(torch.arange(9).flip(0).expand(6, 9), t.softmax(1).flip(1))
    got, want = F.divergence(own[0], sparse, kind=kind, tail=tail), F.divergence(own[1], t, kind=kind)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
    (a,), (b,) = torch.autograd.grad(got, own[0]), torch.autograd.grad(want, own[1])
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@each_kind
@each_tail
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equal_heads_are_zero_apart_to_the_rounding_of_the_teacher(kind, tail, dtype):
    z = (2 * torch.randn(50, 30)).to(dtype)
    prob, index = z.softmax(1).topk(5, 1)
    loss = F.divergence(z, TopK(index, prob), kind=kind, tail=tail, reduction="none")
    assert (loss >= 0).all()
    assert loss.max() <= 10 * torch.finfo(dtype).eps ** 2 * 30 + 1e-12


@each_kind
@each_tail
def test_classes_that_occur_twice_and_entries_of_no_probability(kind, tail):
    z = torch.randn(2, 6, dtype=torch.float64)
    index = torch.tensor([[3, 3, 0, -7], [5, 99, 2, 5]])
    prob = torch.tensor([[0.2, 0.1, 0.3, 0.0], [0.1, 0.0, 0.5, 0.2]], dtype=torch.float64)
    got = F.divergence(z, TopK(index, prob), kind=kind, tail=tail, reduction="none")
    once = TopK(torch.tensor([[3, 0], [5, 2]]), torch.tensor([[0.3, 0.3], [0.3, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(got, F.divergence(z, once, kind=kind, tail=tail, reduction="none"))


@each_kind
@each_tail
@pytest.mark.parametrize("rows", [(), (4,), (2, 3)])
def test_rows_of_any_shape_beside_a_target(kind, tail, rows):
    z, index, prob = drawn(rows, 12, 3)
    target = torch.randint(12, rows)
    loss, found = F.divergence(
        z, TopK(index, prob), kind=kind, tail=tail, target=target, reduction="none", return_stats=True
    )
    want = teaching.of_topk(z.detach(), index, prob, tail, 0.5)
    torch.testing.assert_close(loss, want[teaching.KINDS[kind]])
    torch.testing.assert_close(found.logprob, z.log_softmax(-1).gather(-1, target[..., None])[..., 0])
    assert found.kl.shape == found.agreement.shape == rows


@each_tail
def test_a_class_that_the_student_excludes(tail):
    z = torch.tensor([[0.0, 0.0, -math.inf], [0.0, 0.0, 0.0]], requires_grad=True)
    teacher = TopK(torch.tensor([[2], [2]]), torch.tensor([[0.5], [0.5]]))
    _, found = F.divergence(z, teacher, tail=tail, return_stats=True)
    assert found.kl.tolist()[0] == math.inf
    assert found.kl[1].isfinite()
    assert found.reverse_kl.isfinite().all()
    assert found.js.isfinite().all()
    (g,) = torch.autograd.grad(found.js.sum() + found.reverse_kl.sum(), z)
    assert g.isfinite().all()


@each_tail
def test_nan_stays_in_its_row(tail):
    z, index, prob = drawn((3,), 12, 3)
    with torch.no_grad():
        z[1, 4] = math.nan
    _, found = F.divergence(z, TopK(index, prob), tail=tail, return_stats=True)
    for name in teaching.KINDS.values():
        assert getattr(found, name)[1].isnan()
        assert getattr(found, name)[::2].isfinite().all()
    (g,) = torch.autograd.grad(found.kl.sum(), z)
    assert g[1].isnan().any()
    assert g[::2].isfinite().all()


@pytest.mark.slow
@each_tail
def test_derivatives_of_derivatives(tail):
    z, index, prob = drawn((3,), 6, 3)
    target = torch.tensor([1, -100, 2])

    def all_of(z: Tensor, prob: Tensor) -> tuple[Tensor, ...]:
        _, found = F.divergence(z, TopK(index, prob), tail=tail, target=target, return_stats=True, temperature=0.8)
        return tuple(getattr(found, name) for name in ("kl", "reverse_kl", "js", "teacher_entropy", "lse", "logprob"))

    assert torch.autograd.gradcheck(all_of, (z, prob.requires_grad_()))
    assert torch.autograd.gradgradcheck(all_of, (z, prob))


def test_a_closing_sees_the_divergences_of_the_classes():
    z, index, prob = drawn((4,), 9, 3)

    def mixed(rows: Any) -> Tensor:
        return rows.kl + 2 * rows.reverse_kl + 3 * rows.js - rows.teacher_entropy + rows.entropy

    loss = F.divergence(z, TopK(index, prob), closing=mixed, beta=0.3)
    _, found = F.divergence(z, TopK(index, prob), return_stats=True, beta=0.3)
    torch.testing.assert_close(loss, mixed(found).mean())
    with pytest.raises(AttributeError, match=r"rows\.teacher_lse is not available: a TopK teacher has probabilities"):
        _ = F.divergence(z, TopK(index, prob), closing=lambda rows: rows.teacher_lse)


def test_what_is_wrong_is_said():
    z, index, prob = drawn((4,), 9, 3)
    with pytest.raises(IndexError, match=r"class 9 \(row 2 of 4\) is not one of the 9 classes"):
        _ = F.divergence(z, TopK(index.index_fill(0, torch.tensor(2), 9), prob))
    with pytest.raises(ValueError, match=r"target probability -1.0 \(row 3, column 0\)"):
        _ = F.divergence(z, TopK(index, prob.index_fill(0, torch.tensor(3), -1.0)))
    with pytest.raises(ValueError, match=r"probabilities of row 0 of the TopK teacher add up to 1\.8"):
        _ = F.divergence(z, TopK(index, 2 * prob), tail="bucket")
    assert F.divergence(z, TopK(index, 2 * prob)).isfinite()
    with pytest.raises(ValueError, match=r"needs two tensors of shape \(4, K\), got \(3, 3\)"):
        _ = F.divergence(z, TopK(index[:3], prob[:3]))
    with pytest.raises(ValueError, match="at least one class for each row, got K = 0"):
        _ = F.divergence(z, TopK(index[:, :0], prob[:, :0]))
    for name, value in (("teacher_temperature", 2.0), ("teacher_softcap", 3.0), ("teacher_classes", torch.arange(9))):
        with pytest.raises(ValueError, match=f"{name} is for a teacher with logits"):
            _ = F.divergence(z, TopK(index, prob), **{name: value})
