"""The operators of binary cross-entropy: opcheck, compile without a graph break, autocast, shapes without data."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import crossent.torch as F
from tests.torch.operators.watching import Watching, check_compiled

ops = torch.ops.crossent


def binary_arguments():
    for dtype in (torch.float32, torch.bfloat16):
        x, t = (torch.rand(3, 4, dtype=dtype, requires_grad=True) for _ in range(2))
        yield "logits", x, t, torch.rand(4, dtype=dtype), torch.rand(3, 1, dtype=dtype)
    yield "probabilities", x.detach().double().requires_grad_(), t.detach().double(), None, None


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_binary_operators_keep_their_contracts():
    for args, summed in zip(binary_arguments(), (False, True, True), strict=True):
        _ = torch.library.opcheck(ops.binary_loss.default, (*args, summed))
        wide = torch.float64 if args[1].dtype == torch.float64 else torch.float32
        g = torch.randn(() if summed else (3, 4), dtype=wide, requires_grad=True)
        _ = torch.library.opcheck(ops.binary_grad.default, (*args, g))


def test_with_and_without_the_dispatcher_are_the_same():
    z, p = torch.randn(6, 9, requires_grad=True), torch.rand(6, 9, requires_grad=True)

    def everything():
        results = []
        for function, x in ((F.binary_cross_entropy_with_logits, z), (F.binary_cross_entropy, z.sigmoid())):
            loss = function(x, p)
            results += [loss, *torch.autograd.grad(loss, [z, p])]
        with torch.no_grad():
            results += [F.binary_cross_entropy_with_logits(z, p, reduction="none")]
        return results

    eager = everything()
    with Watching() as watching:
        watched = everything()
    for name in ("binary_loss", "binary_grad"):
        assert f"crossent.{name}.default" in watching.seen
    for a, b in zip(eager, watched, strict=True):
        assert torch.equal(a, b)


def of_logits(z, p):
    return F.binary_cross_entropy_with_logits(z, p, pos_weight=torch.full((7,), 2.0), reduction="none")


def of_probabilities(z, p):
    return F.binary_cross_entropy(z.sigmoid(), p)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [of_logits, of_probabilities])
def test_compiled_without_a_graph_break(function, dynamic):
    def inputs(n):
        return torch.randn(n, 7, requires_grad=True), torch.rand(n, 7).requires_grad_()

    check_compiled(function, inputs, dynamic=dynamic)


def test_under_autocast_backward_and_all():
    z = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.binary_cross_entropy_with_logits(z, z.sigmoid().detach())
        (g,) = torch.autograd.grad(loss, z)
    assert loss.dtype == g.dtype == torch.float64


@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 5, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_shapes_without_data(shape, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with FakeTensorMode():
        z, p = torch.empty(shape, dtype=dtype, requires_grad=True), torch.empty(shape, dtype=dtype)
        for reduction in ("mean", "none"):
            loss = F.binary_cross_entropy_with_logits(z, p, reduction=reduction)
            assert (loss.shape, loss.dtype) == (shape if reduction == "none" else (), wide)
            (g,) = torch.autograd.grad(loss.sum(), z)
            assert (g.shape, g.dtype) == (z.shape, dtype)


def test_on_the_meta_device():
    z = torch.empty(4, 5, device="meta")
    assert F.binary_cross_entropy_with_logits(z, z, reduction="none").shape == z.shape
