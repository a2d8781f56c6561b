"""A temperature of each row of a linear loss: one sweep and two, chunks of any size, packed rows, positions."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import linear, plain
from tests.torch.linear import BOTH, DEEP, LONG, PIXELS, ROWS, TOKENS

SHAPES = (ROWS, PIXELS, TOKENS, BOTH, LONG, DEEP)
KINDS = ("index", "ignored", "dense", "topk")


def draw(shape, kind, option="nothing"):
    args, options = linear.draw(shape, kind, option, bias=option == "everything")
    options["temperature"] = torch.tensor([0.5, 0.75, 1.5, 2.0])[torch.randint(4, shape.rows)].double()
    return args, options


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_bytes", [1, 700, None])
def test_every_chunk_has_the_temperatures_of_its_rows(chunk_bytes, kind, dtype):
    turns = itertools.count()
    for shape, option in itertools.product(SHAPES, ("nothing", "everything")):
        args, options = draw(shape, kind, option)
        options |= {"reduction": ("mean", "sum", "none")[next(turns) % 3], "chunk_bytes": chunk_bytes}
        linear.compare(F.linear_cross_entropy, dtype, args, options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("chunk_bytes", [1, 5 * 7 * 8, None])
def test_it_is_the_loss_of_torch_of_logits_divided_by_row(chunk_bytes, reduction):
    for kind in ("index", "ignored"):
        (x, w, y, *_), options = draw(LONG, kind)
        T = options["temperature"]
        got = F.linear_cross_entropy(x, w, y, temperature=T, reduction=reduction, chunk_bytes=chunk_bytes)
        want = nnf.cross_entropy(x @ w.T / T[:, None], y, reduction=reduction)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        g = plain.cotangent_like(want)
        for a, b in zip(*(torch.autograd.grad(out, (x, w), g) for out in (got, want)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [ROWS, PIXELS], ids=str)
def test_statistics_and_second_derivatives(shape, kind):
    args, options = draw(shape, kind)
    results = []
    for function in (linear.by_position(F.linear_cross_entropy), linear.linear_cross_entropy):
        found = function(*args, **options, return_stats=True)
        loss, stats = found
        read = stats.get if isinstance(stats, dict) else lambda name, stats=stats: getattr(stats, name)
        total = loss + sum((read(name) ** 2).sum() for name in ("lse", "logprob", "entropy"))
        leaves = plain.leaves(*args)
        first = torch.autograd.grad(total, leaves, create_graph=True)
        results.append((total, *first, *torch.autograd.grad((first[0] ** 2).sum(), leaves)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_packed_rows_keep_their_own_temperature():
    x, w = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    y, T = torch.tensor([-100, 0, -100, 1, -100, 2]), torch.tensor([0.0, 0.5, torch.nan, 2.0, 1e30, 1.0])
    kept = y != -100
    for reduction, chunk_bytes in itertools.product(("mean", "none"), (1, None)):
        options = {"reduction": reduction, "chunk_bytes": chunk_bytes}
        got = F.linear_cross_entropy(x, w, y, temperature=T, **options)
        want = nnf.cross_entropy((x @ w.T)[kept] / T[kept, None], y[kept], reduction=reduction)
        torch.testing.assert_close(got if reduction == "mean" else got[kept], want)
        for a, b in zip(*(torch.autograd.grad(out.sum(), (x, w)) for out in (got, want)), strict=True):
            torch.testing.assert_close(a, b)


def test_temperatures_of_tokens_may_be_a_view():
    x, w = torch.randn(2, 3, 4).double().requires_grad_(), torch.randn(5, 4).double().requires_grad_()
    y, T = torch.randint(5, (2, 3)), (torch.rand(3, 2) + 0.5).double()
    got = F.linear_cross_entropy(x, w, y, temperature=T.mT)
    torch.testing.assert_close(got, nnf.cross_entropy((x @ w.T / T.mT[..., None]).flatten(0, 1), y.flatten()))
    by_sequence = torch.tensor([0.5, 2.0])[:, None].expand(2, 3)
    got = F.linear_cross_entropy(x, w, y, temperature=by_sequence)
    want = nnf.cross_entropy((x @ w.T / by_sequence[..., None]).flatten(0, 1), y.flatten())
    torch.testing.assert_close(got, want)


def test_a_batch_without_rows():
    x, w = torch.empty(0, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    y, T = torch.empty(0, dtype=torch.long), torch.empty(0)
    for reduction in ("sum", "none"):
        loss = F.linear_cross_entropy(x, w, y, temperature=T, reduction=reduction)
        gradients = torch.autograd.grad(loss.sum(), (x, w))
        assert not any(g.any() for g in gradients)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_compiled():
    x, w, y = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True), torch.randint(5, (4,))
    torch._dynamo.reset()

    for reduction in ("mean", "none"):

        def loss(x, w, T, reduction=reduction):
            return F.linear_cross_entropy(x, w, y, temperature=T, reduction=reduction).square().sum()

        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        for _ in range(2):
            T = torch.rand(4) + 0.5
            got, want = compiled(x, w, T), loss(x, w, T)
            torch.testing.assert_close(got, want)
            torch.testing.assert_close(torch.autograd.grad(got, (x, w)), torch.autograd.grad(want, (x, w)))
