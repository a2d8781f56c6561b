"""What a compiled kernel is found by: all that Triton would compile another one for, and nothing else."""

from __future__ import annotations

import torch

from crossent.kernels.backend import RowOutputs
from crossent.kernels.triton.launch import kinds
from crossent.kernels.triton.tiles import Strides
from crossent.spec import Target
from tests.kernels.triton.calls import PLAIN, backend


def test_dtypes_alignment_and_wide_numbers_are_told_apart():
    x = torch.zeros(64)
    alike = kinds((x,), (Strides(0, 100, 1), 5, 0.5))
    assert kinds((x[16:],), (Strides(7, 1, 16), -3, 1.5)) == alike
    others = [
        kinds((x.double(),), (Strides(0, 100, 1), 5, 0.5)),
        kinds((x[1:],), (Strides(0, 100, 1), 5, 0.5)),
        kinds((x,), (Strides(0, 2**31, 1), 5, 0.5)),
        kinds((x,), (Strides(2**31, 0, 1), 5, 0.5)),
        kinds((x,), (Strides(0, 100, 1), -(2**31) - 1, 0.5)),
    ]
    assert all(other != alike for other in others)
    assert others[2] != others[3]
    assert len({tuple(kinds((x, bias), ())) for bias in (None, x, x[1:], x.bfloat16())}) == 4  # or there is none
    assert hash(tuple(alike)) == hash(tuple(kinds((x,), (Strides(0, 100, 1), 5, 0.5))))


def test_tensors_in_tuples_are_looked_at():
    narrow, wide = torch.zeros(4), torch.zeros(4, dtype=torch.float64)
    outputs = (RowOutputs(narrow, narrow, narrow), RowOutputs(narrow, wide, narrow))
    assert len({tuple(kinds((narrow, each), ())) for each in outputs}) == 2


def test_calls_that_are_alike_but_for_their_numbers_have_the_same_results_as_alone():
    for rows, columns in ((3, 70), (5, 130), (3, 70)):
        z = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
        y, loss = torch.zeros(rows, dtype=torch.long), torch.empty(rows)
        backend.row_stats(z, Target(y), PLAIN, torch.empty(5, rows, dtype=torch.float64), RowOutputs(loss))
        want = torch.nn.functional.cross_entropy(z.double(), y, reduction="none")
        torch.testing.assert_close(loss.double(), want, rtol=0, atol=1e-5)
