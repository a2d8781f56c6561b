"""Two scores of the same rows: differences, intervals and p-values against scipy, enumeration and formulas."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pickle

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_rel

import crossent
from tests.scoring.exact import Moments, losses, near
from tests.scoring.pairs import pair, scored


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("swapped", [False, True])
def test_difference_and_interval(weighted, clustered, level, swapped):
    """Of either sign: nothing keeps the low end of a difference above 0."""
    y, *models = pair(noise=0.1)
    p, q = reversed(models) if swapped else models
    rng = np.random.default_rng(0)
    w = rng.gamma(1.0, size=300) if weighted else None
    cluster = rng.integers(0, 40, size=300) if clustered else None
    a, b = (crossent.score(y, probs=m, weight=w, cluster=cluster) for m in (p, q))
    result = crossent.compare(a, b, ci=level)
    moments = Moments.of(losses(y, p) - losses(y, q), w, cluster)
    near(result.difference, moments.mean)
    near(result.se, moments.se)
    near(result.ci, moments.hall(level), 1e-10)
    near((result.loss_a, result.loss_b), (a.loss, b.loss))
    near(result.difference, a.loss - b.loss)
    assert (result.n, result.level) == (300, level)
    assert result.clusters == (len(np.unique(cluster)) if clustered else None)


def test_the_other_way_round():
    y, p, q = pair()
    a, b = crossent.score(y, probs=p), crossent.score(y, probs=q)
    one, other = crossent.compare(a, b), crossent.compare(b, a)
    near(one.difference, -other.difference)
    near(one.ci, (-other.ci[1], -other.ci[0]))
    near(one.p_value, other.p_value)
    assert (one.share_better, one.share_worse) == (other.share_worse, other.share_better)


def enumerated(parts):
    """Share of all sign flips whose sum is as far from 0."""
    sums = np.array([abs(np.dot(signs, parts)) for signs in itertools.product([1, -1], repeat=len(parts))])
    return (sums >= abs(parts.sum()) * (1 - 1e-12)).mean()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("clustered", [False, True])
def test_p_value_of_few_rows_is_exact(seed, clustered):
    n = 18 if clustered else 9
    y, p, q = pair(n, seed=seed)
    cluster = np.arange(n) // 2 if clustered else None
    result = crossent.compare(*(crossent.score(y, probs=m, cluster=cluster) for m in (p, q)))
    d = losses(y, p) - losses(y, q)
    parts = np.bincount(cluster, d) if clustered else d
    near(result.p_value, enumerated(parts))
    assert result.test == "permutation"
    theirs = permutation_test((parts, 0 * parts), lambda x, y: np.mean(x - y), permutation_type="samples")
    near(result.p_value, theirs.pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05])
def test_p_value_of_more_rows(shift):
    """Drawn sign flips: within four standard errors of scipy's, each from some thousand draws or more."""
    y, p, q = pair(200, seed=3)
    d = losses(y, p) - losses(y, q)
    q = q * math.exp(shift)
    q[np.arange(200), (y + 1) % 3] -= (
        q.sum(1) - 1
    )  # the truth is exp(shift) as probable, the next class makes up for it
    good = (q > 0).all(axis=1)
    y, p, q = y[good], p[good], q[good]
    d = losses(y, p) - losses(y, q)
    result = crossent.compare(crossent.score(y, probs=p), crossent.score(y, probs=q))
    theirs = permutation_test(
        (d, 0 * d),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=9999,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).pvalue
    assert abs(result.p_value - theirs) < 4 * math.sqrt(2 * max(theirs, 1e-3) / 9999)


def test_p_value_of_many_rows_is_about_that_of_student():
    y, p, q = pair(5000, seed=1, noise=0.2)
    d = losses(y, p) - losses(y, q)
    result = crossent.compare(crossent.score(y, probs=p), crossent.score(y, probs=q))
    assert result.test == "transformed t"
    theirs = ttest_rel(losses(y, p), losses(y, q)).pvalue
    assert abs(math.log(result.p_value / theirs)) < 0.5 or abs(result.p_value - theirs) < 0.01, (d.mean(), theirs)


@pytest.mark.parametrize("n", [2000, 3000])
def test_interval_and_p_value_agree(n):
    """The interval at the level 1 − p ends at 0."""
    y, p, q = pair(n, seed=1, noise=0.2)
    a, b = crossent.score(y, probs=p), crossent.score(y, probs=q)
    p_value = crossent.compare(a, b).p_value
    ends = crossent.compare(a, b, ci=1 - p_value).ci
    assert min(map(abs, ends)) < 1e-3 * (ends[1] - ends[0])


