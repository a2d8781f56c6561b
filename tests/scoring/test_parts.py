"""Every field of a score against another way to compute it: scikit-learn, scipy, torchmetrics, a filter, a formula."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax
from scipy.stats import skew
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import accuracy_score, log_loss
from torchmetrics.functional import classification

import crossent
from tests.scoring.exact import Moments, losses, made, softmax


def model(classes=4, n=500, seed=0):
    y, z = made(seed, n, classes)
    p = softmax(z)
    rng = np.random.default_rng(seed + 1)
    return y, p, rng.gamma(1.0, size=n) + 0.01, rng.integers(0, n // 10, size=n)


def near(a, b, rel=1e-11):
    assert np.allclose(a, b, rtol=rel, atol=rel), (a, b)


# Intervals


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


def test_a_perplexity_has_the_ends_of_the_loss():
    y, p, _, _ = model()
    result = crossent.score(y, probs=p)
    near(result.bits, result.loss / math.log(2))
    near(result.bits_ci, np.array(result.ci) / math.log(2))
    near(result.perplexity, math.exp(result.loss))
    near(result.perplexity_ci, np.exp(result.ci))


# The baseline and skill


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
def test_baseline_and_skill(weighted, clustered):
    y, p, w, cluster = model(seed=3)
    w, cluster = w if weighted else None, cluster if clustered else None
    result = crossent.score(y, probs=p, weight=w, cluster=cluster)
    prior = np.bincount(y, w, 4) / (np.bincount(y, w, 4).sum())
    near(result.baseline, log_loss(y, np.tile(prior, (500, 1)), sample_weight=w))
    near(result.skill, 1 - result.loss / result.baseline)
    # by the delta method: the frequencies' own error drops out of the residual, as d H(q) = −Σ log q dq
    ones = np.ones(500) if w is None else w
    price = -np.log(prior)[y]
    ratio = Moments.of(losses(y, p) / price, ones * price, cluster, size=ones)
    near(ratio.mean, 1 - result.skill)
    low, high = ratio.hall()
    near(result.skill_ci, (1 - high, 1 - max(low, 0.0)), 1e-10)


def test_skill_interval_is_about_what_a_bootstrap_says():
    y, p, _, _ = model(classes=3, n=400, seed=5)
    loss = losses(y, p)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 400, size=(4000, 400))
    counts = np.stack([(y[drawn] == c).sum(1) for c in range(3)], axis=1) / 400
    skills = 1 - loss[drawn].mean(1) / -(counts * np.log(counts)).sum(1)
    low, high = crossent.score(y, probs=p).skill_ci
    width = skills.std() * 2 * 1.96
    assert abs((high - low) / width - 1) < 0.1  # the error of a standard deviation from 4000 draws is 1.1 %
    assert abs(np.quantile(skills, 0.025) - low) < 0.15 * width
    assert abs(np.quantile(skills, 0.975) - high) < 0.15 * width


def test_no_skill_without_a_second_class():
    """scikit-learn's d2_log_loss_score says −1e15."""
    result = crossent.score([1, 1, 1], probs=[0.9, 0.8, 0.7])
    assert math.isnan(result.skill)
    assert result.baseline == 0
    assert any("class 1" in text and "skill" in text for text in result.warnings)
    assert result.to_dict()["skill"] is None


# What the predictions say


def test_entropy_and_accuracy():
    y, p, w, _ = model()
    result = crossent.score(y, probs=p, weight=w)
    near(result.entropy, np.average(-(p * np.log(p)).sum(1), weights=w))
    near(result.accuracy, accuracy_score(y, p.argmax(1), sample_weight=w))
    q = p[:, 1]
    binary = crossent.score(y == 1, probs=q, weight=w)
    near(binary.entropy, np.average(-q * np.log(q) - (1 - q) * np.log1p(-q), weights=w))
    near(binary.accuracy, accuracy_score(y == 1, q > 0.5, sample_weight=w))


