"""From sums to a score: baseline and skill, classes without rows, warnings about few rows, and no rows at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

import crossent
from crossent import ScoreState, score
from tests.scoring.exact import Moments, close, exact_mean, losses, model, near
from tests.scoring.refusals import P, Y, assert_refused, assert_warned


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


def test_a_class_without_rows():
    result = crossent.score([0, 2, 2], probs=np.full((3, 3), 1 / 3))
    assert [(s.value, s.n) for s in result.per_class if s.n] == [(0, 1), (2, 2)]
    near(result.baseline, -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3)


def test_zero_probability_is_infinite_and_named():
    result = crossent.score([0, 1, 1], probs=[[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], id=["a", "b", "c"])
    assert result.loss == math.inf
    assert result.worst[0].id == "b"
    assert result.ci == (math.inf, math.inf)
    assert any("b" in text and "0" in text for text in result.warnings)
    floored = crossent.score([0, 1, 1], probs=[[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], zero=1e-9)
    assert floored.zero == 1e-9
    close(floored.loss, exact_mean([0.5, 1e-9, 0.5]))


def forest(n=569, infinite=(5,), seed=0):
    """Labels and probabilities of a class by a forest: some rows got exactly 0, one nearly."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, n)
    y = (rng.random(n) < p).astype(int)
    y[[1, 2]], p[[1, 2]] = 1, (1e-8, 3e-4)
    for row in infinite:
        y[row], p[row] = 1, 0.0
    return y, p


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("infinite", [(5,), (5, 90, 91), range(569)])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_beside_an_infinite_loss_stand_the_other_rows_and_floors(weighted, clustered, infinite, columns):
    y, p = forest(infinite=infinite)
    rng = np.random.default_rng(7)
    w = rng.gamma(1.0, size=569) + 0.1 if weighted else np.ones(569)
    cluster = rng.integers(0, 60, size=569) if clustered else np.arange(569)
    cluster[5] = 600  # a cluster of one row, which is infinite
    if columns > 1:
        p = np.stack([1 - p, p, 0 * p][:columns], axis=1)
    more = {"weight": w, "cluster": cluster} if clustered else {"weight": w}
    whole = crossent.score(y, probs=p, **more)
    assert (whole.loss, whole.ci, whole.finite.n) == (math.inf, (math.inf, math.inf), 569 - len(infinite))
    rest = np.setdiff1d(np.arange(569), infinite)
    if len(rest):
        others = crossent.score(y[rest], probs=p[rest], **{name: x[rest] for name, x in more.items()})
        near(whole.finite.loss, others.loss, 1e-13)
        near((*whole.finite.ci, whole.finite.se), (*others.ci, others.se), 1e-10)
        near(whole.finite.weight, w[rest].sum(), 1e-13)
    for floor in whole.finite.floors:
        near(floor.loss, crossent.score(y, probs=p, zero=floor.zero, **more).loss, 1e-13)
    state = crossent.ScoreState()
    for part in np.array_split(np.arange(569), 7):
        state.merge(crossent.ScoreState().update(y[part], probs=p[part], **{k: x[part] for k, x in more.items()}))
    merged = state.finalize().finite
    near(merged.loss, whole.finite.loss, 1e-13) if len(rest) else None
    near([f.loss for f in merged.floors], [f.loss for f in whole.finite.floors], 1e-13)


def test_a_finite_loss_has_nothing_beside_it():
    y, p = forest(infinite=())
    assert crossent.score(y, probs=p).finite is None
    assert crossent.score(*forest()[:1], probs=forest()[1], zero=1e-9).finite is None


def test_few_rows_of_many_classes_make_a_low_baseline():
    """Entropy of frequencies is too low by (C − 1) / 2n (Miller 1955), which one can see: uniform labels, log 50."""
    rng = np.random.default_rng(0)
    baselines = [crossent.score(rng.integers(0, 50, 400), probs=np.full((400, 50), 0.02)).baseline for _ in range(50)]
    bias = np.log(50) - np.mean(baselines)
    (said,) = [
        w
        for w in crossent.score(rng.integers(0, 50, 400), probs=np.full((400, 50), 0.02)).warnings
        if "too low: by about" in w
    ]
    told = float(said.split("about ")[1].split()[0])
    assert abs(told - bias) < 0.15 * bias


# name: (call, words that the error must hold; lower case)
ERRORS = {
    "all ignored": (lambda: score([-1] * 4, probs=P, ignore=-1), ["ignore"]),
    "empty": (lambda: score([], probs=np.zeros((0, 3))), ["no rows"]),
    "empty lists": (lambda: score([], probs=[]), ["no rows"]),
    "zero weights": (lambda: score(Y, probs=P, weight=[0, 0, 0, 0]), ["weight", "0"]),
    "nothing yet": (lambda: ScoreState().finalize(), ["no rows"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    assert_refused(*ERRORS[name])


# name: (call, words that one of the warnings must hold)
WARNINGS = {
    "one class in the data": (lambda: score([1, 1], probs=[0.5, 0.4]), ["class 1", "skill"]),
    "one row": (lambda: score([1], probs=[0.5]), ["interval"]),
    "one cluster": (lambda: score(Y * 5, probs=np.tile(P, (5, 1)), cluster=["a"] * 20), ["one cluster"]),
    "rare class": (lambda: score([1] + [0] * 50, probs=[0.1] * 51), ["class 1", "1 row"]),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name):
    assert_warned(*WARNINGS[name])


@pytest.mark.parametrize(
    ("values", "order"),
    [
        (["10", "2", "11", "1"], ["1", "2", "10", "11"]),
        (["b10", "b9", "a", "b9.5"], ["a", "b9", "b9.5", "b10"]),
        (["x", 3, None, "2", 1.5], [1.5, "2", 3, "x", None]),
        ([True, False, None], [False, True, None]),
        (["2026-10-01", "2026-09-30"], ["2026-09-30", "2026-10-01"]),
        (["nan", "5", "inf"], ["5", "inf", "nan"]),
        (["-2", "-10", "007", "1e3"], ["-10", "-2", "007", "1e3"]),
    ],
)
def test_slices_come_in_the_order_of_their_numbers(values, order):
    result = crossent.score([0] * len(values), probs=[0.5] * len(values), by={"g": np.array(values, object)})
    assert [part.value for part in result.by["g"]] == order
