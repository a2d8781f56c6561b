"""The expected losses that intervals should cover, and the samples that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate
from scipy.special import expit

from benchmarks.coverage.cases import MODELS, Binary, Classes, Clusters

RANDOM_WEIGHTS = Binary(0.1, 1.0, 500, "random weights")
MANY = (RANDOM_WEIGHTS, Classes(10, 3.0, 500), Clusters(200, 12, 4.0), Clusters(50, 12, 4.0, tied=True))


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


@pytest.mark.parametrize("case", MANY, ids=lambda case: case.name)
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
