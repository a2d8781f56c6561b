"""Targets that do not exist: a class or a probability that cannot be makes its row NaN, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crossent.spec import Target
from tests.kernels.triton.calls import INF, NAN, evaluate, same_bits

each = pytest.mark.parametrize
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter


def broken(got: Any, want: Any, bad: list[int]) -> None:
    """Loss and gradient of the bad rows are NaN, everything else has the same bits."""
    for name in ("loss", "grad", "fused"):
        assert np.isnan(got[name][..., bad]).all()
    for name in ("lse", "entropy"):
        np.testing.assert_array_equal(got[name], want[name])
    same_bits(got, want, [row for row in range(len(got["loss"])) if row not in bad])


@each(("kind", "dtype"), [("index", "int64"), ("topk", "int64"), ("topk", "int32"), ("index", "uint8")])
def test_a_class_that_does_not_exist_makes_its_row_nan_and_nothing_else(kind, dtype):
    V, dtype = 200, getattr(torch, dtype)
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    wrong = (-1, V, -99, 2**8 + 3, 2**31 - 1, -(2**31), 2**32 + 3, 3 - 2**32, 2**40, high, low + 1)
    labels = [5, 156, 199, *(x for x in wrong if low <= x <= high and not 0 <= x < V)]  # 156 is −100 in eight bits
    logits = torch.randn(len(labels), V, generator=torch.Generator().manual_seed(1))
    index = torch.tensor(labels).to(dtype)
    legal, prob = torch.tensor([x if 0 <= x < V else 7 for x in labels]).to(dtype), torch.tensor([0.5, 0.25])
    smooth = {"smoothing": 0.1, "weight": torch.linspace(0, 2, V)} if dtype == torch.int64 else {}

    def call(index: Any) -> Any:
        if kind == "index":
            return evaluate(logits, Target(index, ignore_index=-100, **smooth))
        return evaluate(logits, Target(torch.stack([legal, index], 1), prob.expand(len(labels), 2), **smooth))

    broken(call(index), call(legal), list(range(3, len(labels))))


@each(("kind", "dtype"), [("dense", "float64"), ("topk", "float32"), ("dense", "bfloat16"), ("topk", "float16")])
def test_a_probability_that_is_none_makes_its_row_nan_and_nothing_else(kind, dtype):
    rng, K = torch.Generator().manual_seed(2), 19 if kind == "dense" else 4
    logits, prob = torch.randn(6, 19, generator=rng), torch.rand(6, K, generator=rng).to(getattr(torch, dtype))
    prob[0, 0] = 0
    wrong = prob.clone()
    wrong[0, 0], wrong[1, 0], wrong[2, -1], wrong[3, 2], wrong[4, 1] = -0.0, -0.25, NAN, INF, -INF
    index = torch.arange(24).view(6, 4) % 19 if kind == "topk" else None
    for options in ({}, {"smoothing": 1.0, "weight": torch.zeros(19)}):  # even where nothing depends on them
        got, want = (evaluate(logits, Target(index, p, **options)) for p in (wrong, prob))
        broken(got, want, [1, 2, 3, 4])
