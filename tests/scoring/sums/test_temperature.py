"""The best temperature, against a minimisation over all rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax
from scipy.stats import chi2

import crossent
from tests.scoring.exact import near, softmax


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


def sure(n=60):
    """Labels and probabilities of the second class; some rows are sure, and right."""
    rng = np.random.default_rng(4)
    p = rng.uniform(0.05, 0.95, n)
    y = (rng.random(n) < p).astype(int)
    p[::7] = y[::7]
    return y, p


@pytest.mark.parametrize("kind", ["probs", "logprobs", "logits"])
def test_sure_rows_in_one_column_are_as_in_two(kind):
    """Infinite log-odds cost nothing at any temperature, as a probability of 0 beside one of 1 does."""
    y, p = sure()
    with np.errstate(divide="ignore"):
        both = np.log(np.stack([1 - p, p], axis=1))
        one = {"probs": p, "logprobs": np.log(p), "logits": np.log(p) - np.log1p(-p)}[kind]
        two = {"probs": np.stack([1 - p, p], axis=1), "logprobs": both, "logits": both}[kind]
    a, b = (crossent.score(y, **{kind: x}).calibration.temperature for x in (one, two))
    rest = np.isfinite(both).all(axis=1)

    def cost(beta):
        z = both[rest] * beta
        return -log_softmax(z, axis=1)[np.arange(rest.sum()), y[rest]].sum() / len(y)

    best = minimize_scalar(cost, bounds=(0.01, 50), method="bounded", options={"xatol": 1e-10})
    for found in (a, b):
        assert abs(found.value * best.x - 1) < 2e-3
        near(found.loss, cost(1.0))
        assert abs(found.scaled - best.fun) < 1e-4 * best.fun
    near((a.value, a.loss, a.scaled), (b.value, b.loss, b.scaled))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("seed", range(8))
def test_a_set_has_a_best_temperature_or_a_reason(classes, seed):
    """Against the slope of the loss by 1 / T at 0, and the rows in which another class is more probable."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(12, classes))
    y = rng.integers(0, classes, 12)
    if seed % 4 == 0:
        y = z.argmax(1)
    elif seed % 4 == 1:
        y = z.argmin(1)
    own = z[np.arange(12), y]
    falls = (z.mean(1) - own).sum() < 0
    separable = bool((own == z.max(1)).all())
    found = crossent.score(y, logits=z, zero=1e-9).calibration
    assert (found.temperature is None) == (separable or not falls)
    assert (found.no_temperature is None) == (found.temperature is not None)
    if separable:
        assert "there is no best temperature: in all 12 rows" in found.no_temperature
    elif not falls:
        assert "every larger T lowers the loss" in found.no_temperature
    assert "here is no best temperature" in str(crossent.score(y, logits=z)) or found.temperature


def test_few_rows_do_not_tell():
    """Four rows, all right: a smaller T would save all of the loss, as it would of four rows by chance."""
    p = [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]
    few = crossent.score([1, 0, 0, 1], probs=p)
    assert "too few rows to tell" in few.calibration.no_temperature
    assert "would not help" not in str(few)
    assert "too few rows to tell" not in crossent.score([1, 0, 0, 1] * 20, probs=p * 20).calibration.no_temperature
    mixed = crossent.score([1, 0, 1, 1, 0], probs=[0.9, 0.2, 0.8, 0.4, 0.3])
    t = mixed.calibration.temperature
    assert t.saving > 0.1
    assert 2 * t.n * (t.loss - t.scaled) < chi2.ppf(0.95, 1)
    assert not t.helps
    assert "Too few rows to tell whether a temperature would help" in str(mixed)


@pytest.mark.parametrize("classes", [2, 3])
def test_equal_predictions_have_no_best_temperature(classes):
    found = crossent.score([0, 1], probs=np.full((2, classes), 1 / classes)).calibration
    assert (found.temperature, found.no_temperature) == (None, "there is no best temperature: none changes the loss")


def test_parts_that_merge_have_the_same_reason():
    y, z = [0, 1, 1, 0] * 3, np.array([[1.0, 0.5], [0.2, 0.9], [0.1, 0.4], [2.0, 0.0]] * 3)
    parts = [crossent.ScoreState().update(y[k : k + 4], logits=z[k : k + 4]) for k in (0, 4, 8)]
    merged = parts[2].merge(parts[0]).merge(parts[1]).finalize().calibration
    assert merged.no_temperature == crossent.score(y, logits=z).calibration.no_temperature is not None


def test_temperature_is_advice_for_probabilities_too():
    rng = np.random.default_rng(0)
    z = rng.normal(size=3000) * 1.5
    y = rng.random(3000) < expit(z)
    result = crossent.score(y, probs=expit(2.0 * z))
    assert abs(result.calibration.temperature.value / 2 - 1) < 0.15
    assert "ver-confident" in str(result)
    under = crossent.score(y, probs=expit(0.4 * z))
    assert "nder-confident" in str(under)


def test_logits_that_need_no_temperature_have_one():
    """At T = 1 exactly the slope is 0 but for rounding, of either sign."""
    from crossent.scoring import TemperatureScaling

    for seed in range(60):
        rng = np.random.default_rng(seed)
        z = 3.0 * rng.normal(size=(200, 3))
        y = (z / 1.7 + rng.gumbel(size=z.shape)).argmax(axis=1)
        scaled = z / TemperatureScaling().fit(z, y).temperature_
        found = crossent.score(y, logits=scaled).calibration.temperature
        assert abs(found.value - 1.0) < 1e-6
