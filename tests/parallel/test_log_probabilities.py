"""Log-probabilities of classes that are spread over ranks: what one process gives, and what is sent."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import crossent.torch as F
from tests.parallel.counting import sent
from tests.parallel.ranks import Ranks
from tests.parallel.shards import apart, cut, join, layout_of, nothing_wrong
from tests.torch import logq

pytestmark = pytest.mark.slow

V, D = 12, 4
NAMES = (*logq.FLOATS, "correct", "predicted")


def drawn(K: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, w, b = (torch.randn(*shape, dtype=torch.float64) for shape in ((5, D), (V, D), (V,)))
    return x, w, b, logq.classes_of((5, V), K, ignored=-100)


def outcome(found: Any, leaves: list[Tensor], rows: Any = None) -> dict[str, Tensor]:
    values = {name: x.detach() for name, x in logq.as_dict(found).items()}
    for kind in ("random", "strided"):
        grads = logq.gradients(found, leaves, kind=kind)
        values |= {f"{kind} gradient {k}": g for k, g in enumerate(grads)}
    return values


def where(group: Any, layout: str) -> tuple[int, int, dict[str, Any]]:
    shards, uneven = layout_of(layout, group.size(), V)
    first, length = shards[group.rank()]
    told: dict[str, Any] = {"process_group": group, "num_classes": V}
    return first, length, told | ({"first_class": first} if uneven else {})


def of_logits(group: Any, layout: str) -> list[str]:
    found: list[str] = []
    _ = torch.manual_seed(3)
    for K, scores in itertools.product((None, 1, 3), logq.SCORES):
        *_, classes = drawn(K)
        z = torch.randn(5, V, dtype=torch.float64)
        whole, (first, length, told) = z.clone().requires_grad_(), where(group, layout)
        want = outcome(logq.statistics(whole, classes, **scores), [whole])
        own = cut(z, first, length, 1e4).requires_grad_()
        got = outcome(F.logprobs(own, classes, **scores, **told), [own])
        for name, x in got.items():
            x = join(x, group, first, V) if "gradient" in name else x  # noqa: PLW2901
            found += apart(f"{layout}, {K} classes, {scores}: {name}", x, want[name])
    return found


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("layout", ["padded", "uneven", "empty", "backwards"])
def test_logits_in_shards(ranks: Ranks, n: int, layout: str) -> None:
    nothing_wrong(ranks.run(n, of_logits, layout))


def of_a_layer(group: Any, layout: str) -> list[str]:
    found: list[str] = []
    _ = torch.manual_seed(4)
    for K, scores, chunk_bytes in itertools.product((None, 3), logq.SCORES[::3], (None, 200)):
        x, w, b, classes = drawn(K)
        first, length, told = where(group, layout)
        whole = [a.clone().requires_grad_() for a in (x, w, b)]
        want = outcome(logq.statistics(torch.nn.functional.linear(*whole), classes, **scores), whole)
        own_w, own_b = (cut(a.unsqueeze(0), first, length, 1e4).squeeze(0) for a in (b, b))
        own_w = cut(w.t(), first, length, 1e4).t().contiguous()
        own = [a.requires_grad_() for a in (x.clone(), own_w, own_b)]
        got = F.linear_logprobs(own[0], own[1], classes, linear_bias=own[2], chunk_bytes=chunk_bytes, **scores, **told)
        for name, a in outcome(got, own).items():
            if name.endswith("gradient 1"):
                a = join(a.t(), group, first, V).t()  # noqa: PLW2901
            elif name.endswith("gradient 2"):
                a = join(a.unsqueeze(0), group, first, V).squeeze(0)  # noqa: PLW2901
            found += apart(f"{layout}, {K} classes, {scores}, {chunk_bytes}: {name}", a, want[name])
    return found


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("layout", ["padded", "uneven", "empty"])
def test_a_layer_in_shards(ranks: Ranks, n: int, layout: str) -> None:
    nothing_wrong(ranks.run(n, of_a_layer, layout))


def counted(group: Any) -> list[str]:
    found: list[str] = []
    N, K = 5, 3
    once = Counter({("all_reduce", N): 2, ("all_reduce", 4 * N + 2): 1})
    for kind in ("logits", "layer"):
        for classes in (torch.randint(V, (N,)), torch.randint(V, (N, K))):
            x, w = torch.randn(N, D, requires_grad=True), torch.randn(V // 2, D, requires_grad=True)
            z = torch.randn(N, V // 2, requires_grad=True)
            told: dict[str, Any] = {"process_group": group}

            def call(kind=kind, classes=classes, x=x, w=w, z=z, told=told) -> Any:
                return F.logprobs(z, classes, **told) if kind == "logits" else F.linear_logprobs(x, w, classes, **told)

            stats, forward = sent(call)
            want = once.copy()
            want[("all_reduce", N)] += 2  # a MAX for each of two records, and MAX and MIN of what is predicted
            want[("all_reduce", 4 * N + 2)] += 1
            if classes.ndim == 2:
                want[("all_reduce", N * K)] += 1
            _, backward = sent(lambda stats=stats: sum(getattr(stats, name).sum() for name in logq.SMOOTH).backward())
            of_input = Counter({("all_reduce", N * D): 1}) if kind == "layer" else Counter()
            if forward != want:
                found.append(f"{kind}, {classes.shape}: the forward sends {forward}, not {want}")
            if sum(backward.values()) > sum(of_input.values()) + (kind == "layer" and classes.ndim == 1):
                found.append(f"{kind}, {classes.shape}: the backward sends {backward}")
    return found


def test_what_is_sent_is_what_the_docstring_says(ranks: Ranks) -> None:
    nothing_wrong(ranks.run(2, counted))


def as_dtensors(group: Any) -> list[str]:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    found: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    _ = torch.manual_seed(5)
    for K, rows in itertools.product((None, 3), ((4,), (2, 4))):
        z, classes = torch.randn(*rows, V, dtype=torch.float64), logq.classes_of((*rows, V), K, ignored=-100)
        whole = z.clone().requires_grad_()
        want = outcome(logq.statistics(whole, classes), [whole])
        x, w = torch.randn(*rows, D, dtype=torch.float64), torch.randn(V, D, dtype=torch.float64)
        parts = [a.clone().requires_grad_() for a in (x, w)]
        of_layer = outcome(logq.statistics(torch.nn.functional.linear(*parts), classes), parts)
        for place in (Shard(len(rows)), Shard(0), Replicate()):
            own = distribute_tensor(z.clone(), mesh, [place]).requires_grad_()
            found += compared(f"logits, {place}, {K}, {rows}", F.logprobs(own, classes), [own], want)
        for of_x, of_w in itertools.product((Shard(0), Replicate()), (Shard(0), Replicate())):
            own_x = distribute_tensor(x.clone(), mesh, [of_x]).requires_grad_()
            own_w = distribute_tensor(w.clone(), mesh, [of_w]).requires_grad_()
            got = F.linear_logprobs(own_x, own_w, classes)
            found += compared(f"layer, {of_x}, {of_w}, {K}, {rows}", got, [own_x, own_w], of_layer)
    return found


def compared(label: str, got: Any, leaves: list[Any], want: dict[str, Tensor]) -> list[str]:
    values = {name: getattr(got, name).full_tensor().detach() for name in NAMES}
    total: Any = 0
    for k, name in enumerate(logq.SMOOTH):
        g = torch.randn(want[name].shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        total = total + (getattr(got, name).full_tensor() * g).sum()
    _ = torch.autograd.grad(total, leaves)
    return [text for name in NAMES for text in apart(f"{label}: {name}", values[name], want[name])]


def test_dtensors_of_logits_and_of_a_layer(ranks: Ranks) -> None:
    nothing_wrong(ranks.run(2, as_dtensors))
