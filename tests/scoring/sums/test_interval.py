"""Intervals of a mean: standard errors, Hall's correction for skewness, and coverage of rare events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import skew

import crossent
from tests.scoring.exact import Moments, losses, model, near


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
def test_standard_error_and_hall_interval(level, weighted, clustered):
    y, p, w, cluster = model()
    w, cluster = w if weighted else None, cluster if clustered else None
    result = crossent.score(y, probs=p, weight=w, cluster=cluster, ci=level)
    moments = Moments.of(losses(y, p), w, cluster)
    near(result.loss, moments.mean)
    near(result.se, moments.se)
    low, high = moments.hall(level)
    near(result.ci, (max(low, 0.0), high), 1e-10)
    assert result.level == level


def test_standard_error_of_plain_rows_is_the_textbook_one():
    y, p, _, _ = model()
    loss = losses(y, p)
    result = crossent.score(y, probs=p)
    near(result.se, loss.std(ddof=1) / math.sqrt(loss.size))
    near(Moments.of(loss).skew, skew(loss))


def test_skewness_moves_the_interval_to_the_right():
    """Losses of rare events: Hall's interval reaches further up than down."""
    rng = np.random.default_rng(0)
    y = (rng.random(500) < 0.01).astype(int)
    result = crossent.score(y, probs=np.full(500, 0.01))
    low, high = result.ci
    assert high - result.loss > 1.3 * (result.loss - low)


@pytest.mark.slow
def test_coverage_at_a_base_rate_of_one_percent():
    """Specification: 95.6 % where mean ± 1.96 se covers 86 %. 400 trials have a standard error of 1 point."""
    rng = np.random.default_rng(7)
    truth = -(0.01 * math.log(0.01) + 0.99 * math.log(0.99))
    inside = 0
    for _ in range(400):
        k = rng.binomial(500, 0.01)
        y = np.r_[np.ones(k, int), np.zeros(500 - k, int)]
        low, high = crossent.score(y, probs=np.full(500, 0.01), worst=0).ci
        inside += low <= truth <= high
    assert abs(inside / 400 - 0.956) < 3 * 0.0103
