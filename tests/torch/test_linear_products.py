"""How many products a bfloat16 head costs on a CPU, and how much memory, with matrix units and without.

The two plans are functions of the products that a processor has, so both run on every processor: oneMKL multiplies
bfloat16 matrices without matrix units too, only slowly.
"""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import crossent.torch as F
from crossent.torch.base.libtorch import torch_function
from crossent.torch.sources import products
from tests.torch import plain

GEMM = torch_function("cblas_gemm_bf16bf16f32")


@pytest.fixture(params=["units", "no units"])
def units(request, monkeypatch):
    """Plan as a processor with matrix units does, or as one without them."""
    if request.param == "units" and GEMM is None:
        pytest.skip("torch is built without oneMKL, which has the products of matrix units")
    monkeypatch.setattr(products, "_bfloat16_gemm", GEMM)
    monkeypatch.setattr(products, "_HAS_UNITS", request.param == "units")
    return request.param == "units"


def head(N, D, V):
    x, w = torch.randn(N, D).bfloat16().requires_grad_(), torch.randn(V, D).div(D**0.5).bfloat16().requires_grad_()
    return x, w, torch.randint(V, (N,))


def step(x, w, y, loss=F.linear_cross_entropy, **options):
    """A loss and its gradients; rows of a loss without a reduction have cotangents of their own."""
    value = loss(x, w, y, **options)
    cotangent = None if value.ndim == 0 else torch.linspace(0.1, 1, len(y), dtype=value.dtype)
    return value, *torch.autograd.grad(value, (x, w), cotangent)


def eager(x, w, y, **options):
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, w), y, **options)


@pytest.fixture
def multiplied(monkeypatch):
    """Every product: its operations, and the dtypes of operands and result."""
    seen = []

    original = products.multiply

    def multiply(a, b, out, *, add=False):
        seen.append((2 * out.numel() * a.shape[1], a.dtype, out.dtype))
        original(a, b, out, add=add)

    monkeypatch.setattr(products, "multiply", multiply)
    return seen


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("fits", [True, False])
def test_logits_that_fit_are_multiplied_once(reduction, fits, units, multiplied):
    N, D, V = 96, 64, 1500
    _ = step(*head(N, D, V), reduction=reduction, chunk_bytes=4 * N * V - (not fits))
    assert sum(flops for flops, *_ in multiplied) == (3 if fits else 4) * 2 * N * D * V
    assert {of for _, of, _ in multiplied} == {torch.bfloat16 if units else torch.float32}
    gradients = {to for _, _, to in multiplied[-2:]}
    # torch's own products for torch's own gradients, of all logits at once
    assert (gradients == {torch.bfloat16}) == (units and fits)
    assert not (units and fits) or [flops for flops, *_ in multiplied[-2:]] == [2 * N * D * V] * 2


@pytest.mark.parametrize("rows", [512, 513])
def test_with_matrix_units_gradients_of_many_rows_add_up_in_float32(rows, units, multiplied):
    x, w, y = head(rows, 4, 700)
    _ = step(x, w, y, chunk_bytes=2**30)
    assert (multiplied[-1][-1] == torch.bfloat16) == (units and rows <= 512)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("shape", [(96, 64, 1500), (3, 300, 700), (1, 5, 2), (600, 8, 90)])
@pytest.mark.usefixtures("units")
def test_gradients_are_no_worse_than_those_of_torch(shape, reduction, fits):
    N, _, V = shape
    x, w, y = head(*shape)
    y[N // 2 :: 5] = -100
    got = step(x, w, y, reduction=reduction, chunk_bytes=4 * N * V if fits else 2048)
    rival = step(x, w, y, eager, reduction=reduction)
    exact = step(
        x.detach().double().requires_grad_(), w.detach().double().requires_grad_(), y, eager, reduction=reduction
    )
    for name, a, b, c in zip(("loss", "input", "weight"), got, exact, rival, strict=True):
        plain.agree(name, a, b, c, plain.FLOOR[torch.bfloat16 if name != "loss" else torch.float32])


def peak_of(function):
    """Bytes that torch had allocated at most, beyond those before, as its profiler counts them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        _ = function()
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return torch.tensor([event.nbytes() for event in events if event.name() == "[memory]"]).cumsum(0).max().item()


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("fits", [True, False])
def test_memory_is_what_the_plan_says(reduction, fits, units):
    N, D, V = 128, 64, 60_000
    x, w, y = head(N, D, V)
    logits, gradient, tile = 4 * N * V, 2 * V * D, 2**23  # 31 MB, 31 MB, 8 MiB
    found = peak_of(lambda: step(x, w, y, reduction=reduction, chunk_bytes=logits - (not fits))) - gradient
    if not fits:
        # a tile of logits and its gradient, of the weight in float32, and the gradient of that
        assert found <= 4 * tile
    elif units:
        # and the gradients of all logits in bfloat16; what torch's product takes for itself depends on the processor
        g = torch.zeros(V, N, dtype=torch.bfloat16)
        own = peak_of(lambda: g @ x.detach()) - gradient
        assert logits < found <= 1.5 * logits + own + tile
    else:
        assert logits < found <= logits + 4 * tile
