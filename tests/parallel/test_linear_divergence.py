"""Divergences of two linear heads whose classes are spread over ranks alike: what one process gives."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel.ranks import Ranks
from tests.parallel.shards import apart, cut, join, layout_of, nothing_wrong
from tests.torch import plain, teaching, two_heads

pytestmark = pytest.mark.slow

N, V = 5, 12
LAYOUTS = ("padded", "uneven", "empty", "backwards")
CHUNKS = (None, 1, 200)
JUNK = 1e3


class Shard:
    """The classes that a rank has of both heads."""

    def __init__(self, group: Any, layout: str) -> None:
        self.group, self.layout = group, layout
        shards, uneven = layout_of(layout, group.size(), V)
        self.first, self.length = shards[group.rank()]
        self.told: dict[str, Any] = {"process_group": group, "num_classes": V}
        if uneven:
            self.told["first_class"] = self.first

    def part(self, name: str, x: Tensor, more: int = 0) -> Tensor:
        """What this rank has of an operand: for a head its classes, `more` rows of padding after the last one."""
        if name in two_heads.NAMES[:2]:
            return x.detach().clone()
        more = more if self.first + self.length >= V else 0
        return cut(x.unsqueeze(0), self.first, self.length + more, JUNK).squeeze(0)

    def parts(self, given: two_heads.Given, teacher_padding: int = 0) -> two_heads.Given:
        """The operands of this rank; those of the teacher have as many rows of padding more."""
        return {
            name: self.part(name, x, teacher_padding if name.startswith("teacher") else 0).requires_grad_(
                x.requires_grad
            )
            for name, x in given.items()
        }

    def whole(self, name: str, x: Tensor) -> Tensor:
        """All ranks' parts of an operand or of its gradient."""
        if name in two_heads.NAMES[:2]:
            return x
        return join(x.unsqueeze(0), self.group, self.first, V).squeeze(0)

    def differ(self, label: str, got: two_heads.Given, want: two_heads.Given) -> list[str]:
        """What of some gradients is not that of one process."""
        return [line for name in want for line in apart(f"{label}, {name}", self.whole(name, got[name]), want[name])]


def grads_of(found: Any, given: two_heads.Given, names: tuple[str, ...], kind: str) -> two_heads.Given:
    leaves = [x for x in given.values() if x.requires_grad]
    wanted = [name for name, x in given.items() if x.requires_grad]
    return dict(zip(wanted, teaching.gradients(found, leaves, names, kind), strict=True))


def all_statistics(group: Any, layout: str) -> list[str]:
    found, shard = list[str](), Shard(group, layout)
    _ = torch.manual_seed(3)
    warm = {"temperature": torch.rand(N, dtype=torch.float64) + 0.5, "teacher_softcap": 3.0}
    turns = itertools.cycle(CHUNKS)
    for scores, with_target in itertools.product((*teaching.SCORES, warm), (False, True)):
        given, chunk_bytes = two_heads.draw((N,), V, bias=with_target), next(turns)
        target = torch.tensor([0, -100, V - 1, 5, 5]) if with_target else None
        names = teaching.SMOOTH if with_target else teaching.SMOOTH[:-1]
        label = f"{layout}, {scores}, target {with_target}, chunks of {chunk_bytes}"
        want = two_heads.truth(given, target=target, beta=0.3, **scores)
        own = shard.parts(given, teacher_padding=3)
        options = {"target": target, "beta": 0.3, "chunk_bytes": chunk_bytes, **scores, **shard.told}
        got = teaching.as_dict(two_heads.stats(own, **options))
        for name in (*names, "agreement"):
            found += apart(f"{label}: {name}", got[name].detach(), want[name].detach())
        for some, kind in (*(((name,), "random") for name in names), (names, "random"), (names, "strided")):
            mine, its = grads_of(got, own, some, kind), grads_of(want, given, some, kind)
            found += shard.differ(f"{label}: gradient of {some}", mine, its)
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_statistics_and_gradients(ranks: Ranks, n: int, layout: str) -> None:
    nothing_wrong(ranks.run(n, all_statistics, layout))


