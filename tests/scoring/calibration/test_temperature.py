"""The best temperature beside bisection of the slope in float64, and the data that have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crossent.scoring.calibration import temperature
from crossent.scoring.calibration.rows import Rows
from crossent.scoring.calibration.temperature import NoOptimum, fit
from crossent.scoring.input.arguments import RowArguments, ScoreOptions
from crossent.scoring.input.batch import batch
from tests.scoring.calibration.drawn import best_temperature, drawn, loss


def rows(logits: Any, label: Any, weight: Any = None) -> Rows:
    made = batch(label, RowArguments(logits=logits, weight=weight), ScoreOptions())
    return Rows(lambda: [made])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("truth", [0.02, 0.5, 1.0, 1.7, 40.0])
@pytest.mark.parametrize("columns", [2, 3, 100])
def test_it_is_the_best_one(columns: int, truth: float, dtype: Any) -> None:
    z, _, w = drawn(2000, columns, dtype=dtype)
    z = z * dtype(truth)  # so that labels are neither certain nor by chance
    y = (z / truth + np.random.default_rng(1).gumbel(size=z.shape)).argmax(axis=1)
    for weight in (None, w):
        found = fit(rows(z, y, weight))
        exact = best_temperature(z, y, weight)
        assert 1.0 / found.beta == pytest.approx(exact, rel=1e-9)
        assert found.loss == pytest.approx(loss(z.astype(np.float64) / exact, y, weight), rel=1e-12)


def test_units_of_logits_change_the_temperature_alone() -> None:
    z, y, _ = drawn(500, 4)
    for unit in (2.0**-30, 2.0**30):
        found = fit(rows(z * unit, y))
        assert 1.0 / found.beta == pytest.approx(unit * best_temperature(z, y), rel=1e-9)


def test_classes_that_are_impossible_in_some_rows() -> None:
    z, y, _ = drawn(500, 4)
    z[::3, 1] = -np.inf
    y[(y == 1) & np.isneginf(z[:, 1])] = 0
    assert 1.0 / fit(rows(z, y)).beta == pytest.approx(best_temperature(z, y), rel=1e-9)


def test_weights_of_many_sizes_beside_many_digits() -> None:
    """Heavy rows that are nearly certain, with a large common part, leave the slope to light ones (mpmath)."""
    import mpmath

    rng = np.random.default_rng(3)
    z = np.rint(8.0 * rng.normal(size=(12, 4))) + 2.0**20
    y = z.argmax(axis=1)
    z[np.arange(12), y] += np.repeat([30.0, 0.0], 6)
    y[9:] = z[9:].argsort(axis=1)[:, -2]
    w = np.repeat([1e6, 1e-6], 6)

    def slope(beta: object) -> object:
        total = mpmath.mpf(0)
        for row, true, weight in zip(z, y, w, strict=True):
            away = [mpmath.mpf(x - row[true]) for x in row]
            powers = [mpmath.exp(beta * x) for x in away]
            total += mpmath.mpf(weight) * sum(p * x for p, x in zip(powers, away, strict=True)) / sum(powers)
        return total

    with mpmath.workdps(60):
        low, high = mpmath.mpf(2) ** -20, mpmath.mpf(2) ** 20
        for _ in range(150):
            beta = mpmath.sqrt(low * high)
            low, high = (beta, high) if slope(beta) < 0 else (low, beta)
    assert fit(rows(z, y, w)).beta == pytest.approx(float(beta), rel=1e-9)


def test_a_start_nearby_gives_the_same() -> None:
    z, y, _ = drawn(3000, 5)
    whole = fit(rows(z, y))
    part = fit(rows(z[:2500], y[:2500]), whole)
    assert 1.0 / part.beta == pytest.approx(best_temperature(z[:2500], y[:2500]), rel=1e-9)


@pytest.mark.parametrize(
    ("logits", "label", "why"),
    [
        ([[2.0, 0.0], [0.0, 2.0]], [0, 1], "in every row the true class is the most probable one"),
        ([[2.0, 0.0], [1.0, 1.0]], [0, 1], "in every row the true class is the most probable one"),
        ([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [1, 0, 0], "logits no higher than the average of their rows"),
        (
            [[2.0, 0.0], [0.0, 2.0]],
            [1, 1],
            "logits no higher than the average of their rows",
        ),  # the slope is 0 at β = 0
        ([[1.0, 1.0], [3.0, 3.0]], [1, 0], "none changes the loss"),
        ([[1.0, -np.inf], [3.0, 2.0]], [1, 1], "a true class has probability 0"),
    ],
)
def test_data_without_a_best_one_say_why(logits: Any, label: Any, why: str) -> None:
    with pytest.raises(NoOptimum, match=why):
        _ = fit(rows(np.array(logits), label))


def test_few_passes_over_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    z, y, _ = drawn(200_000, 10, dtype=np.float32)
    made = batch(y, RowArguments(logits=z), ScoreOptions())
    passes = 0

    def read() -> Any:
        nonlocal passes
        passes += 1
        return [made]

    found = fit(Rows(read))
    assert passes <= 6
    assert 1.0 / found.beta == pytest.approx(best_temperature(z, y), rel=1e-9)


def test_the_last_passes_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that stays in the precision of float32 logits is caught."""
    z, y, _ = drawn(1000, 50, dtype=np.float32)
    true = temperature.at
    monkeypatch.setattr(temperature, "at", lambda pieces, beta, exact: true(pieces, beta, exact=False))
    wrong = fit(rows(z, y))
    assert abs(1.0 / wrong.beta / best_temperature(z, y) - 1.0) > 1e-10
