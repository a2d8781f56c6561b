"""Divergences of two heads whose classes are spread over ranks alike: what one process gives, and what is sent."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel.counting import sent
from tests.parallel.ranks import Ranks
from tests.parallel.shards import apart, cut, join, layout_of, nothing_wrong
from tests.torch import teaching

pytestmark = pytest.mark.slow

N, V = 5, 12


def where(group: Any, layout: str) -> tuple[int, int, dict[str, Any]]:
    shards, uneven = layout_of(layout, group.size(), V)
    first, length = shards[group.rank()]
    told: dict[str, Any] = {"process_group": group, "num_classes": V}
    return first, length, told | ({"first_class": first} if uneven else {})


def outcome(found: Any, leaves: list[Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    values = {name: x.detach() for name, x in teaching.as_dict(found).items() if name in (*names, "agreement")}
    for kind in ("random", "strided"):
        grads = teaching.gradients(found, leaves, names, kind)
        values |= {f"{kind} gradient {k}": g for k, g in enumerate(grads)}
    return values


def of_logits(group: Any, layout: str) -> list[str]:
    found: list[str] = []
    _ = torch.manual_seed(3)
    first, length, told = where(group, layout)
    warm = {"temperature": torch.rand(N, dtype=torch.float64) + 0.5, "teacher_softcap": 3.0}
    for scores, with_target in itertools.product((*teaching.SCORES, warm), (False, True)):
        z, t = (2 * torch.randn(N, V, dtype=torch.float64) for _ in range(2))
        target = torch.tensor([0, -100, V - 1, 5, 5]) if with_target else None
        names = teaching.SMOOTH if with_target else teaching.SMOOTH[:-1]
        whole = [x.clone().requires_grad_() for x in (z, t)]
        want = outcome(teaching.statistics(*whole, target=target, beta=0.3, **scores), whole, names)
        own = [cut(x, first, length, 1e4).requires_grad_() for x in (z, t)]
        _, stats = F.divergence(*own, target=target, beta=0.3, return_stats=True, **scores, **told)
        for name, x in outcome(stats, own, names).items():
            x = join(x, group, first, V) if "gradient" in name else x  # noqa: PLW2901
            found += apart(f"{layout}, {scores}, {with_target}: {name}", x, want[name])
        for kind, reduction in itertools.product(teaching.KINDS, ("mean", "none")):
            samples = torch.rand(N, dtype=torch.float64)
            options = {"kind": kind, "reduction": reduction, "sample_weight": samples, "target": target}
            given = [x.clone().requires_grad_() for x in (z, t)]
            loss, mine = F.divergence(*given, **options, **scores), F.divergence(*own, **options, **scores, **told)
            found += apart(f"{layout}, {kind}, {reduction}: loss", mine.detach(), loss.detach())
            grads = torch.autograd.grad(loss.sum(), given), torch.autograd.grad(mine.sum(), own)
            for k, (a, b) in enumerate(zip(*grads, strict=True)):
                found += apart(f"{layout}, {kind}, {reduction}: gradient {k}", join(b, group, first, V), a)
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", ["padded", "uneven", "empty", "backwards"])
def test_logits_in_shards(ranks: Ranks, n: int, layout: str) -> None:
    nothing_wrong(ranks.run(n, of_logits, layout))


def of_sparse_teachers(group: Any, layout: str) -> list[str]:
    found: list[str] = []
    _ = torch.manual_seed(4)
    first, length, told = where(group, layout)
    names = ("kl", "reverse_kl", "js", "teacher_entropy", "lse", "entropy")
    for tail, softcap in itertools.product(("ignore", "bucket"), (None, 3.0)):
        z = 2 * torch.randn(N, V, dtype=torch.float64)
        index = torch.rand(N, V).topk(4, 1).indices
        prob = 0.9 * torch.randn(N, 4, dtype=torch.float64).softmax(1)
        options: dict[str, Any] = {"tail": tail, "softcap": softcap, "beta": 0.3, "return_stats": True}
        whole, p = z.clone().requires_grad_(), prob.clone().requires_grad_()
        want = outcome(F.divergence(whole, TopK(index, p), **options)[1], [whole, p], names)
        own, p = cut(z, first, length, 1e4).requires_grad_(), prob.clone().requires_grad_()
        got = outcome(F.divergence(own, TopK(index, p), **options, **told)[1], [own, p], names)
        for name, x in got.items():
            x = join(x, group, first, V) if "gradient 0" in name else x  # noqa: PLW2901
            found += apart(f"{layout}, {tail}, {softcap}: {name}", x, want[name])
    return found


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("layout", ["padded", "uneven", "empty"])
def test_sparse_teachers_beside_shards(ranks: Ranks, n: int, layout: str) -> None:
    nothing_wrong(ranks.run(n, of_sparse_teachers, layout))


def derivatives_of_derivatives(group: Any) -> list[str]:
    _ = torch.manual_seed(5)
    first, length, told = where(group, "uneven")
    z, t = (torch.randn(N, V, dtype=torch.float64) for _ in range(2))
    found: list[str] = []
    for kind in teaching.KINDS:
        results = list[list[Tensor]]()
        for own, options in (([z, t], {}), ([cut(x, first, length) for x in (z, t)], told)):
            leaves = [x.clone().requires_grad_() for x in own]
            grads = torch.autograd.grad(F.divergence(*leaves, kind=kind, **options), leaves, create_graph=True)
            squares = sum(g.square().sum() for g in grads)
            results.append(list(torch.autograd.grad(squares, leaves)))  # pyright: ignore
        for k, (a, b) in enumerate(zip(*results, strict=True)):
            found += apart(f"{kind}: second derivative {k}", join(b, group, first, V), a)
    return found


def test_second_derivatives_in_shards(ranks: Ranks) -> None:
    nothing_wrong(ranks.run(2, derivatives_of_derivatives))


def counted(group: Any) -> list[str]:
    found: list[str] = []
    for kind in teaching.KINDS:
        z, t = (torch.randn(N, V // 2, requires_grad=True) for _ in range(2))
        loss, forward = sent(lambda kind=kind, z=z, t=t: F.divergence(z, t, kind=kind, process_group=group))
        want = Counter({("all_reduce", N): 2, ("all_reduce", 4 * N + 2): 2})
        want[("all_reduce", 4 * N if kind == "js" else 2 * N)] += 1
        if forward != want:
            found.append(f"{kind}: the forward sends {forward}, not {want}")
        _, backward = sent(loss.backward)
        if backward:
            found.append(f"{kind}: the backward sends {backward}")
    return found


def test_what_is_sent_is_what_the_docstring_says(ranks: Ranks) -> None:
    nothing_wrong(ranks.run(2, counted))


def as_dtensors(group: Any) -> list[str]:
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    found: list[str] = []
    _ = torch.manual_seed(6)
    meshes: list[tuple[Any, list[Any]]] = []
    rows = (4, 3)
    flat = DeviceMesh.from_group(group, "cpu")
    meshes += [(flat, [place]) for place in (Shard(2), Shard(0), Shard(1), Replicate())]
    if group.size() == 4:
        square = init_device_mesh("cpu", (2, 2))
        meshes += [(square, [Shard(0), Shard(2)]), (square, [Shard(2), Shard(1)]), (square, [Replicate(), Shard(2)])]
    for (mesh, places), sparse in itertools.product(meshes, (False, True)):
        z, t = (2 * torch.randn(*rows, V, dtype=torch.float64) for _ in range(2))
        target = torch.where(torch.rand(rows) < 0.3, -100, torch.randint(V, rows))
        weight, warm = torch.rand(rows, dtype=torch.float64), torch.rand(rows, dtype=torch.float64) + 0.5
        prob, index = t.softmax(-1).topk(3)
        for kind, reduction in (("reverse", "mean"), ("js", "none")):
            options: dict[str, Any] = {
                "kind": kind, "reduction": reduction, "sample_weight": weight, "target": target, "temperature": warm,
                "return_stats": True,
            }  # fmt: skip
            if kind == "js":
                options |= {"closing": lambda rows, k: k * rows.js + rows.kl * rows.entropy, "operands": (weight,)}
            elif not sparse:
                options |= {"teacher_temperature": warm + 0.3, "teacher_softcap": 3.0}
            whole = [x.clone().requires_grad_() for x in (z, t)]
            own = [distribute_tensor(x.clone(), mesh, places).requires_grad_() for x in (z, t)]
            teachers: list[Any] = [whole[1], own[1]]
            if sparse:
                teachers = [TopK(index, prob)] * 2
            loss, stats = F.divergence(whole[0], teachers[0], **options)
            mine, its = F.divergence(own[0], teachers[1], **options)
            where = f"{places}, {kind}, {reduction}, sparse {sparse}"
            found += apart(f"{where}: loss", mine.full_tensor().detach(), loss.detach())
            for name, x in teaching.as_dict(stats).items():
                found += apart(f"{where}: {name}", getattr(its, name).full_tensor().detach(), x.detach())
            count = 1 if sparse else 2
            grads = torch.autograd.grad(loss.sum(), whole[:count]), torch.autograd.grad(mine.sum(), own[:count])
            for k, (a, b) in enumerate(zip(*grads, strict=True)):
                found += apart(f"{where}: gradient {k}", b.full_tensor(), a)
    return found


@pytest.mark.parametrize("n", [2, 4])
def test_dtensors_of_both_heads(ranks: Ranks, n: int) -> None:
    nothing_wrong(ranks.run(n, as_dtensors))


def misused(group: Any) -> list[str]:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = DeviceMesh.from_group(group, "cpu")
    z = torch.randn(4, V)
    own = distribute_tensor(z, mesh, [Shard(1)])
    wrong: list[tuple[Any, Any, dict[str, Any], str]] = [
        (z, own, {}, "teacher_logits is a DTensor and the input is not"),
        (own, own, {"process_group": group}, "DTensors carry their shards"),
        (own, z[:3], {}, "teacher_logits of shape (3, 12) do not have the rows (4,)"),
        (own, z, {"teacher_classes": torch.arange(V)}, "teacher_classes maps whole vocabularies"),
        (own, z, {"target": torch.zeros(3).long()}, "fits no logits"),
        (own, torch.randn(4, 2 * V), {}, "both must have the same, or other columns"),
    ]
    found: list[str] = []
    for student, teacher, options, text in wrong:
        try:
            _ = F.divergence(student, teacher, **options)
            found.append(f"nothing was raised in place of {text}")
        except (TypeError, ValueError) as error:
            if text not in str(error):
                found.append(f"{error}, not {text}")
    return found


def test_dtensors_that_do_not_fit(ranks: Ranks) -> None:
    nothing_wrong(ranks.run(2, misused))


def other_shards(group: Any) -> list[str]:
    found: list[str] = []
    z, t = torch.randn(N, 6), torch.randn(N, 6 + group.rank())
    try:
        _ = F.divergence(z, t, process_group=group, num_classes=12, first_class=6 * group.rank())
    except ValueError as error:
        found.append(str(error))
    try:
        _ = F.divergence(z, z, process_group=group, teacher_classes=torch.arange(6))
    except ValueError as error:
        found.append(str(error))
    return found


def test_what_does_not_fit_is_said(ranks: Ranks) -> None:
    for texts in ranks.run(2, other_shards):
        assert any("teacher_classes maps whole vocabularies" in text for text in texts)
