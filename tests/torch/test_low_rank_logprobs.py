"""Log-probabilities of a head with low-rank adapters, of one class and of several, against float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import adapted, logq, plain
from tests.torch.adapted import ADAPTERS, draw
from tests.torch.linear import Shape

each_K = pytest.mark.parametrize("K", [None, 1, 3])
each_score = pytest.mark.parametrize("scores", logq.SCORES, ids=str)
each_adapter = pytest.mark.parametrize("adapters", ADAPTERS)


def operands(shape, adapters, dtype=torch.float64, frozen=()):
    (x, w, _, b, _, *parts), options = draw(shape, adapters=adapters, bias=True, spread=2.0, frozen=frozen)
    return adapted.cast((x, w, None, b, None, *parts), dtype), options["scales"]


def logits(args, scales):
    x, w = adapted.whole(args[0], args[1], args[5:], scales)
    return nnf.linear(x, w, args[3])


@pytest.mark.slow
@each_K
@each_score
@each_adapter
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("chunk_bytes", [None, 4000, 300])
def test_all_outputs_and_gradients(K, scores, adapters, dtype, chunk_bytes):
    args, scales = operands(Shape((9,), (), 70, 5), adapters, dtype)
    classes, wide = logq.classes_of((9, 70), K, ignored=-100), adapted.doubled(args)
    got = F.linear_logprobs(
        args[0], adapted.weight_of(args[1], args[5:], scales), classes, linear_bias=args[3], chunk_bytes=chunk_bytes,
        **scores,
    )  # fmt: skip
    want = logq.statistics(logits(wide, scales), classes, **scores)
    logq.check(got, plain.leaves(*args), want, plain.leaves(*wide), dtype)


@pytest.mark.slow
@each_K
@pytest.mark.parametrize("adapters", ["one", "three, one of its own"])
@pytest.mark.parametrize("learning", [("a", "b"), ("b",), ("a", "input"), ("input",), ("linear_weight", "own")])
def test_gradients_of_some_operands_alone(K, adapters, learning):
    frozen = tuple(n for n in (*adapted.NAMES, "a", "b", "own") if n not in learning)
    for chunk_bytes, scores in itertools.product((None, 300), logq.SCORES):
        args, scales = operands(Shape((9,), (), 70, 5), adapters, frozen=frozen)
        classes, wide = logq.classes_of((9, 70), K, ignored=-100), adapted.doubled(args)
        got = F.linear_logprobs(
            args[0], adapted.weight_of(args[1], args[5:], scales), classes, linear_bias=args[3],
            chunk_bytes=chunk_bytes, **scores,
        )  # fmt: skip
        want = logq.statistics(logits(wide, scales), classes, **scores)
        logq.check(got, plain.leaves(*args), want, plain.leaves(*wide), torch.float64)


@each_K
@pytest.mark.parametrize("rows", [(), (4,), (2, 3)])
def test_rows_of_any_shape(K, rows):
    for adapters in ADAPTERS:
        args, scales = operands(Shape(rows, (), 11, 3), adapters)
        classes, wide = logq.classes_of((*rows, 11), K), adapted.doubled(args)
        got = F.linear_logprobs(args[0], adapted.weight_of(args[1], args[5:], scales), classes, linear_bias=args[3])
        want = logq.statistics(logits(wide, scales), classes)
        logq.check(got, plain.leaves(*args), want, plain.leaves(*wide), torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_adapter
def test_halves_are_the_loss_without_a_reduction(adapters, dtype):
    """Whose exactness test_low_rank holds."""
    args, scales = operands(Shape((40,), (), 70, 5), adapters, dtype)
    y = torch.arange(40) % 70
    weight = adapted.weight_of(args[1], args[5:], scales)
    got = F.linear_logprobs(args[0], weight, y, linear_bias=args[3]).logprob
    several = F.linear_logprobs(args[0], weight, y[:, None], linear_bias=args[3]).logprob[:, 0]
    want = -F.linear_cross_entropy(args[0], weight, y, linear_bias=args[3], reduction="none")
    leaves = plain.leaves(*args)
    g = plain.cotangent_like(want).float()
    wants = torch.autograd.grad(want, leaves, g)
    for found in (got, several):
        plain.agree("logprob", found, want, None, plain.FLOOR[torch.float32])
        for a, b in zip(torch.autograd.grad(found, leaves, g), wants, strict=True):
            assert a.dtype == dtype
            plain.agree("gradient", a, b, None, plain.FLOOR[dtype])


def test_a_row_that_is_ignored_holds_anything():
    args, scales = operands(Shape((9,), (), 11, 5), "three, one of its own")
    classes = torch.arange(9)
    classes[3] = -100
    with torch.no_grad():
        for x in (args[0], *(x for x in args[5:] if x is not None and x.shape[0] == 9)):
            x[3] = torch.nan
    got = F.linear_logprobs(args[0], adapted.weight_of(args[1], args[5:], scales), classes, linear_bias=args[3])
    assert got.logprob.isfinite().all()
    assert got.logprob[3] == 0
    for name, g in zip(adapted.names_of(args), logq.gradients(got, plain.leaves(*args)), strict=True):
        assert g.isfinite().all(), name
