"""The arguments of a loss: shards, checks that make rows of them, and the closing of the rows."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from crossent.spec import Scores, Target
from crossent.torch import TopK
from crossent.torch.base.values import RowResults
from crossent.torch.call import arguments as module
from crossent.torch.call.arguments import (
    NOT_SHARDED,
    Arguments,
    CheckedRows,
    Closing,
    RowClosing,
    Sharding,
    check_same_call,
    checked,
    row_closing,
    row_scores,
    sample_weight_of,
    scores_of,
    sharding_of,
)
from crossent.torch.call.layout import LayerOperands, layout_of, layout_of_layer
from crossent.torch.ranks.shards import NO_RANKS, NO_SHARDS, Shards

MEAN = Closing("mean", None, 0.0)


def call(operands: Any, target: Any, **how: Any) -> Arguments:
    """Arguments at their defaults, but for some."""
    options = {
        "weight": None, "ignore_index": None, "label_smoothing": 0.0, "scores": Scores(), "closing": MEAN,
        "return_stats": False, "sharding": NOT_SHARDED, "shards": NO_SHARDS,
    }  # fmt: skip
    return Arguments(operands, target, **options | how)


Z, Y, P = torch.randn(4, 5), torch.tensor([0, 1, 2, 3]), torch.full((4, 5), 0.2)


# Shards


def test_shard_arguments_that_nobody_passed():
    assert sharding_of(None, None, None) is NOT_SHARDED
    assert sharding_of(None, None, 5) == Sharding(None, None, 5)
    arguments = call(Z, Y)
    assert arguments.sharded() is arguments


@pytest.mark.parametrize(
    ("operands", "columns"),
    [
        (torch.zeros(4, 7), 7),
        (torch.zeros(7), 7),
        (torch.zeros(4, 7, 3), 7),
        (LayerOperands(torch.zeros(4, 3), torch.zeros(7, 3), None), 7),
        (LayerOperands(torch.zeros(4, 3), torch.zeros(7, 2, 3), None), 7),
    ],
)
def test_the_columns_at_hand_are_counted_on_the_class_axis(operands, columns):
    # more classes than there are columns are an error that names both
    with pytest.raises(ValueError, match=f"num_classes is 9, but there are {columns} classes here"):
        _ = call(operands, Y, sharding=Sharding(num_classes=9)).sharded()
    assert call(operands, Y, sharding=Sharding(num_classes=columns)).sharded().shards is NO_SHARDS
    padded = call(operands, Y, sharding=Sharding(num_classes=6)).sharded()
    assert (padded.shards.first_class, padded.shards.num_classes) == (0, 6)
    assert padded.target is Y


@pytest.mark.parametrize("operands", [torch.tensor(1.0), [[1.0]], LayerOperands([1.0], [2.0], None)])
def test_operands_that_have_no_class_axis_are_left_to_the_checks(operands):
    with pytest.raises(ValueError, match="0 classes here"):
        _ = call(operands, Y, sharding=Sharding(num_classes=9)).sharded()


# Scores


def test_shard_arguments_are_whole_numbers():
    found = sharding_of(None, np.int32(1), torch.tensor(5))
    assert found == Sharding(None, 1, 5)
    assert [type(x) for x in found[1:]] == [int, int]
    for wrong in (7.0, True, "7"):
        with pytest.raises(TypeError, match=f"num_classes must be a whole number, got {wrong!r}"):
            _ = sharding_of(None, None, wrong)
        with pytest.raises(TypeError, match="first_class must be a whole number"):
            _ = sharding_of(None, wrong, None)


def test_bound_arguments_hold_ints_and_floats():
    closing = Closing("mean", None, np.float32(0.5))
    usual = Arguments(None, None, None, -100, 0.25, Scores(), Closing("mean", None, 0.5), True, NOT_SHARDED, NO_SHARDS)
    assert usual.bound() is usual
    given = usual._replace(
        ignore_index=np.int8(-100), label_smoothing=Fraction(1, 4), closing=closing, return_stats=np.True_
    )
    assert given.bound() == usual
    found = given.bound()
    kinds = [type(x) for x in (found.ignore_index, found.label_smoothing, found.closing.z_loss, found.return_stats)]
    assert kinds == [int, float, float, bool]


def test_scores_of_a_call():
    assert scores_of(1.0, None) is scores_of(1.0, None)
    assert scores_of(1.0, None) == scores_of(1, None) == Scores()
    assert scores_of(0.5, 3.0) == Scores(0.5, 3.0)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="temperature"):
            _ = scores_of(wrong, None)
        with pytest.raises(ValueError, match="softcap"):
            _ = scores_of(1.0, wrong)
    learnt = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match=r"temperature is a constant .*float\(temperature\)"):
        _ = scores_of(learnt, None)
    with pytest.raises(ValueError, match="softcap is a constant"):
        _ = scores_of(1.0, learnt)


def test_scores_of_rows_are_vectors_of_float64():
    z, T = torch.randn(2, 5, 3), torch.rand(2, 3).add(0.5)
    found = checked(call(z, torch.zeros(2, 3).long())._replace(scores=scores_of(T, 3.0)), layout_of(z)).scores
    assert (found.temperature, found.softcap) == (1.0, 3.0)
    assert torch.equal(found.row_temperature, T.reshape(-1).double())
    assert row_scores(Scores(0.7), layout_of(z)) == Scores(0.7)
    for own in (torch.tensor([1, 2, 3, 2**40]), torch.rand(4).to(torch.float8_e5m2), torch.rand(8).double()[::2]):
        row_temperature = row_scores(Scores(1.0, None, own), layout_of(Z)).row_temperature
        assert torch.equal(row_temperature, own.double())


# Rows


def test_rows_of_class_indices():
    weight, s = torch.rand(5), torch.rand(4)
    rows = checked(
        call(
            Z, Y, weight=weight, label_smoothing=0.1, closing=Closing("sum", s.half(), 0.2), return_stats=True,
            ignore_index=2,
        ),
        layout_of(Z),
    )  # fmt: skip
    target = rows.target
    assert target.index is Y
    assert target.prob is None
    assert target.weight is weight
    assert (target.smoothing, target.ignore_index, target.first_class, target.num_classes) == (0.1, 2, 0, None)
    assert (rows.closing.reduction, rows.closing.z_loss) == ("sum", 0.2)
    assert rows.closing.sample_weight.dtype == torch.float32
    assert torch.equal(rows.closing.sample_weight, s.half().float())
    assert rows.class_weight is weight
    assert rows.ranks is NO_RANKS
    assert rows.return_stats
    assert checked(call(Z, Y), layout_of(Z)).target.ignore_index == -100


def test_rows_of_other_targets():
    rows = checked(call(Z, P), layout_of(Z))
    assert rows.target.prob is P
    assert rows.target.kind == "dense"
    top = checked(call(Z, TopK(Y[:, None], P[:, :1])), layout_of(Z))
    assert top.target.kind == "topk"
    layer = LayerOperands(torch.randn(2, 2, 3), torch.randn(5, 3), None)
    rows = checked(call(layer, Y.view(2, 2)), layout_of_layer(layer))
    assert torch.equal(rows.target.index, Y)


@pytest.mark.parametrize(
    ("first", "own", "of_target"), [(0, slice(0, 5), 0), (5, slice(5, 8), 5), (8, slice(8, 8), 8), (15, slice(8, 8), 8)]
)
def test_rows_of_a_shard(first, own, of_target):
    weight = torch.rand(8)
    rows = checked(call(Z, Y, weight=weight, shards=Shards(NO_RANKS, first, 8)), layout_of(Z, shard=True))
    assert torch.equal(rows.target.weight, weight[own])
    assert rows.class_weight is weight
    assert (rows.target.first_class, rows.target.num_classes) == (of_target, 8)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"weight": torch.rand(4)}, ["weight", "5 classes", "(4,)"]),
        ({"weight": torch.rand(5), "shards": Shards(NO_RANKS, 0, 8)}, ["weight", "8 classes", "(5,)"]),
        ({"label_smoothing": 1.5}, ["label_smoothing", "1.5"]),
        ({"closing": Closing("mean", None, -0.5)}, ["z_loss", "-0.5"]),
        ({"closing": Closing("mean", torch.rand(5), 0.0)}, ["sample_weight", "(5,)", "(4,)"]),
        ({"target": Y[:3]}, ["target", "(3,)", "(4,)"]),
        ({"target": P, "ignore_index": 3}, ["ignore_index", "probabilities"]),
    ],
)
def test_arguments_that_do_not_fit(how, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        _ = checked(call(Z, how.pop("target", Y), **how), layout_of(Z))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_sample_weights_are_a_vector_of_the_dtype_of_losses(dtype):
    layout = layout_of(torch.empty(2, 5, 3, dtype=torch.bfloat16))
    s = torch.arange(6).view(2, 3).to(dtype)
    got = sample_weight_of(s, layout)
    assert got.dtype == torch.float32
    assert got.tolist() == [0, 1, 2, 3, 4, 5]
    assert sample_weight_of(s, layout_of(torch.empty(2, 5, 3).double())).dtype == torch.float64
    with pytest.raises(TypeError, match="complex64"):
        _ = sample_weight_of(s.to(torch.complex64), layout)


# The closing


def draw(kind, weighted, sampled):
    """Losses and lse of rows, their target, and the weights of classes and of rows."""
    loss, lse = torch.randn(2, 6, dtype=torch.float64)
    index = torch.tensor([0, 3, -100, 1, 3, -100])
    prob = torch.rand(6, 4, dtype=torch.float64)
    target = Target(index, ignore_index=-100) if kind == "index" else Target(prob=prob)
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    s = torch.rand(6, dtype=torch.float64) if sampled else None
    if kind == "index":
        loss, lse = (torch.where(index == -100, 0.0, x) for x in (loss, lse))
    return loss.requires_grad_(), lse.requires_grad_(), target, weight, s


def by_hand(loss, lse, target, weight, s, reduction, z_loss):
    """The documented means, a row at a time."""
    loss, lse = loss.tolist(), lse.tolist()
    counts, valid, s = [], [], [1.0] * 6 if s is None else s.tolist()
    for row in range(6):
        y = None if target.index is None else int(target.index[row])
        valid.append(0.0 if y == -100 else 1.0)
        counts.append(valid[-1] * (1.0 if y is None or weight is None or y < 0 else float(weight[y])))
    rows = [s[k] * (loss[k] + z_loss * lse[k] ** 2) for k in range(6)]
    if reduction == "none":
        return rows
    if reduction == "sum":
        return sum(rows)
    mean = sum(a * x for a, x in zip(s, loss, strict=True)) / sum(a * c for a, c in zip(s, counts, strict=True))
    penalty = sum(a * z_loss * x**2 for a, x in zip(s, lse, strict=True))
    return mean + penalty / sum(a * v for a, v in zip(s, valid, strict=True))


CLOSINGS = list(itertools.product(("index", "dense"), (False, True), (False, True), (0.0, 0.3)))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(("kind", "weighted", "sampled", "z_loss"), CLOSINGS)
def test_rows_are_reduced_as_documented(kind, weighted, sampled, z_loss, reduction):
    loss, lse, target, weight, s = draw(kind, weighted, sampled)
    got = RowClosing(Closing(reduction, s, z_loss), target, weight).reduced(loss, lse)
    want = by_hand(loss, lse, target, weight, s, reduction, z_loss)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(("kind", "weighted", "sampled", "z_loss"), CLOSINGS)
def test_the_scale_is_the_derivative_of_what_is_reduced(kind, weighted, sampled, z_loss, reduction):
    loss, lse, target, weight, s = draw(kind, weighted, sampled)
    closing = RowClosing(Closing(reduction, s, z_loss), target, weight)
    scale = closing.scale(RowResults(loss.detach(), lse.detach(), lse.detach(), torch.empty(5, 6)))
    by_loss, by_lse = torch.autograd.grad(
        closing.reduced(loss, lse), (loss, lse), allow_unused=True, materialize_grads=True
    )
    assert scale.loss.dtype == torch.float64
    assert (scale.lse_squared is None) == (z_loss == 0)
    torch.testing.assert_close(scale.loss, by_loss, rtol=1e-12, atol=1e-15)
    if z_loss:
        torch.testing.assert_close(scale.lse_squared * 2 * lse.detach(), by_lse, rtol=1e-12, atol=1e-15)


def over_rows(group, kind, reduction):
    torch.manual_seed(0)
    loss, lse, target, weight, s = draw(kind, True, True)
    closing = Closing(reduction, s, 0.3)
    want = RowClosing(closing, target, weight).reduced(loss, lse)
    own = slice(4 * dist.get_rank(group), 4 * dist.get_rank(group) + 4)
    part = Target(target.index[own], ignore_index=-100) if kind == "index" else Target(prob=target.prob[own])
    here = RowClosing(Closing(reduction, s[own], 0.3), part, weight, (group.group_name,))
    got = here.reduced(loss[own], lse[own])
    torch.testing.assert_close(got, want if reduction != "none" else want[own])
    if reduction != "none":
        for a, b in zip(*(torch.autograd.grad(x, (loss, lse)) for x in (got, want)), strict=True):
            torch.testing.assert_close(a[own], b[own])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_rows_on_other_ranks_count_too(ranks, reduction, kind):
    ranks.run(2, over_rows, kind, reduction)


# Agreement


def test_ranks_compare_everything_that_makes_a_call(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "check_agreement", lambda *how: asked.append(how))
    weight, s = torch.rand(5), torch.rand(4)
    rows = checked(
        call(Z, Y, weight=weight, label_smoothing=0.1, closing=Closing("sum", s, 0.2), return_stats=True), layout_of(Z)
    )
    check_same_call(rows._replace(scores=Scores(0.7, 3.0)), **{"the dtype": "float32"})
    ((ranks, number, facts),) = asked
    assert ranks is rows.ranks
    assert number == 4
    assert facts == {
        "num_classes": None, "reduction": "sum", "the kind of target": "index", "weight": [5], "label_smoothing": 0.1,
        "ignore_index": -100, "temperature": 0.7, "a temperature for each row": False, "softcap": 3.0,
        "sample_weight": True, "closing": False, "z_loss": 0.2, "return_stats": True, "the dtype": "float32",
    }  # fmt: skip
    scalars = (str, int, float, bool, list, type(None))  # which ranks can send each other
    assert all(isinstance(x, scalars) for x in facts.values())


def test_the_closing_of_rows_is_that_of_their_call():
    rows = checked(call(Z, Y, weight=torch.rand(5)), layout_of(Z))
    assert isinstance(rows, CheckedRows)
    assert row_closing(rows) == (rows.closing, rows.target, rows.class_weight, ())
