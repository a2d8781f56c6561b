"""What only a GPU can show: graphs, compiled programs, 2³¹ logits, the same bits every time, torch's samples."""

from __future__ import annotations

import random
import sys
import types
import unittest
import warnings
from importlib.util import find_spec

import pytest
import torch

import crossent.torch as ours
from crossent import kernels

theirs = torch.nn.functional
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NAMES = ("cross_entropy", "binary_cross_entropy_with_logits")


def rows(N, V, dtype=torch.float32, seed=0):
    random_numbers = torch.Generator("cuda").manual_seed(seed)
    logits = torch.randn(N, V, generator=random_numbers, device="cuda").mul_(3).to(dtype).requires_grad_()
    return logits, torch.randint(V, (N,), generator=random_numbers, device="cuda")


def head(N, D, V, dtype=torch.bfloat16):
    random_numbers = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(N, D, generator=random_numbers, device="cuda").to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=random_numbers, device="cuda").div_(D**0.5).to(dtype).requires_grad_()
    return x, weight, torch.randint(V, (N,), generator=random_numbers, device="cuda")


def operator_info(name, monkeypatch):
    """torch's own samples of an operator; their package imports `expecttest`, and needs no more than a class of it."""
    if find_spec("expecttest") is None:
        stand_in = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        monkeypatch.setitem(sys.modules, "expecttest", stand_in)
    with warnings.catch_warnings():  # torch's testing package imports deprecated things
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return next(op for op in op_db if op.name == f"nn.functional.{name}")


