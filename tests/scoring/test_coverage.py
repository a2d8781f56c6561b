"""Intervals cover what they say: a few cells of `python -m benchmarks.coverage`, drawn anew, and mutants of them.

The bar is two points; a share of a few thousand samples may be off by four of its standard errors besides (six in
100,000 are).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import integrate
from scipy.special import expit

from benchmarks import coverage
from benchmarks.coverage_cases import MODELS, Binary, Classes, Clusters
from crossent.scoring.sums import totals as _totals
from crossent.scoring.sums.interval import mean_of

LEVEL, BAR = 0.95, 0.02
RARE = Binary(0.01, 2.0, 1000)
DOCUMENTS = Clusters(200, 12, 4.0)
CASES = (Binary(0.5, 1.0, 500), RARE, Binary(0.1, 1.0, 500, "random weights"), Classes(10, 3.0, 500), DOCUMENTS)


def allowed(draws):
    return BAR + 4.0 * math.sqrt(LEVEL * (1.0 - LEVEL) / draws)


def covered(case, draws):
    records = coverage.measure(case, draws, np.random.default_rng(6))
    return {record["model"]: record["coverage"]["crossent"] for record in records}


@pytest.fixture(autouse=True)
def _no_bootstrap(monkeypatch):
    monkeypatch.setattr(coverage, "resampled", lambda _: False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_intervals_cover_what_they_say(case):
    draws = 2000
    for model, share in covered(case, draws).items():
        assert share["n"] == draws
        assert abs(share["covered"] - LEVEL) <= allowed(draws), (model, share)


def test_a_skewness_of_the_wrong_sign_is_noticed(monkeypatch):
    def flipped(*arguments):
        mean = mean_of(*arguments)
        return dataclasses.replace(mean, skew=-mean.skew)

    monkeypatch.setattr(_totals, "mean_of", flipped)
    monkeypatch.setattr(coverage, "mean_of", flipped)
    draws = 1000
    assert all(abs(share["covered"] - LEVEL) > allowed(draws) for share in covered(RARE, draws).values())


def test_errors_that_take_clusters_for_rows_are_noticed(monkeypatch):
    def apart(sample, replicates):
        return mean(dataclasses.replace(sample, cluster=None), replicates)

    mean = coverage.means
    monkeypatch.setattr(coverage, "means", apart)
    monkeypatch.setattr(coverage, "check", lambda *_: None)
    draws = 500
    assert covered(DOCUMENTS, draws)["any"]["covered"] < LEVEL - allowed(draws)


def test_the_samples_are_held_against_score(monkeypatch):
    """The clusters that the mutant above leaves out are missed by the check that it had to switch off."""
    mean = coverage.means
    monkeypatch.setattr(coverage, "means", lambda s, n: mean(dataclasses.replace(s, cluster=None), n))
    with pytest.raises(RuntimeError, match="gives the interval"):
        _ = covered(DOCUMENTS, 10)


# What should be covered


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", [Binary(0.5, 1.0, 1), Binary(0.01, 2.0, 1)], ids=lambda case: case.name)
def test_the_expected_loss_of_two_classes_is_the_integral(case, model):
    factor, z = MODELS[model], case.nodes[0]
    centre = float(case.nodes[1] @ z)

    def inner(x):
        odds = centre + case.sharpness * x
        p = expit(odds)
        density = math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        return density * (p * np.logaddexp(0.0, -factor * odds) + (1.0 - p) * np.logaddexp(0.0, factor * odds))

    found, error = integrate.quad(inner, -12.0, 12.0, epsabs=1e-12, limit=200)
    assert abs(case.truth(factor)[0] - found) <= 4.0 * error + 1e-12


@pytest.mark.parametrize("case", [*CASES[2:], Clusters(50, 12, 4.0, tied=True)], ids=lambda case: case.name)
def test_the_mean_of_many_rows_is_the_expected_loss(case):
    """By the law of large numbers, within five standard errors, of clusters where there are some."""
    random = np.random.default_rng(7)
    for model, sample in case.draw(random, 400):
        weight = np.ones(len(sample.loss)) if sample.weight is None else sample.weight
        loss, total = (np.bincount(sample.replicate, part) for part in (weight * sample.loss, weight))
        value = loss.sum() / total.sum()
        error = math.sqrt(((loss - value * total) ** 2).sum()) / total.sum()
        assert abs(value - case.truth(MODELS.get(model, 1.0))[0]) <= 5.0 * error


def test_losses_of_a_cluster_correlate_as_they_should():
    case = Clusters(20000, 3, 1.0)
    _, sample = next(iter(case.draw(np.random.default_rng(8), 1)))
    first = np.flatnonzero(np.diff(sample.cluster, prepend=-1) > 0)
    first = first[np.diff(first, append=len(sample.loss)) > 1]
    x, y = sample.loss[first], sample.loss[first + 1]
    product = (x - x.mean()) * (y - y.mean()) / (x.std() * y.std())
    assert abs(product.mean() - 0.3) <= 4.0 * product.std() / math.sqrt(len(product))
