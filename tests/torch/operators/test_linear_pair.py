"""Rows of two layers, in any chunks: what `pair_stats` gives of all their logits, with every gradient."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from crossent.torch.operators.linear_pair import LinearPairStatsCall, linear_pair_stats, linear_pair_stats_plain
from crossent.torch.operators.linear_pair_call import pair_of_layers
from crossent.torch.operators.pair import pair_stats
from tests.torch import plain
from tests.torch.operators.test_linear_pair_call import D2, D, N, V, call_of

SMOOTH = ("loss", "lse", "entropy", "teacher_lse", "teacher_entropy", "kl", "reverse_kl", "js")
IGNORED = torch.tensor([3, -100, 2, -100, 4, 5])
each_plan = pytest.mark.parametrize(("keep", "chunk_bytes"), [(False, 2**20), (True, 2**20), (False, 200), (True, 1)])


def gradients(found, leaves, names=SMOOTH):
    outputs = [getattr(found, name) for name in names]
    g = [plain.cotangent_like(x, k) for k, x in enumerate(outputs)]
    return torch.autograd.grad(outputs, leaves, g, retain_graph=True, allow_unused=True, materialize_grads=True)


@each_plan
@pytest.mark.parametrize("padding", [{}, {"columns": 12, "teacher_columns": 10}])
@pytest.mark.parametrize("index", [None, IGNORED])
def test_results_and_gradients(index, padding, keep, chunk_bytes):
    call, leaves = call_of(index=index, chunk_bytes=chunk_bytes, **padding)
    found, want = linear_pair_stats(LinearPairStatsCall(call, keep)), pair_stats(pair_of_layers(call))
    for name in (*SMOOTH, "sums"):
        torch.testing.assert_close(getattr(found, name), getattr(want, name), rtol=1e-12, atol=1e-12)
    for names in (*((name,) for name in SMOOTH), SMOOTH):
        for a, b in zip(gradients(found, leaves, names), gradients(want, leaves, names), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("frozen", [(0,), (0, 1), (2, 3), (0, 1, 2), (1,)], ids=str)
def test_only_what_wants_a_gradient_gets_one(frozen):
    call, leaves = call_of(index=IGNORED)
    for k in frozen:
        _ = leaves[k].requires_grad_(False)
    rest = [x for k, x in enumerate(leaves) if k not in frozen]
    names = ("kl", "js")
    found, want = linear_pair_stats(LinearPairStatsCall(call, False)), pair_stats(pair_of_layers(call))
    for a, b in zip(gradients(found, rest, names), gradients(want, rest, names), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_the_slow_twin_and_derivatives_of_derivatives():
    call, leaves = call_of(index=IGNORED, predicts=True)
    found, twin = (
        linear_pair_stats(LinearPairStatsCall(call, False)),
        linear_pair_stats_plain(LinearPairStatsCall(call, False)),
    )
    for name in SMOOTH:
        torch.testing.assert_close(getattr(found, name), getattr(twin, name))
    valid = IGNORED != -100
    assert torch.equal(found.predicted[valid], twin.predicted[valid])
    assert torch.equal(found.teacher_predicted[valid], twin.teacher_predicted[valid])
    seconds = []
    for each in (found, twin):
        total = sum(getattr(each, name).square().sum() for name in SMOOTH)
        first = torch.autograd.grad(total, leaves, create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for a, b in zip(*seconds, strict=True):
        torch.testing.assert_close(a, b)


def test_most_probable_classes_of_both():
    call, (x, weight, y, other) = call_of(index=IGNORED, predicts=True, chunk_bytes=200)
    found = linear_pair_stats(LinearPairStatsCall(call, False))
    valid = IGNORED != -100
    for got, z in ((found.predicted, x @ weight.T), (found.teacher_predicted, y @ other.T)):
        assert torch.equal(got, torch.where(valid, z.argmax(1), -1))


def test_products_are_counted():
    call, _ = call_of()
    one = 2 * N * V
    with FlopCounterMode(display=False) as count:
        found = linear_pair_stats(LinearPairStatsCall(call, False))
    assert count.get_total_flops() == one * (D + D2)
    with FlopCounterMode(display=False) as count:
        found.kl.sum().backward()
    assert count.get_total_flops() == 3 * one * (D + D2)