def losses(group: Any, layout: str) -> list[str]:
    found, shard = list[str](), Shard(group, layout)
    _ = torch.manual_seed(4)
    turns = itertools.cycle(CHUNKS)
    frozen: tuple[tuple[str, ...], ...] = ((), two_heads.TEACHER, two_heads.NAMES[2:], two_heads.STUDENT)
    for kind, reduction, held in itertools.product(teaching.KINDS, ("none", "sum", "mean"), frozen):
        given = two_heads.copied(two_heads.draw((2, 3), V), frozen=held)
        samples, chunk_bytes = torch.rand(2, 3, dtype=torch.float64), next(turns)
        target = torch.tensor([[0, -100, V - 1], [5, 5, -100]])
        options = {"kind": kind, "reduction": reduction, "sample_weight": samples, "target": target, "temperature": 0.7}
        each = two_heads.truth(given, target=target, temperature=0.7)[teaching.KINDS[kind]]
        want = two_heads.reduced(each, reduction, samples, target != -100)
        own = shard.parts(given)
        got = two_heads.ours(own, chunk_bytes=chunk_bytes, **options, **shard.told)
        label = f"{layout}, {kind}, {reduction}, {held} frozen, chunks of {chunk_bytes}"
        found += apart(label, got.detach(), want.detach())
        g = plain.cotangent_like(want)
        mine, its = (two_heads.gradients(x, part, grad_outputs=g) for x, part in ((got, own), (want, given)))
        found += shard.differ(label, mine, its)
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_loss(ranks: Ranks, n: int, layout: str) -> None:
    nothing_wrong(ranks.run(n, losses, layout))


def dimensions_and_targets(group: Any, layout: str) -> list[str]:
    found, shard = list[str](), Shard(group, layout)
    _ = torch.manual_seed(5)
    rows, turns = (4, 2), itertools.cycle(CHUNKS)
    p = torch.rand(*rows, V, dtype=torch.float64).softmax(-1)
    index, prob = torch.randint(V, (*rows, 3)), torch.rand(*rows, 3, dtype=torch.float64)
    targets = {"class": torch.randint(V, rows), "dense": p, "topk": TopK(index, prob)}

    def closing(rows: Any, slope: Tensor) -> Tensor:
        return slope * rows.kl - rows.logprob + rows.js * rows.teacher_entropy + 0.1 * rows.loss

    for (kind, target), with_closing in itertools.product(targets.items(), (False, True)):
        given, chunk_bytes = two_heads.draw((4,), V, (2,)), next(turns)
        slope, warm = torch.rand(rows, dtype=torch.float64), torch.rand(rows, dtype=torch.float64) + 0.5
        more: dict[str, Any] = {"temperature": warm, "reduction": "mean"}
        if with_closing:
            more |= {"closing": closing, "operands": (slope,)}
        want, truth = two_heads.eager(given, target=target, return_stats=True, **more)
        own = shard.parts(given)
        if kind == "dense":  # beside a layer its classes are on the second axis, as in linear_cross_entropy
            target = cut(p.movedim(-1, 1), shard.first, shard.length)  # noqa: PLW2901
        elif kind == "topk":
            target = TopK(index.movedim(-1, 1), prob.movedim(-1, 1))  # noqa: PLW2901
        got, stats = two_heads.ours(
            own, target=target, return_stats=True, chunk_bytes=chunk_bytes, **more, **shard.told
        )
        label = f"{layout}, {kind}, closing {with_closing}, chunks of {chunk_bytes}"
        found += apart(label, got.detach(), want.detach())
        for name in (*teaching.SMOOTH, "agreement"):
            found += apart(f"{label}: {name}", getattr(stats, name).detach(), getattr(truth, name).detach())
        found += shard.differ(label, two_heads.gradients(got, own), two_heads.gradients(want, given))
    return found


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_heads_of_more_dimensions_targets_and_closings(ranks: Ranks, n: int, layout: str) -> None:
    nothing_wrong(ranks.run(n, dimensions_and_targets, layout))


def sparse_teachers(group: Any, layout: str) -> list[str]:
    found, shard = list[str](), Shard(group, layout)
    _ = torch.manual_seed(6)
    turns = itertools.cycle(CHUNKS)
    for tail, scores in itertools.product(("ignore", "bucket"), ({}, {"temperature": 0.7, "softcap": 3.0})):
        given, chunk_bytes = two_heads.draw((N,), V), next(turns)
        given = {name: x for name, x in given.items() if name in two_heads.STUDENT}
        index = torch.rand(N, V).topk(4, 1).indices
        prob = 0.9 * torch.randn(N, 4, dtype=torch.float64).softmax(1)
        z = two_heads.head(*given.values())
        want = teaching.of_topk(z, index, prob, tail, 0.3, **scores)
        own = shard.parts(given)
        for kind, reduction in itertools.product(teaching.KINDS, ("none", "mean")):
            label = f"{layout}, {tail}, {scores}, {kind}, {reduction}, chunks of {chunk_bytes}"
            p = prob.clone().requires_grad_()
            operands = own["input"], own["linear_weight"], TopK(index, p)
            options = {"linear_bias": own["linear_bias"], "tail": tail, "beta": 0.3, "kind": kind, **scores}
            options |= {"reduction": reduction, "chunk_bytes": chunk_bytes, "return_stats": True}
            loss, stats = F.linear_divergence(*operands, **options, **shard.told)
            each = two_heads.reduced(want[teaching.KINDS[kind]], reduction)
            found += apart(label, loss.detach(), each.detach())
            for name, x in want.items():
                found += apart(f"{label}: {name}", getattr(stats, name).detach(), x.detach())
            g = plain.cotangent_like(each)
            mine, its = (
                two_heads.gradients(x, part, grad_outputs=g, retain_graph=True)
                for x, part in ((loss, own), (each, given))
            )
            found += shard.differ(label, mine, its)
    return found


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_teachers(ranks: Ranks, n: int, layout: str) -> None:
    nothing_wrong(ranks.run(n, sparse_teachers, layout))


