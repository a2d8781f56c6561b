"""How the linear loss is cut: the arithmetic of the plans."""

from __future__ import annotations

import random

import pytest
import torch

from crossent.torch.sources import plan as planning
from crossent.torch.sources.plan import SourceCosts, Sweep, cpu_device
from crossent.torch.sources.processor import Processor
from tests.torch.sources.peaks import peak

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
def test_no_head_takes_more_than_half_a_gibibyte_and_a_float32_weight(head):
    N, D, V = HEADS[head]
    chunk, sweep = plan(N, D, V)
    assert chunk == 512 * MIB
    assert peak(N, D, V, sweep) <= 512 * MIB + 4 * V * D


def test_no_shape_takes_more_than_its_chunk_and_a_float32_weight():
    draw = random.Random(0)
    seen = set()
    for _ in range(20000):
        N, V, D = (round(2 ** draw.uniform(0, most)) for most in (18, 20, 13))
        chunk = draw.choice([None, 2**24, 2**27, 2**31])
        size, sweep = plan(N, D, V, chunk_bytes=chunk)
        if sweep is None:
            seen.add("two")
            continue
        assert peak(N, D, V, sweep) <= size + 4 * V * D, (N, D, V, sweep)
        assert 4 * min(N, sweep.rows) * V <= size
        seen |= {"small"} if V * D <= 2**22 and sweep.kept >= N else set()
        assert sweep.kept >= N or sweep.kept % sweep.rows == 0
        assert sweep.rows >= N or sweep.rows % 128 == 0 or N < 2 * 128 or sweep.rest is None
        if sweep.rest is not None:
            assert 6 * N * sweep.rest.at_once <= size
            assert 0 < sweep.rest.logits < V
        seen.add("rest" if sweep.rest else "all" if sweep.kept >= N else "some")
    assert seen == {"two", "rest", "all", "some", "small"}


def test_llama3_keeps_the_gradients_of_all_its_logits():
    assert plan(*HEADS["llama3"]) == (512 * MIB, Sweep(1024, kept=4096))


def test_qwen_goes_in_one_sweep():
    assert plan(*HEADS["qwen"]) == (512 * MIB, Sweep(256, kept=1024))


def test_gemma2_makes_a_third_of_its_logits_twice_and_has_no_sums():
    (_, sweep), (N, _, V) = plan(*HEADS["gemma2"]), HEADS["gemma2"]
    assert sweep is not None
    assert sweep.kept == N
    assert sweep.rest is not None
    assert 0.3 * V < sweep.rest.logits < 0.4 * V


@pytest.mark.parametrize(("head", "whole"), [("llama3", True), ("gemma2", False), ("gpt2", False)])
def test_gradients_of_all_logits_are_kept_where_that_costs_no_more_than_sums(head, whole):
    N, D, V = HEADS[head]
    assert (2 * N * V <= 4 * V * D) == whole
    sweep = plan(N, D, V)[1]
    assert sweep is not None
    assert (sweep.kept >= N and sweep.rest is None) == whole


def test_chunks_are_whole_tiles_of_products():
    for N, D, V in HEADS.values():
        sweep = plan(N, D, V)[1]
        assert sweep is None or sweep.rows % 128 == 0


def test_the_gradient_of_a_small_weight_is_float32():
    """128 output tiles of 128 × 256 numbers or fewer: a library splits their sums, maybe in half precision."""
    for D, V, rounded in ((2048, 1000, False), (2**10, 2**12, False), (2**10, 2**12 + 1, True), (4096, 128256, True)):
        for N in (16, 4096, 2**14):
            costs = SourceCosts(N, V, D, torch.bfloat16, torch.bfloat16, planning.GPU)
            sweep = planning.one_sweep(costs, 2**40)
            assert sweep is not None
            assert sweep.kept == N
            assert planning.weight_adds_up(costs, sweep) != rounded


def test_a_small_chunk_makes_two_sweeps():
    N, D, V = HEADS["llama3"]
    assert plan(N, D, V, chunk_bytes=4 * 128 * V)[1] == Sweep(128, kept=N)
    assert plan(N, D, V, chunk_bytes=4 * 128 * V - 1)[1] is None
    assert plan(*HEADS["recommender"])[1] is None


