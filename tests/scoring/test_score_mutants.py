"""Tests of the tests: a score with one mistake that somebody shipped must not pass."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from crossent.scoring.sums import curve as _curve
from crossent.scoring.sums import interval as _interval
from crossent.scoring.sums import row_sums as _row_sums
from crossent.scoring.sums import totals as _totals
from tests.scoring import test_comparison as comparing
from tests.scoring import test_evaluate as evaluating
from tests.scoring.sums import test_costs as costs
from tests.scoring.sums import test_curve as curve
from tests.scoring.sums import test_interval as intervals

pytestmark = pytest.mark.slow


class Flat(np.ndarray):
    """Weights whose powers are themselves."""

    def __pow__(self, power):
        return np.asarray(self)


def weights_not_squared(real):
    def add(self, rows):
        if rows.weight is not None:
            rows = dataclasses.replace(rows, weight=np.asarray(rows.weight, np.float64).view(Flat))
        real(self, rows)

    return add


def losses_are(change):
    def mutant(real):
        def costs(*args, **options):
            found = real(*args, **options)
            return dataclasses.replace(found, loss=change(found.loss))

        return costs

    return mutant


def residuals_are(change):
    return lambda real: lambda value, weight, residuals: real(value, weight, change(residuals))


def unweighted(real):
    return lambda points: real(points._replace(weight=np.ones_like(points.weight), truth=points.truth / points.weight))


def one_sided(real):
    def p_value(mean):
        return real(mean) / 2

    return p_value


# name: (module or class, what of it, the mutant, the test that must fail)
MUTANTS = {
    "no correction for skewness": (
        _interval,
        "unbent",
        lambda real: lambda x, bend: x,
        lambda: intervals.test_standard_error_and_hall_interval(0.95, False, False),
    ),
    "skewness with the wrong sign": (
        _interval,
        "mean_of",
        residuals_are(lambda r: dataclasses.replace(r, cube=-r.cube)),
        lambda: intervals.test_standard_error_and_hall_interval(0.95, False, False),
    ),
    "n for n − 1": (
        _totals,
        "mean_of",
        residuals_are(lambda r: dataclasses.replace(r, square=r.square * (r.n - 1) / r.n)),
        intervals.test_standard_error_of_plain_rows_is_the_textbook_one,
    ),
    "weights not squared": (
        _totals.Totals,
        "add",
        weights_not_squared,
        lambda: intervals.test_standard_error_and_hall_interval(0.95, True, False),
    ),
    "clipped as in Spark": (
        _row_sums,
        "costs",
        losses_are(lambda loss: np.minimum(loss, 34.5)),
        lambda: costs.test_the_smallest_positive_number(True),
    ),
    "clipped as in scikit-learn": (
        _row_sums,
        "costs",
        losses_are(lambda loss: np.minimum(loss, -np.log(np.finfo(np.float32).eps))),
        costs.test_nothing_is_clipped,
    ),
    "losses in float32": (
        _row_sums,
        "costs",
        losses_are(lambda loss: loss.astype(np.float32).astype(np.float64)),
        lambda: evaluating.test_scikit_learn(3, False, "probs"),
    ),
    "isotonic regression without weights": (
        _curve,
        "take_apart",
        unweighted,
        lambda: curve.test_loss_taken_apart(4, True),
    ),
    "a one-sided p-value": (
        _interval,
        "_p_value",
        one_sided,
        lambda: comparing.test_the_interval_at_the_level_of_the_p_value_ends_at_zero(200, weighted=False),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name, monkeypatch):
    owner, attribute, mutant, check = MUTANTS[name]
    check()
    real = getattr(owner, attribute)
    modules = [module for path, module in sys.modules.items() if path.startswith("crossent.scoring")]
    for place in [owner, *(m for m in modules if vars(m).get(attribute) is real)]:  # wherever it was imported to
        monkeypatch.setattr(place, attribute, mutant(real))
    with pytest.raises(AssertionError):
        check()
