"""What a compiled kernel is found by: all that Triton would compile another one for, and nothing else."""

from __future__ import annotations

import torch

from crossent.kernels.backend import RowOutputs
from crossent.kernels.triton.launch import kinds
from crossent.spec import Target
from tests.kernels.triton.calls import PLAIN, backend


def test_dtypes_and_alignment_are_told_apart():
    x, y = torch.zeros(64), torch.zeros(64, dtype=torch.float64)
    alike = kinds((x, y))
    assert kinds((x[16:], y[2:])) == alike
    assert len({tuple(kinds(each)) for each in ((x, y), (x, x), (y, y), (x[1:], y), (x, y[1:]))}) == 5
    assert len({tuple(kinds((x, bias))) for bias in (None, x, x[1:], y)}) == 4


def test_calls_that_are_alike_but_for_their_numbers_have_the_same_results_as_alone():
    # on a GPU the second and third start a kernel that is remembered; `test_counts` sees which without one
    for rows, columns in ((3, 70), (5, 130), (3, 70)):
        z = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
        y, loss = torch.zeros(rows, dtype=torch.long), torch.empty(rows)
        backend.row_stats(z, Target(y), PLAIN, torch.empty(5, rows, dtype=torch.float64), RowOutputs(loss))
        want = torch.nn.functional.cross_entropy(z.double(), y, reduction="none")
        torch.testing.assert_close(loss.double(), want, rtol=0, atol=1e-5)
