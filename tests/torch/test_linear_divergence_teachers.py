"""Sparse teachers beside a linear head, and closings of the rows of two heads, in one sweep and in two."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain, teaching, two_heads

each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))
each_tail = pytest.mark.parametrize("tail", ["ignore", "bucket"])
ONE_ROW = 200
"""Bytes of one row of both heads, or of a few."""
PLANS = tuple(itertools.product(("none", "sum", "mean"), (ONE_ROW, 900, None)))
each_plan = pytest.mark.parametrize(("reduction", "chunk_bytes"), PLANS)


def student(rows: tuple[int, ...], V: int, dtype: torch.dtype = torch.float64, **how: Any) -> two_heads.Given:
    """Operands of a student's head alone."""
    return {name: x for name, x in two_heads.draw(rows, V, dtype=dtype, **how).items() if name in two_heads.STUDENT}


def beside(given: two_heads.Given, teacher: TopK, **options: Any) -> Any:
    """The divergence of a head from a sparse teacher."""
    bias = given.get("linear_bias")
    return F.linear_divergence(given["input"], given["linear_weight"], teacher, linear_bias=bias, **options)


def drawn(rows: tuple[int, ...], V: int, K: int) -> tuple[Tensor, Tensor]:
    """Classes, each once in a row, and probabilities that add up to less than 1."""
    index = torch.rand(*rows, V).topk(K, -1).indices
    return index, (0.9 * torch.randn(*rows, K).softmax(-1)).double()


def logits(given: two_heads.Given) -> Tensor:
    return two_heads.head(*(given[name] for name in two_heads.STUDENT if name in given))


