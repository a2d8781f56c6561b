"""How the linear loss is cut: the arithmetic of the plans, and a GPU's plans carried out by the CPU's kernels."""

from __future__ import annotations

import pytest
import torch

from crossent.torch import linear_cross_entropy
from crossent.torch.sources import linear
from crossent.torch.sources import plan as planning
from crossent.torch.sources.plan import SourceCosts, Sweep

MIB = 2**20


def plan(N, D, V, dtype=torch.bfloat16, chunk_bytes=None):
    costs = SourceCosts(N, V, D, dtype, dtype, planning.GPU)
    chunk = planning.default_chunk_bytes(costs) if chunk_bytes is None else chunk_bytes
    return chunk, planning.one_sweep(costs, chunk)


HEADS = {
    "llama3": (4096, 4096, 128256),
    "gemma2": (8192, 2304, 256000),
    "qwen": (16384, 896, 151936),
    "gpt2": (8192, 768, 50257),
    "recommender": (2048, 64, 1_000_000),
}


@pytest.mark.parametrize("head", HEADS)
def test_memory_stays_within_the_chunk_and_a_float32_weight(head):
    N, D, V = HEADS[head]
    chunk, sweep = plan(N, D, V)
    if sweep is None:
        return
    gradients = 2 * N * V if sweep.whole else 2 * sweep.rows * V
    sums = 0 if sweep.whole or sweep.rows >= N else 4 * V * D
    assert 4 * sweep.rows * V + gradients + sums <= chunk + 4 * V * D


def test_llama3_needs_no_sums_and_half_a_gibibyte_of_logits():
    chunk, sweep = plan(*HEADS["llama3"])
    assert chunk <= 752 * MIB
    assert sweep is not None
    assert sweep.whole
    assert 4 * sweep.rows * 128256 <= chunk


@pytest.mark.parametrize(("head", "whole"), [("llama3", True), ("gemma2", False), ("gpt2", False)])
def test_gradients_of_all_logits_are_kept_where_that_costs_no_more_than_sums(head, whole):
    N, D, V = HEADS[head]
    assert (2 * N * V <= 4 * V * D) == whole
    sweep = plan(N, D, V)[1]
    assert sweep is not None
    assert sweep.whole == whole
    assert sweep.rows >= 1024


def test_a_small_chunk_makes_two_sweeps():
    N, D, V = HEADS["llama3"]
    assert plan(N, D, V, chunk_bytes=128 * MIB)[1] is None
    assert plan(*HEADS["recommender"])[1] is None


def test_a_plan_is_the_same_for_every_dtype_of_half_precision():
    for head in HEADS.values():
        assert plan(*head)[1] == plan(*head, torch.float16)[1]


@pytest.mark.parametrize("whole", [1, 100, 1000])
@pytest.mark.parametrize("most", [1, 7, 64])
@pytest.mark.parametrize("multiple", [1, 16])
def test_equal_parts_are_no_longer_than_they_may_be(whole, most, multiple):
    part = planning.even(whole, most, multiple)
    assert 1 <= part <= max(1, min(whole, most))
    assert -(-whole // part) <= -(-whole // most) + 1


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The plans of a GPU, a thousand times smaller, carried out on the CPU."""
    gpu = planning.Device(2**19, None, 64, 8, 2**31, 2**31, False)
    monkeypatch.setattr(planning, "CPU", None)
    monkeypatch.setattr(linear, "device_of", lambda _: gpu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 48, 1000), (200, 32, 777), (9, 16, 501), (0, 16, 33)])
@pytest.mark.parametrize("chunk", [None, 2**13, 2**16, 2**22])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_plan_gives_the_loss_and_its_gradients(shape, dtype, chunk, smoothing, as_on_a_gpu):
    N, D, V = shape
    random = torch.Generator().manual_seed(0)
    features, weight = torch.randn(N, D, generator=random).to(dtype), torch.randn(V, D, generator=random).to(dtype)
    bias = torch.randn(V, generator=random).to(dtype)
    target = torch.randint(V, (N,), generator=random)
    target[::5] = -100
    leaves = [x.clone().requires_grad_() for x in (features, weight, bias)]
    exact = [x.double().requires_grad_() for x in (features, weight, bias)]
    how = {"label_smoothing": smoothing, "reduction": "sum"}
    loss = linear_cross_entropy(leaves[0], leaves[1], target, linear_bias=leaves[2], chunk_bytes=chunk, **how)
    loss.backward()
    rival = torch.nn.functional.cross_entropy(torch.nn.functional.linear(*exact), target, **how)
    _ = rival.backward()
    torch.testing.assert_close(loss.double(), rival, rtol=1e-6, atol=1e-6)
    unit = torch.finfo(dtype).eps
    for got, want in zip(leaves, exact, strict=True):
        assert got.grad is not None
        assert want.grad is not None
        # gradients of logits, and then of operands, are rounded once each to the dtype
        error = (got.grad.double() - want.grad).norm()
        assert error <= (2 * unit + 1e-6) * want.grad.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("g", [0.1, 1 / 3, 2.0**-7])
@pytest.mark.parametrize("chunk", [None, 2**13, 2**16])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_gradients_are_rounded_once_whatever_their_cotangent_is(device, chunk, g, dtype, request):
    if device == "gpu":
        request.getfixturevalue("as_on_a_gpu")
    N, D, V = 64, 48, 1000
    random = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=random).to(dtype)
    weight, target = torch.randn(V, D, generator=random).to(dtype), torch.randint(V, (N,), generator=random)
    leaves = [x.clone().requires_grad_() for x in (features, weight)]
    loss = linear_cross_entropy(*leaves, target, reduction="sum", chunk_bytes=chunk)
    found = torch.autograd.grad(loss, leaves, torch.tensor(g))

    x, w = features.double(), weight.double()
    z = (x @ w.t()).requires_grad_()
    rival = torch.nn.functional.cross_entropy(z, target, reduction="sum")
    (of_logits,) = torch.autograd.grad(rival, z, torch.tensor(g).double())
    # float32: a logit is a sum of D terms, the exponential of d is off by 3 u (1 + |d|), and products are sums
    u, eps, least = 2.0**-24, torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    off = D * (x.abs() @ w.abs().t()).max() + 3 * (1 + (z.max() - z.min()))
    for got, exact, size, terms in (
        (found[0], of_logits @ w, of_logits.abs() @ w.abs(), V),
        (found[1], of_logits.t() @ x, of_logits.abs().t() @ x.abs(), N),
    ):
        limit = (exact.abs() * eps + least) / 2 + u * (off.detach() + terms) * size
        assert ((got.double() - exact).abs() <= limit).all()
        assert (got.double() - exact).norm() <= eps / 4 * exact.norm()  # of one rounding; of two it is more than this


def test_all_three_plans_are_met(as_on_a_gpu):
    def found(N, D, V, chunk):
        x, w = torch.empty(N, D, dtype=torch.bfloat16), torch.empty(V, D, dtype=torch.bfloat16)
        return planning.one_sweep(linear.costs_of(x, w), chunk)

    assert found(64, 48, 1000, 2**16) == Sweep(16, whole=True)
    assert found(200, 32, 777, 2**16) == Sweep(8, whole=False) or found(200, 32, 777, 2**16).rows >= 8  # type: ignore[union-attr]
    assert found(64, 48, 1000, 2**13) is None
