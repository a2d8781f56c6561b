"""linear_cross_entropy of a layer of which each rank has some classes: what a call may do to what, and when.

Gradients come where they are wanted, again and added up; arguments are left alone; no rank has all logits of its own.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf

from tests.parallel.linear import (
    DIFFERENTIABLE,
    LEAVES,
    ROWS,
    TOKENS,
    WIDE,
    Split,
    agree,
    alone,
    differ,
    named_leaves,
    outcome,
)
from tests.parallel.ranks import Ranks
from tests.torch import linear, plain
from tests.torch.linear import KINDS, Shape, draw

pytestmark = pytest.mark.slow

# What needs no gradient, what gets two, and what is left alone


def frozen(group: Any) -> list[str]:
    wrong: list[str] = []
    for kind, reduction in (("dense", "mean"), ("topk", "none")):
        for held in itertools.product((False, True), repeat=5):
            names = tuple(itertools.compress(LEAVES, held))
            _ = torch.manual_seed(0)
            args, options = draw(ROWS, kind, "everything", bias=True, frozen=names)
            options |= {"reduction": reduction}
            split = Split(group, "uneven", args)
            parts, where = split.args(args), f"{kind}, {reduction}, frozen {names}"
            got = outcome(split.function(), parts, options)
            wrong += differ(got, split.expected(outcome(alone, args, options)), where)
            loss = split.function()(*parts, **options)
            if loss.requires_grad:
                _ = loss.backward(torch.ones_like(loss))
            if loss.requires_grad == all(held) or any((x.grad is None) for x in named_leaves(parts).values()):
                wrong.append(f"{where}: gradients are missing")
    return wrong


def test_a_gradient_only_where_one_is_wanted(ranks: Ranks) -> None:
    agree(ranks.run(2, frozen))


def without_gradients(group: Any) -> list[str]:
    wrong: list[str] = []
    for kind in KINDS:
        _ = torch.manual_seed(0)
        args, options = draw(TOKENS, kind, "everything", bias=True)
        split = Split(group, "uneven", args)
        with torch.no_grad():
            loss, stats = split.function()(*split.args(args), **options, return_stats=True)
        want, wanted = alone(*args, **options, return_stats=True)
        if loss.requires_grad or stats.lse.requires_grad:
            wrong.append(f"{kind}: a gradient")
        names = (*DIFFERENTIABLE, "confidence", "correct", "predicted")
        got = {"loss": loss} | {k: getattr(stats, k) for k in names}
        wrong += differ(got, {"loss": want.detach()} | {k: getattr(wanted, k).detach() for k in names}, kind)
    return wrong


def test_without_gradients(ranks: Ranks) -> None:
    agree(ranks.run(2, without_gradients))


def backward_again(group: Any) -> list[str]:
    wrong: list[str] = []
    for dtype, kind, reduction, more in itertools.product(
        (torch.float64, torch.bfloat16), KINDS, ("mean", "none"), (False, True)
    ):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, kind, "everything", bias=True)
        args = tuple(plain.cast(x, dtype) for x in args)
        split = Split(group, "uneven", args)
        parts = split.args(args)
        loss = split.function()(*parts, **options, reduction=reduction, return_stats=more)
        if more:
            loss = loss[0].sum() + loss[1].entropy.sum()
        g, leaves = plain.cotangent_like(loss).to(loss.dtype), list(named_leaves(parts).values())
        first = [a.clone() for a in torch.autograd.grad(loss, leaves, g, retain_graph=True)]
        _ = torch.autograd.grad(loss, leaves, 2 * g, retain_graph=True)
        third = torch.autograd.grad(loss, leaves, g)
        if not all(torch.equal(a, b) for a, b in zip(first, third, strict=True)):
            wrong.append(f"{dtype}, {kind}, {reduction}, {more}")
    return wrong


def test_a_second_backward_gives_the_same_gradients(ranks: Ranks) -> None:
    agree(ranks.run(2, backward_again))


def accumulated(group: Any) -> list[str]:
    _ = torch.manual_seed(0)
    args, _ = draw(ROWS, "index", bias=True)
    other = torch.randint(7, (5,))
    split, call = Split(group, "uneven", args), Split(group, "uneven", args).function()
    x, w, y, b, _ = split.args(args)
    for target in (y, other):
        _ = call(x, w, target, b).backward()
    _ = (call(x, w, y, b, reduction="sum") + 2 * call(x, w, other, b)).backward()
    got = {f" by {k}": leaf.grad for k, leaf in zip(("input", "linear_weight", "linear_bias"), (x, w, b), strict=True)}
    whole = [args[0].detach().requires_grad_(), args[1], args[3]]
    logits = nnf.linear(*whole)
    total = 6 * nnf.cross_entropy(logits, y) + 3 * nnf.cross_entropy(logits, other)
    want = dict(zip(got, torch.autograd.grad(total, whole), strict=True))
    return differ(got, split.expected(want))


def test_gradients_accumulate(ranks: Ranks) -> None:
    agree(ranks.run(3, accumulated))


def written(group: Any) -> list[str]:
    wrong: list[str] = []
    for kind, reduction, chunk_bytes in itertools.product(KINDS, ("mean", "none"), (None, 100)):
        _ = torch.manual_seed(0)
        args, options = draw(TOKENS, kind, "everything", bias=True)
        split = Split(group, "equal", args)
        parts = split.args(args)
        given = linear.tensors(*parts, *options.values())
        before = [(x.detach().clone(), x._version) for x in given]
        call = split.function(chunk_bytes=chunk_bytes)
        loss, stats = call(*parts, **options, reduction=reduction, return_stats=True)
        gs = [plain.cotangent_like(x, k) for k, x in enumerate((loss, stats.entropy))]
        copies = [g.clone() for g in gs]
        torch.autograd.backward([loss, stats.entropy], gs)
        if not all(
            torch.equal(x, y) and x._version == v
            for x, (y, v) in zip([*given, *gs], [*before, *((g, 0) for g in copies)], strict=True)
        ):
            wrong.append(f"{kind}, {reduction}, {chunk_bytes}")
    return wrong


def test_arguments_are_never_written_to(ranks: Ranks) -> None:
    agree(ranks.run(2, written))


def bits(group: Any) -> list[dict[str, bytes]]:
    found: list[dict[str, bytes]] = []
    for dtype, kind, reduction in itertools.product((torch.float64, torch.float32), KINDS, ("mean", "none")):
        _ = torch.manual_seed(0)
        args, options = draw(WIDE, kind, "everything", bias=True)
        args = tuple(plain.cast(x, dtype) for x in args)
        split = Split(group, "uneven", args)
        for _ in range(2):
            got = outcome(split.function(), split.args(args), options | {"reduction": reduction}, stats=True)
            found.append({k: x.numpy().tobytes() for k, x in got.items()})
    return found


def test_bits_do_not_depend_on_the_rank_or_the_time(ranks: Ranks) -> None:
    results = ranks.run(3, bits)
    for found in results:
        assert found[::2] == found[1::2]
    for calls in zip(*results, strict=True):
        for name, value in calls[0].items():
            if not name.endswith(("linear_weight", "linear_bias", "prob")):
                assert all(call[name] == value for call in calls), name


def under_autocast(group: Any) -> list[str]:
    wrong: list[str] = []
    for kind, half in itertools.product(KINDS, (torch.bfloat16, torch.float16)):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, kind, "everything", bias=True)
        args = tuple(plain.cast(x, torch.float32) for x in args)
        low = tuple(plain.cast(x, half) if k in (0, 1, 3) else x for k, x in enumerate(args))
        split = Split(group, "uneven", args)
        with torch.autocast("cpu", dtype=half):
            got = outcome(split.function(), split.args(args), options)
        want = split.expected(outcome(alone, low, options))
        if got["loss"].dtype != torch.float32 or not plain.off(got["loss"], want["loss"]) <= plain.FLOOR[torch.float32]:
            wrong.append(f"{kind}, {half}: loss")
        leaves = named_leaves(split.args(args))
        for name, leaf in leaves.items():
            a, b = got[f"loss by {name}"], want[f"loss by {name}"]
            if a.dtype != leaf.dtype or not plain.off(a, b) <= plain.FLOOR[half]:
                wrong.append(f"{kind}, {half}: {name}")
    return wrong


def test_under_autocast(ranks: Ranks) -> None:
    agree(ranks.run(2, under_autocast))


# Memory

CASES = (("ignored", "mean", False), ("ignored", "none", True), ("topk", "mean", True), ("dense", "none", False))


def allocated(group: Any, chunk_bytes: int | None) -> list[float]:
    """The most memory at a time in a forward and backward, in units of a rank's logits of all rows."""
    found: list[float] = []
    N, V, D = 128, 2048, 4
    for kind, reduction, stats in CASES:
        _ = torch.manual_seed(0)
        args, _ = draw(Shape((N,), (), V, D), kind, bias=True, frozen=("prob",) if kind == "dense" else ())
        split = Split(group, "equal", args)
        parts = split.args(tuple(plain.cast(x, torch.float32) for x in args))
        call, activities = split.function(chunk_bytes=chunk_bytes), [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
            result = call(*parts, reduction=reduction, return_stats=stats)
            loss = result[0].sum() + result[1].entropy.sum() + result[1].lse.sum() if stats else result.sum()
            _ = loss.backward()
        kineto: Any = profile.profiler
        sizes = [event.nbytes() for event in kineto.kineto_results.events() if event.name() == "[memory]"]
        found.append(max(itertools.accumulate(sizes)) / (4 * N * split.rows))
    return found


def test_no_logits_of_all_rows_at_a_time(ranks: Ranks) -> None:
    assert max(max(found) for found in ranks.run(2, allocated, 2**15)) < 0.25
    assert min(min(found) for found in ranks.run(2, allocated, None)) >= 1.0  # which would be seen
