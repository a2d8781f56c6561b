"""Laws of a state: rows in parts, in another order, in states that merge or travel; and states that do not fit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crossent
from crossent import ScoreState, score
from tests.scoring.drawn import EXAMPLES, Data, data
from tests.scoring.exact import assert_same, made
from tests.scoring.refusals import NAN, P, Y, Z, assert_refused


def merged(states: list[ScoreState], draw: Any) -> ScoreState:
    """States merged two by two, in any order and tree."""
    while len(states) > 1:
        second = states.pop(draw(st.integers(0, len(states) - 1)))
        first = states.pop(draw(st.integers(0, len(states) - 1)))
        states.append(first.merge(second))
    return states[0]


def cuts(draw: Any, n: int) -> list[Any]:
    places = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    return [part for part in np.split(np.arange(n), places) if part.size]


@pytest.mark.slow
@EXAMPLES
@given(data(), st.data())
def test_chunks(rows, more):
    """Any parts through one state."""
    state = ScoreState(**rows.options)
    for part in cuts(more.draw, rows.n):
        assert rows.take(part).add(state) is state
    assert_same(state.finalize(), rows.score())


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@EXAMPLES
@given(data(), st.data())
def test_pickling(rows, more):
    """A state that has been to another process is the same, and goes on the same."""
    cut = more.draw(st.integers(1, rows.n - 1))
    first, rest = rows.take(slice(None, cut)), rows.take(slice(cut, None))
    state = first.state()
    copy = pickle.loads(pickle.dumps(state))
    assert_same(rest.add(copy).finalize(), rest.add(state).finalize(), rel=0.0)
    again = pickle.loads(pickle.dumps(rows.score()))
    assert_same(again, rows.score(), rel=0.0)
    assert repr(again) == repr(rows.score())


@pytest.mark.slow
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


@pytest.mark.slow
@EXAMPLES
@given(data())
def test_an_empty_part_changes_nothing(rows):
    """A filtered batch, or a partition of a large table, may have no rows."""
    empty = rows.take(slice(0))
    assert_same(rows.add(empty.state()).finalize(), rows.score())
    assert_same(empty.add(rows.state()).finalize(), rows.score())
    assert_same(empty.state().merge(rows.state()).merge(empty.state()).finalize(), rows.score())


@pytest.mark.slow
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


def test_a_state_may_be_merged_with_itself():
    y, z = made(2, 40, 3)
    state = ScoreState(worst=0).update(y, logits=z)
    assert_same(state.merge(state).finalize(), crossent.score(np.tile(y, 2), logits=np.tile(z, (2, 1)), worst=0))


def test_a_state_may_go_on_after_it_was_finalized():
    state = ScoreState().update(Y, probs=P)
    assert state.finalize().n == 4
    assert state.update(Y, probs=P).finalize().n == 8


def test_a_refused_update_leaves_no_half_of_it():
    """Either nothing was added, or the state says that it cannot be used; never some of the rows."""
    state = ScoreState().update(Y, probs=P)
    big = np.tile(P, (30_000, 1))
    big[-1] = NAN
    with pytest.raises(ValueError, match="row 120003"):
        state.update(Y * 30_000, probs=big)
    try:
        assert state.finalize().n == 4
    except ValueError as error:
        assert str(error) == "a previous update failed midway; create a new ScoreState"  # noqa: PT017
    for use in (lambda: state.update(Y, probs=P), lambda: ScoreState().merge(state), lambda: state.merge(ScoreState())):
        with pytest.raises(ValueError, match="create a new ScoreState"):
            use()


# name: (call, words that the error must hold; lower case)
ERRORS = {
    "other options": (lambda: ScoreState().merge(ScoreState(worst=3)), ["worst"]),
    "other classes": (
        lambda: ScoreState(classes=["a", "b"]).merge(ScoreState(classes=["a", "c"])),
        ["classes"],
    ),
    "other number of classes": (
        lambda: ScoreState().update(Y, probs=P).merge(ScoreState().update([0], probs=[[0.5, 0.5]])),
        ["classes"],
    ),
    "other kind": (
        lambda: ScoreState().update(Y, probs=P).merge(ScoreState().update(Y, logits=Z)),
        ["probs", "logits"],
    ),
    "more columns later": (lambda: ScoreState().update(Y, probs=P).update([0], probs=[[0.5, 0.5]]), ["classes"]),
    "another kind later": (lambda: ScoreState().update(Y, probs=P).update(Y, logits=Z), ["probs", "logits"]),
    "clusters only first": (lambda: ScoreState().update(Y, probs=P, cluster=Y).update(Y, probs=P), ["cluster"]),
    "clusters only later": (lambda: ScoreState().update(Y, probs=P).update(Y, probs=P, cluster=Y), ["cluster"]),
    "clusters in one of two": (
        lambda: ScoreState().update(Y, probs=P).merge(ScoreState().update(Y, probs=P, cluster=Y)),
        ["cluster"],
    ),
    "slices only first": (lambda: ScoreState().update(Y, probs=P, by={"a": Y}).update(Y, probs=P), ["'a'"]),
    "other slices": (
        lambda: ScoreState().update(Y, probs=P, by={"a": Y}).update(Y, probs=P, by={"b": Y}),
        ["'a'", "'b'"],
    ),
    "merge a score into a state": (lambda: ScoreState().merge(score(Y, probs=P)), ["score"]),
    "merge nothing": (lambda: ScoreState().merge(None), ["scorestate"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    assert_refused(*ERRORS[name])
