"""Who takes part in a case of a GPU, and the floor."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import contenders, trial
from benchmarks.gpu.cases import make
from benchmarks.gpu.errors import distance
from tests.benchmarks.gpu.small import CPU, HEADS, LOGITS, tiny


@pytest.mark.parametrize("name", LOGITS + HEADS)
def test_all_contenders_agree(name: str):
    case = tiny(name)
    data = make(case, CPU)
    found, missing = contenders.losses(case, compiled=False)
    of_heads = {"cce", "torch chunked", *case.sizes} if name in HEADS else set()
    assert sorted([*found, *missing]) == sorted({"crossent", "eager", "compile", "liger", *of_heads})
    first = contenders.gradients(found["eager"], make(case, CPU))
    for loss in [loss for contender, loss in found.items() if contender not in {"liger", "cce"}]:  # these need a GPU
        for a, b in zip(contenders.gradients(loss, data), first, strict=True):
            assert distance(a, b) <= trial.SAME


@pytest.mark.parametrize(("memory", "chunks"), [(None, 1), (4 * 2 * 70 * 9, 5)])  # 40 rows, 9 at a time
def test_the_floor_is_three_products_in_as_many_chunks_as_must_be(memory: int | None, chunks: int):
    case = tiny("llama3-head")
    data = make(case, CPU)
    call, work = contenders.floor(case, data, memory)
    assert work == {"chunks": chunks}
    x, w = (leaf.detach().double() for leaf in data.leaves)
    for found, exact in zip(call(), (x @ w.t() @ w, w @ x.t() @ x), strict=True):
        # logits are rounded, and so are sums, once for each chunk
        assert distance(found, exact) <= chunks * torch.finfo(torch.bfloat16).eps


def test_a_reason_is_one_line_without_paths():
    error = ImportError("no module at /some/where/package.py\nsecond line")
    assert contenders.reason(error) == "ImportError: no module at package.py"
