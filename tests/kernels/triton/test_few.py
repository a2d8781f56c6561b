"""Few classes without a record: any layout, rows that end within a block, confident rows, rows of no number."""

from __future__ import annotations

import dataclasses

import mpmath
import numpy as np
import pytest
import torch

from crossent.kernels.backend import Cotangents, RowOutputs
from crossent.spec import Scores, Target
from tests import oracle
from tests.kernels.triton.calls import APART, FLAT, HELD, INF, NAN, ODD, PLAIN, backend, draw

each = pytest.mark.parametrize
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter

ROWS = [
    ("index", "bfloat16", 600, 19, APART, {}), ("index", "float32", 600, 2, FLAT, {}),
    ("index", "float16", 40, 50, ODD, {"smoothing": 0.1}), ("dense", "float32", 33, 64, ODD, {"smoothing": 0.1}),
    ("dense", "bfloat16", 520, 7, APART, {}), ("index", "float64", 35, 10, APART, {"scores": Scores(0.7, 20.0)}),
    ("index", "float32", 40, 33, FLAT, {"scores": Scores(1.3, 5.0)}), ("index", "float32", 3, 1, FLAT, {}),
]  # fmt: skip


@each(("kind", "dtype", "rows", "V", "layout", "options"), ROWS)
def test_rows_of_few_classes_agree_with_the_reference(kind, dtype, rows, V, layout, options):
    case = draw(kind, dtype, rows, V, layout, weight=HELD.hold(np.linspace(0.5, 2, V)), **options)
    if kind == "index":
        index = np.array(case.target.index)
        index[::3] = -100
        case = dataclasses.replace(case, target=dataclasses.replace(case.target, index=index, ignore_index=-100))
    oracle.check_few(backend, case, oracle.Truth.of(case))


@each("gap", [5, 20, 40, 80])
def test_a_confident_row_keeps_its_digits_without_a_record(gap):
    # loss = log1p(9 e^-gap), however small: nothing is kept in which it would be a part of 1 + rest
    logits = torch.full((4, 10), -float(gap))
    logits[:, 7] = 0.0
    loss, grad = torch.full((4,), NAN), torch.full((4, 10), NAN)
    target = Target(torch.full((4,), 7))
    backend.row_stats(logits, target, PLAIN, None, RowOutputs(loss))
    backend.row_grad(logits, target, PLAIN, None, Cotangents(torch.ones(4)), grad)
    with mpmath.workdps(40):
        rest = 9 * mpmath.exp(-gap)
        want, slope = float(mpmath.log1p(rest)), float(-rest / (1 + rest))
    np.testing.assert_allclose(loss, want, rtol=oracle.K * 2.0**-24 * (1 + gap))
    np.testing.assert_allclose(grad[:, 7], slope, rtol=oracle.K * 2.0**-24 * (1 + gap))


def test_what_is_not_finite_stays_in_its_row():
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    calm = logits.clone()
    logits[1, 2], logits[2], logits[3, 0] = NAN, -INF, INF
    logits[4, 1] = -INF  # the target's class
    target = Target(torch.tensor([0, 1, 2, 3, 1, -100, 9]), ignore_index=-100)
    logits[5] = NAN

    def losses(z):
        loss = torch.full((7,), 5.0)
        backend.row_stats(z, target, PLAIN, None, RowOutputs(loss))
        return loss

    got = losses(logits)
    assert got[0] == losses(calm)[0]
    assert got[1:4].isnan().all()
    assert got[4] == INF
    assert got[5] == 0
    assert got[6].isnan()  # a class that does not exist
