"""Results are held against float64 within the bounds of the conformance suite: what is wrong is found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu.prove import truth
from crossent import kernels
from crossent.kernels.backend import Cotangents, RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import FIELDS

N, V = 7, 33


def cpu_results(dtype: torch.dtype, target: Target, scores: Scores) -> tuple[truth.Rows, truth.Results]:
    """What the CPU's backend, which is held against the reference elsewhere, makes of random rows."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(N, V, generator=random).mul_(3).to(dtype)
    g = torch.randn(3, N, generator=random)
    given = truth.Rows(logits, target, scores, (g[0], g[1], g[2]))
    outputs = {name: torch.full((N,), torch.nan) for name in RowOutputs._fields}
    record = torch.full((len(FIELDS), N), torch.nan, dtype=torch.float64)
    gradient, cpu = torch.empty_like(logits), kernels.get("cpu")
    cpu.row_stats(logits, target, scores, record, RowOutputs(**outputs))
    cpu.row_grad(logits, target, scores, record, Cotangents(*given.cotangents), gradient)
    return given, truth.Results(outputs, record, gradient)


LABELS = torch.tensor([0, V - 1, -100, 3, 4, 5, 6])
TARGETS = {
    "plain": Target(LABELS, ignore_index=-100),
    "smoothing": Target(LABELS, ignore_index=-100, smoothing=0.1),
    "top-k": Target(torch.arange(2 * N).view(N, 2), torch.rand(N, 2, generator=torch.Generator().manual_seed(1))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_right_results_are_right(kind: str, dtype: torch.dtype, softcap: float | None, monkeypatch: Any) -> None:
    monkeypatch.setattr(truth, "NUMBERS", 3 * V)  # three rows at a time
    found = truth.shares(*cpu_results(dtype, TARGETS[kind], Scores(1.0, softcap)), threads=2)
    assert set(found) == {*FIELDS, *RowOutputs._fields, "gradient"}
    assert max(found.values()) <= 1


@pytest.mark.parametrize("place", [(0, 0), (6, V - 1)])
def test_one_wrong_number_is_found(place: tuple[int, int]) -> None:
    given, results = cpu_results(torch.float32, TARGETS["plain"], Scores())
    wrong = results.gradient.clone()
    wrong[place] += 1e-3
    assert truth.shares(given, results._replace(gradient=wrong), 1)["gradient"] > 1
    loss = results.outputs["loss"].clone()
    loss[place[0]] = torch.nan
    assert truth.shares(given, results._replace(outputs={"loss": loss}), 1)["loss"] == np.inf


def test_rows_without_a_record_are_compared_by_their_outputs() -> None:
    given, results = cpu_results(torch.float32, TARGETS["plain"], Scores())
    assert set(truth.shares(given, results._replace(record=None), 1)) == {*RowOutputs._fields, "gradient"}


def test_the_target_is_that_of_the_rows() -> None:
    given, results = cpu_results(torch.float32, TARGETS["plain"], Scores())
    other = dataclasses.replace(given.target, index=LABELS.roll(1))
    assert truth.shares(given._replace(target=other), results, 1)["loss"] > 1
