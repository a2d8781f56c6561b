"""Entropy, accuracy, the worst rows and the distribution of row losses, each by another way."""

from __future__ import annotations

import itertools
import math

import numpy as np
from sklearn.metrics import accuracy_score

import crossent
from crossent import ScoreState
from tests.scoring.exact import losses, model, near


def test_entropy_and_accuracy():
    y, p, w, _ = model()
    result = crossent.score(y, probs=p, weight=w)
    near(result.entropy, np.average(-(p * np.log(p)).sum(1), weights=w))
    near(result.accuracy, accuracy_score(y, p.argmax(1), sample_weight=w))
    q = p[:, 1]
    binary = crossent.score(y == 1, probs=q, weight=w)
    near(binary.entropy, np.average(-q * np.log(q) - (1 - q) * np.log1p(-q), weights=w))
    near(binary.accuracy, accuracy_score(y == 1, q > 0.5, sample_weight=w))


def test_entropy_of_zeros_is_not_nan():
    result = crossent.score([0, 1], probs=[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    near(result.entropy, math.log(2) / 2)
    near(crossent.score([0, 1], logits=[[0.0, 0.0, -math.inf], [-math.inf, 0.0, -math.inf]]).entropy, math.log(2) / 2)


def test_worst_rows():
    y, p, _, _ = model(seed=9)
    loss = losses(y, p)
    names = [f"row-{k}" for k in range(500)]
    result = crossent.score(y, probs=p, id=names, worst=25)
    order = np.argsort(-loss)[:25]
    assert [row.id for row in result.worst] == [names[k] for k in order]
    for row, k in zip(result.worst, order, strict=True):
        near(row.loss, loss[k])
        near(row.probability, p[k, y[k]])
        near(row.confidence, p[k].max())
        assert (row.label, row.predicted) == (y[k], p[k].argmax())
    assert crossent.score(y, probs=p, worst=0).worst == ()
    assert len(crossent.score(y[:3], probs=p[:3]).worst) == 3


def test_worst_rows_are_the_dearest_not_the_heaviest():
    result = crossent.score([1, 1, 1], probs=[0.5, 0.1, 0.9], weight=[1000, 1, 1e-9], worst=2)
    assert [row.id for row in result.worst] == [1, 0]


def test_histogram():
    y, p, w, _ = model(n=2000)
    loss = losses(y, p)
    bars = crossent.score(y, probs=p, weight=w).histogram
    near(sum(bar.weight for bar in bars), w.sum())
    assert all(a.high <= b.low for a, b in itertools.pairwise(bars))
    for bar in bars:
        near(bar.weight, w[(loss >= bar.low) & (loss < bar.high)].sum(), 1e-9)


def test_histogram_of_extremes():
    bars = crossent.score([1, 1, 1, 1], probs=[0.0, 1.0, 2.0**-1074, 0.5]).histogram
    assert sum(bar.weight for bar in bars) == 4
    assert (bars[-1].low, bars[-1].high, bars[-1].weight) == (math.inf, math.inf, 1)
    assert bars[0].low == 0
    assert any(bar.low <= 744.44 < bar.high for bar in bars)


def test_a_wrong_class_that_was_certain():
    """As softmax in float32 says of any gap beyond 17: the loss is finite, that of the top label is not."""
    p = np.array([[1.0, 1e-20, 0.0], [0.3, 0.4, 0.3], [1.0, 1e-15, 0.0]])
    result = crossent.score([1, 0, 1], probs=p)
    near(result.loss, losses([1, 0, 1], p).mean())
    assert result.calibration is None or result.calibration.loss == math.inf
    floored = crossent.score([1, 0, 1], probs=p, zero=1e-6)
    near(floored.loss, -(2 * math.log(1e-6) + math.log(0.3)) / 3)
    assert floored.calibration is not None


def test_of_equally_bad_rows_the_first():
    p = np.full(100, 0.5)
    assert [row.id for row in crossent.score(np.ones(100, int), probs=p, worst=3).worst] == [0, 1, 2]
    state = ScoreState(worst=3)
    for _ in range(10):
        state.update(np.ones(10, int), probs=p[:10])
    assert [row.id for row in state.finalize().worst] == [0, 1, 2]
