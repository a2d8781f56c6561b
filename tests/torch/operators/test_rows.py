"""The operators of rows: opcheck, compile without a graph break, autocast, shapes without data."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf
from torch._subclasses.fake_tensor import FakeTensorMode

import crossent.torch as F
from crossent.spec import Scores, Target
from crossent.torch import TopK
from crossent.torch.operators.rows import RowCall
from tests.torch import plain
from tests.torch.operators.watching import Watching, check_compiled

ops = torch.ops.crossent


def row_arguments():
    """A call of each kind of target, in two layouts: everything that row_stats takes."""
    z, pixels = torch.randn(4, 5, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    index, narrow = torch.randint(5, (4,)), torch.randn(5, 4).bfloat16().t().requires_grad_()
    yield RowCall(z, Target(index, weight=torch.rand(5), smoothing=0.1, ignore_index=-100), Scores(0.7, 3.0))
    yield RowCall(pixels, Target(prob=torch.rand(2, 5, 3, requires_grad=True), smoothing=0.1), Scores())
    yield RowCall(z, Target(torch.randint(5, (4, 2)), torch.rand(4, 2, requires_grad=True)), Scores())
    yield RowCall(narrow, Target(index, ignore_index=-100), Scores())
    wide = torch.randn(4, 200, requires_grad=True)  # so many classes that the backward gets a record
    yield RowCall(wide, Target(index, ignore_index=-100), Scores())


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_row_operators_keep_their_contracts():
    for call in row_arguments():
        args = tuple(call.flatten())
        _ = torch.library.opcheck(ops.row_stats.default, args)
        record = ops.row_stats.default(*args)[3].detach()
        g = [torch.randn(call.number, requires_grad=True) for _ in range(3)]
        _ = torch.library.opcheck(ops.row_grad.default, (*args, record, g[0], None, g[2]))


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_one_step_operators_keep_their_contracts():
    for call, mean in zip(row_arguments(), (True, False, True, False, True), strict=True):
        _ = torch.library.opcheck(ops.row_loss.default, (*call.flatten(), mean))


def test_with_and_without_the_dispatcher_are_the_same():
    z, y, p = torch.randn(6, 9, requires_grad=True), torch.randint(9, (6,)), torch.rand(6, 9, requires_grad=True)
    y[1] = -100

    def everything():
        results = []
        for target, reduction in itertools.product((y, p), ("mean", "sum", "none")):
            loss = F.cross_entropy(z, target, torch.arange(1.0, 10.0), reduction=reduction, label_smoothing=0.1)
            more, stats = F.cross_entropy(z, target, reduction=reduction, softcap=3.0, return_stats=True)
            inputs = [z, p] if target is p else [z]
            results += [
                loss,
                more,
                stats.entropy,
                *torch.autograd.grad((loss + more + stats.entropy.sum()).sum(), inputs),
            ]
        with torch.no_grad():
            results += [F.cross_entropy(z, y)]
        return results

    eager = everything()
    with Watching() as watching:
        watched = everything()
    for name in ("row_stats", "row_grad", "row_loss"):
        assert f"crossent.{name}.default" in watching.seen
    for a, b in zip(eager, watched, strict=True):
        assert torch.equal(a, b)


def test_a_step_is_its_two_halves():
    # sum and mean without statistics are one operator; with sample weights of one they are two
    z = torch.randn(50, 9, dtype=torch.float64, requires_grad=True)
    y = torch.randint(9, (50,))
    y[::3] = -100
    for weight, target in itertools.product((None, torch.rand(9).double()), (y, torch.rand(50, 9).double())):
        for reduction in ("mean", "sum"):
            a = F.cross_entropy(z, target, weight, reduction=reduction)
            b = F.cross_entropy(z, target, weight, reduction=reduction, sample_weight=torch.ones(50))
            torch.testing.assert_close(a, b, rtol=1e-14, atol=0)
            torch.testing.assert_close(torch.autograd.grad(a, z), torch.autograd.grad(b, z), rtol=1e-12, atol=1e-16)


def calls():
    """Functions of differentiable inputs for compile, with their inputs at a given number of rows."""

    def index(z):
        return F.cross_entropy(z, torch.arange(z.shape[0]) % 7, label_smoothing=0.1)

    def dense(z, p):
        return F.cross_entropy(z, p, reduction="sum", temperature=0.7)

    def topk(z, p):
        return F.cross_entropy(z, TopK(torch.arange(14).view(7, 2)[: z.shape[0]] % 7, p), reduction="none", softcap=2.0)

    def extras(z, p):
        loss, stats = F.cross_entropy(
            z, torch.arange(z.shape[0]) % 7, z_loss=0.01, sample_weight=p[:, 0], return_stats=True
        )
        return loss + (stats.entropy * stats.lse + stats.logprob).sum() + stats.confidence.sum() + stats.correct.sum()

    def pixels(z):
        return F.cross_entropy(z.unsqueeze(-1).expand(*z.shape, 3) * 1.5, torch.zeros(z.shape[0], 3, dtype=torch.long))

    def module(z):
        return F.CrossEntropyLoss(label_smoothing=0.1)(z, torch.arange(z.shape[0]) % 7)

    soft = {"dense": (7,), "topk": (2,), "extras": (7,)}
    for f in (index, dense, topk, extras, pixels, module):
        yield pytest.param(f, soft.get(f.__name__), id=f.__name__)


def inputs(n, soft):
    z = torch.randn(n, 7, requires_grad=True)
    return (z,) if soft is None else (z, torch.rand(n, *soft).requires_grad_())


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("function", "soft"), list(calls()))
def test_compiled_without_a_graph_break(function, soft, dynamic):
    check_compiled(function, lambda n: inputs(n, soft), dynamic=dynamic)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("compiled", [False, True])
def test_logits_that_were_written_to_before_the_backward_are_noticed(compiled):
    torch._dynamo.reset()
    y = torch.randint(5, (4,))

    def loss(z):
        return F.cross_entropy(z, y)

    z = torch.randn(4, 5, requires_grad=True) * 1
    found = torch.compile(loss, fullgraph=True, backend="aot_eager")(z) if compiled else loss(z)
    with torch.no_grad():
        _ = z.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        _ = found.backward()
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_compiled_by_inductor():
    torch._dynamo.reset()

    def step(x, w, y):
        return F.cross_entropy(x @ w, y, label_smoothing=0.1)

    x, w = torch.randn(6, 8, requires_grad=True), torch.randn(8, 5, requires_grad=True)
    y = torch.randint(5, (6,))
    try:
        got = torch.compile(step, fullgraph=True)(x, w, y)
    except torch._inductor.exc.InductorError as error:
        if "compiler" in str(error).lower():
            pytest.skip("no C++ compiler for inductor")
        raise
    torch.testing.assert_close(got, step(x, w, y))
    for a, b in zip(torch.autograd.grad(got, (x, w)), torch.autograd.grad(step(x, w, y), (x, w)), strict=True):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


def test_under_autocast():
    _ = torch.manual_seed(1)
    layer = torch.nn.Linear(16, 10)
    x, y = torch.randn(32, 16), torch.randint(10, (32,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(x)
        loss = F.cross_entropy(z, y)
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    _ = loss.backward()
    z = layer(x).bfloat16().double().detach()
    plain.agree("loss", loss, nnf.cross_entropy(z, y), None, 2e-2)
    grads = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    _ = nnf.cross_entropy(layer(x), y).backward()
    for got, p in zip(grads, layer.parameters(), strict=True):
        assert got.dtype == torch.float32
        plain.agree("gradient of a parameter", got, p.grad, None, 2e-2)


def test_under_autocast_backward_and_all():
    z = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(5, (8,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, stats = F.cross_entropy(z, y, z_loss=0.1, return_stats=True, sample_weight=torch.rand(8))
        (g,) = torch.autograd.grad(loss + stats.entropy.sum(), z)
    assert loss.dtype == g.dtype == torch.float64


@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 5, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_shapes_without_data(shape, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rows = () if len(shape) == 1 else (shape[0], *shape[2:])
    with FakeTensorMode():
        z = torch.empty(shape, dtype=dtype, requires_grad=True)
        y, p = torch.zeros(rows, dtype=torch.long), torch.empty(shape, dtype=dtype)
        for target in (y, p):
            for reduction in ("mean", "sum", "none"):
                loss, stats = F.cross_entropy(z, target, reduction=reduction, return_stats=True)
                assert loss.dtype == stats.lse.dtype == wide
                assert loss.shape == (rows if reduction == "none" else ())
                assert stats.entropy.shape == stats.correct.shape == rows
                (g,) = torch.autograd.grad(loss.sum(), z)
                assert (g.shape, g.dtype, g.stride()) == (z.shape, dtype, z.stride())


def test_on_the_meta_device():
    z = torch.empty(4, 5, device="meta", requires_grad=True)
    loss = F.cross_entropy(z, torch.zeros(4, dtype=torch.long, device="meta"))
    assert loss.device.type == "meta"
    assert loss.shape == ()
    (g,) = torch.autograd.grad(loss, z)
    assert g.shape == z.shape


def test_gradients_keep_the_layout_of_the_logits():
    for z in (torch.randn(4, 5, 3, 2).to(memory_format=torch.channels_last), torch.randn(5, 4).t()):
        z = z.requires_grad_()  # noqa: PLW2901
        y = torch.zeros([z.shape[0], *z.shape[2:]], dtype=torch.long)
        (g,) = torch.autograd.grad(F.cross_entropy(z, y), z)
        (h,) = torch.autograd.grad(nnf.cross_entropy(z, y), z)
        torch.testing.assert_close(g, h)
