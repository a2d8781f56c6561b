"""Binary losses of DTensors: each rank computes its elements, and the whole is as on one rank."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from crossent.torch import binary_cross_entropy, binary_cross_entropy_with_logits
from tests.parallel.ranks import square

pytestmark = pytest.mark.slow

SHAPE = (7, 6)
LAYOUTS = [
    (Shard(0), Shard(1)),
    (Shard(1), Shard(0)),
    (Replicate(), Shard(1)),
    (Shard(0), Shard(0)),
    (Replicate(),) * 2,
]


def close(a, b):
    return (a - b).abs().max().item() <= 1e-12


def same_as_alone(_group, layout):
    torch.manual_seed(0)
    mesh = square()
    double = torch.float64
    x, t = torch.rand(SHAPE, dtype=double), torch.rand(SHAPE, dtype=double)
    weights = torch.rand(6, dtype=double), torch.rand(7, 1, dtype=double)
    for loss, logits in ((binary_cross_entropy_with_logits, True), (binary_cross_entropy, False)):
        for reduction in ("none", "mean", "sum"):
            options = {"weight": weights[0], "reduction": reduction} | ({"pos_weight": weights[1]} if logits else {})
            alone = [v.clone().requires_grad_() for v in (x, t)]
            here = [distribute_tensor(v, mesh, layout).requires_grad_() for v in (x, t)]
            want, got = loss(*alone, **options), loss(*here, **options)
            placed = {
                k: distribute_tensor(v, mesh, [Replicate()] * 2) if "weight" in k else v for k, v in options.items()
            }
            assert close(loss(*here, **placed).full_tensor(), got.full_tensor())
            g = torch.rand(want.shape, dtype=double)
            want.backward(g)
            got.backward(distribute_tensor(g, mesh, got.placements))
            assert close(got.full_tensor(), want)
            for a, b in zip(alone, here, strict=True):
                assert b.grad.placements == layout
                assert close(b.grad.full_tensor(), a.grad)
            assert close(loss(here[0], t, **options).full_tensor(), want)
    return True


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_binary_loss_is_that_of_one_rank(ranks, layout):
    assert all(ranks.run(4, same_as_alone, layout))


def misused(_group):
    mesh = square()
    x = distribute_tensor(torch.rand(SHAPE), mesh, [Shard(0), Replicate()])
    partial = DTensor.from_local(torch.rand(SHAPE), mesh, [Partial(), Replicate()])
    for call, error, text in (
        (lambda: binary_cross_entropy_with_logits(x, torch.rand(7, 5)), ValueError, r"target of shape \(7, 5\)"),
        (lambda: binary_cross_entropy_with_logits(x, x, weight=torch.rand(7)), ValueError, "broadcast"),
        (
            lambda: binary_cross_entropy_with_logits(x, x, weight=torch.rand(6, requires_grad=True)),
            ValueError,
            "detach",
        ),
        (lambda: binary_cross_entropy(partial, x), ValueError, "Partial"),
    ):
        with pytest.raises(error, match=text):
            call()
    return True


def test_misuse_is_named(ranks):
    assert all(ranks.run(4, misused))
