"""Vector scaling at the optimum: the gradient there is 0, no step improves it, and special cases are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from crossent.scoring.calibration import vector
from crossent.scoring.calibration.temperature import NoOptimum
from crossent.scoring.calibration.vector import fit
from tests.scoring.calibration.drawn import drawn, loss
from tests.scoring.calibration.test_temperature import rows


@pytest.mark.parametrize("few", [0, 128])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_best_one(few: int, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "FEW", few)
    z, y, w = drawn(2000, 4)
    y = (z * [1.0, 0.5, 0.3, 0.7] + [0.0, 1.0, -1.0, 0.5] + np.random.default_rng(1).gumbel(size=z.shape)).argmax(
        axis=1
    )
    weight = w if weighted else None
    found = fit(rows(z, y, weight), range(4))

    def value(x: Any) -> float:
        return loss(z * x[:4] + np.concatenate([[0.0], x[4:]]), y, weight)

    best = minimize(value, np.array([1.0] * 4 + [0.0] * 3), method="BFGS", options={"gtol": 1e-9})
    assert found.loss <= best.fun + 1e-12
    assert found.loss == pytest.approx(loss(z * found.scale + found.bias, y, weight), rel=1e-12)
    np.testing.assert_allclose(found.scale, best.x[:4], rtol=1e-4)
    assert found.bias.mean() == pytest.approx(0.0, abs=1e-14)


def test_of_one_column_it_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    odds = 3.0 * rng.normal(size=3000)
    y = (0.5 * odds - 1.0 + rng.logistic(size=3000) > 0).astype(int)
    found = fit(rows(odds, y), ["no", "yes"])
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(odds[:, None], y)
    assert found.scale[1] == pytest.approx(theirs.coef_[0, 0], rel=1e-6)
    assert found.bias[1] - found.bias[0] == pytest.approx(theirs.intercept_[0], rel=1e-6)


def test_a_temperature_is_a_special_case() -> None:
    from crossent.scoring.calibration import temperature

    z, y, _ = drawn(3000, 3)
    assert fit(rows(z, y), range(3)).loss < temperature.fit(rows(z, y)).loss


@pytest.mark.parametrize(
    ("logits", "label", "why"),
    [
        ([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [2.0, 0.0, 0.0]], [0, 1, 1], "class 'c' has no rows"),
        ([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]], [0, 1, 2], "separated almost without error"),
        ([[2.0, -np.inf, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]], [1, 1, 2], "a true class has probability 0"),
    ],
)
def test_data_without_a_best_one_say_why(logits: Any, label: Any, why: str) -> None:
    with pytest.raises(NoOptimum, match=why):
        _ = fit(rows(np.array(logits), label), ["a", "b", "c"])


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_units_of_logits_change_the_scales_alone(unit: float) -> None:
    z, y, _ = drawn(500, 3)
    one, other = fit(rows(z, y), range(3)), fit(rows(z * unit, y), range(3))
    np.testing.assert_allclose(other.scale * unit, one.scale, rtol=1e-6)
    np.testing.assert_allclose(other.bias, one.bias, atol=1e-6)
    assert other.loss == pytest.approx(one.loss, rel=1e-12)
