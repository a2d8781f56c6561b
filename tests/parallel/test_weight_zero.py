"""A weight of 0 removes rows of classes that are spread over ranks too: one process without the rows says the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

import crossent.torch as F
from tests.laws.test_weight_zero import GONE, HELD, KEPT, KINDS, D, N, V, drawn, without

pytestmark = pytest.mark.slow

CUTS = {2: (0, 13, V), 3: (0, 13, 13, V)}


def largest(x):
    return float(x.abs().max()) if x.numel() else 0.0


def losses(group):
    torch.manual_seed(0)
    rank, cuts = dist.get_rank(group), CUTS[dist.get_world_size(group)]
    here = slice(cuts[rank], cuts[rank + 1])
    shard: dict[str, Any] = {"process_group": group, "first_class": cuts[rank], "num_classes": V}
    found: list[str] = []
    for kind in KINDS:
        for name, held in HELD.items():
            options, z = drawn(kind), torch.randn(N, V)
            x, weight = torch.randn(N, D), torch.randn(V, D)
            z[GONE] = x[GONE] = held
            mine: Any = dict(options)
            if kind in ("dense", "no probability"):
                mine["target"] = options["target"][:, here]
            whole, part = z[KEPT].requires_grad_(), z[:, here].clone().requires_grad_()
            want = F.cross_entropy(whole, **without(options), reduction="sum")
            loss = F.cross_entropy(part, **mine, reduction="sum", **shard)
            (wanted,), (grad,) = torch.autograd.grad(want, whole), torch.autograd.grad(loss, part)
            off = largest(grad[KEPT] - wanted[:, here]) / largest(wanted)
            if not (abs(loss - want) <= 1e-6 * want and off <= 1e-6) or grad[GONE].any():
                found.append(f"logits, {kind}, {name}: {loss} for {want}, gradient off by {off}")
            layer = [a.clone().requires_grad_() for a in (x, weight[here])]
            single = [a.clone().requires_grad_() for a in (x[KEPT], weight)]
            want = F.linear_cross_entropy(*single, **without(options), reduction="sum")
            loss = F.linear_cross_entropy(*layer, **mine, reduction="sum", **shard)
            wanted, grads = torch.autograd.grad(want, single), torch.autograd.grad(loss, layer)
            off = max(largest(grads[0][KEPT] - wanted[0]), largest(grads[1] - wanted[1][here]))
            if not (abs(loss - want) <= 1e-5 * want and off <= 1e-4) or grads[0][GONE].any():
                found.append(f"layer, {kind}, {name}: {loss} for {want}, gradients off by {off}")
    return found


@pytest.mark.parametrize("n", [2, 3])
def test_rows_of_weight_0_on_several_ranks(ranks, n):
    for found in ranks.run(n, losses):
        assert found == []
