"""Divergences of two linear heads that are DTensors: what one process gives, placed as the operands are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel.ranks import Ranks
from tests.parallel.shards import apart, nothing_wrong
from tests.torch import teaching

pytestmark = pytest.mark.slow

V, D, D2 = 12, 5, 4
LEAD = (4, 3)


def meshes(group: Any) -> list[tuple[Any, list[Any], list[Any]]]:
    """Meshes, how the rows of an input are placed on them, and how the classes of a weight are."""
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.tensor import Replicate, Shard

    one, r = Replicate(), Replicate
    flat = DeviceMesh.from_group(group, "cpu")
    found = [(flat, [one], [Shard(0)]), (flat, [Shard(0)], [one]), (flat, [Shard(1)], [one]), (flat, [one], [one])]
    if group.size() == 4:
        square = init_device_mesh("cpu", (2, 2))
        found += [(square, [Shard(0), r()], [r(), Shard(0)]), (square, [r(), Shard(1)], [Shard(0), r()])]
    return found


def as_dtensors(group: Any) -> list[str]:
    from torch.distributed.tensor import distribute_tensor

    found: list[str] = []
    _ = torch.manual_seed(7)
    for (mesh, rows, classes), sparse in itertools.product(meshes(group), (False, True)):
        sizes = ((*LEAD, D), (V, D), (V,), (*LEAD, D2), (V, D2), (V,))
        numbers = [torch.randn(*size, dtype=torch.float64) for size in sizes]
        target = torch.where(torch.rand(LEAD) < 0.3, -100, torch.randint(V, LEAD))
        weight, warm = torch.rand(LEAD, dtype=torch.float64), torch.rand(LEAD, dtype=torch.float64) + 0.5
        prob, index = torch.randn(*LEAD, V, dtype=torch.float64).softmax(-1).topk(3)
        for kind, reduction in (("forward", "mean"), ("js", "none"), ("reverse", "sum")):
            options: dict[str, Any] = {
                "kind": kind, "reduction": reduction, "sample_weight": weight, "target": target, "temperature": warm,
                "return_stats": True,
            }  # fmt: skip
            if kind == "js":
                options |= {"closing": lambda rows, k: k * rows.js + rows.kl * rows.entropy, "operands": (weight,)}
            elif not sparse:
                options |= {"teacher_temperature": warm + 0.3, "teacher_softcap": 3.0}
            whole = [x.clone().requires_grad_() for x in numbers]
            places = [rows, classes, classes] * 2
            own = [
                distribute_tensor(x.clone(), mesh, at).requires_grad_() for x, at in zip(numbers, places, strict=True)
            ]
            results = []
            for x in (whole, own):
                teacher = {"teacher_input": TopK(index, prob)} if sparse else {
                    "teacher_input": x[3], "teacher_weight": x[4], "teacher_bias": x[5],
                }  # fmt: skip
                results.append(F.linear_divergence(x[0], x[1], linear_bias=x[2], **teacher, **options))
            (loss, stats), (mine, its) = results
            where = f"{rows} {classes}, {kind}, {reduction}, sparse {sparse}"
            found += apart(f"{where}: loss", mine.full_tensor().detach(), loss.detach())
            for name, x in teaching.as_dict(stats).items():
                found += apart(f"{where}: {name}", getattr(its, name).full_tensor().detach(), x.detach())
            count = 3 if sparse else 6
            grads = torch.autograd.grad(loss.sum(), whole[:count]), torch.autograd.grad(mine.sum(), own[:count])
            for k, (a, b) in enumerate(zip(*grads, strict=True)):
                found += apart(f"{where}: gradient {k}", b.full_tensor(), a)
    return found


@pytest.mark.parametrize("n", [2, 4])
def test_dtensors_of_both_heads(ranks: Ranks, n: int) -> None:
    nothing_wrong(ranks.run(n, as_dtensors))


def misused(group: Any) -> list[str]:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = DeviceMesh.from_group(group, "cpu")

    def put(*shape: int, at: Any = None) -> Any:
        return distribute_tensor(torch.randn(shape), mesh, [at or Replicate()])

    x, weight, y, other = put(4, D), put(V, D, at=Shard(0)), put(4, D2), put(V, D2, at=Shard(0))
    whole = x.full_tensor(), weight.full_tensor()
    gathered = put(4, D, at=Shard(0)), weight, put(4, D2, at=Shard(0)), other
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ((x, weight, y.full_tensor(), other), {}, "teacher_input is a plain tensor beside DTensors"),
        ((*whole, y, other), {}, "teacher_input is a DTensor and the input is not"),
        ((x, weight, y, other), {"process_group": group}, "DTensors carry their shards"),
        ((x, weight, y, put(2 * V, D2, at=Shard(0))), {}, "both must have the same, or other columns"),
        ((x, weight, put(3, D2), other), {}, "both heads must have the same rows"),
        ((x, weight, y, other), {"teacher_classes": torch.arange(V)}, "teacher_classes maps whole vocabularies"),
        (gathered, {}, "a loss of two heads does not gather rows"),
    ]
    found: list[str] = []
    for operands, options, text in wrong:
        try:
            _ = F.linear_divergence(*operands, **options)
            found.append(f"nothing was raised in place of {text}")
        except (TypeError, ValueError, NotImplementedError) as error:
            if text not in str(error):
                found.append(f"{error}, not {text}")
    return found


def test_dtensors_that_do_not_fit(ranks: Ranks) -> None:
    nothing_wrong(ranks.run(2, misused))
