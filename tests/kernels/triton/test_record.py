"""Records of parts of a row extend and merge to that of the row, and confident rows keep their digits."""

from __future__ import annotations

import dataclasses

import mpmath
import numpy as np
import pytest
import torch

from crossent.kernels.backend import RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import RowStats
from tests import oracle
from tests.data import Case
from tests.kernels.triton.calls import INF, NAN, ODD, PLAIN, arguments, backend, bound, draw, evaluate

each = pytest.mark.parametrize
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter


def part(case: Case, first: int, last: int) -> Case:
    """Some of the columns, with their share of the target."""
    whole, V = case.target, case.logits.shape[1]
    prob = whole.prob[:, first:last] if whole.kind == "dense" else whole.prob
    share = {"prob": prob, "weight": whole.weight[first:last], "first_class": first, "num_classes": V}
    return dataclasses.replace(case, logits=case.logits[:, first:last], target=dataclasses.replace(whole, **share))


@each(("kind", "V"), [("index", 36_000), ("topk", 700), ("dense", 700)])
def test_records_of_parts_extend_and_merge_to_that_of_the_row(kind, V):
    case = draw(kind, "float32", 2, V, ODD, smoothing=0.1, weight=np.linspace(0.5, 2, V))
    parts = [part(case, *cut) for cut in ((0, 1), (1, 600), (600, V))]  # of the longest, the last is split itself
    whole, record = oracle.Truth.of(case), oracle.Guarded(ODD, (len(oracle.FIELDS), 2), np.float64)
    outputs = RowOutputs(*(np.full(2, NAN, np.float32) for _ in range(3)))
    merged = RowStats(**{field: np.full(2, -INF if field == "peak" else 0.0) for field in oracle.FIELDS})
    for turn, piece in enumerate(parts):
        alone = oracle.empty_record(2)
        backend.row_stats(*arguments(piece), record.view, outputs, extend=turn > 0)
        backend.row_stats(*arguments(piece), alone)
        merged = merged.merge(RowStats(*alone))
    oracle.check_record(case, whole, record.values())
    oracle.check_record(case, whole, [getattr(merged, field) for field in oracle.FIELDS])
    for name, got in outputs._asdict().items():
        oracle.agree(name, case, got, getattr(whole.stats, name), oracle.unit(case) * whole.bound[name])
    for piece in parts:
        _ = oracle.check_row_grad(backend, piece, oracle.Truth.of(piece, whole), record.view)


def test_what_is_not_finite_and_who_is_ignored_survive_an_extension():
    logits = torch.randn(8, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    logits[0, :13] = logits[1, 13:] = logits[2] = -INF
    logits[3, 0] = logits[4, 39] = logits[5] = NAN
    target = Target(torch.tensor([20, 5, 7, 8, 9, -100, 40, -1]), ignore_index=-100, smoothing=0.1)
    record = torch.zeros(5, 8, dtype=torch.float64)
    outputs = RowOutputs(*(torch.zeros(8, dtype=torch.float64) for _ in range(3)))
    record[0] = -INF  # the record of no columns
    for first, last in ((0, 13), (13, 40)):
        piece = dataclasses.replace(target, first_class=first, num_classes=40)
        backend.row_stats(logits[:, first:last], piece, PLAIN, record, outputs, extend=True)
    want = evaluate(logits, target)
    for got, name in zip((*outputs, record[1:]), ("loss", "lse", "entropy", "record"), strict=True):
        exact = want[name][1:] if name == "record" else want[name]
        np.testing.assert_allclose(got.numpy(), exact, rtol=0, atol=bound(logits), err_msg=name)


@each(("V", "at", "scores"), [(2, 0, PLAIN), (17, 16, Scores(0.7)), (5003, 4100, PLAIN)], ids=str)
def test_a_confident_row_keeps_its_digits_wherever_zero_is(V, at, scores):
    # loss = log(1 + (V − 1) e^−gap), and the gradient of the label is −(V − 1) e^−gap / (1 + ...)
    tops, gaps = (x.flatten() for x in np.meshgrid((0.0, 1e4, -300.0) if V < 100 else (1e4,), (5, 12, 20, 25, 30)))
    logits = np.repeat((tops - gaps)[:, None], V, 1).astype(np.float32)
    logits[:, at] = tops
    got = evaluate(torch.from_numpy(logits), Target(torch.full(tops.shape, at)), scores)
    with mpmath.workdps(40):
        rest = [(V - 1) * mpmath.exp(-mpmath.mpf(int(gap)) / mpmath.mpf(scores.temperature)) for gap in gaps]
        loss = np.array([float(mpmath.log1p(r)) for r in rest])
        slope = np.array([float(-r / (1 + r) / scores.temperature) for r in rest])
    least = 2.0**-52 * (1 + 1 / scores.temperature)  # the record holds 1 + rest in double
    for x, exact in ((got["loss"], loss), (got["grad"][at], slope), (got["fused"][at], slope)):
        size = oracle.K * 2.0**-24 * (1 + gaps / scores.temperature) * np.abs(exact)
        assert (np.abs(x - exact) <= size + least).all()