def test_entropy_of_zeros_is_not_nan():
    result = crossent.score([0, 1], probs=[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    near(result.entropy, math.log(2) / 2)
    near(crossent.score([0, 1], logits=[[0.0, 0.0, -math.inf], [-math.inf, 0.0, -math.inf]]).entropy, math.log(2) / 2)


# Parts


@pytest.mark.parametrize("clustered", [False, True])
def test_classes_and_slices_are_the_scores_of_their_rows(clustered):
    y, p, w, cluster = model(seed=2)
    language = np.array(["de", "en", "fr"])[np.arange(500) % 3]
    year = 2000 + np.arange(500) % 4
    cluster = cluster if clustered else None
    result = crossent.score(y, probs=p, weight=w, cluster=cluster, by={"language": language, "year": year})
    parts = [(slice_, y == slice_.value) for slice_ in result.per_class]
    parts += [(slice_, language == slice_.value) for slice_ in result.by["language"]]
    parts += [(slice_, year == slice_.value) for slice_ in result.by["year"]]
    assert [len(result.per_class), *map(len, result.by.values())] == [4, 3, 4]
    for part, mask in parts:
        alone = crossent.score(
            y[mask], probs=p[mask], weight=w[mask], cluster=None if cluster is None else cluster[mask]
        )
        assert part.n == mask.sum() == alone.n
        for name in ("loss", "se", "ci", "accuracy", "weight"):
            near(getattr(part, name), getattr(alone, name), 1e-10)


def test_a_class_without_rows():
    result = crossent.score([0, 2, 2], probs=np.full((3, 3), 1 / 3))
    assert [(s.value, s.n) for s in result.per_class if s.n] == [(0, 1), (2, 2)]
    near(result.baseline, -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3)


def test_worst_rows():
    y, p, _, _ = model(seed=9)
    loss = losses(y, p)
    names = [f"row-{k}" for k in range(500)]
    result = crossent.score(y, probs=p, id=names, worst=25)
    order = np.argsort(-loss)[:25]
    assert [row.id for row in result.worst] == [names[k] for k in order]
    for row, k in zip(result.worst, order, strict=True):
        near(row.loss, loss[k])
        near(row.probability, p[k, y[k]])
        near(row.confidence, p[k].max())
        assert (row.label, row.predicted) == (y[k], p[k].argmax())
    assert crossent.score(y, probs=p, worst=0).worst == ()
    assert len(crossent.score(y[:3], probs=p[:3]).worst) == 3


def test_worst_rows_are_the_dearest_not_the_heaviest():
    result = crossent.score([1, 1, 1], probs=[0.5, 0.1, 0.9], weight=[1000, 1, 1e-9], worst=2)
    assert [row.id for row in result.worst] == [1, 0]


def test_histogram():
    y, p, w, _ = model(n=2000)
    loss = losses(y, p)
    bars = crossent.score(y, probs=p, weight=w).histogram
    near(sum(bar.weight for bar in bars), w.sum())
    assert all(a.high <= b.low for a, b in itertools.pairwise(bars))
    for bar in bars:
        near(bar.weight, w[(loss >= bar.low) & (loss < bar.high)].sum(), 1e-9)


def test_histogram_of_extremes():
    bars = crossent.score([1, 1, 1, 1], probs=[0.0, 1.0, 2.0**-1074, 0.5]).histogram
    assert sum(bar.weight for bar in bars) == 4
    assert (bars[-1].low, bars[-1].high, bars[-1].weight) == (math.inf, math.inf, 1)
    assert bars[0].low == 0
    assert any(bar.low <= 744.44 < bar.high for bar in bars)


# Calibration


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


def test_a_wrong_class_that_was_certain():
    """As softmax in float32 says of any gap beyond 17: the loss is finite, that of the top label is not."""
    p = np.array([[1.0, 1e-20, 0.0], [0.3, 0.4, 0.3], [1.0, 1e-15, 0.0]])
    result = crossent.score([1, 0, 1], probs=p)
    near(result.loss, losses([1, 0, 1], p).mean())
    assert result.calibration is None or result.calibration.loss == math.inf
    floored = crossent.score([1, 0, 1], probs=p, zero=1e-6)
    near(floored.loss, -(2 * math.log(1e-6) + math.log(0.3)) / 3)
    assert floored.calibration is not None


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


# Temperature


@pytest.mark.parametrize("classes", [1, 2, 6])
@pytest.mark.parametrize("true", [0.3, 1.0, 2.7])
@pytest.mark.parametrize("weighted", [False, True])
def test_temperature(classes, true, weighted):
    rng = np.random.default_rng(classes)
    z = rng.normal(size=(800, max(classes, 2)))
    y = (softmax(z).cumsum(1) > rng.random((800, 1))).argmax(1)
    w = rng.gamma(2.0, size=800) if weighted else np.ones(800)
    z *= true  # so that the best temperature is about that

    def cost(beta):
        return np.average(-log_softmax(z * beta, axis=1)[np.arange(800), y], weights=w)

    best = minimize_scalar(cost, bounds=(0.01, 50), method="bounded", options={"xatol": 1e-10})
    given = z[:, 1] - z[:, 0] if classes == 1 else z
    found = crossent.score(y, logits=given, weight=w).calibration.temperature
    assert abs(found.value * best.x - 1) < 2e-3  # "to about three digits"
    assert abs(found.scaled - best.fun) < 1e-4 * best.fun
    near(found.loss, cost(1.0))
    assert found.n == 800
    gain = cost(1.0) - best.fun
    assert found.helps == (gain > 0.01 * cost(1.0) and 2 * 800 * gain > 3.84) or weighted
    near(found.saving, (found.loss - found.scaled) / found.loss)


def test_temperature_is_advice_for_probabilities_too():
    rng = np.random.default_rng(0)
    z = rng.normal(size=3000) * 1.5
    y = rng.random(3000) < expit(z)
    result = crossent.score(y, probs=expit(2.0 * z))
    assert abs(result.calibration.temperature.value / 2 - 1) < 0.15
    assert "ver-confident" in str(result)
    under = crossent.score(y, probs=expit(0.4 * z))
    assert "nder-confident" in str(under)
