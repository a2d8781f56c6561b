"""Calls of the pair functions: what does not fit is refused, a bias is added, a mistake in a kernel is found."""

# No `from __future__ import annotations`: Triton reads the annotations of kernels.

import numpy as np
import pytest
import torch

from crossent.kernels.backend import BiasedLogits, PairCotangents, Teacher
from crossent.kernels.triton import arguments, pairs
from crossent.spec import Scores, Target
from tests.kernels.triton.calls import NAN, PLAIN
from tests.kernels.triton.pair_calls import BETA, EVERY, gradient_of, statistics, sums_of

each = pytest.mark.parametrize


def test_what_does_not_fit_is_refused():
    z, t = torch.randn(2, 5, 10)
    record, teacher = statistics(z, t)
    sums, target = torch.empty(4, 5, dtype=torch.float64), Target(torch.zeros(5, dtype=torch.int64))
    stats = pairs.pair_stats
    with pytest.raises(ValueError, match="shape of the logits"):
        stats(z, PLAIN, record, teacher._replace(logits=t[:, 1:]), None, sums, extend=False)
    for wrong in (sums.float(), sums[:2], sums.t().contiguous().t()):
        with pytest.raises(ValueError, match="sums"):
            stats(z, PLAIN, record, teacher, None, wrong, extend=False)
    for beta in (0.0, 1.0, NAN):
        with pytest.raises(ValueError, match="beta must lie strictly between 0 and 1"):
            stats(z, PLAIN, record, teacher, beta, sums, extend=False)
    given = PairCotangents(js=torch.ones(5))
    with pytest.raises(ValueError, match="js needs its beta"):
        pairs.pair_grad((z, target, PLAIN), record, teacher, None, sums, given, torch.empty_like(z))


def test_no_rows_and_no_columns_write_what_they_have():
    for rows, V in ((3, 0), (0, 4), (0, 0)):
        z = torch.zeros(rows, V)
        record, its = torch.zeros(2, 5, rows, dtype=torch.float64)
        sums = torch.ones(4, rows, dtype=torch.float64)
        pairs.pair_stats(z, PLAIN, record, Teacher(z, PLAIN, its), None, sums, extend=True)
        assert (sums == 1).all()
        pairs.pair_stats(z, PLAIN, record, Teacher(z, PLAIN, its), None, sums, extend=False)
        assert (sums[:2] == 0).all()
        assert (sums[2:] == 1).all()


def test_either_head_is_in_double_where_the_other_one_is():
    z, t = torch.randn(2, 3, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half, exact = z.half(), sums_of(z.half().double(), t)
    np.testing.assert_allclose(sums_of(half, t), exact, rtol=1e-6)  # records of a half head are those of float32
    np.testing.assert_allclose(sums_of(t, half)[[1, 0]], exact[:2], rtol=1e-6)
    assert exact.dtype == torch.float64


@each("pad", [0, 3])
@each("V", [600, 2504])
def test_a_bias_of_either_head_is_added_where_logits_are_read(V, pad):
    draw = torch.Generator().manual_seed(V)
    z, t = (torch.randn(3, V + pad, generator=draw)[:, :V] for _ in range(2))
    b, c = (torch.randn(V, generator=draw).bfloat16() for _ in range(2))
    target, scores = Target(torch.tensor([0, V - 1, 7])), Scores(0.7, 9.0)
    found = []
    for student, teacher_logits in ((z + b.float(), t + c.float()), (BiasedLogits(z, b), BiasedLogits(t, c))):
        record, its = torch.full((2, 5, 3), NAN, dtype=torch.float64)
        sums, grad = torch.full((4, 3), NAN, dtype=torch.float64), torch.full((3, V), NAN)
        from crossent.kernels import triton as functions

        functions.row_stats(student, target, scores, record)
        functions.row_stats(teacher_logits, target, scores, its)
        teacher = Teacher(teacher_logits, scores, its)
        functions.pair_stats(student, scores, record, teacher, BETA, sums)
        each_row = PairCotangents(*(torch.full((3,), g) for g in EVERY))
        functions.pair_grad(student, target, scores, record, teacher, BETA, sums, each_row, grad)
        found.append((sums, grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7)


def test_a_call_like_one_before_it_prepares_nothing():
    arguments.forget()
    target = Target(torch.tensor([1, 2, 3]))
    for _ in range(2):
        z, t = torch.randn(2, 3, 40)
        _ = gradient_of(z, t, target)
        prepared = [len(task.prepared) for task in arguments._tasks.values()]
        assert sum(prepared) == 4  # of the two records, the sums and the gradient
