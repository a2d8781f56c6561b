"""Measures beside the loss: scikit-learn's numbers, however the predictions came, with weights, and merged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
)

import crossent
from crossent.errors import InputError
from tests.scoring.exact import Moments, made, softmax


def given(kind: str, z: Any) -> dict[str, Any]:
    p = softmax(z)
    return {
        "probs": lambda: {"probs": p},
        "float32": lambda: {"probs": p.astype(np.float32)},
        "logits": lambda: {"logits": z},
        "logprobs": lambda: {"logprobs": np.log(p)},
        "weights": lambda: {"probs": 3.0 * p, "normalize": True},
        "columns first": lambda: {"probs": np.asfortranarray(p)},
    }[kind]()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("kind", ["probs", "float32", "logits", "logprobs", "weights", "columns first"])
def test_the_numbers_of_scikit_learn(kind: str, classes: int, weighted: bool) -> None:
    y, z = made(classes, 700, classes)
    w = np.random.default_rng(0).gamma(1.0, 1.0, 700) + 0.01 if weighted else None
    found = crossent.score(y, **given(kind, z), weight=w)
    p = softmax(z).astype(np.float32).astype(float) if kind == "float32" else softmax(z)
    two = classes == 2
    q, truth = (p[:, 1], y) if two else (p, np.eye(classes)[y])
    assert found.roc_auc == pytest.approx(roc_auc_score(truth, q, sample_weight=w), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(truth, q, sample_weight=w), abs=1e-12)
    brier = brier_score_loss(y, q, sample_weight=w) if two else np.average(((q - truth) ** 2).sum(1), weights=w)
    assert found.brier is not None
    assert found.brier.value == pytest.approx(brier, abs=1e-12)
    assert found.decisions is not None
    said = p.argmax(axis=1)
    balanced = balanced_accuracy_score(y, said, sample_weight=w)
    assert found.decisions.balanced_accuracy.value == pytest.approx(balanced, abs=1e-12)
    assert found.decisions.f1 == pytest.approx(f1_score(y, said, average="macro", sample_weight=w), abs=1e-12)
    assert found.decisions.accuracy.value == pytest.approx(found.accuracy, abs=1e-15)
    cost = -np.log(p[np.arange(700), y])
    means = [np.average(cost[y == k], weights=None if w is None else w[y == k]) for k in range(classes)]
    assert found.balanced_loss is not None
    assert found.balanced_loss.loss == pytest.approx(np.mean(means), rel=1e-12)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_parts_of_the_brier_score_and_its_interval(classes: int, clustered: bool) -> None:
    y, z = made(3, 500, classes)
    p, w, cluster = softmax(z), np.random.default_rng(1).random(500) + 0.1, np.arange(500) // 5
    brier = crossent.score(y, probs=p, weight=w, cluster=cluster if clustered else None).brier
    assert brier is not None
    assert brier.miscalibration is not None
    assert brier.discrimination is not None
    assert brier.uncertainty is not None
    assert brier.value == pytest.approx(brier.miscalibration - brier.discrimination + brier.uncertainty, rel=1e-12)
    rates = [np.average(y == k, weights=w) for k in range(classes)]
    uncertainty = sum(rate * (1 - rate) for rate in rates) / (2 if classes == 2 else 1)
    assert brier.uncertainty == pytest.approx(uncertainty, rel=1e-12)
    square = ((p - np.eye(classes)[y]) ** 2).sum(axis=1) / (2 if classes == 2 else 1)
    wanted = Moments.of(square, w, cluster if clustered else None)
    assert brier.se == pytest.approx(wanted.se, rel=1e-9)


def test_more_than_a_hundred_classes_have_answers_but_no_curves() -> None:
    y, z = made(0, 2000, 150)
    found = crossent.score(y, logits=z)
    assert found.decisions is not None
    assert found.decisions.confusion.counts == ()
    assert found.decisions.confusion.mistakes
    assert (found.brier, found.roc_auc, found.ranking, found.class_reliability) == (None, None, (), ())


def test_a_class_without_rows_is_left_out_of_means() -> None:
    y, z = made(0, 300, 4)
    y = np.where(y == 2, 1, y)
    found = crossent.score(y, logits=z)
    assert math.isnan(found.ranking[2].auc)
    assert found.roc_auc == pytest.approx(np.mean([found.ranking[k].auc for k in (0, 1, 3)]))
    assert found.decisions is not None
    p = softmax(z)
    assert found.decisions.balanced_accuracy.value == pytest.approx(
        np.mean([(p.argmax(1)[y == k] == k).mean() for k in (0, 1, 3)])
    )


def test_one_class_alone_has_no_areas() -> None:
    found = crossent.score([1, 1, 1], probs=[0.2, 0.7, 0.9])
    assert found.roc_auc is not None
    assert math.isnan(found.roc_auc)
    assert found.thresholds is not None
    assert found.thresholds.best.cost == 0.0


@pytest.mark.parametrize("classes", [2, 5])
def test_merged_scores_measure_the_same(classes: int) -> None:
    y, z = made(0, 900, classes)
    p, w, cluster = softmax(z), np.random.default_rng(0).random(900) + 0.1, np.arange(900) // 9
    parts = [slice(0, 90), slice(90, 810), slice(810, None)]
    scores = [crossent.score(y[k], probs=p[k], weight=w[k], cluster=cluster[k]) for k in parts]
    whole = crossent.score(y, probs=p, weight=w, cluster=cluster)
    for order in ([0, 1, 2], [2, 1, 0]):
        found = scores[order[0]].merge(scores[order[1]]).merge(scores[order[2]])
        for name in ("brier", "balanced_loss", "decisions", "thresholds"):
            mine, theirs = (score.to_dict()[name] for score in (found, whole))
            _same(mine, theirs)
        assert found.roc_auc == pytest.approx(whole.roc_auc, rel=1e-13)
        assert found.average_precision == pytest.approx(whole.average_precision, rel=1e-13)


def _same(mine: Any, theirs: Any) -> None:
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for key in mine:
            _same(mine[key], theirs[key])
    elif isinstance(mine, list):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            _same(one, other)
    elif isinstance(mine, float):
        assert mine == pytest.approx(theirs, rel=1e-11, abs=1e-13)
    else:
        assert mine == theirs


def test_costs_set_the_thresholds() -> None:
    y, z = made(0, 500, 2)
    p = softmax(z)[:, 1]
    found = crossent.score(y, probs=p, costs={"fn": 5}).thresholds
    assert found is not None
    assert (found.fp, found.fn, found.calibrated.threshold) == (1.0, 5.0, 1 / 6)
    for costs in ({"fp": 0.0}, {"fn": -1}, {"fp": math.nan}, {"x": 1}, 3):
        with pytest.raises(InputError, match="cost"):
            crossent.score(y, probs=p, costs=costs)  # pyright: ignore[reportArgumentType]


def test_rows_to_blame_for_an_infinite_loss() -> None:
    y = np.array([0, 0, 1, 2, 2, 2])
    p = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 1], [1, 0, 0]], float)
    found = crossent.score(y, probs=p, id=list("abcdef"), weight=[1, 2, 3, 4, 5, 6]).finite
    assert found is not None
    assert [(part.value, part.n, part.weight, part.rows) for part in found.blame] == [(0, 1, 1.0, 2), (2, 2, 10.0, 3)]
    assert found.ids == ("a", "d", "f")
    parts = [crossent.ScoreState().update(y[k : k + 2], probs=p[k : k + 2]) for k in (0, 2, 4)]
    merged = parts[0].merge(parts[1]).merge(parts[2]).finalize().finite
    assert merged is not None
    assert merged.ids == (0, 3, 5)
