"""Pairs of probability and truth: as they are while there are few, cells beyond, whatever the order of parts."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import crossent
from crossent.scoring.sums import ranks
from crossent.scoring.sums.ranks import Ranks
from tests.scoring.exact import made, softmax


def state(y: Any, p: Any, w: Any = None, **options: Any) -> crossent.ScoreState:
    return crossent.ScoreState(**options).update(y, probs=p, weight=w)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "LIMIT", 3000)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
def test_areas_of_many_rows_lie_within_their_bounds(classes: int, weighted: bool) -> None:
    y, z = made(3, 40_000, classes)
    p = softmax(z)
    w = np.random.default_rng(1).gamma(2.0, 1.0, len(y)) if weighted else None
    found = state(y, p, w).finalize()
    for each in found.ranking:
        k = each.value
        auc = roc_auc_score(y == k, p[:, k], sample_weight=w)
        average = average_precision_score(y == k, p[:, k], sample_weight=w)
        assert 0 < each.auc_within < 0.02
        assert abs(each.auc - auc) < each.auc_within
        assert abs(each.average_precision - average) < each.average_precision_within
        # rows of a cell are mixed nearly as assumed, so that the numbers are much closer than their bounds
        assert abs(each.auc - auc) < each.auc_within / 10
        assert abs(each.average_precision - average) < each.average_precision_within / 10


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("classes", [2, 4])
def test_any_order_of_parts_gives_the_same(classes: int) -> None:
    y, z = made(3, 6000, classes)
    p = softmax(z)
    parts = [slice(0, 10), slice(10, 5000), slice(5000, 5500), slice(5500, None)]
    whole = state(y, p).finalize()
    for order in ([0, 1, 2, 3], [3, 2, 0, 1], [1, 3, 2, 0]):
        merged = state(y[parts[order[0]]], p[parts[order[0]]])
        for k in order[1:]:
            merged.merge(state(y[parts[k]], p[parts[k]]))
        found = merged.finalize()
        for mine, theirs in zip(found.ranking, whole.ranking, strict=True):
            assert mine.auc == pytest.approx(theirs.auc, rel=1e-13)
            assert mine.auc_within == pytest.approx(theirs.auc_within, rel=1e-12)
            assert mine.average_precision == pytest.approx(theirs.average_precision, rel=1e-13)
        for mine, theirs in zip(found.class_reliability, whole.class_reliability, strict=True):
            assert mine.ece == pytest.approx(theirs.ece, rel=1e-12)


@pytest.mark.parametrize("few_rows", [True, False])
def test_reliability_of_a_class(few_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not few_rows:
        monkeypatch.setattr(ranks, "LIMIT", 100)
    y, z = made(5, 4000, 3)
    p, w = softmax(z), np.random.default_rng(2).random(4000) + 0.1
    found = state(y, p, w).finalize()
    for k, part in enumerate(found.class_reliability):
        tenth = np.minimum((p[:, k] * 10).astype(int), 9)
        error = 0.0
        for each in part.bins:
            here = tenth == round(each.low * 10)
            assert each.n == here.sum()
            assert each.predicted == pytest.approx(np.average(p[here, k], weights=w[here]), rel=1e-12)
            assert each.observed == pytest.approx(np.average(y[here] == k, weights=w[here]), rel=1e-12)
            error += w[here].sum() * abs(each.predicted - each.observed)
        assert part.ece == pytest.approx(error / w.sum(), rel=1e-12)


def test_a_pickled_state_is_small_unless_it_holds_every_row() -> None:
    y, z = made(3, 50_000, 10)
    p = softmax(z)
    small, large = state(y, p), state(y, p, rows=True)
    assert len(pickle.dumps(small)) < 120_000
    again = pickle.loads(pickle.dumps(small)).finalize()
    for mine, theirs in zip(again.ranking, small.finalize().ranking, strict=True):
        assert theirs.auc_within == 0 < mine.auc_within
        assert abs(mine.auc - theirs.auc) < mine.auc_within
    kept = pickle.loads(pickle.dumps(large)).finalize()
    assert kept.ranking == large.finalize().ranking
    assert copy.deepcopy(small).finalize().ranking == small.finalize().ranking


def test_copies_go_their_own_way() -> None:
    y, z = made(3, 500, 3)
    p = softmax(z)
    first = state(y, p)
    before = first.finalize().ranking
    other = copy.deepcopy(first)
    other.update(y, probs=p[:, ::-1])
    assert first.finalize().ranking == before
    assert other.finalize().ranking != before


def test_rows_without_weights_among_rows_with() -> None:
    y, z = made(3, 400, 3)
    p, w = softmax(z), np.random.default_rng(0).random(200) + 0.5
    found = state(y[:200], p[:200], w).update(y[200:], probs=p[200:]).finalize()
    each = np.concatenate([w, np.ones(200)])
    assert found.roc_auc == pytest.approx(roc_auc_score(y, p, multi_class="ovr", sample_weight=each), rel=1e-12)


def test_nothing_is_held_before_rows() -> None:
    assert Ranks(whole=False).held == 0
