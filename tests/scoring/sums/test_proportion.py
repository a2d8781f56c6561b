"""Intervals of frequencies and of means over classes: SciPy's Wilson, and how often they cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from crossent.scoring.sums.outcomes import Outcomes
from crossent.scoring.sums.proportion import balanced, estimate, mean_of_frequencies, normal_quantile, wilson
from crossent.scoring.sums.totals import LossRows, Totals


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 7), (7, 7), (450, 1000)])
def test_wilson_is_that_of_scipy(k: int, n: int) -> None:
    wanted = binomtest(k, n).proportion_ci(0.95, method="wilson")
    low, high = wilson(k / n, n, normal_quantile(0.95))
    assert (float(low), float(high)) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_one_frequency_is_its_own_mean() -> None:
    ends = wilson(np.array([0.3]), np.array([20.0]), 1.96)
    found = mean_of_frequencies(np.array([0.3]), ends, np.array([0.1]))
    assert (found.value, *found.ci, found.se) == pytest.approx((0.3, float(ends[0][0]), float(ends[1][0]), 0.1))


def covered(trials: int, draw_interval) -> float:
    return float(np.mean([low <= truth <= high for low, high, truth in (draw_interval() for _ in range(trials))]))


def answered(draw: np.random.Generator, weights: bool, clusters: bool, rare: bool):
    """Draw rows of three classes; return their answers and the expected accuracy and recall."""
    shares, recalls = np.array([0.6, 0.35, 0.05] if rare else [0.4, 0.35, 0.25]), np.array([0.95, 0.8, 0.6])
    n = 300
    if clusters:
        groups = np.repeat(np.arange(60), 5)
        shift = draw.normal(0, 1.2, 60)[groups]
        base = np.log(recalls / (1 - recalls))
        y = draw.choice(3, n, p=shares)
        right = draw.random(n) < 1 / (1 + np.exp(-(base[y] + shift)))
        z = np.random.default_rng(0).normal(0, 1.2, 200_000)
        recalls = np.array([np.mean(1 / (1 + np.exp(-(b + z)))) for b in base])
    else:
        groups = None
        y = draw.choice(3, n, p=shares)
        right = draw.random(n) < recalls[y]
    w = draw.gamma(2.0, 1.0, n) if weights else None
    return y, np.where(right, y, (y + 1) % 3), w, groups, float(shares @ recalls), float(recalls.mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "clusters", "rare"),
    [(False, False, False), (False, False, True), (True, False, False), (False, True, False), (True, True, False)],
)
def test_accuracy_and_balanced_accuracy_cover_the_truth(weights: bool, clusters: bool, rare: bool) -> None:
    """Of 1500 samples 95 % intervals cover it in 93.5 to 97.5 %; standard errors of that share are 0.6 %."""
    draw = np.random.default_rng(7)
    hits = []
    for _ in range(1500):
        y, said, w, groups, accuracy, recall = answered(draw, weights, clusters, rare)
        sums = Outcomes()
        sums.grow(3)
        sums.add(y, said, w, groups)
        found = sums.decisions("abc", 0.95, clustered=clusters)
        ends = found.accuracy.ci, found.balanced_accuracy.ci
        hits.append([low <= x <= high for (low, high), x in zip(ends, (accuracy, recall), strict=True)])
    for share in np.mean(hits, axis=0):
        assert 0.935 <= share <= 0.975


def mean_loss(y: np.ndarray, loss: np.ndarray, w: np.ndarray | None, cluster: np.ndarray | None) -> Totals:
    totals = Totals(3)
    totals.add(LossRows(loss, w, y, loss > 0, cluster))
    return totals


def test_balanced_loss_is_the_mean_of_the_classes() -> None:
    draw = np.random.default_rng(0)
    y, loss, w = draw.integers(0, 3, 500), draw.exponential(1.0, 500), draw.random(500) + 0.1
    for cluster in (None, np.arange(500) // 4):
        found = balanced(mean_loss(y, loss, w, cluster))
        means = [np.average(loss[y == k], weights=w[y == k]) for k in range(3)]
        assert found.value[0] == pytest.approx(np.mean(means), rel=1e-12)
    alone = balanced(mean_loss(np.zeros(500, int), loss, w, None))
    whole = mean_loss(np.zeros(500, int), loss, w, None).overall()
    np.testing.assert_allclose(alone.interval(0.95), whole.interval(0.95), rtol=1e-9)


def test_single_rows_as_clusters_are_nearly_rows() -> None:
    draw = np.random.default_rng(0)
    y, loss = draw.integers(0, 3, 3000), draw.exponential(1.0, 3000)
    rows, single = (balanced(mean_loss(y, loss, None, c)) for c in (None, np.arange(3000)))
    np.testing.assert_allclose(single.interval(0.95), rows.interval(0.95), rtol=2e-3)


@pytest.mark.parametrize(("loss", "value"), [([0.5, 0.5, np.inf], np.inf), ([0.5, 0.5, 0.5], 0.5)])
def test_extreme_losses(loss: list[float], value: float) -> None:
    found = estimate(balanced(mean_loss(np.array([0, 1, 2]), np.array(loss), None, None)), 0.95)
    assert found.value == value


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [False, True])
def test_balanced_loss_covers_the_truth(clusters: bool) -> None:
    """Skewed losses of a frequent, a rarer and a rare class."""
    draw, scale, hits = np.random.default_rng(3), np.array([0.2, 0.5, 1.5]), []
    for _ in range(1500):
        y = draw.choice(3, 400, p=[0.7, 0.2, 0.1])
        groups = np.repeat(np.arange(80), 5) if clusters else None
        factor = draw.gamma(3.0, 1 / 3.0, 80)[groups] if groups is not None else 1.0
        loss = draw.exponential(1.0, 400) * scale[y] * factor
        low, high = balanced(mean_loss(y, loss, None, groups)).interval(0.95)
        hits.append(low[0] <= scale.mean() <= high[0])
    assert 0.93 <= np.mean(hits) <= 0.975
