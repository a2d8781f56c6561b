"""Laws of a score: what rows in parts, in another order, doubled, left out or written otherwise must not change."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

import crossent
from crossent import ScoreState
from tests.score.exact import assert_same, flat, made, softmax

EXAMPLES = settings(max_examples=40, deadline=None)


@dataclasses.dataclass
class Data:
    """Rows, as keyword arguments of `score` that are arrays; `y` among them."""

    columns: dict[str, Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.columns["y"])

    def take(self, rows: Any) -> Data:
        return Data({k: v[rows] for k, v in self.columns.items()}, self.options)

    def but(self, **columns: Any) -> Data:
        merged = {**self.columns, **columns}
        return Data({k: v for k, v in merged.items() if v is not None}, self.options)

    def add(self, state: ScoreState) -> ScoreState:
        columns = dict(self.columns)
        return state.update(columns.pop("y"), **columns)

    def state(self) -> ScoreState:
        return self.add(ScoreState(**self.options))

    def score(self) -> crossent.Score:
        columns = dict(self.columns)
        return crossent.score(columns.pop("y"), **columns, **self.options)


@st.composite
def data(draw: st.DrawFn, least: int = 2, kinds: tuple[str, ...] = ("probs", "logits", "logprobs", "column")) -> Data:
    n, classes = draw(st.integers(least, 50)), draw(st.integers(2, 5))
    kind, seed = draw(st.sampled_from(kinds)), draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    y, z = made(seed, n, 2 if kind == "column" else classes)
    values = {"probs": softmax(z), "logits": z, "logprobs": log_softmax(z, axis=1), "column": softmax(z)[:, 1]}[kind]
    columns = {"y": y, "probs" if kind == "column" else kind: values, "id": np.arange(n) * 7 + 1000}
    if draw(st.booleans()):
        columns["weight"] = rng.gamma(1.0, size=n) + 0.01
    if draw(st.booleans()):
        columns["cluster"] = rng.integers(0, max(2, n // 3), size=n)
    if draw(st.booleans()):
        columns["by"] = rng.choice(["a", "b", "c"], size=n)
    if kind in ("probs", "column") and draw(st.integers(0, 4)) == 0:  # a truth that was said to be impossible
        place = rng.integers(n)
        if kind == "column":
            values[place], y[place] = 0.0, 1
        else:
            values[place], y[place] = np.eye(classes)[0], 1
    return Data(columns, {"worst": draw(st.integers(0, 12)), "ci": draw(st.sampled_from([0.5, 0.95, 0.99]))})


def merged(states: list[ScoreState], draw: Any) -> ScoreState:
    """States merged two by two, in any order and tree."""
    while len(states) > 1:
        second = states.pop(draw(st.integers(0, len(states) - 1)))
        first = states.pop(draw(st.integers(0, len(states) - 1)))
        states.append(first.merge(second))
    return states[0]


def cuts(draw: Any, n: int) -> list[Any]:
    places = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    return np.split(np.arange(n), places)


# Parts


@EXAMPLES
@given(data(), st.data())
def test_chunks(rows, more):
    """Any parts, empty ones among them, through one state."""
    state = ScoreState(**rows.options)
    for part in cuts(more.draw, rows.n):
        assert rows.take(part).add(state) is state
    assert_same(state.finalize(), rows.score())


@EXAMPLES
@given(data(), st.data())
def test_merging(rows, more):
    """Any parts in states of their own, merged in any order and tree."""
    states = [rows.take(part).state() for part in cuts(more.draw, rows.n)]
    assert_same(merged(states, more.draw).finalize(), rows.score())


@EXAMPLES
@given(data(), st.data())
def test_order_of_rows(rows, more):
    order = more.draw(st.permutations(range(rows.n)))
    assert_same(rows.take(list(order)).score(), rows.score())


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("clustered", [False, True])
def test_merging_many_rows(classes, clustered):
    """More rows than are kept one by one anywhere, in parts of very different sizes."""
    n = 30_000
    y, z = made(1, n, classes)
    rows = Data({"y": y, "logits": z, "id": np.arange(n), "by": np.arange(n) % 7, "weight": 1.0 + np.arange(n) % 3})
    if clustered:
        rows.columns["cluster"] = np.arange(n) // 40
    whole = rows.score()
    sizes = np.cumsum([1, 5, 20_000, 17, 2, 9000])
    states = [rows.take(part).state() for part in np.split(np.arange(n), sizes)]
    state = states[0]
    for other in states[1:]:
        state.merge(other)
    assert_same(state.finalize(), whole)
    backwards = [rows.take(part).state() for part in np.split(np.arange(n), sizes)][::-1]
    state = backwards[0]
    for other in backwards[1:]:
        state.merge(other)
    assert_same(state.finalize(), whole)


def test_numbers_of_rows_without_ids_go_on():
    p = [0.9, 0.8, 0.1, 0.7, 0.2]
    state = ScoreState().update([1, 1], probs=p[:2]).merge(ScoreState().update([1, 1, 1], probs=p[2:]))
    assert [row.id for row in state.finalize().worst] == [2, 4, 3, 1, 0]
    assert [row.id for row in crossent.score([1] * 5, probs=p).worst] == [2, 4, 3, 1, 0]


def test_of_equally_bad_rows_the_first():
    p = np.full(100, 0.5)
    assert [row.id for row in crossent.score(np.ones(100, int), probs=p, worst=3).worst] == [0, 1, 2]
    state = ScoreState(worst=3)
    for _ in range(10):
        state.update(np.ones(10, int), probs=p[:10])
    assert [row.id for row in state.finalize().worst] == [0, 1, 2]


# States


@EXAMPLES
@given(data(), st.data())
def test_pickling(rows, more):
    """A state that has been to another process is the same, and goes on the same."""
    cut = more.draw(st.integers(0, rows.n))
    first, rest = rows.take(slice(None, cut)), rows.take(slice(cut, None))
    state = first.state()
    copy = pickle.loads(pickle.dumps(state))
    assert_same(rest.add(copy).finalize(), rest.add(state).finalize(), rel=0.0)
    again = pickle.loads(pickle.dumps(rows.score()))
    assert_same(again, rows.score(), rel=0.0)
    assert repr(again) == repr(rows.score())


@EXAMPLES
@given(data(), st.data())
def test_merge_leaves_the_other_as_it_is(rows, more):
    cut = more.draw(st.integers(1, rows.n - 1))
    first, second = rows.take(slice(None, cut)), rows.take(slice(cut, None))
    a, b = first.state(), second.state()
    assert a.merge(b) is a
    assert_same(b.finalize(), second.score(), rel=0.0)
    second.add(a)  # what happens to a now is not b's business, nor the other way round
    assert_same(b.finalize(), second.score(), rel=0.0)
    empty = ScoreState(**rows.options)
    empty.merge(b)
    first.add(empty)
    assert_same(b.finalize(), second.score(), rel=0.0)
    before = a.finalize()
    first.add(b)
    assert_same(a.finalize(), before, rel=0.0)


@EXAMPLES
@given(data())
def test_an_empty_state_changes_nothing(rows):
    whole = rows.score()
    assert_same(ScoreState(**rows.options).merge(rows.state()).finalize(), whole)
    assert_same(rows.state().merge(ScoreState(**rows.options)).finalize(), whole, rel=0.0)
    state = rows.take(slice(0)).add(rows.take(slice(0)).state())
    assert_same(rows.add(state).finalize(), whole)


@EXAMPLES
@given(data())
def test_finalize_may_be_called_at_any_time(rows):
    state = rows.take(slice(1)).state()
    first = state.finalize()
    kept = first.to_dict()
    rows.take(slice(1, None)).add(state)
    assert first.to_dict() == kept
    assert_same(state.finalize(), rows.score())
    assert_same(state.finalize(), state.finalize(), rel=0.0)


@EXAMPLES
@given(data(), st.data())
def test_scores_merge(rows, more):
    cut = more.draw(st.integers(1, rows.n - 1))
    a, b = rows.take(slice(None, cut)).score(), rows.take(slice(cut, None)).score()
    kept = a.to_dict(), b.to_dict()
    assert_same(a.merge(b), rows.score())
    assert_same(a.merge(b), rows.score())  # neither was changed by it
    assert kept == (a.to_dict(), b.to_dict())
    assert_same(
        a.merge(b).merge(a),
        Data({k: np.concatenate([v, v[:cut]]) for k, v in rows.columns.items()}, rows.options).score(),
    )


def test_a_state_may_be_merged_with_itself():
    y, z = made(2, 40, 3)
    state = ScoreState(worst=0).update(y, logits=z)
    assert_same(state.merge(state).finalize(), crossent.score(np.tile(y, 2), logits=np.tile(z, (2, 1)), worst=0))


# Weights


def numbers(score: crossent.Score, *without: str) -> dict[str, Any]:
    """The numbers of a score by path, without those whose last name is given."""
    return {k: v for k, v in flat(score.to_dict()).items() if not any(f".{name}" in k for name in without)}


def assert_close(a: dict[str, Any], b: dict[str, Any], rel: float = 1e-13) -> None:
    assert a.keys() == b.keys()
    for path, value in a.items():
        if isinstance(value, float) and isinstance(b[path], float):
            assert math.isclose(value, b[path], rel_tol=rel, abs_tol=rel), (path, value, b[path])
        else:
            assert value == b[path], (path, value, b[path])


COUNTS = ("n", "ci", "skill_ci", "bits_ci", "perplexity_ci", "se", "worst", "helps", "warnings")


@EXAMPLES
@given(data(), st.data())
def test_rows_twice_have_twice_the_weight(rows, more):
    """Weights count in every mean; how sure one can be is another matter."""
    times = np.array(more.draw(st.lists(st.integers(0, 3), min_size=rows.n, max_size=rows.n)))
    times[0] = 2
    weight = rows.columns.get("weight", np.ones(rows.n))
    repeated = rows.take(np.repeat(np.arange(rows.n), times))
    assert_close(numbers(rows.but(weight=weight * times).score(), *COUNTS), numbers(repeated.score(), *COUNTS))


@EXAMPLES
@given(data(kinds=("logits",)), st.data())
def test_copies_of_a_row_in_its_cluster_are_a_weight(rows, more):
    """If the copies are in one cluster, the interval knows that they tell nothing new."""
    times = np.array(more.draw(st.lists(st.integers(1, 3), min_size=rows.n, max_size=rows.n)))
    rows = rows.but(weight=None, by=None, cluster=np.arange(rows.n))
    repeated = rows.take(np.repeat(np.arange(rows.n), times)).score()
    weighted = rows.but(weight=times.astype(float), cluster=None).score()
    for name in ("loss", "ci", "se", "skill", "skill_ci"):
        assert np.allclose(getattr(repeated, name), getattr(weighted, name), rtol=1e-12, atol=1e-13, equal_nan=True)


@EXAMPLES
@given(data(), st.data())
def test_weight_zero_is_left_out(rows, more):
    gone = np.array(more.draw(st.lists(st.booleans(), min_size=rows.n, max_size=rows.n)))
    gone[0] = False
    weight = np.where(gone, 0.0, rows.columns.get("weight", np.ones(rows.n)))
    rows = rows.but(weight=weight)
    assert_same(rows.score(), rows.take(~gone).score())


@EXAMPLES
@given(data(), st.data())
def test_ignored_is_left_out(rows, more):
    gone = np.array(more.draw(st.lists(st.booleans(), min_size=rows.n, max_size=rows.n)))
    gone[0] = False
    ignoring = rows.but(y=np.where(gone, -100, rows.columns["y"]))
    ignoring.options = {**rows.options, "ignore": -100}
    assert_same(ignoring.score(), rows.take(~gone).score())
    missing = rows.but(y=np.where(gone, np.nan, rows.columns["y"]))
    missing.options = {**rows.options, "ignore": float("nan")}
    assert_same(missing.score(), rows.take(~gone).score())


@EXAMPLES
@given(data(), st.sampled_from([2.0**-20, 0.1, 3.0, 1e6, 1e-200, 1e100]))
def test_the_scale_of_weights(rows, scale):
    weight = rows.columns.get("weight", np.ones(rows.n))
    a, b = rows.but(weight=weight).score(), rows.but(weight=weight * scale).score()
    assert_close(numbers(a, "weight"), numbers(b, "weight"))
    assert math.isclose(a.weight * scale, b.weight, rel_tol=1e-13)


@EXAMPLES
@given(data())
def test_no_weights_are_weights_of_one(rows):
    rows = rows.but(weight=None)
    assert_same(rows.but(weight=np.ones(rows.n, np.int8)).score(), rows.score())


# The same model, written otherwise


@EXAMPLES
@given(data(kinds=("probs", "logits", "logprobs")), st.data())
def test_order_of_classes(rows, more):
    """Classes permuted, with their columns: the same table, in another order."""
    kind = next(k for k in ("probs", "logits", "logprobs") if k in rows.columns)
    classes = rows.columns[kind].shape[1]
    if classes == 2:
        return  # the second of two is the positive one, so their order means something
    order = more.draw(st.permutations(range(classes)))
    names = np.array([f"c{k}" for k in range(classes)])
    rows = rows.but(y=names[rows.columns["y"]])
    rows.options["classes"] = list(names)
    other = rows.but(**{kind: rows.columns[kind][:, order]})
    other.options = {**rows.options, "classes": list(names[list(order)])}
    a, b = rows.score(), other.score()
    assert_close(numbers(a, "classes", "per_class"), numbers(b, "classes", "per_class"))
    for left in a.per_class:
        right = next(s for s in b.per_class if s.value == left.value)
        assert (left.n, left.accuracy) == (right.n, right.accuracy)
        assert math.isclose(left.loss, right.loss, rel_tol=1e-13)


@EXAMPLES
@given(data(kinds=("column",)))
def test_one_column_is_two_columns(rows):
    p = np.round(rows.columns["probs"] * 2**20) / 2**20  # so that 1 − p is exact
    rows = rows.but(probs=p)
    assert_same(rows.but(probs=np.stack([1 - p, p], axis=1)).score(), rows.score())


@EXAMPLES
@given(data(kinds=("logits",)))
def test_logits_and_logarithms_and_probabilities(rows):
    z = rows.columns["logits"]
    base = rows.score()
    assert_same(rows.but(logits=None, probs=softmax(z)).score(), base, rel=1e-12)
    assert_same(rows.but(logits=None, logprobs=log_softmax(z, axis=1)).score(), base, rel=1e-12)
    if z.shape[1] == 2:
        assert_same(rows.but(logits=z[:, 1] - z[:, 0]).score(), base, rel=1e-12)


@EXAMPLES
@given(data(kinds=("probs", "column")))
def test_clusters_of_one_row(rows):
    """Clusters of one row each are no clusters: for the interval of the whole, of classes and of slices."""
    alone, plain = rows.but(cluster=np.arange(rows.n)).score(), rows.but(cluster=None).score()
    assert alone.clusters == rows.n
    assert plain.clusters is None
    assert_close(numbers(alone, "clusters", "warnings"), numbers(plain, "clusters", "warnings"))
