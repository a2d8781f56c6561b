"""Answers: scikit-learn's confusion matrix, precision, recall, F1 and balanced accuracy, with weights, in any order."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

import crossent
from crossent.scoring.sums import outcomes
from crossent.scoring.sums.outcomes import Outcomes
from crossent.scoring.sums.proportion import normal_quantile, wilson


def drawn(classes: int = 4, n: int = 900, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = draw.choice(classes, n, p=draw.dirichlet(np.full(classes, 3.0)))
    said = np.where(draw.random(n) < 0.7, y, draw.integers(0, classes, n))
    return y, said, draw.gamma(1.0, 1.0, n) + 0.01


def filled(y: np.ndarray, said: np.ndarray, w: np.ndarray | None, classes: int, cluster: np.ndarray | None = None):
    found = Outcomes()
    found.grow(classes)
    found.add(y, said, w, cluster)
    return found


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 4, 40])
def test_the_numbers_of_scikit_learn(classes: int, weighted: bool) -> None:
    y, said, w = drawn(classes)
    w = w if weighted else None
    found = filled(y, said, w, classes).decisions(range(classes), 0.95, clustered=False)
    labels = list(range(classes))
    np.testing.assert_allclose(
        found.confusion.weights, confusion_matrix(y, said, labels=labels, sample_weight=w), rtol=1e-12
    )
    assert np.array_equal(found.confusion.counts, confusion_matrix(y, said, labels=labels))
    assert found.accuracy.value == pytest.approx(accuracy_score(y, said, sample_weight=w), abs=1e-12)
    assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(y, said, sample_weight=w), abs=1e-12)
    assert found.f1 == pytest.approx(f1_score(y, said, average="macro", sample_weight=w), abs=1e-12)
    precision, recall, f1, weight = precision_recall_fscore_support(y, said, sample_weight=w, zero_division=np.nan)
    for k, part in enumerate(found.classes):
        parts = (part.precision, part.recall, part.f1, part.weight)
        np.testing.assert_allclose(parts, (precision[k], recall[k], f1[k], weight[k]), rtol=1e-12)
    pairs = [(m.label, m.predicted, m.n) for m in found.confusion.mistakes]
    matrix = confusion_matrix(y, said, labels=labels)
    assert all(matrix[label, predicted] == n for label, predicted, n in pairs)
    assert len(pairs) == min(outcomes.LISTED, np.count_nonzero(matrix - np.diag(np.diag(matrix))))


def test_intervals_without_weights_are_wilsons() -> None:
    y, said, _ = drawn(3)
    found = filled(y, said, None, 3).decisions(range(3), 0.9, clustered=False)
    low, high = wilson(np.mean(y == said), len(y), normal_quantile(0.9))
    assert found.accuracy.ci == pytest.approx((low, high), rel=1e-12)
    assert found.accuracy.se == pytest.approx(np.std(y == said, ddof=1) / len(y) ** 0.5, rel=1e-12)
    for k, part in enumerate(found.classes):
        ends = wilson(np.mean(said[y == k] == k), (y == k).sum(), normal_quantile(0.9))
        assert part.recall_ci == pytest.approx(tuple(map(float, ends)), rel=1e-12)


@pytest.mark.parametrize("classes", [3, 500])
@pytest.mark.parametrize("clustered", [False, True])
def test_parts_in_any_order_are_the_whole(classes: int, clustered: bool) -> None:
    y, said, w = drawn(classes, 3000)
    cluster = np.arange(3000) // 7 if clustered else None
    whole = filled(y, said, w, classes, cluster)
    parts = [slice(0, 500), slice(500, 2900), slice(2900, None)]
    numbers = np.arange(3000)
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = Outcomes()
        merged.grow(classes)
        for k in order:
            part = parts[k]
            mine = None if cluster is None else cluster[part]
            merged.merge(filled(y[part], said[part], w[part], classes, mine), None if cluster is None else numbers)
        found, wanted = (each.decisions(range(classes), 0.95, clustered=clustered) for each in (merged, whole))
        for name in ("accuracy", "balanced_accuracy"):
            a, b = getattr(found, name), getattr(wanted, name)
            np.testing.assert_allclose((a.value, a.se, *a.ci), (b.value, b.se, *b.ci), rtol=1e-12)
        assert [(m.label, m.predicted, m.n) for m in found.confusion.mistakes] == [
            (m.label, m.predicted, m.n) for m in wanted.confusion.mistakes
        ]


def test_clusters_of_one_row_are_nearly_rows() -> None:
    y, said, w = drawn(3, 4000)
    rows = filled(y, said, w, 3).decisions(range(3), 0.95, clustered=False)
    single = filled(y, said, w, 3, np.arange(4000)).decisions(range(3), 0.95, clustered=True)
    for name in ("accuracy", "balanced_accuracy"):
        a, b = getattr(rows, name), getattr(single, name)
        assert a.value == pytest.approx(b.value, rel=1e-12)
        assert a.se == pytest.approx(b.se, rel=2e-3)
        np.testing.assert_allclose(a.ci, b.ci, rtol=2e-3)


def test_one_cluster_has_no_interval() -> None:
    found = filled(np.array([0, 1]), np.array([0, 0]), None, 2, np.zeros(2, int)).decisions("ab", 0.95, clustered=True)
    assert np.isnan(found.accuracy.ci).all()
    assert np.isnan(found.balanced_accuracy.ci).all()


def test_too_many_pairs_keep_the_frequent_ones_within_a_stated_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "PAIRS", 50)
    draw = np.random.default_rng(0)
    y, said = draw.integers(0, 200, 4000), draw.integers(0, 200, 4000)
    y[:600], said[:600] = 7, 8
    order = draw.permutation(4000)
    y, said = y[order], said[order]
    found = Outcomes()
    found.grow(200)
    for k in range(0, 4000, 100):
        found.add(y[k : k + 100], said[k : k + 100], None, None)
    confusion = found.decisions(range(200), 0.95, clustered=False).confusion
    first, true = confusion.mistakes[0], np.sum((y == 7) & (said == 8))
    assert (first.label, first.predicted) == (7, 8)
    assert true - confusion.within <= first.weight <= true
    assert 0 < confusion.within < (y != said).sum() / 50
    assert confusion.counts == ()


def test_clusters_that_are_classes_have_no_spread_in_balanced_accuracy() -> None:
    """A class in one cluster is as right as itself: its residual is 0, and not what roundings leave of it."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 4, 9)
        probs = rng.dirichlet(np.ones(4), 9)
        weight = rng.gamma(1.0, 1.0, 9) + 0.1
        score = crossent.score(y, probs=probs, weight=weight, cluster=y // 2, classes=range(4))
        if len(set(y // 2)) == 2:
            assert score.decisions is not None
            assert score.decisions.balanced_accuracy.se == 0.0
