"""`score`: the loss that scikit-learn and the specification give, and arguments that stay as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import log_loss

import crossent
from crossent import score
from tests.scoring.exact import close, made, softmax
from tests.scoring.refusals import P, Y

SMALL_Y = [1, 0, 2]


SMALL_P = [[0.2, 0.7, 0.1], [0.6, 0.2, 0.2], [0.6, 0.1, 0.3]]


SMALL = 0.69049112401021968491


@pytest.mark.parametrize("classes", [2, 3, 17])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
def test_scikit_learn(classes, weighted, kind):
    y, z = made(classes, 700, classes)
    w = np.random.default_rng(1).gamma(2.0, size=700) if weighted else None
    given = {"probs": softmax(z), "logits": z, "logprobs": log_softmax(z, axis=1)}[kind]
    result = crossent.score(y, **{kind: given}, weight=w)
    close(result.loss, log_loss(y, softmax(z), sample_weight=w, labels=range(classes)), 1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
def test_scikit_learn_binary_column(weighted, kind):
    y, z = made(5, 600, 2)
    w = np.random.default_rng(1).integers(1, 5, size=600) if weighted else None
    odds = z[:, 1] - z[:, 0]
    p = softmax(z)[:, 1]
    given = {"probs": p, "logits": odds, "logprobs": log_softmax(z, axis=1)[:, 1]}[kind]
    close(crossent.score(y, **{kind: given}, weight=w).loss, log_loss(y, p, sample_weight=w), 1e-12)


def test_values_of_the_specification():
    binary = crossent.score([1, 0, 0, 1], probs=[[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]])
    close(binary.loss, 0.2161618746805791539)
    close(crossent.score([1, 0, 0, 1], probs=[0.9, 0.1, 0.2, 0.65]).loss, 0.2161618746805791539)
    close(crossent.score(SMALL_Y, probs=SMALL_P).loss, SMALL)
    cross = crossent.score([0, 1], probs=[[0.25, 0.75], [0.25, 0.75]])
    close(cross.loss, 0.83698821678583577314)
    close(crossent.score([0], probs=[[0.7, 0.2, 0.1]]).entropy, 0.80181855254333730856)


def test_no_argument_is_written_to():
    y, z = made(2, 100, 5)
    w = np.linspace(0, 1, 100)
    kept = y.copy(), z.copy(), w.copy()
    crossent.score(y, logits=z, weight=w, cluster=y, by=y, id=y)
    crossent.score(y, probs=np.exp(z), weight=w, normalize=True)
    assert all((a == b).all() for a, b in zip(kept, (y, z, w), strict=True))


def test_public_names():
    assert crossent.Score is type(score(Y, probs=P))
    assert callable(crossent.score)
    assert callable(crossent.compare)


def test_a_bool_column_is_binary():
    result = score(np.array([True, False]), probs=[0.75, 0.5])
    assert math.isclose(result.loss, -math.log(0.75 * 0.5) / 2)