@pytest.mark.slow
@each_tail
@each_plan
@pytest.mark.parametrize("scores", [{}, {"temperature": 0.7}, {"temperature": 1.5, "softcap": 3.0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_divergences_from_a_sparse_teacher(tail, scores, dtype, reduction, chunk_bytes):
    for V, K in ((5, 1), (40, 6)):
        given, (index, prob) = student((7,), V, dtype, bias=K > 1), drawn((7,), V, K)
        exact, samples = two_heads.doubled(given), torch.rand(7, dtype=torch.float64)
        target = torch.tensor([0, -100, 3, 4, -100, 1, 1])
        valid = target != -100
        for kind, beta in (("forward", 0.5), ("reverse", 0.5), ("js", 0.3)):
            p, q = prob.clone().requires_grad_(), prob.clone().requires_grad_()
            options = {"kind": kind, "beta": beta, "tail": tail, "reduction": reduction, "chunk_bytes": chunk_bytes}
            loss = beside(given, TopK(index, p), sample_weight=samples, target=target, **options, **scores)
            each = teaching.of_topk(logits(exact), index, q, tail, beta, **scores)[teaching.KINDS[kind]]
            want = two_heads.reduced(each, reduction, samples, valid)
            two_heads.compare(loss, want, given, exact)
            g = plain.cotangent_like(want)
            (a,) = torch.autograd.grad(loss, p, g.to(loss.dtype), retain_graph=True)
            (b,) = torch.autograd.grad(want, q, g)
            assert plain.off(a, b) <= teaching.BAR[loss.dtype]


@each_tail
@pytest.mark.parametrize("chunk_bytes", [ONE_ROW, None])
@pytest.mark.parametrize("rows", [(), (4,), (2, 3)])
def test_statistics_beside_a_sparse_teacher(tail, rows, chunk_bytes):
    given, (index, prob) = student(rows, 12), drawn(rows, 12, 3)
    exact, target = two_heads.doubled(given), torch.randint(12, rows)
    options = {"tail": tail, "beta": 0.3, "target": target, "chunk_bytes": chunk_bytes, "return_stats": True}
    _, got = beside(given, TopK(index, prob), **options)
    z = logits(exact)
    logq = z.log_softmax(-1)
    want = teaching.of_topk(z, index, prob, tail, 0.3) | {
        "lse": z.logsumexp(-1),
        "entropy": -(logq.exp() * logq).sum(-1),
        "logprob": logq.gather(-1, target[..., None])[..., 0],
    }
    assert got.teacher_lse is None
    for name, x in want.items():
        assert getattr(got, name).shape == rows, name
        if x.requires_grad:
            two_heads.compare(getattr(got, name), x, given, exact)
        else:
            assert plain.off(getattr(got, name), x) <= teaching.BAR[torch.float64], name
    best = index.gather(-1, prob.argmax(-1, keepdim=True))[..., 0]
    assert torch.equal(got.agreement, best == z.argmax(-1))


@each_kind
@each_tail
@each_plan
def test_a_removed_row_beside_a_sparse_teacher_holds_anything(kind, tail, reduction, chunk_bytes):
    given, (index, prob) = student((4,), 12), drawn((4,), 12, 3)
    with torch.no_grad():
        given["input"][1], given["input"][2] = math.nan, math.inf
    few = TopK(index[::3], prob[::3])
    less = {name: x.detach()[::3].requires_grad_() if name == "input" else x for name, x in given.items()}
    for how in ({"target": torch.tensor([1, -100, -100, 2])}, {"sample_weight": torch.tensor([0.5, 0.0, 0.0, 2.0])}):
        options = {"kind": kind, "tail": tail, "reduction": reduction, "chunk_bytes": chunk_bytes}
        loss = beside(given, TopK(index, prob), **options, **how)
        rest = {name: x[::3] for name, x in how.items()}
        want = F.divergence(logits(less), few, kind=kind, tail=tail, reduction=reduction, **rest)
        torch.testing.assert_close(loss[::3] if reduction == "none" else loss, want, rtol=1e-11, atol=1e-13)
        wants = two_heads.gradients(want.sum(), less)
        for name, g in two_heads.gradients(loss.sum(), given).items():
            if name == "input":
                assert (g[1:3] == 0).all()
                g = g[::3]  # noqa: PLW2901
            torch.testing.assert_close(g, wants[name], rtol=1e-10, atol=1e-13)


@each_kind
@each_tail
@pytest.mark.parametrize("chunk_bytes", [ONE_ROW, None])
def test_classes_that_occur_twice_and_entries_of_no_probability(kind, tail, chunk_bytes):
    given = student((2,), 6)
    index = torch.tensor([[3, 3, 0, -7], [5, 99, 2, 5]])
    prob = torch.tensor([[0.2, 0.1, 0.3, 0.0], [0.1, 0.0, 0.5, 0.2]], dtype=torch.float64)
    once = TopK(torch.tensor([[3, 0], [5, 2]]), torch.tensor([[0.3, 0.3], [0.3, 0.5]], dtype=torch.float64))
    options = {"kind": kind, "tail": tail, "chunk_bytes": chunk_bytes}
    torch.testing.assert_close(beside(given, TopK(index, prob), **options), beside(given, once, **options))


def test_no_rows_and_padding_beside_a_sparse_teacher():
    given, (index, prob) = student((4,), 9), drawn((4,), 7, 3)
    less = {name: x if name == "input" else x.detach()[:7] for name, x in given.items()}
    got = beside(given, TopK(index, prob), num_classes=7)
    torch.testing.assert_close(got, beside(less, TopK(index, prob)))
    with pytest.raises(IndexError, match="class 7"):
        _ = beside(given, TopK(torch.full((4, 1), 7), prob[:, :1]), num_classes=7)
    none = {name: x[:0] if name == "input" else x for name, x in given.items()}
    assert beside(none, TopK(index[:0], prob[:0]), reduction="none").shape == (0,)
    assert beside(none, TopK(index[:0], prob[:0])).isnan()


# Closings


def mixed(rows: Any, constant: Tensor) -> Tensor:
    """All that a closing may read of two heads, of which it makes one number for each row."""
    nll = 0.1 * rows.loss - 0.2 * rows.logprob if hasattr(rows, "loss") else -0.3 * rows.logprob
    scaled = constant * rows.kl + rows.reverse_kl**2 + rows.js
    return nll + scaled + rows.teacher_entropy * rows.lse + (rows.teacher_lse - rows.entropy)


class Rows:
    """Statistics by name."""

    def __init__(self, found: dict[str, Tensor]) -> None:
        for name, x in found.items():
            setattr(self, name, x)


@each_kind
@each_plan
@pytest.mark.parametrize("rows", [(6,), (2, 3), (150,)])
def test_a_closing_sees_both_heads(kind, rows, reduction, chunk_bytes):
    given = two_heads.draw(rows, 9)
    exact = two_heads.doubled(given)
    target = torch.where(torch.rand(rows) < 0.3, -100, torch.randint(9, rows))
    target.view(-1)[:2] = torch.tensor([0, -100])
    constant, samples = torch.rand(rows, dtype=torch.float64), torch.rand(rows, dtype=torch.float64)
    scores = {"temperature": 0.8, "softcap": 4.0, "beta": 0.3, "target": target}
    options = {"reduction": reduction, "sample_weight": samples, "chunk_bytes": chunk_bytes}
    each = mixed(Rows(two_heads.truth(exact, **scores)), constant)
    each = torch.where(target == -100, 0.0, each)
    want = two_heads.reduced(each, reduction, samples, target != -100)
    got = two_heads.ours(given, kind=kind, closing=mixed, operands=(constant,), **scores, **options)
    two_heads.compare(got, want, given, exact)


@each_plan
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_loss_of_labels_and_of_a_teacher(dtype, reduction, chunk_bytes):
    given = two_heads.draw((150,), 9, dtype=dtype)
    exact, target, tau, alpha = two_heads.doubled(given), torch.randint(9, (150,)), 3.0, 0.2

    def hinton(rows: Any) -> Tensor:
        return -alpha * rows.logprob + (1 - alpha) * tau**2 * rows.kl

    options = {"reduction": reduction, "chunk_bytes": chunk_bytes, "temperature": tau, "target": target}
    got = two_heads.ours(given, closing=hinton, **options)
    z, t = (x / tau for x in two_heads.logits(exact))
    nll = torch.nn.functional.cross_entropy(z, target, reduction="none")
    soft = torch.nn.functional.kl_div(z.log_softmax(1), t.log_softmax(1), log_target=True, reduction="none").sum(1)
    two_heads.compare(got, two_heads.reduced(alpha * nll + (1 - alpha) * tau**2 * soft, reduction), given, exact)


@each_plan
def test_a_closing_of_a_sparse_teacher(reduction, chunk_bytes):
    given, (index, prob) = student((150,), 9), drawn((150,), 9, 3)
    exact = two_heads.doubled(given)

    def of(rows: Any) -> Tensor:
        return rows.kl + 2 * rows.reverse_kl + 3 * rows.js - rows.teacher_entropy

    got = beside(given, TopK(index, prob), closing=of, beta=0.3, reduction=reduction, chunk_bytes=chunk_bytes)
    each = of(Rows(teaching.of_topk(logits(exact), index, prob, "ignore", 0.3)))
    two_heads.compare(got, two_heads.reduced(each, reduction), given, exact)


@each_plan
def test_removed_rows_do_not_reach_a_closing(reduction, chunk_bytes):
    given = two_heads.draw((5,), 9)
    with torch.no_grad():
        given["input"][1], given["teacher_input"][2] = math.nan, math.nan
    target, samples = torch.tensor([1, -100, 2, 3, 4]), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    seen = list[int]()

    def closing(rows: Any) -> Tensor:
        seen.append(len(rows.kl))
        return rows.kl * rows.correct + rows.js + 0 * rows.confidence

    options = {"target": target, "sample_weight": samples, "reduction": reduction, "chunk_bytes": chunk_bytes}
    loss = two_heads.ours(given, closing=closing, **options)
    assert sum(seen) == 3
    grads = two_heads.gradients(loss.sum(), given)
    assert all(g.isfinite().all() for g in grads.values())
    for name in two_heads.NAMES[:2]:
        assert (grads[name][1:3] == 0).all()


@each_plan
def test_a_tensor_from_outside_that_a_closing_uses_gets_its_gradient(reduction, chunk_bytes):
    given, scale = two_heads.draw((150,), 9), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    slope = torch.rand(150, dtype=torch.float64)
    leaves = [scale, *given.values()]

    def closing(rows: Any, slope: Tensor) -> Tensor:
        return scale * rows.kl + slope * rows.reverse_kl**2

    results = []
    for call, more in ((two_heads.ours, {"chunk_bytes": chunk_bytes}), (two_heads.eager, {})):
        loss = call(given, closing=closing, operands=(slope,), reduction=reduction, **more)
        results.append([loss, *torch.autograd.grad(loss, leaves, plain.cotangent_like(loss))])
    for a, b in zip(*results, strict=True):
        assert plain.off(a, b) <= teaching.BAR[torch.float64]


@each_plan
def test_statistics_beside_a_closing(reduction, chunk_bytes):
    given = two_heads.draw((150,), 9)
    exact = two_heads.doubled(given)
    loss, found = two_heads.ours(
        given, closing=lambda rows: rows.kl, return_stats=True, reduction=reduction, chunk_bytes=chunk_bytes
    )
    each = two_heads.truth(exact)
    two_heads.compare(loss, two_heads.reduced(each["kl"], reduction), given, exact)
    assert found.logprob is None
    for name in ("kl", "js", "teacher_entropy", "lse"):
        two_heads.compare(getattr(found, name), each[name], given, exact)


def test_a_closing_is_told_what_is_not_there():
    given = two_heads.draw((5,), 9)
    for name, chunk_bytes in itertools.product(("logprob", "loss", "correct"), (ONE_ROW, None)):
        with pytest.raises(AttributeError, match=f"rows.{name} needs a target; pass target="):
            _ = two_heads.ours(given, closing=lambda rows, name=name: getattr(rows, name), chunk_bytes=chunk_bytes)
    sparse = TopK(torch.zeros(5, 1).long(), torch.ones(5, 1))
    with pytest.raises(AttributeError, match=r"rows\.teacher_lse is not available: a TopK teacher has probabilities"):
        _ = beside(given, sparse, closing=lambda rows: rows.teacher_lse)
