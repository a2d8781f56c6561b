"""Intervals cover what they say: a few cells of `python -m benchmarks.coverage`, drawn anew, and mutants of them.

The bar is two points; a share of a few thousand samples may be off by four of its standard errors besides (six in
100,000 are).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from benchmarks.coverage import measure as coverage
from benchmarks.coverage.cases import Binary, Classes, Clusters
from crossent.scoring.sums import totals as _totals
from crossent.scoring.sums.interval import mean_of

pytestmark = pytest.mark.slow

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
