"""A linear layer whose operands are DTensors, and everything that a call of it gives, here and in one process."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel.linear import DIFFERENTIABLE, alone, differ, is_dense, named_leaves, outcome
from tests.torch import linear, plain

R, S0, S1 = Replicate(), Shard(0), Shard(1)
Placements = tuple[Placement, ...]
call = linear.by_position(F.linear_cross_entropy)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a mesh has the input and the layer, and whether it has the other arguments too or every rank them whole."""

    mesh: DeviceMesh
    input: Placements
    weight: Placements
    bias: Placements | None = None
    whole: bool = False
    by_rows: bool = False
    padding: int = 0

    def __str__(self) -> str:
        text = f"{self.input} × {self.weight}, bias {self.bias}, padded by {self.padding}"
        return f"{text}, targets are {'whole' if self.whole else 'of rows' if self.by_rows else 'of classes'}"

    def placements(self, name: str, args: tuple[Any, ...]) -> Placements | None:
        """Of an argument; None for one that is whole."""
        if name == "input":
            return self.input
        if name == "linear_weight":
            return self.weight
        if name == "linear_bias":
            return self.bias or self.weight
        if self.whole:
            return None
        if name == "weight":
            return self.weight if self.by_rows else tuple(R for _ in self.weight)
        if name == "prob" and is_dense(args[2]) and not self.by_rows:
            classes = Shard(args[0].ndim - 1)
            return tuple(
                classes if w != R else x if isinstance(x, Shard) else R
                for x, w in zip(self.input, self.weight, strict=True)
            )
        return self.input

    def place(self, name: str, x: Tensor, args: tuple[Any, ...], fill: float = 0.0) -> Tensor:
        """What is called so, or its gradient, padded and on the mesh."""
        axis = {"linear_weight": 0, "linear_bias": 0}.get(name, args[0].ndim - 1 if is_dense(args[2]) else -1)
        x = x.detach()
        if self.padding and (name in {"linear_weight", "linear_bias"} or (name == "prob" and axis >= 0)):
            x = torch.cat([x, x.new_full([*x.shape[:axis], self.padding, *x.shape[axis + 1 :]], fill)], axis)
        placements = self.placements(name, args)
        return x if placements is None else on(self.mesh, x, placements)

    def args(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        def leaf(name: str, x: Any, fill: float = 0.0) -> Any:
            return None if x is None else self.place(name, x, args, fill).requires_grad_(x.requires_grad)

        x, w, t, b, s = args
        target = TopK(leaf("index", t.index), leaf("prob", t.prob)) if isinstance(t, TopK) else leaf("prob", t)
        parts = leaf("input", x), leaf("linear_weight", w, 3.0), target, leaf("linear_bias", b, 3.0)
        return (*parts, leaf("sample_weight", s))

    def options(self, args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
        placed = {k: self.place(k, x, args) if isinstance(x, Tensor) else x for k, x in options.items()}
        return placed | ({"num_classes": len(args[1])} if self.padding else {})


def on(mesh: DeviceMesh, x: Tensor, placements: Placements) -> Tensor:
    return distribute_tensor(x, mesh, placements, src_data_rank=None)


def here(x: Any) -> Tensor:
    return (x.to_local() if isinstance(x, DTensor) else x).detach()


def like(x: Tensor, of: Tensor) -> Tensor:
    """A whole tensor, placed as another is."""
    return on(of.device_mesh, x, tuple(of.placements)) if isinstance(of, DTensor) else x


def check(
    layout: Layout,
    args: tuple[Any, ...],
    options: dict[str, Any],
    *,
    stats: bool = False,
    twice: bool = False,
    where: str = "",
) -> list[str]:
    """What of a call is not as in one process, or not where it is to be."""
    parts, wrong = layout.args(args), list[str]()
    result = call(*parts, **layout.options(args, options), return_stats=stats)
    loss, more = result if stats else (result, None)
    values = {"loss": loss} | {k: getattr(more, k) for k in DIFFERENTIABLE if stats}
    leaves = named_leaves(parts)
    gs = {k: like(plain.cotangent_like(x, seed), x) for seed, (k, x) in enumerate(values.items())}
    names, roots = list(leaves), list(values.values())
    grads = torch.autograd.grad(roots, list(leaves.values()), list(gs.values()), create_graph=twice, retain_graph=True)
    prefix = "all" if stats or twice else "loss"
    found = values | {k: getattr(more, k) for k in ("confidence", "correct", "predicted") if stats}
    found |= {f"{prefix} by {k}": g for k, g in zip(names, grads, strict=True)}
    if twice:
        there = {k: g for k, g in zip(names, grads, strict=True) if g.requires_grad}
        whole = named_leaves(args)
        cots = [layout.place(k, plain.cotangent_like(whole[k], seed), args) for seed, k in enumerate(there, 9)]
        grads = torch.autograd.grad(
            list(there.values()), list(leaves.values()), cots, allow_unused=True, materialize_grads=True
        )
        found |= {f"twice by {k}": g for k, g in zip(names, grads, strict=True)}
    for k, x in found.items():
        leaf = leaves.get(k.rpartition(" by ")[2])
        if leaf is None:
            allowed = Shard if x.ndim else Replicate
            right = isinstance(x, DTensor) and all(isinstance(p, (Replicate, allowed)) for p in x.placements)
        else:
            right = getattr(x, "placements", None) == getattr(leaf, "placements", None)
        if not right:
            wrong.append(f"{layout}, {where}: {k} is {getattr(x, 'placements', 'no DTensor')}")
    want = outcome(alone, args, options, stats=stats, twice=twice)
    want = {k: x for k, x in want.items() if k in found}
    expect = {
        k: here(layout.place(k.rpartition(" by ")[2], x, args) if " by " in k else like(x, found[k]))
        for k, x in want.items()
    }
    return wrong + differ({k: here(x) for k, x in found.items()}, expect, f"{layout}, {where}")
