"""A linear layer whose classes lie on several ranks, and everything that a call of it gives."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import linear, plain
from tests.torch.linear import Shape

VECTOR, ROWS, TOKENS = Shape((), (), 5, 3), Shape((5,), (), 7, 3), Shape((2, 3), (), 7, 4)
PIXELS, WIDE = Shape((4,), (3,), 5, 2), Shape((6,), (), 23, 5)
EVEN = Shape((3, 2), (), 12, 3)
SHAPES = (VECTOR, ROWS, TOKENS, PIXELS, WIDE, EVEN)
CUTS = ("equal", "uneven", "empty", "turned")
REDUCTIONS = ("mean", "sum", "none")
WITHIN = 1e-12
"""How far float64 may be from one process, relative to the larger of 1 and the number."""
LEAVES = ("input", "linear_weight", "prob", "linear_bias", "sample_weight")
DIFFERENTIABLE = ("lse", "logprob", "entropy", "log_sum_squares")
alone = linear.by_position(F.linear_cross_entropy)


class Split:
    """The classes that a rank has of a call's: from `first`, of its `rows` those beyond the classes are padding."""

    def __init__(self, group: Any, cut: str, args: tuple[Any, ...]) -> None:
        self.group, self.cut, self.classes = group, cut, len(args[1])
        n, rank = dist.get_world_size(group), dist.get_rank(group)
        if cut == "equal":
            self.rows = -(-self.classes // n)
            self.first = rank * self.rows
        else:
            edges = [k * self.classes // n for k in range(n + 1)]
            if cut == "empty" and n > 1:  # one rank in the middle has none
                edges = [k * self.classes // (n - 1) for k in range(n)]
                edges.insert(n // 2, edges[n // 2])
            k = n - 1 - rank if cut == "turned" else rank
            self.first, self.rows = edges[k], edges[k + 1] - edges[k]
        self.have = max(0, min(self.rows, self.classes - self.first))
        self.axes = {"linear_weight": 0, "linear_bias": 0}
        if is_dense(args[2]):
            self.axes["prob"] = args[0].ndim - 1

    def part(self, name: str, x: Tensor, padding: float = 0.0) -> Tensor:
        """What a rank has of what is called so."""
        if name not in self.axes:
            return x
        axis = self.axes[name]
        kept = x.detach().narrow(axis, min(self.first, self.classes), self.have)
        rest = [*x.shape[:axis], self.rows - self.have, *x.shape[axis + 1 :]]
        return torch.cat([kept, x.new_full(rest, padding)], axis)

    def whole(self, name: str, x: Tensor) -> Tensor:
        """All ranks' parts, without padding."""
        if name not in self.axes:
            return x
        axis = self.axes[name]
        shape = self.whole_shape(name, x)
        out = torch.zeros(shape, dtype=torch.float64)
        _ = out.narrow(axis, min(self.first, self.classes), self.have).copy_(x.narrow(axis, 0, self.have))
        _ = dist.all_reduce(out, group=self.group)
        return out.to(x.dtype)

    def whole_shape(self, name: str, x: Tensor) -> list[int]:
        return [self.classes if self.axes.get(name) == axis else size for axis, size in enumerate(x.shape)]

    def args(self, args: tuple[Any, ...], padding: float = 3.0) -> tuple[Any, ...]:
        """The arguments that this rank passes; those that are cut are leaves."""
        paddings = {"linear_weight": padding, "linear_bias": padding}
        return tuple(
            self.part(name, x, paddings.get(name, 0.0)).requires_grad_(x.requires_grad)
            if isinstance(x, Tensor) and name in self.axes
            else x
            for name, x in zip(LEAVES, args, strict=False)
        )

    def function(self, **more: Any) -> Any:
        """The loss, told what the rank has unless that is what it takes for granted."""
        told: dict[str, Any] = {"process_group": self.group, "num_classes": self.classes, "first_class": self.first}
        if self.cut == "equal":
            del told["first_class"]
            if self.classes % dist.get_world_size(self.group) == 0:
                del told["num_classes"]
        return linear.by_position(lambda *args, **options: F.linear_cross_entropy(*args, **told, **options, **more))

    def expected(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this rank is to get of an outcome; padding has zeros."""
        return {k: self.part(k.rpartition(" by ")[2], x) for k, x in whole.items()}


def agree(results: list[list[str]]) -> None:
    """No rank has found anything wrong."""
    found = [f"rank {rank}: {text}" for rank, wrong in enumerate(results) for text in wrong]
    assert not found, "\n".join(found)


def is_dense(target: Any) -> bool:
    return isinstance(target, Tensor) and target.is_floating_point()


# What a call gives


def named_leaves(args: tuple[Any, ...]) -> dict[str, Tensor]:
    """The differentiable ones of input, weight, target, bias and sample weight."""
    values = [x.prob if isinstance(x, TopK) else x for x in args]
    return {k: x for k, x in zip(LEAVES, values, strict=False) if isinstance(x, Tensor) and x.requires_grad}


def outcome(
    function: Any,
    args: tuple[Any, ...],
    options: dict[str, Any],
    *,
    stats: bool = False,
    twice: bool = False,
    split: Split | None = None,
) -> dict[str, Tensor]:
    """Values, gradients for random cotangents, and if wanted the gradients of these."""
    result = function(*args, **options, return_stats=True) if stats else function(*args, **options)
    loss, more = result if stats else (result, {})
    more = (
        more
        if isinstance(more, dict)
        else {k: getattr(more, k) for k in (*DIFFERENTIABLE, "confidence", "correct", "predicted")}
    )
    parts = {"loss": loss} | {k: more[k] for k in DIFFERENTIABLE if stats}
    found = dict(parts) | {k: more[k] for k in ("confidence", "correct", "predicted") if stats}
    leaves = named_leaves(args)
    kept: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    gs = {k: plain.cotangent_like(x, seed).to(x.dtype) for seed, (k, x) in enumerate(parts.items())}
    for k, x in parts.items() if leaves else ():
        grads = torch.autograd.grad(x, list(leaves.values()), gs[k], **kept)
        found |= {f"{k} by {name}": g for name, g in zip(leaves, grads, strict=True)}
    if stats or twice:
        grads = torch.autograd.grad(
            list(parts.values()), list(leaves.values()), list(gs.values()), **kept, create_graph=twice
        )
        found |= {f"all by {name}": g for name, g in zip(leaves, grads, strict=True)}
    if twice:
        there = {k: found[f"all by {k}"] for k in leaves if found[f"all by {k}"].requires_grad}
        cots: list[Tensor] = []
        for seed, (k, g) in enumerate(there.items(), 9):
            cot = plain.cotangent_like(torch.empty(split.whole_shape(k, g) if split else g.shape), seed)
            cots.append(split.part(k, cot) if split else cot)
        grads = torch.autograd.grad(list(there.values()), list(leaves.values()), cots, **kept)
        found |= {f"twice by {name}": g for name, g in zip(leaves, grads, strict=True)}
    return {k: x.detach() for k, x in found.items()}


def off(got: Tensor, want: Tensor) -> float:
    """The largest error relative to the larger of 1 and the number; NaN and infinities must match."""
    got, want = got.double(), want.double()
    same = (got == want) | (got.isnan() & want.isnan())
    error = torch.where(same, 0.0, (got - want).abs() / want.abs().clamp(min=1))
    return error.nan_to_num(torch.inf).max().item() if error.numel() else 0.0


def differ(got: dict[str, Tensor], want: dict[str, Tensor], where: object = "") -> list[str]:
    """What of an outcome is not that of another."""
    wrong = [f"{where}: only one has {sorted(got.keys() ^ want.keys())}"] if got.keys() != want.keys() else []
    for k in got.keys() & want.keys():
        a, b = got[k], want[k]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            wrong.append(f"{where}: {k} is {a.dtype} {tuple(a.shape)}, not {b.dtype} {tuple(b.shape)}")
        elif not off(a, b) <= WITHIN:
            wrong.append(f"{where}: {k} is off by {off(a, b):.3g}")
    return wrong


def check(
    group: Any,
    cut: str,
    args: tuple[Any, ...],
    options: dict[str, Any],
    *,
    stats: bool = False,
    twice: bool = False,
    chunk_bytes: int | None = None,
    padding: float = 3.0,
    where: str = "",
) -> list[str]:
    """What of a call, the classes of which are cut, is not as in one process."""
    split = Split(group, cut, args)
    call = split.function(chunk_bytes=chunk_bytes)
    got = outcome(call, split.args(args, padding), options, stats=stats, twice=twice, split=split)
    want = outcome(alone, args, options, stats=stats, twice=twice)
    return differ(got, split.expected(want), f"{cut}, chunks of {chunk_bytes}, {where}")


def check_dtype(group: Any, cut: str, dtype: torch.dtype, args: tuple[Any, ...], options: dict[str, Any]) -> list[str]:
    """What of a call in a dtype is further from the plain loss in float64 than one process may be."""
    stats = options["reduction"] == "none"
    args = tuple(plain.cast(x, dtype) for x in args)
    options = {k: plain.cast(v, dtype) for k, v in options.items()}
    split = Split(group, cut, args)
    got = outcome(split.function(), split.args(args), options, stats=stats)
    exacts = [plain.cast(x, torch.float64) for x in args], {k: plain.cast(v, torch.float64) for k, v in options.items()}
    want = outcome(linear.linear_cross_entropy, tuple(exacts[0]), exacts[1], stats=stats)
    rival = outcome(linear.in_float32(linear.linear_cross_entropy), args, options, stats=stats)
    wrong: list[str] = []
    for k, x in got.items():
        whole = split.whole(k.rpartition(" by ")[2], x)
        like = want[k].to(dtype if " by " in k else torch.float64 if dtype == torch.float64 else torch.float32)
        if k not in ("correct", "predicted") and whole.dtype != like.dtype:
            wrong.append(f"{k} is {whole.dtype}")
        try:
            plain.agree(k, whole, want[k], rival[k], plain.FLOOR[like.dtype])
        except AssertionError as error:
            wrong.append(f"{options}: {error}")
    return wrong
