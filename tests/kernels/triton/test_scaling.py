"""Gradients times their cotangent: rounded once, in place or not, and left alone where the cotangent is 1."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import crossent.torch as F
from crossent.kernels import triton
from crossent.kernels.triton import scaling
from tests.kernels.triton.calls import DEVICE

HALF = (torch.bfloat16, torch.float16)
PAIRS = [(a, b) for a, b in itertools.product((*HALF, torch.float32), repeat=2) if b == a or b != torch.float32]
SIZES = (1, 7, 8, 9, 4095, 4096, 4103, 12300)


def numbers(size, dtype):
    random = torch.Generator().manual_seed(size)
    return torch.randn(size, generator=random).to(dtype).to(DEVICE)


def scalar(value, dtype=torch.float32):
    return torch.tensor(value, dtype=dtype, device=DEVICE)


def guarded(size, dtype):
    """Memory for so many numbers between others that must stay as they are."""
    whole = torch.full((size + 64,), 7.0, dtype=dtype, device=DEVICE)
    return whole, whole[32 : 32 + size]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "to"), [*PAIRS, (torch.float64, torch.float64)], ids=str)
def test_a_product_is_rounded_once(dtype, to, size, monkeypatch):
    monkeypatch.setattr(scaling, "_PROGRAMS", 2)  # so that a program has several blocks
    x, wide = numbers(size, dtype), torch.float64 if dtype == torch.float64 else torch.float32
    for factor in (1.0, 1 / 3, -2.5, 0.0, math.inf):
        g = scalar(factor, wide)
        whole, out = guarded(size, to)
        triton.scale(x, g, out)
        want = (x.to(wide) * g).to(to)
        torch.testing.assert_close(out, want, rtol=0, atol=0, equal_nan=True)
        assert (whole[:32] == 7).all()
        assert (whole[32 + size :] == 7).all()


@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
def test_in_place(dtype):
    for factor, size in itertools.product((1.0, 0.1, 2.0), SIZES):
        whole, x = guarded(size, dtype)
        _ = x.copy_(numbers(size, dtype))
        want = (x.float() * scalar(factor)).to(dtype)
        triton.scale(x, scalar(factor), x)
        assert torch.equal(x, want)
        assert (whole[:32] == 7).all()
        assert (whole[32 + size :] == 7).all()


def test_nothing_of_nothing():
    empty = torch.empty((0, 5), device=DEVICE)
    triton.scale(empty, scalar(2.0), empty)
    columns = torch.ones(3, 4, device=DEVICE).t()
    with pytest.raises(ValueError, match="not contiguous"):
        triton.scale(columns, scalar(2.0), columns)


@pytest.mark.skipif(not triton.interpreted(), reason="only the interpreter shows what a kernel writes")
@pytest.mark.parametrize(("factor", "size"), [(1.0, 9), (1.0, 9000), (1.5, 9), (1.5, 9000)])
def test_nothing_is_written_where_the_factor_is_one(factor, size, monkeypatch):
    from tests.kernels.triton.programs import LAUNCHES

    written, touch = [], LAUNCHES.touch

    def count(accesses, pointers, mask):
        if accesses is LAUNCHES.written:
            written.append(int(mask.data.sum()))
        touch(accesses, pointers, mask)

    monkeypatch.setattr(LAUNCHES, "touch", count)
    x = numbers(size, torch.float32)
    triton.scale(x, scalar(factor), x)
    assert sum(written) == (0 if factor == 1 else size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("g", [1.0, 0.1])
def test_the_backward_of_a_linear_loss_scales_by_it(g, dtype, device, monkeypatch):
    calls, scale = [], triton.scale

    def watched(x, factor, out):
        calls.append((x.dtype, out.dtype, x.data_ptr() == out.data_ptr()))
        scale(x, factor, out)

    monkeypatch.setattr(triton, "scale", watched)
    random = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=random).to(dtype).to(device).requires_grad_() for s in ((6, 5), (20, 5), (20,)))
    target = torch.randint(20, (6,), generator=random).to(device)
    # in float32 a sum of half-precision operands is by two sweeps on CPUs, whose gradients know their cotangent
    loss = F.linear_cross_entropy(x, w, target, linear_bias=b, reduction="sum")
    got = torch.autograd.grad(loss, (x, w, b), scalar(g), retain_graph=True)
    again = torch.autograd.grad(loss, (x, w, b), scalar(g))
    exact = [t.detach().double().requires_grad_() for t in (x, w, b)]
    logits = torch.nn.functional.linear(exact[0], exact[1], exact[2])
    true = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
    unit = torch.finfo(dtype).eps
    for a, c, e in zip(got, again, torch.autograd.grad(true, exact, scalar(g).double()), strict=True):
        assert torch.equal(a, c)
        assert (a.double() - e).norm() <= (2 * unit + 1e-6) * e.norm()
    if dtype == torch.float32:
        assert calls == [(dtype, dtype, False)] * 3 + [(dtype, dtype, True)] * 3
