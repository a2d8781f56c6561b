"""A bias of a linear layer on a GPU: no pass over the logits adds it, and whoever reads them sees it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch.utils._python_dispatch import TorchDispatchMode

import crossent.torch as F
from crossent.kernels.backend import LossScale
from crossent.torch import TopK
from crossent.torch.sources import driver
from crossent.torch.sources.linear import KeptTiles, LinearTiles
from crossent.torch.sources.plan import Sweep, TileShape
from crossent.torch.sources.source import Wanted
from tests.torch import plain
from tests.torch.sources.tasks import Rows, cotangents_of, draw, results_of

N, V, D = 12, 130, 6
WAYS = ("one sweep", "two sweeps", "kept logits")


class Passes(TorchDispatchMode):
    """Counts operations of torch that write a bias into logits, or add a product to what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        a_tile = isinstance(args[0], torch.Tensor) and args[0].ndim == 2 and args[0].shape[1] in (V, 40, V % 40)
        if a_tile and name in ("copy_", "addmm", "add", "add_"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def both_ways(rows: Rows, way: str) -> Any:
    """Losses of rows and the gradients of their layer, in tiles."""
    task, wanted = rows.linear(), Wanted(True, True, True)
    results = results_of(rows.number, rows.input)
    g = cotangents_of(rows.number, torch.float32)
    if way == "one sweep":
        found = driver.one_sweep(task, Sweep(8, 8), LossScale(g.loss), results, wanted)
        return results, found, g._replace(lse=None, entropy=None)
    shape = TileShape(8, 40)
    kept = rows.input.new_empty(N, len(rows.weight)) if way == "kept logits" else None
    driver.statistics(task, LinearTiles(task.source, shape, kept), shape, results)
    tiles = LinearTiles(task.source, shape) if kept is None else KeptTiles(task.source, shape, kept)
    return results, driver.gradients(task, tiles, shape, results.record, g, wanted), g


@pytest.mark.slow
@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize("kind", ["index", "topk"])
@pytest.mark.parametrize("way", WAYS)
def test_tiles_of_a_layer_with_a_bias(way, kind, positions, device):
    _ = torch.manual_seed(0)
    rows = draw(kind, "everything", dtype=torch.float32, positions=positions, N=N, V=V, D=D)
    with Passes() as passes:
        results, found, g = both_ways(rows, way)
    assert positions > 1 or passes.found == []  # a bias of several positions is the product's
    leaves = [x.double().requires_grad_() for x in (rows.input, rows.weight, rows.bias)]
    exact = Rows(*leaves, positions, rows.target, rows.scores)
    want = plain_results(exact)
    total = sum((x * c.double()).sum() for x, c in zip(want, g, strict=True) if c is not None)
    for got, true in zip(results, want, strict=False):
        torch.testing.assert_close(got.double(), true.detach(), rtol=1e-5, atol=1e-5)
    for got, true in zip(found[:3], torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(got.double(), true, rtol=1e-5, atol=1e-4)
    assert device.type in ("cpu", "cuda")


def plain_results(rows: Rows) -> Any:
    """Loss, lse and entropy of rows by torch, in their dtype."""
    z, target, scores = rows.logits(), rows.flat_target(), rows.scores
    s = scores.softcap * torch.tanh(z / scores.temperature / scores.softcap)
    q = s.log_softmax(1)
    index: Any = target.index
    prob = torch.ones(len(index), 1) if target.prob is None else target.prob
    index = index.view(len(index), -1)
    there = index >= 0
    p = torch.zeros_like(z).scatter_add(1, index.clamp(min=0), prob.to(z.dtype) * there)
    p = target.weight * ((1 - target.smoothing) * p + target.smoothing / rows.classes)
    ignored = ~there.any(1)
    loss, lse, entropy = -(p * q).sum(1), s.logsumexp(1), -(q.exp() * q).sum(1)
    return [x.masked_fill(ignored, 0.0) for x in (loss, lse, entropy)]


@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_probabilities_have_the_gradient_of_logits_with_a_bias(kind, device):
    _ = torch.manual_seed(0)
    x, w, b = (torch.randn(*shape, device=device) for shape in ((5, D), (V, D), (V,)))
    index, prob = torch.randint(V, (5, 3), device=device), torch.rand(5, 3, device=device, requires_grad=True)
    dense = torch.rand(5, V, device=device, requires_grad=True)
    target = dense if kind == "dense" else TopK(index, prob)
    of = target if kind == "dense" else prob
    loss = F.linear_cross_entropy(x, w, target, linear_bias=b, softcap=5.0)
    s = 5.0 * torch.tanh((x.double() @ w.double().t() + b.double()) / 5.0)
    p = dense.double() if kind == "dense" else torch.zeros_like(s).scatter_add(1, index, prob.double())
    want = nnf.cross_entropy(s, p)
    plain.agree("loss", loss.detach().cpu(), want.detach().cpu(), None, plain.FLOOR[torch.float32])
    (got,), (true,) = torch.autograd.grad(loss, of), torch.autograd.grad(want, of)
    torch.testing.assert_close(got, true, rtol=1e-5, atol=1e-6)