def test_operands_that_are_multiplied_in_float32_have_sums():
    N, D, V = HEADS["gpt2"]
    costs = SourceCosts(N, V, D, torch.bfloat16, torch.float32, planning.GPU)
    sweep = planning.one_sweep(costs, 512 * MIB)
    assert sweep == Sweep(1664)
    assert planning.weight_adds_up(costs, sweep)


@pytest.mark.parametrize("head", HEADS)
def test_float32_heads_of_gpus_keep_to_the_chunk(head):
    N, D, V = HEADS[head]
    sweep = plan(N, D, V, torch.float32)[1]
    assert (sweep is None) == (V > 2**18)  # fewer than 512 rows
    assert sweep is None or 512 <= sweep.rows <= 2**27 // V


def test_the_dearest_time_is_that_of_two_sweeps():
    """Whatever the shape: rows that are kept save a product, and cost passes over the sums."""
    N, D, V = 65536, 1024, 50000
    rate = planning.GPU.operations_per_byte
    for chunk_bytes in (2**27, 2**28, 2**29, 2**30, 2**31):
        sweep = plan(N, D, V, chunk_bytes=chunk_bytes)[1]
        if sweep is not None and sweep.rest is None:
            groups = -(-N // sweep.kept)
            assert (8 * groups - 4) * V * D <= 2 * N * V * D / rate


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


# Chunk, rows of one sweep and tile of two, as they were before GPUs had plans of their own (docs/decisions/0026)
LLAMA, GPT2, FEW, ITEMS, SMALL = (
    (4096, 4096, 128256), (1024, 768, 50257), (256, 4096, 128256), (2048, 64, 1_000_000), (1000, 300, 777)
)  # fmt: skip
BEFORE = {
    ("Intel with AMX, 105 MiB", torch.float32): {
        LLAMA: (2**27, 256, (2048, 1024)), GPT2: (2**27, 512, (1024, 2048)), FEW: (2**27, 256, (256, 8064)),
        ITEMS: (2**27, None, (2048, 1024)), SMALL: (2**27, 1000, (1000, 777)),
    },
    ("Intel with AMX, 105 MiB", torch.bfloat16): {
        LLAMA: (2**27, None, (2048, 1024)), GPT2: (2**27, None, (1024, 2048)), FEW: (2**27, None, (256, 8064)),
        ITEMS: (2**27, None, (2048, 1024)), SMALL: (2**27, None, (1000, 777)),
    },
    ("AMD Zen 3, 32 MiB", torch.bfloat16): {
        LLAMA: (2**27, None, (2048, 512)), GPT2: (2**27, None, (1024, 2048)), FEW: (2**27, None, (256, 512)),
        ITEMS: (2**27, None, (2048, 1024)), SMALL: (2**27, None, (1000, 777)),
    },
    ("Graviton 2, 32 MiB", torch.float32): {
        LLAMA: (2**27, 256, (2048, 1024)), GPT2: (2**27, 512, (1024, 2048)), FEW: (2**27, 256, (256, 8064)),
        ITEMS: (2**27, 33, (2048, 1024)), SMALL: (2**27, 1000, (1000, 777)),
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), BEFORE)
def test_plans_of_cpus_are_what_they_were(name, dtype):
    for head, (chunk, rows, tile) in BEFORE[name, dtype].items():
        costs = on(PROCESSORS[name], *head, dtype)
        assert planning.default_chunk_bytes(costs) == chunk
        sweep = planning.one_sweep(costs, chunk)
        assert sweep == (None if rows is None else Sweep(rows))
        assert planning.tile_shape(costs, 1, chunk) == tile


@pytest.mark.parametrize("whole", [1, 100, 1000])
@pytest.mark.parametrize("most", [1, 7, 64])
@pytest.mark.parametrize("multiple", [1, 16])
def test_equal_parts_are_no_longer_than_they_may_be(whole, most, multiple):
    part = planning.even(whole, most, multiple)
    assert 1 <= part <= max(1, min(whole, most))
    assert -(-whole // part) <= -(-whole // most) + 1
