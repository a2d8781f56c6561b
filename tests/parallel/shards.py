"""Calls of cross_entropy whose classes are spread over ranks, beside the same call with all classes on one process.

A check runs on every rank and returns what it finds wrong, as lines of text: were it to raise on one, the others would
wait for it.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain

CLOSE = 1e-12
"""What float64 may be off by, relative to the number where that is above 1."""

KINDS = ("index", "ignored", "topk", "dense")
STATS = ("lse", "logprob", "entropy", "confidence", "correct", "log_sum_squares", "predicted")
SMOOTH = ("loss", "lse", "logprob", "entropy", "log_sum_squares")
WARM = {"temperature": True, "softcap": 3.0, "z_loss": 0.1, "sample_weight": True}
"""Options with a temperature of each row."""
ALL = {"weight": True, "label_smoothing": 0.2, "temperature": 0.6, "softcap": 3.0, "z_loss": 0.1, "sample_weight": True}
LAYOUTS = ("default", "padded", "only padding", "uneven", "empty", "backwards")


def layout_of(layout: str, n: int, V: int) -> tuple[list[tuple[int, int]], bool]:
    """First class and number of columns of each rank, and whether a rank has to tell its first class."""
    if layout in {"default", "padded", "only padding"}:
        length = -(-V // max(n - (layout == "only padding"), 1)) + (n == 1 and layout != "default")
        return [(rank * length, length) for rank in range(n)], False
    edges = [*(0, 0, V // 3, V - 2)[:n], V] if layout == "empty" else [*(0, 1, V // 2, V // 2 + 1)[:n], V]
    shards = [(a, b - a) for a, b in itertools.pairwise(edges)]
    if layout == "backwards":  # and two columns of padding
        shards = [*shards[:-1], (shards[-1][0], shards[-1][1] + 2)][::-1]
    return shards, True


def axis_of(x: Tensor) -> int:
    return min(x.ndim - 1, 1)


def cut(x: Tensor, first: int, length: int, junk: float = 0.0) -> Tensor:
    """The columns of one rank, with junk for what lies beyond the last class."""
    axis = axis_of(x)
    V = x.shape[axis]
    start = min(first, V)
    kept = x.detach().narrow(axis, start, min(first + length, V) - start)
    size = list(x.shape)
    size[axis] = length - kept.shape[axis]
    return torch.cat([kept, x.new_full(size, junk)], axis)


def join(piece: Tensor, group: Any, first: int, V: int) -> Tensor:
    """The whole of what each rank has some columns of, in float64."""
    axis = axis_of(piece)
    size = list(piece.shape)
    size[axis] = V
    whole = torch.zeros(size, dtype=torch.float64)
    kept = max(0, min(first + piece.shape[axis], V) - first)
    _ = whole.narrow(axis, min(first, V), kept).copy_(piece.detach().narrow(axis, 0, kept))
    _ = dist.all_reduce(whole, group=group)
    return whole


def leaf(x: Tensor, *, requires_grad: bool = True) -> Tensor:
    return x.detach().clone().requires_grad_(requires_grad)


@dataclasses.dataclass
class Call:
    """The arguments of a call."""

    input: Any
    target: Any
    options: dict[str, Any]

    @classmethod
    def draw(cls, shape: tuple[int, ...], kind: str, spread: float = 2.0, **options: Any) -> Call:
        """Draw what the shape and the kind of target say; a weight that is True stands for a random one."""
        z = plain.logits_of(shape, spread)
        if kind in {"index", "ignored"}:
            target: Any = plain.index_of(shape, -100 if kind == "ignored" else None)
        else:
            target = (plain.topk_of if kind == "topk" else plain.probs_of)(shape, requires_grad=True)
        if options.get("weight") is True:
            options["weight"] = torch.rand(plain.classes_of(shape), dtype=torch.float64) + 0.1
        if options.get("temperature") is True:
            options["temperature"] = torch.rand(plain.rows_of(shape), dtype=torch.float64) + 0.5
        if options.get("sample_weight") is True:
            options["sample_weight"] = (torch.rand(plain.rows_of(shape), dtype=torch.float64) + 0.1).requires_grad_()
        return cls(z, target, {k: v for k, v in options.items() if v is not None and v is not False})

    @property
    def classes(self) -> int:
        return self.input.shape[axis_of(self.input)]

    def __str__(self) -> str:
        told = {k: v for k, v in self.options.items() if not isinstance(v, Tensor)}
        named = [k for k in self.options if k not in told]
        return f"{tuple(self.input.shape)} {type(self.target).__name__} {told} {named}"

    def cast(self, dtype: torch.dtype) -> Call:
        options = {k: plain.cast(v, dtype) for k, v in self.options.items()}
        return Call(plain.cast(self.input, dtype), plain.cast(self.target, dtype), options)

    def of(self, group: Any, layout: str, junk: float = 1e4) -> Call:
        """Make the call of this rank, with leaves of its own."""
        V = self.classes
        shards, told = layout_of(layout, dist.get_world_size(group), V)
        first, length = shards[dist.get_rank(group)]
        target = self.target
        if isinstance(target, TopK):
            target = TopK(target.index, leaf(target.prob, requires_grad=target.prob.requires_grad))
        elif target.is_floating_point():
            target = leaf(cut(target, first, length), requires_grad=target.requires_grad)
        options = {k: leaf(v) if k == "sample_weight" else v for k, v in self.options.items()}
        options["process_group"] = group
        if told:
            options["first_class"] = first
        if told or length * len(shards) != V:
            options["num_classes"] = V
        return Call(leaf(cut(self.input, first, length, junk)), target, options)

    def leaves(self) -> dict[str, Tensor]:
        target = self.target.prob if isinstance(self.target, TopK) else self.target
        given = {"input": self.input, "target": target, "sample_weight": self.options.get("sample_weight")}
        return {name: x for name, x in given.items() if x is not None and x.requires_grad}

    def outputs(self, function: Any = F.cross_entropy) -> dict[str, Any]:
        out = function(self.input, self.target, **self.options)
        if isinstance(out, Tensor):
            return {"loss": out}
        loss, stats = out
        return {"loss": loss} | {k: stats[k] if isinstance(stats, dict) else getattr(stats, k) for k in STATS}

    def everything(self, function: Any = F.cross_entropy) -> dict[str, Tensor]:
        """Outputs, and the gradients for random cotangents of all that are differentiable."""
        out, leaves = self.outputs(function), self.leaves()
        smooth = [out[name] for name in SMOOTH if name in out]
        cotangents = [plain.cotangent_like(x, k).to(x.dtype) for k, x in enumerate(smooth)]
        grads = torch.autograd.grad(smooth, list(leaves.values()), cotangents)
        return out | {f"gradient of {name}": g for name, g in zip(leaves, grads, strict=True)}


def part_of(whole: dict[str, Tensor], group: Any, layout: str, call: Call) -> dict[str, Tensor]:
    """What one rank has of what one process has: its columns of the gradients of logits and probabilities."""
    first, length = layout_of(layout, dist.get_world_size(group), call.classes)[0][dist.get_rank(group)]
    mine = {"slope", "gradient of input"} | (set() if isinstance(call.target, TopK) else {"gradient of target"})
    return {name: cut(x, first, length) if name in mine else x for name, x in whole.items()}


def apart(name: str, got: Tensor, want: Tensor, close: float = CLOSE) -> list[str]:
    """Say where two tensors are not the same numbers."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return [f"{name}: {got.dtype} {tuple(got.shape)} instead of {want.dtype} {tuple(want.shape)}"]
    got, want = got.detach().double(), want.detach().double()
    same = (got == want) | (got.isnan() & want.isnan())
    error = torch.where(same, 0.0, (got - want).abs() / want.abs().clamp(min=1)).nan_to_num(torch.inf)
    worst = error.max().item() if error.numel() else 0.0
    return [f"{name} is off by {worst:.3g}"] if worst > close else []


def differences(label: Any, got: dict[str, Tensor], want: dict[str, Tensor], close: float = CLOSE) -> list[str]:
    if got.keys() != want.keys():
        return [f"{label}: {sorted(got)} instead of {sorted(want)}"]
    return [f"{label}: {line}" for name in want for line in apart(name, got[name], want[name], close)]


def check(group: Any, call: Call, layout: str, junk: float = 1e4, function: Any = F.cross_entropy) -> list[str]:
    """Hold everything that this rank gets against what a function makes of the same call on one process."""
    want = part_of(call.everything(function), group, layout, call)
    return differences(f"{layout} {call}", call.of(group, layout, junk).everything(), want)


def nothing_wrong(answers: list[list[str]]) -> None:
    """Fail with the first lines of all ranks."""
    lines = [f"rank {rank}: {line}" for rank, found in enumerate(answers) for line in found]
    assert lines == [], "\n".join([f"{len(lines)} lines", *lines[:20]])
