"""Plans of a GPU for the linear loss, by its kernels in Triton's interpreter, on products as a GPU makes them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import crossent.torch as F
from crossent.kernels import triton
from crossent.torch.sources import linear as sources
from crossent.torch.sources import products
from crossent.torch.sources.plan import GPU, Rest, Sweep, one_sweep

PLANS = {  # rows, features, classes, bytes of logits at a time, and the sweep of a GPU a thousand times smaller
    "all rows": ((24, 16, 130), 2**12 + 2**11, Sweep(8, 24)),
    "some rows": ((64, 6, 130), 2**13 + 2**12, Sweep(8, 24)),
    "some classes": ((40, 8, 130), 2**13, Sweep(8, 40, Rest(34, 32))),
}


@pytest.mark.skipif(not triton.interpreted(), reason="a GPU has plans of its own (test_on_a_gpu)")
@pytest.mark.parametrize("plan", PLANS)
def test_plans_of_a_gpu_by_its_kernels(plan, device, monkeypatch):
    (N, D, V), chunk_bytes, sweep = PLANS[plan]
    gpu = dataclasses.replace(GPU, row_multiple=8, operations_per_byte=2, start_bytes=0, small_weight=0)
    monkeypatch.setattr(sources, "device_of", lambda _: gpu)
    monkeypatch.setattr(sources, "operand_dtype", lambda dtype, _device=None: dtype)
    monkeypatch.setattr(products, "multiply", widened)
    x, w = (torch.randn(n, D).bfloat16().requires_grad_() for n in (N, V))
    b = torch.randn(V).bfloat16().requires_grad_()
    target = torch.randint(V, (N,))
    target[::7] = -100
    assert one_sweep(sources.costs_of(x, w), chunk_bytes) == sweep
    loss = F.linear_cross_entropy(x, w, target, linear_bias=b, z_loss=0.01, softcap=5.0, chunk_bytes=chunk_bytes)
    exact = [t.detach().double().requires_grad_() for t in (x, w, b)]
    z = 5.0 * torch.tanh((exact[0] @ exact[1].t() + exact[2]) / 5.0)
    true = nnf.cross_entropy(z, target) + 0.01 * z.logsumexp(1)[target >= 0].square().mean()
    torch.testing.assert_close(loss.double(), true, rtol=1e-5, atol=1e-6)
    for got, want in zip(torch.autograd.grad(loss, (x, w, b)), torch.autograd.grad(true, exact), strict=True):
        assert (got.double() - want).norm() <= 2**-8 * want.norm()  # logits' gradients are rounded, and these


def widened(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False) -> None:
    """A product of half-precision operands with a float32 sum, as GPUs make it."""
    found = a.float() @ b.float()
    _ = out.copy_(out + found if add else found)