def test_the_same_twice_and_no_global_state():
    y, p, q = pair(100)
    a, b = crossent.score(y, probs=p), crossent.score(y, probs=q)
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert crossent.compare(a, b).to_dict() == crossent.compare(a, b).to_dict()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_the_same_model():
    y, p, _ = pair()
    a = crossent.score(y, probs=p)
    result = crossent.compare(a, a)
    assert (result.difference, result.ci, result.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert (result.share_better, result.share_worse, result.worst_regressions) == (0.0, 0.0, ())


def test_shares_and_regressions():
    y, p, q = pair()
    names = [f"r{k}" for k in range(300)]
    a, b = (crossent.score(y, probs=m, id=names) for m in (p, q))
    d = losses(y, p) - losses(y, q)
    result = crossent.compare(a, b)
    near((result.share_better, result.share_worse), ((d < 0).mean(), (d > 0).mean()))
    worst = np.argsort(-d)[: len(result.worst_regressions)]
    assert [r.id for r in result.worst_regressions] == [names[k] for k in worst]
    near([r.difference for r in result.worst_regressions], d[worst])


def test_any_kind_of_prediction_and_storage():
    y, p, q = pair(classes=2)
    a = crossent.score(y, probs=p[:, 1])
    near(crossent.compare(a, crossent.score(y, logits=np.log(q))).difference, (losses(y, p) - losses(y, q)).mean())


def test_states_that_keep_rows():
    y, p, q = pair()
    whole = crossent.compare(crossent.score(y, probs=p), crossent.score(y, probs=q))
    states = []
    for m in (p, q):
        state = crossent.ScoreState(rows=True)
        for part in np.array_split(np.arange(300), 7):
            state.update(y[part], probs=m[part])
        states.append(state)
    near(crossent.compare(*states).difference, whole.difference)
    ids = [str(k) for k in range(300)]
    late = crossent.ScoreState(rows=True).update(y[200:], probs=q[200:], id=ids[200:])
    late.merge(crossent.ScoreState(rows=True).update(y[:200], probs=q[:200], id=ids[:200]))
    assert crossent.compare(crossent.score(y, probs=p, id=ids), pickle.loads(pickle.dumps(late))).n == 300


def test_left_out_rows():
    """Rows of weight 0, or ignored, in both."""
    y, p, q = pair()
    y[::7] = -1
    w = np.where(np.arange(300) % 5 == 0, 0.0, 1.0)
    keep = (y >= 0) & (w > 0)
    result = crossent.compare(*(crossent.score(y, probs=m, weight=w, ignore=-1) for m in (p, q)))
    near(result.difference, (losses(y[keep], p[keep]) - losses(y[keep], q[keep])).mean())
    assert result.n == keep.sum()


def test_infinite_losses():
    y = [1, 1, 0, 1]
    good, bad = crossent.score(y, probs=[0.5, 0.6, 0.7, 0.8]), crossent.score(y, probs=[0.5, 0.0, 0.7, 0.8])
    assert crossent.compare(bad, good).difference == math.inf
    assert crossent.compare(good, bad).difference == -math.inf
    assert crossent.compare(bad, good).worst_regressions[0].id == 1
    with pytest.raises(ValueError, match=r"row 1\b.*(?s:.)zero="):
        crossent.compare(bad, bad)


def test_one_pair():
    a, b = crossent.score([1], probs=[0.5]), crossent.score([1], probs=[0.25])
    result = crossent.compare(a, b)
    near(result.difference, -math.log(2))
    assert math.isnan(result.se)
    assert all(map(math.isnan, result.ci))
    assert result.p_value == 1.0 or math.isnan(result.p_value)


def test_forms():
    y, p, q = pair(40)
    result = crossent.compare(crossent.score(y, probs=p), crossent.score(y, probs=q))
    read = json.loads(result.to_json())
    assert {f.name for f in dataclasses.fields(result)} - {"names"} <= set(read)
    assert read["difference"] == result.difference
    assert "\n" in repr(result)


@pytest.mark.parametrize("wrong", [0.5, None, "new.parquet", [0.1, 0.2]])
def test_refused_types(wrong):
    with pytest.raises(TypeError, match="score"):
        crossent.compare(scored(), wrong)


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, float("nan")])
def test_refused_levels(level):
    with pytest.raises(ValueError, match="ci"):
        crossent.compare(scored(), scored(), ci=level)
