"""Gradients with respect to the probabilities of a target, against autograd through torch's log_softmax."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from crossent.spec import Scores, Target
from crossent.torch.ranks.collectives import LogTotal
from crossent.torch.sources.probabilities import prob_grad, scores_of

PHIS = (Scores(), Scores(0.7), Scores(1.7, 3.0))
SHAPES = ((6, 7), (2, 7, 3))
WARM = torch.linspace(0.5, 2, 6, dtype=torch.float64)


def log_softmax(z, scores):
    own = scores.row_temperature
    s = z / scores.temperature if own is None else z / (own[:, None] if z.ndim == 2 else own.view(2, 1, 3))
    s = s if scores.softcap is None else scores.softcap * torch.tanh(s / scores.softcap)
    return s.log_softmax(1)


def rows_first(x):
    """(N, V) of logits or probabilities."""
    return x if x.ndim == 2 else x.movedim(1, -1).flatten(0, 1)


def exact(z, target, scores, g):
    """Autograd's gradient of Σ g · loss with respect to the probabilities."""
    V, prob = z.shape[1], target.prob.clone().requires_grad_()
    p = rows_first(prob) if target.index is None else torch.zeros(len(g), V).double().scatter_add(1, target.index, prob)
    p = (1 - target.smoothing) * p + target.smoothing / V
    w = 1.0 if target.weight is None else target.weight
    loss = -(w * p * rows_first(log_softmax(z, scores))).sum(1)
    (grad,) = torch.autograd.grad((g * loss).sum(), prob)
    return grad


def draw(kind, shape, *, weighted=False, smoothing=0.0):
    z, V = torch.randn(shape, dtype=torch.float64) * 3, shape[1]
    rows = z.numel() // V
    weight = torch.rand(V, dtype=torch.float64) + 0.5 if weighted else None
    if kind == "dense":
        return z, Target(prob=torch.rand(shape, dtype=torch.float64), weight=weight, smoothing=smoothing)
    index, prob = torch.randint(V, (rows, 4)), torch.rand(rows, 4, dtype=torch.float64)
    return z, Target(index, prob, weight, smoothing)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["dense", "topk"])
@pytest.mark.parametrize("scores", [*PHIS, Scores(1.0, None, WARM), Scores(1.0, 3.0, WARM)], ids=str)
def test_gradients_are_those_of_autograd(scores, kind, shape):
    for weighted, smoothing in itertools.product((False, True), (0.0, 0.2, 1.0)):
        z, target = draw(kind, shape, weighted=weighted, smoothing=smoothing)
        g = torch.randn(z.numel() // shape[1], dtype=torch.float64)
        got = prob_grad(z, target, scores, g)
        torch.testing.assert_close(got, exact(z, target, scores, g), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_columns_of_one_shard_and_the_normaliser_of_all(kind, shape):
    z, target = draw(kind, shape, weighted=True, smoothing=0.2)
    scores, g, V = Scores(0.7, 3.0), torch.randn(z.numel() // shape[1], dtype=torch.float64), shape[1]
    want = exact(z, target, scores, g)
    s = rows_first(scores_of(z, scores))
    total = LogTotal(s.amax(1), (s - s.amax(1, keepdim=True)).exp().sum(1).log())
    parts = []
    for first, last in ((0, 2), (2, 2), (2, 6), (6, V)):
        own = slice(first, last)
        weight: Any = target.weight
        prob: Any = target.prob
        part = dataclasses.replace(
            target,
            prob=prob[:, own] if kind == "dense" else prob,
            weight=weight[own],
            first_class=first,
            num_classes=V,
        )
        parts.append(prob_grad(z[:, own], part, scores, g, total))
    got = torch.cat(parts, 1) if kind == "dense" else sum(parts)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_a_class_that_does_not_exist_makes_its_gradient_nan():
    z, target = draw("topk", (3, 7))
    index: Any = target.index
    index[0, 0], index[1, 2] = -1, 7
    got = prob_grad(z, target, Scores(), torch.ones(3, dtype=torch.float64))
    wrong = torch.zeros(3, 4, dtype=torch.bool)
    wrong[0, 0] = wrong[1, 2] = True
    assert torch.equal(got.isnan(), wrong)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_scores_are_float32_at_least(dtype):
    z = torch.randn(4, 5, dtype=torch.float64).to(dtype)
    for scores in PHIS:
        got = scores_of(z, scores)
        assert got.dtype == torch.promote_types(dtype, torch.float32)
        want = z.double() / scores.temperature
        want = want if scores.softcap is None else scores.softcap * torch.tanh(want / scores.softcap)
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_have_the_dtype_of_the_probabilities(dtype):
    z, target = draw("dense", (4, 5))
    prob: Any = target.prob
    target = dataclasses.replace(target, prob=prob.to(dtype))
    assert prob_grad(z, target, Scores(), torch.ones(4)).dtype == dtype


@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_probabilities_that_full_smoothing_hides_have_no_gradient_even_at_infinite_costs(kind):
    z, target = draw(kind, (5, 7), smoothing=1.0)
    z[:, 0] = -torch.inf
    if target.index is not None:
        target = dataclasses.replace(target, index=torch.zeros_like(target.index))
    assert torch.equal(prob_grad(z, target, Scores(), torch.randn(5).double()), torch.zeros_like(target.prob))
