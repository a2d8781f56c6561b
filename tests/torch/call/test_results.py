"""What a call returns: the reduction it asks for, the loss in its shape, and statistics that are those of the rows."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import pytest
import torch

import crossent.torch as F
from crossent.spec import Scores
from crossent.torch import Stats, TopK
from crossent.torch.call.arguments import NOT_SHARDED, Arguments, Closing, checked
from crossent.torch.call.layout import layout_of
from crossent.torch.call.results import finished, reduction_of, stats_of, view_of
from crossent.torch.operators.prediction import prediction
from crossent.torch.operators.rows import RowCall, row_stats
from crossent.torch.ranks.shards import NO_SHARDS
from tests.torch import plain

PAIRS = [pair for pair in itertools.product((None, True, False), repeat=2) if pair != (None, None)]


@pytest.mark.parametrize(("size_average", "reduce"), PAIRS)
def test_deprecated_arguments_are_those_of_torch(size_average, reduce):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = torch.nn._reduction.legacy_get_string(size_average, reduce)
        assert reduction_of("sum", size_average, reduce) == want
    with pytest.warns(UserWarning, match="size_average and reduce"):
        _ = reduction_of("sum", size_average, reduce)


def test_reductions():
    for name in ("none", "mean", "sum"):
        assert reduction_of(name) == name
    with pytest.raises(ValueError, match=r"'average' .*'mean', 'sum' or 'none'"):
        _ = reduction_of("average")


def test_two_results_of_one_call_share_no_memory():
    z = torch.randn(4, 5, requires_grad=True)
    loss, stats = F.cross_entropy(
        z, TopK(torch.zeros(4, 1).long(), torch.ones(4, 1)), reduction="none", return_stats=True
    )
    parts = [loss, stats.lse, stats.logprob, stats.entropy, stats.confidence, stats.log_sum_squares]
    assert len({x.data_ptr() for x in parts}) == len(parts)


def call(z, target, weight=None, smoothing=0.0, *, reduction="none", return_stats=True):
    """Rows of a call, their results, how others are had for another target, for which they were, and predictions."""
    closing = Closing(reduction, None, 0.0)
    arguments = Arguments(z, target, weight, None, smoothing, Scores(), closing, return_stats, NOT_SHARDED, NO_SHARDS)
    layout = layout_of(z)
    rows, asked = checked(arguments, layout), []

    def again(other):
        asked.append(other)
        return row_stats(RowCall(layout.flat(z), other, Scores(), recorded=True))

    of_rows = RowCall(layout.flat(z), rows.target, Scores(), recorded=True)
    return rows, row_stats(of_rows), again, asked, lambda found: prediction(of_rows, found.record)


SHAPE = (3, 7, 2)


def some_ignored():
    y = plain.index_of(SHAPE)
    y[1, 0] = y[2, 1] = -100
    return y


TARGETS = {
    "index": some_ignored,
    "dense": lambda: plain.probs_of(SHAPE),
    "topk": lambda: plain.topk_of(SHAPE),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_statistics_are_those_of_plain_operations(smoothing, weighted, kind):
    target = TARGETS[kind]()
    weight = torch.rand(7, dtype=torch.float64) if weighted else None
    z = plain.logits_of(SHAPE, 3.0).detach()
    rows, results, again, asked, predict = call(z, target, weight, smoothing)
    got = stats_of(rows, view_of(rows, results, again), predict(results))
    want = plain.rows(z, target, weight, label_smoothing=smoothing)
    for field in dataclasses.fields(Stats):
        x = getattr(got, field.name)
        assert x.shape == (3, 2)
        torch.testing.assert_close(x, want[field.name].to(x.dtype), rtol=1e-11, atol=1e-12)
    # the logits are visited again for a plain target, and for the most probable class of a soft one
    assert len(asked) == (weighted or smoothing > 0) + (kind != "index")
    for other in asked:
        assert other.weight is None
        assert other.smoothing == 0.0


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_loss_in_its_shape_and_statistics_if_asked_for(reduction):
    z = plain.logits_of(SHAPE).detach()
    for return_stats in (False, True):
        rows, results, again, _, predict = call(z, TARGETS["index"](), reduction=reduction, return_stats=return_stats)
        found = finished(rows, results, again, predict)
        loss = found[0] if return_stats else found
        assert isinstance(found, tuple) == return_stats
        assert loss.shape == ((3, 2) if reduction == "none" else ())
        want = results.loss.sum() if reduction == "sum" else results.loss.sum() / (rows.target.index != -100).sum()
        torch.testing.assert_close(loss, results.loss.view(3, 2) if reduction == "none" else want)
