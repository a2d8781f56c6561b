"""The best temperature, against a minimisation over all rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax

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


def test_temperature_is_advice_for_probabilities_too():
    rng = np.random.default_rng(0)
    z = rng.normal(size=3000) * 1.5
    y = rng.random(3000) < expit(z)
    result = crossent.score(y, probs=expit(2.0 * z))
    assert abs(result.calibration.temperature.value / 2 - 1) < 0.15
    assert "ver-confident" in str(result)
    under = crossent.score(y, probs=expit(0.4 * z))
    assert "nder-confident" in str(under)
