"""The arguments that cases of a GPU make."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import cases
from tests.benchmarks.gpu.small import CPU, HEADS, LOGITS, tiny


@pytest.mark.parametrize("name", LOGITS + HEADS)
def test_cases_make_what_they_say(name: str):
    assert tuple(case.name for case in cases.CASES) == LOGITS + HEADS
    case, is_head = tiny(name), name in HEADS
    data, shape = cases.make(case, CPU), case.describe()["shape"]
    N, V = (shape[0], shape[-1]) if is_head else (shape[0], 2) if name == "tags" else shape[:2]
    assert [list(x.shape) for x in data.leaves] == ([[N, shape[1]], [V, shape[1]]] if is_head else [shape])
    assert {x.dtype for x in data.leaves} == {getattr(torch, case.dtype)}
    assert list(data.target.shape) == [N, *([] if is_head else shape[2:])]
    assert 0 <= data.target.min() <= data.target.max() < V
    assert cases.head(case)["suite"] == f"gpu-{case.suite}"
