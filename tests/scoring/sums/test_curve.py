"""The calibration curve: the loss taken apart by scikit-learn's isotonic regression, bins and calibration error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from torchmetrics.functional import classification

import crossent
from tests.scoring.exact import model, near


def isotonic(p, truth, weight):
    """Loss of the best monotone recalibration, from scikit-learn."""
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(p, truth, sample_weight=weight).predict(p)
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.where(truth, -np.log(fitted), -np.log1p(-fitted))
    return np.average(cost, weights=weight)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_taken_apart(classes, weighted):
    y, p, w, _ = model(classes, n=300, seed=4)
    w = w if weighted else np.ones(300)
    result = crossent.score(y, probs=p[:, 1] if classes == 2 else p, weight=w)
    truth = y == 1 if classes == 2 else y == p.argmax(1)
    q = p[:, 1] if classes == 2 else p.max(1)
    parts = result.calibration
    assert parts.of == ("positive class" if classes == 2 else "top label")
    base = np.average(truth, weights=w)
    loss = np.average(np.where(truth, -np.log(q), -np.log1p(-q)), weights=w)
    near(parts.loss, loss)
    near(parts.uncertainty, -base * math.log(base) - (1 - base) * math.log1p(-base))
    near(parts.miscalibration, loss - isotonic(q, truth, w), 1e-9)
    near(parts.discrimination, parts.uncertainty - isotonic(q, truth, w), 1e-9)
    near(parts.miscalibration - parts.discrimination + parts.uncertainty, parts.loss)


def test_the_decomposition_of_the_specification():
    parts = crossent.score([0, 0, 0, 1, 1, 1], probs=[0.4, 0.3, 0.2, 0.1, 0.5, 0.9]).calibration
    values = parts.loss, parts.miscalibration, parts.discrimination, parts.uncertainty
    assert np.abs(np.array(values) - (0.6986228, 0.3237327, 0.3182571, 0.6931472)).max() < 5e-8


def test_decomposition_of_many_rows_errs_by_less_than_chance():
    """Beyond some thousand rows probabilities go into cells; what that changes is little beside the standard error."""
    y, p, _, _ = model(2, n=30_000, seed=8)
    result = crossent.score(y, probs=p[:, 1])
    best = isotonic(p[:, 1], y == 1, np.ones(y.size))
    assert abs(result.calibration.loss - result.calibration.miscalibration - best) < result.se / 5
    near(result.calibration.loss, result.loss)


def test_curve_is_the_isotonic_regression():
    y, p, _, _ = model(2, n=200, seed=6)
    curve = np.array(crossent.score(y, probs=p[:, 1]).calibration.curve)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(p[:, 1], y)
    assert (np.diff(curve, axis=0) >= 0).all()
    near(curve[:, 1], fitted.predict(curve[:, 0]), 1e-9)
    assert set(np.round(curve[:, 0], 12)) <= set(np.round(p[:, 1], 12))


@pytest.mark.parametrize("p", [0.1, 0.2, 0.3, 1e-9, 1e-20, 0.9, 1 - 1e-9])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_constant_prediction_discriminates_nothing(p, columns):
    """Whether a row came true must not show in the probability that the decomposition puts it under."""
    y = np.arange(10) == 3
    result = crossent.score(y, probs=np.full(10, p) if columns == 1 else np.tile([1 - p, p], (10, 1)))
    parts = result.calibration
    assert len({x for x, _ in parts.curve}) == 1
    assert abs(parts.discrimination) < 1e-12
    near(parts.miscalibration, result.loss - parts.uncertainty)
    near(parts.ece, abs(p - 0.1))
    assert len(result.reliability) == 1


@pytest.mark.parametrize("levels", [4, 10, 100])
def test_loss_taken_apart_where_predictions_repeat(levels):
    """As those of trees, surveys and rounded files do."""
    rng = np.random.default_rng(levels)
    p = rng.integers(1, levels, size=400) / levels
    y = rng.random(400) < p**1.5
    parts = crossent.score(y, probs=p).calibration
    near(parts.loss - parts.miscalibration, isotonic(p, y, np.ones(400)), 1e-9)
    near(
        [b.n for b in crossent.score(y, probs=p).reliability], [k for k in np.histogram(p, np.arange(11) / 10)[0] if k]
    )


def test_probabilities_are_shown_as_they_were_given():
    result = crossent.score([0, 1, 1, 0], probs=[0.1, 0.7, 0.2, 0.3])
    assert {x for x, _ in result.calibration.curve} <= {0.1, 0.2, 0.3, 0.7}
    assert [b.predicted for b in result.reliability] == [0.1, 0.2, 0.3, 0.7]
    assert [round(b.low, 9) for b in result.reliability] == [0.1, 0.2, 0.3, 0.7]


def test_reliability():
    y, p, w, _ = model(2, n=1000)
    q = p[:, 1]
    bins = crossent.score(y, probs=q, weight=w).reliability
    place = np.minimum((q * 10).astype(int), 9)
    assert [round(b.low * 10) for b in bins] == sorted(set(place))
    for b in bins:
        rows = place == round(b.low * 10)
        assert b.n == rows.sum()
        near(b.weight, w[rows].sum())
        near(b.predicted, np.average(q[rows], weights=w[rows]))
        near(b.observed, np.average(y[rows], weights=w[rows]))


@pytest.mark.parametrize("classes", [2, 5])
def test_expected_calibration_error(classes):
    y, p, _, _ = model(classes, n=700, seed=1)
    if classes == 2:
        theirs = classification.binary_calibration_error(torch.tensor(p[:, 1]), torch.tensor(y), n_bins=10)
    else:
        theirs = classification.multiclass_calibration_error(torch.tensor(p), torch.tensor(y), classes, n_bins=10)
    ours = crossent.score(y, probs=p[:, 1] if classes == 2 else p).calibration.ece
    assert abs(ours - float(theirs)) < 1e-6  # float32 inside torchmetrics
