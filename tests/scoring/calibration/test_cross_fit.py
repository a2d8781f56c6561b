"""The gain on held-out rows beside the same arithmetic in plain NumPy, and by its interval in many samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from crossent.scoring import TemperatureScaling, VectorScaling
from crossent.scoring.calibration.rows import fold_of
from tests.scoring.calibration.drawn import best_temperature, drawn


def row_losses(logits: Any, label: Any) -> Any:
    return -log_softmax(logits, axis=1)[np.arange(len(label)), label]


def by_hand(z: Any, y: Any, w: Any, fold: Any, folds: int) -> tuple[float, float]:
    """Return the mean loss as it is, and by temperatures of the other folds."""
    new = np.empty(len(y))
    for k in range(folds):
        here = fold == k
        new[here] = row_losses(z[here] / best_temperature(z[~here], y[~here], None if w is None else w[~here]), y[here])
    return float(np.average(row_losses(z, y), weights=w)), float(np.average(new, weights=w))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_each_row_is_scored_without_its_fold(weighted: bool, grouped: bool) -> None:
    z, y, w = drawn(600, 3)
    weight, groups = (w if weighted else None), (np.arange(600) // 3 if grouped else None)
    found = TemperatureScaling().cross_fit(z, y, weight, groups, folds=4)
    fold = fold_of(np.arange(600) if groups is None else groups, 4)
    before, after = by_hand(z, y, weight, fold, 4)
    assert found.loss == pytest.approx(before, rel=1e-12)
    assert found.calibrated == pytest.approx(after, rel=1e-9)
    assert found.gain == pytest.approx(before - after, rel=1e-8)
    assert (found.n, found.clusters, found.folds) == (600, 200 if grouped else None, 4)
    assert found.ci[0] < found.gain < found.ci[1]


@pytest.mark.slow
def test_no_gain_is_claimed_where_there_is_none() -> None:
    """Of predictions that need no temperature, T is fitted to noise: the honest gain is below 0, on average."""
    claimed, gains = 0, []
    for seed in range(200):
        z, y, _ = drawn(200, 3, 1.0, seed=seed)
        found = TemperatureScaling().cross_fit(z, y)
        gains.append(found.gain)
        claimed += found.ci[0] > 0.0
        assert TemperatureScaling().fit(z, y).calibrated_loss_ <= found.loss  # in the rows of the fit it never loses
    assert np.mean(gains) < 0.0
    assert claimed <= 5  # 2.5 % of 200


@pytest.mark.slow
def test_the_interval_covers_the_gain_of_the_law() -> None:
    """Of 200 samples at least 180 must cover it: 95 % would fall below that once in 400 tries."""
    z, y, _ = drawn(400_000, 3, seed=10**6)
    law = float((row_losses(z, y) - row_losses(z / 1.7, y)).mean())
    found = [TemperatureScaling().cross_fit(*drawn(1000, 3, seed=seed)[:2]).ci for seed in range(200)]
    assert sum(low <= law <= high for low, high in found) >= 180


def test_vector_scaling_needs_more_rows() -> None:
    """Six parameters fitted to thirty rows each fold cost more on other rows than one does."""
    z, y, _ = drawn(120, 6, 1.7)
    one, many = TemperatureScaling().cross_fit(z, y), VectorScaling().cross_fit(z, y)
    assert VectorScaling().fit(z, y).calibrated_loss_ < TemperatureScaling().fit(z, y).calibrated_loss_
    assert many.gain < one.gain


def test_json() -> None:
    import json

    z, y, _ = drawn(100, 3)
    found = TemperatureScaling().cross_fit(z, y)
    assert json.loads(found.to_json()) == found.to_dict()
