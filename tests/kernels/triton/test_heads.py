"""Log-probabilities of two heads: the same bits for equal rows, whatever stands beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crossent.spec import Scores
from tests.kernels.triton.calls import INF, NAN
from tests.kernels.triton.pair_calls import sums_of

each = pytest.mark.parametrize


@each(
    "scores", [Scores(), Scores(0.7), Scores(1.3, 9.0), Scores(1.0, 4.0, torch.tensor([0.3, 2.0], dtype=torch.float64))]
)
@each(("dtype", "V"), [("bfloat16", 2500), ("float32", 300), ("float16", 10), ("float64", 90)])
def test_equal_rows_have_no_divergence_to_the_last_bit(dtype, V, scores):
    z = (5 * torch.randn(2, V, generator=torch.Generator().manual_seed(V))).to(getattr(torch, dtype))
    assert (sums_of(z, z.clone(), scores) == 0).all()


def test_a_vocabulary_of_248320_in_bfloat16_is_equal_or_nearly():
    z = (4 * torch.randn(1, 248320, generator=torch.Generator().manual_seed(0))).bfloat16()
    assert (sums_of(z, z.clone()) == 0).all()
    other = z.view(torch.int16).clone()
    other[:, ::7] ^= 1  # the last bit
    near = sums_of(z, other.view(torch.bfloat16))
    assert ((near > 0) & (near < 1e-2)).all()


@each("wrong", [NAN, INF, -INF])
@each("V", [1, 20, 600])
def test_a_row_without_a_distribution_has_no_number(V, wrong):
    z, t = torch.randn(2, 3, V, generator=torch.Generator().manual_seed(V))
    clean = sums_of(z[[0, 2]], t[[0, 2]])
    for of in (z, t):
        kept = of[1].clone()
        of[1] = -INF if wrong == -INF else kept
        if wrong != -INF:
            of[1, V // 2] = wrong
        got = sums_of(z, t)
        assert got[:, 1].isnan().all()
        np.testing.assert_array_equal(got[:, [0, 2]].numpy(), clean.numpy())
        of[1] = kept


def test_the_logarithm_of_a_total_near_one_has_all_digits():
    # two confident rows: Σ of the others is 4e-9 and 4e-13, which 1 + it does not hold in float32
    z, t = torch.zeros(2, 1, 3)
    z[0, 1:], t[0, 1:] = -20.0, -29.0
    q, p = (2 * math.exp(-x) for x in (20.0, 29.0))
    kl, reverse = sums_of(z, t, beta=None)[:2, 0].tolist()
    assert kl == pytest.approx(math.log1p(q) - math.log1p(p) - p / (1 + p) * 9, rel=1e-5)
    assert reverse == pytest.approx(q / (1 + q) * 9 - math.log1p(q) + math.log1p(p), rel=1e-5)
