"""How the linear loss is cut: the arithmetic of the plans, and a GPU's plans carried out by the CPU's kernels."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from crossent.torch import linear_cross_entropy
from crossent.torch.sources import linear
from crossent.torch.sources import plan as planning
from crossent.torch.sources.plan import SourceCosts, Sweep, cpu_device
from crossent.torch.sources.processor import Processor
from crossent.torch.sources.products import operand_dtype

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


PROCESSORS = {
    "Intel with AMX, 105 MiB": Processor(16, 105 * MIB, True),
    "Intel with AVX-512, 38.5 MiB": Processor(16, 77 * MIB // 2, False),
    "AMD Zen 2, 16 MiB": Processor(8, 16 * MIB, False),
    "AMD Zen 3, 32 MiB": Processor(8, 32 * MIB, False),
    "Intel laptop, 6 MiB": Processor(8, 6 * MIB, False),
    "Graviton 2, 32 MiB": Processor(4, 32 * MIB, False),
    "Apple M1, 12 MiB": Processor(4, 12 * MIB, False),
    "512 KiB": Processor(4, MIB // 2, False),
}


def on(processor, N, D, V, dtype=torch.bfloat16):
    """What a head costs on a processor; half-precision operands are multiplied as they are on matrix units only."""
    native = dtype == torch.bfloat16 and processor.matrix_units
    half = dtype in (torch.bfloat16, torch.float16)
    return SourceCosts(N, V, D, dtype, torch.float32 if half and not native else dtype, cpu_device(processor))


@pytest.mark.parametrize("name", PROCESSORS)
def test_tiles_of_every_processor_leave_half_of_its_cache_to_operands(name):
    processor = PROCESSORS[name]
    for N, D, V in [*HEADS.values(), (256, 4096, 128256), (1, 1, 1), (7, 100_000, 50)]:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            costs = on(processor, N, D, V, dtype)
            rows, classes = planning.tile_shape(costs, 1, costs.device.chunk_bytes)
            least = 2 * MIB  # products of smaller tiles are slower
            assert 4 * rows * classes <= max(least, processor.cache_bytes // 2)
            assert 4 * rows * classes <= 8 * MIB
            if costs.product_dtype != dtype:  # float32 copies of a part of the weight
                assert 4 * classes * D <= max(least, processor.cache_bytes // 2, 4 * 64 * D)


@pytest.mark.parametrize(("name", "rows"), [("Intel with AMX", 128), ("AMD Zen 2", 64), ("Graviton", 32)])
def test_one_sweep_needs_more_rows_the_faster_a_core_multiplies(name, rows):
    processor = next(p for key, p in PROCESSORS.items() if key.startswith(name))
    D, V = 768, 50257
    costs = on(processor, 4096, D, V, torch.float32)
    assert planning.one_sweep(costs, 4 * V * rows - 1) is None
    sweep = planning.one_sweep(costs, 4 * V * rows)
    assert sweep is not None
    assert rows // 2 < sweep.rows <= rows


@pytest.mark.parametrize("name", PROCESSORS)
def test_half_precision_heads_go_in_two_sweeps_and_float32_heads_in_one(name):
    for head in HEADS.values():
        for dtype in (torch.bfloat16, torch.float16):
            assert planning.one_sweep(on(PROCESSORS[name], *head, dtype), 2**40) is None
        assert planning.one_sweep(on(PROCESSORS[name], *head, torch.float32), 2**40) is not None


def test_few_rows_have_memory_for_their_logits_on_matrix_units_where_the_weight_is_twice_as_large():
    units, none = PROCESSORS["Intel with AMX, 105 MiB"], PROCESSORS["AMD Zen 3, 32 MiB"]
    for N, D, V in ((512, 4096, 128256), (512, 2048, 128256), (256, 4096, 256000)):
        chunk = planning.default_chunk_bytes(on(units, N, D, V))
        assert chunk == 4 * N * V
        assert 2 * chunk <= 2 * V * D  # the weight
        assert planning.default_chunk_bytes(on(none, N, D, V)) == 128 * MIB
        assert planning.default_chunk_bytes(on(units, N, D, V, torch.float32)) == 128 * MIB
    for head in ((512, 1024, 128256), (1024, 4096, 128256), (64, 4096, 32000)):
        assert planning.default_chunk_bytes(on(units, *head)) == 128 * MIB


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
    gpu = dataclasses.replace(planning.GPU, chunk_bytes=2**19, tile_rows=64, fewest_rows=8)
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
    narrow = operand_dtype(dtype) == dtype
    # float32: a logit is a sum of D terms, the exponential of d is off by 3 u (1 + |d|), and products are sums
    u, eps, least = 2.0**-24, torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    off = D * (x.abs() @ w.abs().t()).max() + 3 * (1 + (z.max() - z.min()))
    for got, exact, size, terms in (
        (found[0], of_logits @ w, of_logits.abs() @ w.abs(), V),
        (found[1], of_logits.t() @ x, of_logits.abs().t() @ x.abs(), N),
    ):
        limit = (exact.abs() * eps + least) / 2 + u * (off.detach() + terms) * size
        if narrow:  # gradients of logits are operands too, and have been rounded to be that
            limit += (1 + eps) * eps / 2 * size
        if narrow and device == "gpu":  # the exception of docs/decisions/0019: a weight's gradient by one product
            limit += (1 + eps) * eps / 2 * (exact.abs() + eps * size)
        assert ((got.double() - exact).abs() <= limit).all()
        # of one rounding; of two it is more than this
        assert narrow or (got.double() - exact).norm() <= eps / 4 * exact.norm()


def test_all_three_plans_are_met(as_on_a_gpu):
    def found(N, D, V, chunk):
        x, w = torch.empty(N, D, dtype=torch.bfloat16), torch.empty(V, D, dtype=torch.bfloat16)
        return planning.one_sweep(linear.costs_of(x, w), chunk)

    assert found(64, 48, 1000, 2**16) == Sweep(16, whole=True)
    assert found(200, 32, 777, 2**16) == Sweep(8, whole=False) or found(200, 32, 777, 2**16).rows >= 8  # type: ignore[union-attr]
    assert found(64, 48, 1000, 2**13) is None
