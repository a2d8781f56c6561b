"""Areas, curves and thresholds: scikit-learn's, and those of a plain loop over thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from crossent.scoring.sums.curve import Points
from crossent.scoring.sums.ranking import DRAWN, brier_parts, ranking, thresholds


def drawn(n: int = 400, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    q = draw.random(n)
    truth = draw.random(n) < q
    return (q.round(1) if ties else q), truth, draw.gamma(1.0, 1.0, n)


def points(q: np.ndarray, truth: np.ndarray, w: np.ndarray) -> Points:
    values, place = np.unique(q, return_inverse=True)
    place = place.reshape(-1)
    return Points(values, np.bincount(place, w), np.bincount(place, w * truth))


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_areas_and_curves_are_those_of_scikit_learn(ties: bool, weighted: bool) -> None:
    q, truth, w = drawn(150, ties=ties)
    w = w if weighted else np.ones(len(q))
    found = ranking("x", points(q, truth, w), exact=True)
    assert found.auc == pytest.approx(roc_auc_score(truth, q, sample_weight=w), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(truth, q, sample_weight=w), abs=1e-12)
    assert (found.auc_within, found.average_precision_within) == (0.0, 0.0)
    fpr, tpr, _ = roc_curve(truth, q, sample_weight=w, drop_intermediate=False)
    np.testing.assert_allclose(found.roc, np.stack([fpr, tpr], axis=1), atol=1e-12)
    precision, recall, _ = precision_recall_curve(truth, q, sample_weight=w)
    np.testing.assert_allclose(found.pr, np.stack([recall, precision], axis=1)[-2::-1], atol=1e-12)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    q, truth, w = drawn(20_000, ties=False)
    found = ranking("x", points(q, truth, w), exact=True)
    for curve in (found.roc, found.pr):
        assert len(curve) <= DRAWN
    assert found.roc[0] == (0.0, 0.0)
    assert found.roc[-1] == pytest.approx((1.0, 1.0))
    x, y = np.transpose(found.roc)
    assert np.trapezoid(y, x) == pytest.approx(found.auc, abs=1e-3)


@pytest.mark.parametrize("truth", [0, 1])
def test_one_class_has_no_areas(truth: int) -> None:
    found = ranking("x", Points(np.array([0.2, 0.8]), np.ones(2), np.full(2, float(truth))), exact=True)
    assert math.isnan(found.auc)
    assert (found.roc, found.pr) == ((), ())


def test_mixed_cells_have_the_mean_area_of_their_orders() -> None:
    """Average precision of cells is its mean over random orders of the rows in a cell."""
    draw = np.random.default_rng(0)
    q, truth, _ = drawn(60_000, ties=False)
    cell = np.floor(q * 20) / 20
    found = ranking("x", points(cell, truth, np.ones(len(q))), exact=False)
    means = [average_precision_score(truth, cell + draw.random(len(q)) / 40) for _ in range(20)]
    assert found.average_precision == pytest.approx(np.mean(means), abs=5 * np.std(means) / math.sqrt(20))
    assert abs(average_precision_score(truth, q) - found.average_precision) < found.average_precision_within


@pytest.mark.parametrize("costs", [(1.0, 1.0), (1.0, 5.0), (3.0, 0.5)])
def test_thresholds_are_those_of_a_loop(costs: tuple[float, float]) -> None:
    q, truth, w = drawn(ties=False)
    fp, fn = costs
    some = points(q, truth, w)
    found = thresholds(some, some.q, fp, fn)

    def cost(t: float) -> float:
        said = q >= t
        return (fp * w[said & ~truth].sum() + fn * w[~said & truth].sum()) / w.sum()

    assert found.best.cost == pytest.approx(min(cost(t) for t in [*q, math.inf]), rel=1e-12)
    assert found.calibrated.threshold == fp / (fp + fn)
    for part in (found.best, found.calibrated, *found.table):
        said = q >= part.threshold
        right = w[said & truth].sum()
        assert part.cost == pytest.approx(cost(part.threshold), rel=1e-12)
        assert part.recall == pytest.approx(right / w[truth].sum(), rel=1e-12)
        assert part.precision == pytest.approx(right / w[said].sum(), rel=1e-12)
        assert part.f1 == pytest.approx(2 / (1 / part.precision + 1 / part.recall), rel=1e-12)


def test_it_may_be_best_to_call_no_row_positive() -> None:
    some = Points(np.array([0.3, 0.6]), np.array([5.0, 5.0]), np.array([1.0, 1.0]))
    assert thresholds(some, some.q, 10.0, 1.0).best.threshold == math.inf


def test_parts_of_the_square_loss_are_those_of_isotonic_regression() -> None:
    q, truth, w = drawn(ties=False)
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(q, truth, sample_weight=w).predict(q)
    found, rate = brier_parts(points(q, truth, w)), np.average(truth, weights=w)
    assert found.recalibrated == pytest.approx(np.average((fitted - truth) ** 2, weights=w), rel=1e-9)
    assert found.uncertainty == pytest.approx(rate * (1 - rate), rel=1e-12)
