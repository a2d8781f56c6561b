"""A head with adapters, or a weight made when needed, whose classes lie on several ranks: as on one process."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel.linear import CUTS, DIFFERENTIABLE, REDUCTIONS, SHAPES, Split, agree, differ, is_dense
from tests.parallel.ranks import Ranks
from tests.torch import adapted, logq, plain, teaching
from tests.torch.adapted import ADAPTERS, draw
from tests.torch.linear import KINDS, WITH, Shape

pytestmark = pytest.mark.slow

any_ranks = pytest.mark.parametrize("n", [1, 2, 3, 4])
Named = dict[str, Tensor]
ROWS, WIDE = Shape((5,), (), 7, 3), Shape((6,), (), 23, 5)


class Shard:
    """The classes that a rank has: weight, bias and each b are cut, input, each a and each own input are whole."""

    def __init__(self, group: Any, cut: str, args: tuple[Any, ...]) -> None:
        self.split = Split(group, cut, args[:5])
        for k in range(len(args) // 3):
            self.split.axes[f"b {k}"] = 0
        self.told: dict[str, Any] = {
            "process_group": group, "num_classes": self.split.classes, "first_class": self.split.first,
        }  # fmt: skip
        if cut == "equal":
            del self.told["first_class"]

    def args(self, args: tuple[Any, ...], padding: float = 3.0) -> tuple[Any, ...]:
        """What this rank passes."""
        found: list[Any] = []
        for name, x in zip(all_names(args), args, strict=True):
            if isinstance(x, TopK):
                found.append(TopK(x.index, x.prob.detach().clone().requires_grad_(x.prob.requires_grad)))
            elif isinstance(x, Tensor) and x.is_floating_point():
                fill = 0.0 if name == "prob" else padding
                part = self.split.part(name, x, fill) if name != "prob" or is_dense(x) else x
                found.append(part.detach().clone().requires_grad_(x.requires_grad))
            else:
                found.append(x)
        return tuple(found)

    def expected(self, whole: Named) -> Named:
        """What this rank is to get of an outcome; padding has zeros."""
        return {k: self.split.part(k.rpartition(" by ")[2], x) for k, x in whole.items()}


def all_names(args: tuple[Any, ...]) -> list[str]:
    adapters = [f"{name} {k}" for k in range(len(args)) for name in adapted.Adapter._fields]
    return [*adapted.NAMES, *adapters][: len(args)]


def outcome(function: Any, args: tuple[Any, ...], options: dict[str, Any], *, stats: bool = False) -> Named:
    """Values, and gradients for random cotangents of each and of all at once."""
    result = function(*args, **options, return_stats=True) if stats else function(*args, **options)
    loss, more = result if stats else (result, {})
    read = more.__getitem__ if isinstance(more, dict) else lambda k: getattr(more, k)
    parts = {"loss": loss} | {k: read(k) for k in DIFFERENTIABLE if stats}
    found = dict(parts) | {k: read(k) for k in ("confidence", "correct", "predicted") if stats}
    names, leaves = adapted.names_of(args), plain.leaves(*args)
    kept: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    gs = {k: plain.cotangent_like(x, seed).to(x.dtype) for seed, (k, x) in enumerate(parts.items())}
    for k, x in parts.items():
        grads = torch.autograd.grad(x, leaves, gs[k], **kept)
        found |= {f"{k} by {name}": g for name, g in zip(names, grads, strict=True)}
    grads = torch.autograd.grad(list(parts.values()), leaves, list(gs.values()), **kept)
    found |= {f"all by {name}": g for name, g in zip(names, grads, strict=True)}
    return {k: x.detach() for k, x in found.items()}


def check(
    group: Any, cut: str, args: tuple[Any, ...], options: dict[str, Any], *, stats: bool = False,
    chunk_bytes: int | None = None, padding: float = 3.0, call: Any = adapted.ours, where: str = "",
) -> list[str]:  # fmt: skip
    """What of a call whose classes are cut is not as the plain loss of the whole weight in one process."""
    shard = Shard(group, cut, args)
    got = outcome(call, shard.args(args, padding), options | shard.told | {"chunk_bytes": chunk_bytes}, stats=stats)
    want = outcome(adapted.exact, args, options, stats=stats)
    want = {k: x.bool() if k == "correct" else x for k, x in want.items()}
    return differ(got, shard.expected(want), f"{cut}, chunks of {chunk_bytes}, {where}")


def every_option(group: Any, kind: str, stats: bool) -> list[str]:
    wrong: list[str] = []
    first = KINDS.index(kind) + group.size()
    for turn, (option, reduction) in enumerate(itertools.product(WITH, REDUCTIONS), first):
        if stats and turn % 3 != list(WITH).index(option) % 3:
            continue
        _ = torch.manual_seed(1000 * group.size() + 100 * KINDS.index(kind) + turn)
        shape, cut = SHAPES[turn % len(SHAPES)], CUTS[turn // 2 % 4]
        chunk_bytes, adapters = (None, 200, 60)[turn % 3], list(ADAPTERS)[turn % 5]
        alone = ("sample_weight",) if shape.rows == () and reduction == "mean" else ()
        args, options = draw(shape, kind, option, adapters=adapters, bias=turn % 5 != 0, frozen=alone)
        options |= {"reduction": reduction}
        where = f"{option}, {reduction}, {shape}, {adapters}"
        wrong += check(group, cut, args, options, stats=stats, chunk_bytes=chunk_bytes, where=where)
    return wrong


@any_ranks
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stats", [False, True], ids=["loss", "statistics"])
def test_every_option_of_every_target(ranks: Ranks, stats: bool, kind: str, n: int) -> None:
    agree(ranks.run(n, every_option, kind, stats))


def each_adapter(group: Any, adapters: str) -> list[str]:
    """A frozen weight too, and parts of the adapter that learn alone."""
    wrong: list[str] = []
    stills: tuple[tuple[str, ...], ...] = (
        (), ("linear_weight", "linear_bias"), ("linear_weight", "linear_bias", "input", "own"),
        ("linear_weight", "linear_bias", "input", "own", "b"), ("a", "b", "own"),
    )  # fmt: skip
    turns = adapted.turns(CUTS, (None, 200, 60, None, 200))
    for frozen, reduction in itertools.product(stills, REDUCTIONS):
        cut, chunk_bytes = next(turns)
        _ = torch.manual_seed(0)
        args, options = draw(WIDE, "ignored", adapters=adapters, bias=True, frozen=frozen)
        options |= {"reduction": reduction}
        wrong += check(
            group, cut, args, options, chunk_bytes=chunk_bytes, where=f"{adapters}, {frozen} frozen, {reduction}"
        )
    return wrong


@any_ranks
@pytest.mark.parametrize("adapters", ADAPTERS)
def test_each_adapter(ranks: Ranks, adapters: str, n: int) -> None:
    agree(ranks.run(n, each_adapter, adapters))


def padded(group: Any) -> list[str]:
    wrong: list[str] = []
    for reduction, padding, adapters in itertools.product(("mean", "none"), (torch.inf, torch.nan), ("one", "two")):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, "ignored", "everything", adapters=adapters, bias=True)
        options |= {"reduction": reduction}
        wrong += check(group, "equal", args, options, stats=True, padding=padding, where=f"padded with {padding}")
    return wrong


@pytest.mark.parametrize("n", [2, 4])
def test_padding_may_hold_anything(ranks: Ranks, n: int) -> None:
    agree(ranks.run(n, padded))


def ignored(group: Any) -> list[str]:
    """NaN in rows that are gone reaches neither a nor b on any rank."""
    wrong: list[str] = []
    for chunk_bytes, adapters in itertools.product((None, 200), ADAPTERS):
        reduction = "mean" if chunk_bytes else "sum"
        _ = torch.manual_seed(0)
        args, options = draw(WIDE, "index", adapters=adapters, bias=True)
        gone = torch.arange(6) % 3 == 1
        args = (*args[:2], torch.where(gone, -100, args[2]), *args[3:])
        options |= {"reduction": reduction}
        want = outcome(adapted.exact, args, options)
        with torch.no_grad():
            for name, x in zip(all_names(args), args, strict=True):
                if (name == "input" or name.startswith("own")) and x is not None:
                    x[gone] = math.nan
        shard = Shard(group, "uneven", args)
        got = outcome(adapted.ours, shard.args(args), options | shard.told | {"chunk_bytes": chunk_bytes})
        wrong += differ(got, shard.expected(want), f"{adapters}, {reduction}, chunks of {chunk_bytes}")
    return wrong


@any_ranks
def test_a_row_that_is_ignored_holds_anything(ranks: Ranks, n: int) -> None:
    agree(ranks.run(n, ignored))


def twice(group: Any) -> list[str]:
    """The gradient of a gradient, by everything."""
    wrong: list[str] = []
    for turn, (adapters, reduction) in enumerate(itertools.product(ADAPTERS, REDUCTIONS)):
        _ = torch.manual_seed(turn)
        args, options = draw(ROWS, "ignored", "softcap", adapters=adapters, bias=True)
        options |= {"reduction": reduction}
        shard, found = Shard(group, CUTS[turn % 2], args), []
        for call, own, more in ((adapted.ours, shard.args(args), shard.told), (adapted.exact, args, {})):
            names, leaves = adapted.names_of(own), plain.leaves(*own)
            out = call(*own, **options, **more)
            grads = torch.autograd.grad(out, leaves, plain.cotangent_like(out), create_graph=True)
            cots = []
            for seed, (name, g) in enumerate(zip(names, grads, strict=True)):
                cot = plain.cotangent_like(torch.empty(shard.split.whole_shape(name, g)), seed)
                cots.append(cot if own is args else shard.split.part(name, cot))
            kept: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
            second = torch.autograd.grad(grads, leaves, cots, **kept)
            found.append({f"twice by {name}": g for name, g in zip(names, second, strict=True)})
        wrong += differ(found[0], shard.expected(found[1]), f"{adapters}, {reduction}")
    return wrong


@pytest.mark.parametrize("n", [2, 3])
def test_second_derivatives(ranks: Ranks, n: int) -> None:
    agree(ranks.run(n, twice))


def in_dtypes(group: Any, dtype: torch.dtype, of_adapters: torch.dtype) -> list[str]:
    """As wrong as one process is, at most, beside the same truth."""
    wrong: list[str] = []
    for adapters, reduction in itertools.product(ADAPTERS, REDUCTIONS):
        _ = torch.manual_seed(1)
        args, options = draw(Shape((30,), (), 23, 5), "ignored", adapters=adapters, bias=True)
        args, options = adapted.cast(args, dtype, of_adapters), options | {"reduction": reduction}
        shard = Shard(group, "uneven", args)

        def everywhere(*own: Any, shard: Shard = shard, **more: Any) -> Tensor:
            return adapted.ours(*own, **more, **shard.told)

        got = outcome(everywhere, shard.args(args), options)
        want = outcome(adapted.exact, adapted.doubled(args), options)
        near = [outcome(f, adapted.cast_alike(args), options) for f in adapted.rivals(args, options)]
        for k, x in got.items():
            whole = shard.split.whole(k.rpartition(" by ")[2], x)
            floor = max(plain.FLOOR[d] for d in (dtype, of_adapters)) if " by " in k else plain.FLOOR[torch.float32]
            try:
                adapted.agree(k, whole, want[k], [other[k] for other in near], floor)
            except AssertionError as error:
                wrong.append(f"{adapters}, {reduction}: {error}")
    return wrong


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(
    "dtypes",
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)],
    ids=str,
)
def test_the_error_of_a_dtype_is_that_of_one_process(ranks: Ranks, dtypes: Any, n: int) -> None:
    agree(ranks.run(n, in_dtypes, *dtypes))


# Other functions


def log_probabilities(group: Any, K: int | None) -> list[str]:
    wrong: list[str] = []
    for turn, (adapters, scores) in enumerate(itertools.product(ADAPTERS, logq.SCORES)):
        _ = torch.manual_seed(2)
        args, options = draw(Shape((9,), (), 23, 5), adapters=adapters, bias=True)
        scales, classes = options["scales"], logq.classes_of((9, 23), K, ignored=-100)
        args = (*args[:2], None, *args[3:])
        shard = Shard(group, CUTS[turn % 4], (*args[:2], torch.zeros(9).long(), *args[3:]))
        own, found = shard.args(args), []
        got = F.linear_logprobs(
            own[0], adapted.weight_of(own[1], own[5:], scales), classes, linear_bias=own[3],
            chunk_bytes=(None, 300)[turn % 2], **scores, **shard.told,
        )  # fmt: skip
        x, w = adapted.whole(args[0], args[1], args[5:], scales)
        want = logq.statistics(torch.nn.functional.linear(x, w, args[3]), classes, **scores)
        for held, given in ((got, own), (want, args)):
            values = logq.as_dict(held)
            grads = logq.gradients(held, plain.leaves(*given))
            found.append(
                {k: values[k].detach() for k in logq.FLOATS}
                | {f"all by {n}": g for n, g in zip(adapted.names_of(given), grads, strict=True)}
            )
        wrong += differ(found[0], shard.expected(found[1]), f"{adapters}, {scores}")
    return wrong


@any_ranks
@pytest.mark.parametrize("K", [None, 3])
def test_log_probabilities(ranks: Ranks, K: int | None, n: int) -> None:
    agree(ranks.run(n, log_probabilities, K))


def divergences(group: Any, side: str) -> list[str]:
    wrong: list[str] = []
    turns = itertools.cycle((None, 1, 400))
    for turn, (kind, reduction, adapters) in enumerate(itertools.product(teaching.KINDS, REDUCTIONS, ADAPTERS)):
        _ = torch.manual_seed(turn)
        args, options = draw(Shape((6,), (), 12, 5), adapters=adapters, bias=True)
        args = (*args[:2], None, *args[3:])
        other = [torch.randn(n, dtype=torch.float64).requires_grad_() for n in ((6, 3), (12, 3))]
        target = torch.tensor([0, -100, 11, 5, 5, 1])
        shard = Shard(group, CUTS[turn % 4], (*args[:2], target, *args[3:]))
        own = shard.args(args)
        theirs = [other[0].detach().clone(), shard.split.part("linear_weight", other[1])]
        theirs = [x.requires_grad_() for x in theirs]
        held = adapted.weight_of(own[1], own[5:], options["scales"])
        how = {"kind": kind, "reduction": reduction, "target": target, "temperature": 0.7}
        told = how | shard.told | {"chunk_bytes": next(turns)}
        if side == "student":
            got = F.linear_divergence(own[0], held, *theirs, linear_bias=own[3], **told)
        else:
            got = F.linear_divergence(*theirs, own[0], held, teacher_bias=own[3], **told)
        x, w = adapted.whole(args[0], args[1], args[5:], options["scales"])
        pair = [torch.nn.functional.linear(x, w, args[3]), other[0] @ other[1].T]
        want = F.divergence(*(pair if side == "student" else pair[::-1]), **how)
        found = []
        for out, given, beside in ((got, own, theirs), (want, args, other)):
            names = [*adapted.names_of(given), "other input", "linear_weight"]
            leaves = [*plain.leaves(*given), *beside]
            grads = torch.autograd.grad(out, leaves, plain.cotangent_like(want))
            kept = {f"loss by {n}": g for n, g in zip(names[:-1], grads[:-1], strict=True)}
            found.append({"loss": out.detach()} | kept | {"other by linear_weight": grads[-1]})
        wrong += differ(found[0], shard.expected(found[1]), f"{kind}, {reduction}, {adapters}")
    return wrong


@any_ranks
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_divergences(ranks: Ranks, side: str, n: int) -> None:
    agree(ranks.run(n, divergences, side))


# A weight that is made when needed


def made(w: Tensor) -> Any:
    return F.Dequantized(lambda begin, end: w.detach()[begin:end], tuple(w.shape), w.dtype)


def dequantised(group: Any, adapters: str) -> list[str]:
    def call(x: Tensor, w: Tensor, *rest: Any, **options: Any) -> Any:
        return adapted.ours(x, made(w), *rest, **options)

    wrong: list[str] = []
    turns = adapted.turns(CUTS, (3.0, torch.nan, torch.inf))
    for reduction, chunk_bytes, _turn in itertools.product(REDUCTIONS, (None, 200), range(2)):
        cut, padding = next(turns)
        _ = torch.manual_seed(0)
        args, options = draw(WIDE, "ignored", "smoothing", adapters=adapters, bias=True, frozen=("linear_weight",))
        options |= {"reduction": reduction}
        wrong += check(
            group, cut, args, options, chunk_bytes=chunk_bytes, padding=padding, call=call, where=f"{reduction}"
        )
    return wrong


@any_ranks
@pytest.mark.parametrize("adapters", ["one", "three, one of its own"])
def test_a_weight_that_is_made_when_needed(ranks: Ranks, adapters: str, n: int) -> None:
    agree(ranks.run(n, dequantised, adapters))


# DTensors


def on_a_mesh(group: Any, rows_too: bool) -> list[str]:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
    from torch.distributed.tensor import Shard as Sharded

    mesh, wrong = DeviceMesh.from_group(group, "cpu"), list[str]()
    for turn, (adapters, reduction) in enumerate(itertools.product(ADAPTERS, REDUCTIONS)):
        _ = torch.manual_seed(turn)
        args, options = draw(Shape((12,), (), 24, 5), adapters=adapters, bias=True)
        options |= {"reduction": reduction}
        want = outcome(adapted.exact, args, options)
        of_rows, of_classes, whole = [Sharded(0) if rows_too else Replicate()], [Sharded(0)], [Replicate()]
        places = {"input": of_rows, "linear_weight": of_classes, "linear_bias": of_classes}
        places |= {"a": whole, "b": of_classes, "own": of_rows}
        own = list(args)
        for k, (name, x) in enumerate(zip(all_names(args), args, strict=True)):
            if isinstance(x, Tensor) and name.split()[0] in places:
                own[k] = distribute_tensor(x.detach(), mesh, places[name.split()[0]]).requires_grad_()
            elif name == "prob" and rows_too:
                own[k] = distribute_tensor(x, mesh, of_rows)
        loss = adapted.ours(*own, **options)
        names, leaves = adapted.names_of(tuple(own)), plain.leaves(*own)
        local = loss.full_tensor() if isinstance(loss, DTensor) else loss
        (local * plain.cotangent_like(local)).sum().backward()
        got = {"loss": local.detach()}
        for name, leaf in zip(names, leaves, strict=True):
            got[f"loss by {name}"] = leaf.grad.full_tensor()
        wrong += differ(got, {k: x for k, x in want.items() if k in got}, f"{adapters}, {reduction}")
    return wrong


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("rows_too", [False, True], ids=["whole rows", "rows over the ranks too"])
def test_dtensors(ranks: Ranks, rows_too: bool, n: int) -> None:
    agree(ranks.run(n, on_a_mesh, rows_too))
