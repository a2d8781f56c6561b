"""Sums of pairs: memory beside the rows, parts of rows, columns that others have, and one softcap of two."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossent.kernels.triton.pairs import SHORTEST_PART
from crossent.kernels.triton.task import Task
from crossent.spec import Scores, Target
from tests.kernels.triton.calls import APART, FLAT, INF, NAN, ODD, PLAIN, backend
from tests.kernels.triton.pair_calls import BETA, drawn_pair, statistics, sums_of
from tests.oracle_pair import PairTruth, check_pair

each = pytest.mark.parametrize
CAP = Scores(0.7, 20.0)
ROWS = [  # on either side of every change of tile; rows of 257 numbers and two NaN begin at every offset from a vector
    ("index", ("bfloat16", "bfloat16"), 8, 257, {"layout": ODD}),
    ("index", ("float32", "bfloat16"), 3, 513, {"layout": ODD, "scores": CAP}),
    ("dense", ("bfloat16", "float32"), 2, 2500, {"layout": FLAT, "teacher_scores": CAP}),
    ("topk", ("float32", "float32"), 2, 2500, {"layout": ODD, "scores": CAP, "teacher_scores": CAP}),
    ("topk", ("float16", "float16"), 2, 257, {"layout": ODD, "K": 40}),
    ("index", ("float32", "float64"), 3, 33, {"layout": FLAT, "smoothing": 0.1}),
    ("index", ("float64", "float32"), 40, 33, {"layout": APART, "scores": CAP}),
    ("dense", ("float32", "float16"), 40, 17, {"layout": APART, "beta": None, "smoothing": 0.1}),
    ("topk", ("float32", "float32"), 3, 1, {"layout": FLAT}),
    ("index", ("bfloat16", "bfloat16"), 1, 40_000, {"layout": ODD, "smoothing": 0.1, "beta": None}),
]


@each(("kind", "dtypes", "rows", "V", "options"), ROWS)
def test_pairs_agree_with_the_reference_and_touch_nothing_beside_them(kind, dtypes, rows, V, options):
    case = drawn_pair(kind, dtypes, rows, V, **options)
    check_pair(backend, case, PairTruth.of(case))


def test_a_row_of_several_parts_is_the_sum_of_its_parts_whatever_the_number_of_rows():
    z, t = torch.randn(2, 3, 40_000, generator=torch.Generator().manual_seed(0))
    task = Task.of(z, Target(torch.zeros(3, dtype=torch.int64)), PLAIN)
    assert task.fixed_parts(task.tile(), SHORTEST_PART).number > 1
    whole = sums_of(z, t)
    logp, logq = t.double().log_softmax(1), z.double().log_softmax(1)
    np.testing.assert_allclose(whole[0], ((logp - logq) * logp.exp()).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(sums_of(z[1:2], t[1:2])[:, 0], whole[:, 1])


def test_sums_of_other_columns_stay_and_what_nobody_asked_for_is_not_touched():
    z, t = torch.randn(2, 4, 700, generator=torch.Generator().manual_seed(1))
    record, teacher = statistics(z, t)
    whole, parts = sums_of(z, t), torch.full((4, 4), NAN, dtype=torch.float64)
    for begin, end in ((0, 300), (300, 300), (300, 700)):
        here = teacher._replace(logits=t[:, begin:end])
        backend.pair_stats(z[:, begin:end], PLAIN, record, here, BETA, parts, extend=begin > 0)
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    only = sums_of(z, t, beta=None)
    np.testing.assert_array_equal(only[:2], whole[:2])
    assert only[2:].isnan().all()


def test_a_class_that_one_of_the_two_rules_out():
    z, t = torch.randn(2, 3, 600, generator=torch.Generator().manual_seed(2))
    z[:, 7] = t[:, 7] = -INF  # padding of both
    z[1, 3] = t[2, 4] = -INF
    kl, reverse, *mixed = sums_of(z, t)
    assert kl.isinf().tolist() == [False, True, False]
    assert reverse.isinf().tolist() == [False, False, True]
    assert all(x.isfinite().all() for x in mixed)
    kept = [k for k in range(600) if k != 7]
    np.testing.assert_allclose(kl[0], sums_of(z[:, kept], t[:, kept])[0, 0], rtol=1e-6)


def test_rows_beside_each_other_in_images():
    z, t = torch.randn(2, 2, 19, 40, generator=torch.Generator().manual_seed(3))
    want = sums_of(*(x.movedim(1, -1).reshape(80, 19) for x in (z, t)))
    np.testing.assert_allclose(sums_of(z, t), want, rtol=2e-6)