def away(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def test_the_backend_can_be_used():
    assert kernels.why_not("triton") is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_operator_samples(name, dtype, monkeypatch):
    random.seed(0)
    info = operator_info(name, monkeypatch)
    seen = 0
    for sample in info.sample_inputs("cuda", dtype, requires_grad=True):
        results = []
        for function, as_dtype in (
            (getattr(ours, name), dtype),
            (getattr(theirs, name), dtype),
            (getattr(theirs, name), torch.float64),
        ):

            def cast(x, to=as_dtype):
                return x.detach().to(to) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

            leaf = cast(sample.input).requires_grad_()
            loss = function(leaf, *map(cast, sample.args), **{k: cast(v) for k, v in sample.kwargs.items()})
            if loss.numel() == 0:
                break
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
            results.append((loss.detach().double(), grad.double()))
        if len(results) < 3:
            continue
        for got, rival, exact in zip(*results, strict=True):
            error, allowed = (got - exact).abs().max(), (rival - exact).abs().max()
            floor = 8 * torch.finfo(dtype).eps * exact.abs().max()
            assert error <= 2 * allowed + floor or exact.isnan().any(), sample
        seen += 1
    assert seen >= 10


def test_a_loss_is_captured_in_a_graph_and_replayed():
    logits, target = rows(64, 50257, torch.bfloat16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # compiles, and warms the allocator up
        for _ in range(3):
            (grad,) = torch.autograd.grad(ours.cross_entropy(logits, target), logits)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = ours.cross_entropy(logits, target)
        (grad,) = torch.autograd.grad(loss, logits)
    with torch.no_grad():
        _ = logits.copy_(rows(64, 50257, torch.bfloat16, seed=1)[0])
    graph.replay()
    again = logits.detach().clone().requires_grad_()
    expected = ours.cross_entropy(again, target)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert again.grad is not None
    torch.testing.assert_close(grad, again.grad, rtol=0, atol=0)


def test_a_linear_loss_is_captured_in_a_graph():
    x, weight, target = head(256, 64, 5003)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            _ = torch.autograd.grad(ours.linear_cross_entropy(x, weight, target), (x, weight))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grads = torch.autograd.grad(ours.linear_cross_entropy(x, weight, target), (x, weight))
    graph.replay()
    for got, want in zip(
        grads, torch.autograd.grad(ours.linear_cross_entropy(x, weight, target), (x, weight)), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_cotangent_that_changes_between_replays_is_read_by_each(dtype):
    x, weight, target = head(256, 64, 5003, dtype)
    g = torch.ones((), device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            _ = torch.autograd.grad(ours.linear_cross_entropy(x, weight, target), (x, weight), g)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grads = torch.autograd.grad(ours.linear_cross_entropy(x, weight, target), (x, weight), g)
    for factor in (1.0, 0.25, 1.0, 3.0):
        _ = g.fill_(factor)
        graph.replay()
        wanted = torch.autograd.grad(ours.linear_cross_entropy(x, weight, target), (x, weight), g)
        for got, want in zip(grads, wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_nothing_waits_for_the_device():
    logits, target = rows(128, 5003)
    x, weight, labels = head(128, 64, 5003)
    for _ in range(2):  # the first compiles
        torch.cuda.set_sync_debug_mode("error" if _ else "default")
        try:
            ours.cross_entropy(logits, target, label_smoothing=0.1).backward()
            ours.linear_cross_entropy(x, weight, labels).backward()
            ours.linear_cross_entropy(x, weight, labels, reduction="none").sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy"])
def test_compiled_without_a_break(name):
    arguments = rows(64, 5003) if name == "cross_entropy" else head(64, 32, 5003)
    function = getattr(ours, name)
    expected = function(*arguments)
    leaves = [x for x in arguments if x.requires_grad]
    wanted = torch.autograd.grad(expected, leaves)
    loss = torch.compile(function, fullgraph=True)(*arguments)
    for got, want in zip((loss, *torch.autograd.grad(loss, leaves)), (expected, *wanted), strict=True):
        torch.testing.assert_close(got, want)


def test_more_than_two_to_the_31_logits():
    N, V = 2**15 + 8, 2**16
    if torch.cuda.get_device_properties(0).total_memory < 24 * 2**30:
        pytest.skip("takes 13 GiB of a GPU's memory")
    logits = torch.zeros(N, V, dtype=torch.bfloat16, device="cuda")
    target = torch.full((N,), 7, device="cuda")
    logits[-1, 7] = 5.0
    logits.requires_grad_()
    losses = ours.cross_entropy(logits, target, reduction="none")
    exact = theirs.cross_entropy(logits[[0, -1]].detach().double(), target[:2], reduction="none")
    torch.testing.assert_close(losses[[0, -1]].double(), exact, rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(losses.sum(), logits)
    q = torch.softmax(logits[-1].detach().double(), 0)
    q[7] -= 1
    torch.testing.assert_close(grad[-1].double(), q, rtol=2**-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hundred_runs_give_the_same_bits(dtype):
    logits, target = rows(32, 128256, dtype)  # few rows: columns are split among programs
    x, weight, labels = head(512, 128, 5003, dtype)

    def run():
        loss = ours.cross_entropy(logits, target)
        linear = ours.linear_cross_entropy(x, weight, labels, chunk_bytes=2**22)
        return loss, *torch.autograd.grad(loss, logits), linear, *torch.autograd.grad(linear, (x, weight))

    first = run()
    for _ in range(100):
        for got, want in zip(run(), first, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("chunk_bytes", [None, 2**20, 2**23, 2**26, 2**30])
def test_errors_of_a_head_do_not_grow_with_the_number_of_chunks(chunk_bytes):
    x, weight, target = head(2048, 256, 32000)
    loss = ours.linear_cross_entropy(x, weight, target, chunk_bytes=chunk_bytes)
    g_x, g_weight = torch.autograd.grad(loss, (x, weight))
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    true = theirs.cross_entropy(theirs.linear(*exact), target)
    true.backward()
    assert abs(loss.item() - true.item()) <= 1e-6 * true.item()
    # gradients of logits and of operands are rounded to bfloat16 once each
    assert away(g_x, exact[0].grad) <= 2 * 2**-9
    assert away(g_weight, exact[1].grad) <= 2 * 2**-9