def removed_rows(group: Any) -> list[str]:
    found, shard = list[str](), Shard(group, "uneven")
    _ = torch.manual_seed(7)
    given = two_heads.draw((N,), V)
    with torch.no_grad():
        given["input"][1], given["teacher_input"][2] = torch.nan, torch.inf
    kept = [0, 3, 4]
    few = {name: x.detach()[kept].requires_grad_() if name in two_heads.NAMES[:2] else x for name, x in given.items()}
    target, samples = torch.tensor([1, -100, -100, 2, 3]), torch.tensor([1.0, 0.0, 0.0, 0.5, 2.0])
    for how, reduction, chunk_bytes in itertools.product(("target", "weight"), ("none", "mean"), (1, None)):
        options = {"target": target} if how == "target" else {"sample_weight": samples}
        own = shard.parts(given)
        loss = two_heads.ours(own, reduction=reduction, chunk_bytes=chunk_bytes, **options, **shard.told)
        each = two_heads.truth(few)["kl"]
        want = two_heads.reduced(each, reduction, samples[kept] if how == "weight" else None)
        label = f"{how}, {reduction}, chunks of {chunk_bytes}"
        found += apart(label, (loss[kept] if reduction == "none" else loss).detach(), want.detach())
        mine, its = two_heads.gradients(loss.sum(), own), two_heads.gradients(want.sum(), few)
        mine = {name: g[kept] if name in two_heads.NAMES[:2] else g for name, g in mine.items()}
        found += shard.differ(label, mine, its)
    return found


def test_removed_rows_hold_anything(ranks: Ranks) -> None:
    nothing_wrong(ranks.run(3, removed_rows))


def equal_heads(group: Any, layout: str) -> list[str]:
    found, shard = list[str](), Shard(group, layout)
    _ = torch.manual_seed(8)
    pairs = dict(zip(two_heads.STUDENT, two_heads.TEACHER, strict=True))
    for dtype, kind, chunk_bytes in itertools.product(
        (torch.float64, torch.float32, torch.bfloat16), teaching.KINDS, (1, None)
    ):
        given = two_heads.draw((N,), V, dtype=dtype, widths=(4, 4))
        own = shard.parts(given | {its: given[mine] for mine, its in pairs.items()})
        for reduction in ("none", "mean"):
            loss = two_heads.ours(own, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes, **shard.told)
            grads = two_heads.gradients(loss.sum(), own).values()
            if (loss != 0).any() or any((g != 0).any() for g in grads):
                found.append(f"{layout}, {dtype}, {kind}, {reduction}, chunks of {chunk_bytes}: not zero")
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_heads_are_exactly_zero_apart(ranks: Ranks, layout: str) -> None:
    nothing_wrong(ranks.run(3, equal_heads, layout))


def derivatives_of_derivatives(group: Any) -> list[str]:
    found, shard = list[str](), Shard(group, "uneven")
    _ = torch.manual_seed(9)
    for kind in teaching.KINDS:
        given = two_heads.draw((N,), V)
        own = shard.parts(given)
        results = list[two_heads.Given]()
        for part, options in ((given, {}), (own, shard.told)):
            call = two_heads.ours if options else two_heads.eager
            first = two_heads.gradients(call(part, kind=kind, **options), part, create_graph=True)
            squares = sum(g.square().sum() for g in first.values())
            results.append(two_heads.gradients(squares, part))  # pyright: ignore
        found += shard.differ(kind, results[1], results[0])
    return found


def test_second_derivatives(ranks: Ranks) -> None:
    nothing_wrong(ranks.run(2, derivatives_of_derivatives))
