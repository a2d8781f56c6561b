"""Two scores of the same rows: differences, intervals and p-values against scipy and formulas."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
from scipy.stats import ttest_rel

import crossent
from tests.scoring.exact import Moments, losses, near, softmax
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


def test_p_value_of_many_rows_is_about_that_of_student():
    y, p, q = pair(5000, seed=1, noise=0.2)
    d = losses(y, p) - losses(y, q)
    result = crossent.compare(crossent.score(y, probs=p), crossent.score(y, probs=q))
    theirs = ttest_rel(losses(y, p), losses(y, q)).pvalue
    assert abs(math.log(result.p_value / theirs)) < 0.5 or abs(result.p_value - theirs) < 0.01, (d.mean(), theirs)


@pytest.mark.parametrize("n", [2, 5, 9, 18, 200, 2000, 3000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_at_the_level_of_the_p_value_ends_at_zero(n, weighted):
    y, p, q = pair(n, seed=1, noise=0.2)
    w = np.random.default_rng(n).gamma(2.0, size=n) if weighted else None
    a, b = crossent.score(y, probs=p, weight=w), crossent.score(y, probs=q, weight=w)
    p_value = crossent.compare(a, b).p_value
    ends = crossent.compare(a, b, ci=1 - p_value).ci
    assert min(map(abs, ends)) < 1e-9 * (ends[1] - ends[0])


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_small_comparisons_do_not_contradict_themselves(level):
    """Of 400, the interval leaves 0 out where p is below 1 − level; in about that many, as there is no difference."""
    rng = np.random.default_rng(2)
    left_out = 0
    for _ in range(400):
        n, classes = int(rng.integers(5, 60)), int(rng.integers(2, 5))
        z = 1.5 * rng.normal(size=(n, classes))
        y = (softmax(z).cumsum(1) > rng.random((n, 1))).argmax(1)
        more = {
            "cluster": rng.integers(0, n // 2, n) if rng.random() < 0.3 else None,
            "weight": rng.gamma(2.0, size=n) if rng.random() < 0.3 else None,
        }
        a, b = (crossent.score(y, logits=z + 0.5 * rng.normal(size=(n, classes)), **more) for _ in "ab")
        result = crossent.compare(a, b, ci=level)
        without = not result.ci[0] <= 0 <= result.ci[1]
        assert without == (result.p_value < 1 - level)
        left_out += without
    assert abs(left_out / 400 - (1 - level)) < 4 * math.sqrt(level * (1 - level) / 400)


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
    assert math.isnan(result.p_value)


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
