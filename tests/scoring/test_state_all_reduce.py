"""`ScoreState.all_reduce` over processes with gloo, against one state in one process."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch.distributed as dist

import crossent
from crossent import ScoreState
from tests.parallel.ranks import Failed
from tests.scoring.rows import assert_same, columns, frame

pytestmark = pytest.mark.slow

if not dist.is_available():
    pytest.skip("torch has no distributed package here", allow_module_level=True)


OF_CURVES = ("ranking", "roc_auc", "average_precision", "brier", "thresholds", "class_reliability")
"""What comes from the cells of a grid, once states with many rows have been to another process."""


def updated(state, part):
    return state.update(
        part.y, probs=columns(part, "p_"), weight=part.w, cluster=part.doc, by=part[["lang"]], id=part.name
    )


def share(table, k, ranks, empty):
    """The rows of a rank: every ranks-th, so that clusters span ranks; the `empty` last ranks have none."""
    working = ranks - empty
    return table[k::working] if k < working else table[:0]


def reduce(group, n, empty, worst):
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    state = ScoreState(worst=worst)
    part = share(frame(n), rank, ranks, empty)
    for half in (part[: len(part) // 3], part[len(part) // 3 :]):
        if len(half):
            updated(state, half)
    found = state.all_reduce(group)
    assert found is state
    return pickle.dumps(state.finalize())


@pytest.mark.parametrize(("ranks_", "empty"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_every_rank_has_the_score_of_all_rows(ranks, ranks_, empty):
    table = frame(700)
    wanted = updated(ScoreState(), table).finalize()
    assert wanted.clusters == table.doc.nunique()
    for found in ranks.run(ranks_, reduce, 700, empty, 10):
        assert_same(pickle.loads(found), wanted)


@pytest.mark.parametrize("ranks_", [2, 3])
def test_many_rows(ranks, ranks_):
    wanted = updated(ScoreState(worst=0), frame(20_000)).finalize()  # more probabilities than are kept one by one
    for found in ranks.run(ranks_, reduce, 20_000, 0, 0):
        assert_same(pickle.loads(found), wanted, but=OF_CURVES)


def plain(group, n):
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    draw = np.random.default_rng(8)
    p = draw.random(n)
    y = (draw.random(n) < p).astype(int)
    state = ScoreState(worst=0).update(y[rank::ranks], probs=p[rank::ranks])
    return pickle.dumps(state.all_reduce(group).finalize())


@pytest.mark.parametrize("n", [100, 20_000])
def test_rows_without_weights_clusters_or_slices(ranks, n):
    draw = np.random.default_rng(8)
    p = draw.random(n)
    y = (draw.random(n) < p).astype(int)
    for found in ranks.run(3, plain, n):
        whole = crossent.score(y, probs=p, worst=0)
        assert_same(pickle.loads(found), whole, but=OF_CURVES if n > 4096 else ())


def again(group):
    """Rows may come after a reduction, on one rank alone; the next one then counts what all had, on each rank."""
    rank = dist.get_rank(group)
    state = ScoreState().update([1, 0, 1], probs=[0.8, 0.3, 0.6]).all_reduce(group)
    if rank == 0:
        _ = state.update([1], probs=[0.5])
    return state.finalize().n


def test_rows_may_come_after_it(ranks):
    assert ranks.run(2, again) == [7, 6]


def mixed(group, how):
    rank = dist.get_rank(group)
    state = ScoreState(zero=1e-9) if how == "options" and rank else ScoreState()
    if how == "kinds" and rank:
        _ = state.update([1, 0], logits=[0.8, 0.3])
    elif how == "classes" and rank:
        _ = state.update([1, 0], probs=[[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])
    else:
        _ = state.update([1, 0], probs=[0.8, 0.3])
    with pytest.raises(ValueError) as error:  # noqa: PT011  the test reads the text
        _ = state.all_reduce(group)
    return str(error.value)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("options", "different options (zero: 'inf' and 1e-09)"),
        ("kinds", "predictions were 'probs' and are 'logits'"),
        ("classes", "classes were (0, 1) and are (0, 1, 2)"),
    ],
)
def test_states_that_do_not_fit_are_refused_on_every_rank(ranks, how, words):
    texts = ranks.run(2, mixed, how)
    assert all(words in text for text in texts[:1])
    assert all("different options" in text or "do not match" in text for text in texts)


def nothing(group):
    return ScoreState().all_reduce(group).finalize()


def test_no_rows_at_all(ranks):
    with pytest.raises(Failed, match="there are no rows to score"):
        ranks.run(2, nothing)
