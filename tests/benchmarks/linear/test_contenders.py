"""The calls that are timed of losses of a linear layer, and who takes part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.common import machine, patience
from benchmarks.linear import contenders
from benchmarks.linear.cases import LinearCase
from tests.benchmarks.tiny import D, N, V, linear_case, measured_linear


@pytest.mark.parametrize("name", ["float32", "bf16"])
def test_floors_are_the_products_of_a_loss_and_its_gradients(name: str):
    data = linear_case(name).make()
    floors = contenders.floors(data)
    features, weight = (x.detach().double().numpy() for x in data.leaves)
    logits = features @ weight.T
    products = [logits, logits @ weight, logits.T @ features]
    for floor, call in floors.items():
        found = call()
        for got, want in zip(
            [found] if floor.startswith("gemm ") or floor == "gemm" else found, products, strict=False
        ):
            eps = torch.finfo(got.dtype).eps
            assert got.dtype == (torch.float32 if "float32" in floor else data.leaves[0].dtype)
            # logits are rounded before they are multiplied again, and each sum once: norms hardly ever differ by more
            assert np.linalg.norm(got.double().numpy() - want) <= 2 * eps * np.linalg.norm(want)
        if "warm" in floor:
            assert [x.data_ptr() for x in call()] == [x.data_ptr() for x in found]


@pytest.mark.slow
def test_who_needs_more_memory_than_there_is_does_not_run(monkeypatch: pytest.MonkeyPatch):
    large = LinearCase("large", "none", 10**4, 10, 10**5)  # logits of 4 GB, a weight of 4 MB
    missing = contenders.missing
    whole = {"eager", "compile"}
    assert missing(large, None) == missing(large, 19 * 10**9) == {}
    assert missing(large, 12 * 10**9).keys() == whole
    assert missing(large, 8 * 10**9).keys() == whole | {"gemms"}
    assert missing(large, 3 * 10**9).keys() == whole | {"gemm", "gemms", "gemms warm"}
    assert missing(large, 12 * 10**9)["eager"] == "16.0 GB of memory needed, 12.0 GB free"

    logits, weight = 4 * N * V, 4 * V * D
    for times, floors in ((1.5, {"gemm", "gemms warm"}), (0.5, set())):
        monkeypatch.setattr(machine, "free_memory", lambda times=times: int(times * (logits + weight) * 8 / 7))
        for record in measured_linear("float32"):
            present = {"forward": {"gemm"}, "both": {"gemms warm"}}[record["measure"]] & floors
            chunked = {"torch chunked"} if record["measure"] == "both" else set[str]()
            assert record["seconds"].keys() == {"crossent"} | chunked | present
            assert record["missing"].keys() == {"eager", "gemm", "gemms", "gemms warm"} - floors
            assert record["times_limit"].keys() == present


def test_a_case_whose_products_take_too_long_is_left_out_before_a_step_is_made(monkeypatch: pytest.MonkeyPatch):
    case = linear_case("bf16")
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    monkeypatch.setattr(contenders, "linear_cross_entropy", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(patience.TooSlowError, match=r"its products take about \d+ s"):
        _ = contenders.calls(case, case.make(), compiled=False)


def test_torchs_chunks_take_part_where_a_case_says_so():
    assert "torch chunked" in contenders.losses(linear_case("float32"), compiled=False)
    without = replace(linear_case("float32"), chunked=False)
    assert contenders.losses(without, compiled=False).keys() == {"crossent", "eager"}
