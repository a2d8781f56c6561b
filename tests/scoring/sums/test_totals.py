"""Totals by class and slice: exact sums, in any blocks, with infinite losses where they belong."""

from __future__ import annotations

import math

import numpy as np
import pytest

import crossent
from crossent import ScoreState
from tests.scoring.exact import close, exact_mean, made, model, near


def test_mean_of_blocks_of_unequal_size():
    state = crossent.ScoreState()
    state = state.update(np.ones(999, int), probs=np.full(999, math.exp(-0.01)))
    state = state.update([1], probs=[0.01])
    p = [math.exp(-0.01)] * 999 + [0.01]
    close(state.finalize().loss, exact_mean(p))
    close(crossent.score(np.ones(1000, int), probs=p).loss, exact_mean(p))


@pytest.mark.parametrize("first", [2.0**-1074, 1e-100, 1e-3, 1.0])
@pytest.mark.parametrize("rest", [1 - 2.0**-40, 0.999, 0.5])
def test_cancellation_in_sums(first, rest):
    """One row unlike 20 000 others, first or last: float64 with compensation is right to its last digits."""
    p = np.concatenate([[first], np.full(20_000, rest)])
    expected = (exact_mean([first]) + 20_000 * exact_mean([rest])) / 20_001
    for order in (slice(None), slice(None, None, -1)):
        result = crossent.score(np.ones(p.size, int), probs=p[order])
        assert abs(result.loss / expected - 1) < 1e-13


def test_an_infinite_loss_stays_in_its_class_and_slice():
    p = [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [0.25, 0.75]]
    result = crossent.score([0, 1, 1, 0], probs=p, by=["a", "b", "a", "a"])
    assert (result.loss, result.n, result.skill) == (math.inf, 4, -math.inf)
    assert [s.loss for s in result.per_class] == [pytest.approx(exact_mean([0.5, 0.25])), math.inf]
    assert [s.loss for s in result.by["by"]] == [pytest.approx(exact_mean([0.5, 0.5, 0.25])), math.inf]
    assert [row.loss for row in result.worst] == sorted((row.loss for row in result.worst), reverse=True)
    close(result.entropy, (2 * math.log(2) + exact_mean([0.25]) / 4 + 0.75 * exact_mean([0.75])) / 4)


@pytest.mark.parametrize("storage", ["int8", "uint8", "float16", "float32", "bool"])
def test_sums_of_narrow_weights_do_not_overflow(storage):
    y, z = made(1, 2000, 3)
    w = np.full(2000, 100).astype(storage)
    result = crossent.score(y, logits=z, weight=w)
    assert result.weight == w.astype(float).sum()
    close(result.loss, crossent.score(y, logits=z).loss)


@pytest.mark.parametrize("clustered", [False, True])
def test_classes_and_slices_are_the_scores_of_their_rows(clustered):
    y, p, w, cluster = model(seed=2)
    language = np.array(["de", "en", "fr"])[np.arange(500) % 3]
    year = 2000 + np.arange(500) % 4
    cluster = cluster if clustered else None
    result = crossent.score(y, probs=p, weight=w, cluster=cluster, by={"language": language, "year": year})
    parts = [(slice_, y == slice_.value) for slice_ in result.per_class]
    parts += [(slice_, language == slice_.value) for slice_ in result.by["language"]]
    parts += [(slice_, year == slice_.value) for slice_ in result.by["year"]]
    assert [len(result.per_class), *map(len, result.by.values())] == [4, 3, 4]
    for part, mask in parts:
        alone = crossent.score(
            y[mask], probs=p[mask], weight=w[mask], cluster=None if cluster is None else cluster[mask]
        )
        assert part.n == mask.sum() == alone.n
        for name in ("loss", "se", "ci", "accuracy", "weight"):
            near(getattr(part, name), getattr(alone, name), 1e-10)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_spread_of_nearly_equal_losses(gap):
    """A class whose losses are alike, far from those of the others: its interval must not depend on who came first."""
    y = np.array([0, 0, 1, 1, 1])
    p = np.array([0.5, 1e-5, 0.3, 0.3 * (1 + gap), 0.3 * (1 - gap)])
    loss = np.array([np.log(p[2:])])
    expected = loss.std(ddof=1) / math.sqrt(3)
    for order in (np.arange(5), np.arange(5)[::-1]):
        state = ScoreState()
        for row in order:
            state.update(y[row : row + 1], probs=np.where(y == 1, p, 1 - p)[row : row + 1])
        assert abs(state.finalize().per_class[1].se - expected) < 1e-13
