"""Slices of a column: numbers with many values in bins of about equal weight, whatever the order of rows."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

import crossent
from crossent.errors import InputError, InputTypeError
from crossent.scoring.sums import slicing
from crossent.scoring.sums.slicing import number_of, numbers_of, regrouped
from crossent.scoring.sums.totals import LossRows, Totals
from tests.scoring.exact import made, softmax


def rows(n: int = 3000, seed: int = 0) -> tuple[Any, Any, Any]:
    y, z = made(seed, n, 3)
    return y, softmax(z), np.random.default_rng(seed).lognormal(3.0, 1.0, n)


def state(y: Any, p: Any, by: Any, **more: Any) -> crossent.ScoreState:
    bins = more.pop("bins", None)
    return crossent.ScoreState(bins=bins).update(y, probs=p, by={"x": by}, **more)


@pytest.mark.parametrize("bins", [1, 2, 5, 10])
def test_bins_hold_equally_many_rows_and_are_scored_as_slices(bins: int) -> None:
    y, p, x = rows()
    whole = state(y, p, x, bins={"x": bins}).finalize()
    assert whole.bins == {"x": bins}
    parts = whole.by["x"]
    assert len(parts) == bins
    cut = np.sort(x)
    for k, part in enumerate(parts):
        assert abs(part.n - 3000 / bins) <= 3000 / bins * 0.05 + 1
        low, high = (float(end) for end in part.value.split(" to "))
        here = (x >= low * (1 - 1e-5)) & (x <= high * (1 + 1e-5))
        assert here.sum() == part.n
        assert low == pytest.approx(cut[sum(each.n for each in parts[:k])], rel=1e-5)
        alone = crossent.score(y[here], probs=p[here])
        assert part.loss == pytest.approx(alone.loss, rel=1e-13)
        assert part.ci == pytest.approx(alone.ci, rel=1e-10)
        assert part.se == pytest.approx(alone.se, rel=1e-11)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("kind", ["few values", "floats", "negative", "texts", "some missing", "some words"])
def test_any_order_of_parts_gives_the_same_bins(kind: str, clustered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "CELLS", 200)
    y, p, x = rows()
    values: list[Any] = {
        "few values": lambda: np.minimum(x, 90).round().tolist(),
        "floats": x.tolist,
        "negative": (x - 20).tolist,
        "texts": lambda: [f"{each:.3f}" for each in x],
        "some missing": lambda: [None if each < 5 else each for each in x.tolist()],
        "some words": lambda: ["young" if each < 5 else f"{each:.2f}" for each in x],
    }[kind]()
    cluster = np.arange(3000) // 4 if clustered else None
    weight = np.random.default_rng(1).random(3000) + 0.2

    def part(rows: slice) -> crossent.ScoreState:
        mine = None if cluster is None else cluster[rows]
        return state(y[rows], p[rows], values[rows], weight=weight[rows], cluster=mine)

    whole = part(slice(None)).finalize()
    cuts = [slice(0, 7), slice(7, 1500), slice(1500, 1600), slice(1600, None)]
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        merged = part(cuts[order[0]])
        for k in order[1:]:
            merged.merge(pickle.loads(pickle.dumps(part(cuts[k]))))
        found = merged.finalize()
        assert [(each.value, each.n) for each in found.by["x"]] == [(each.value, each.n) for each in whole.by["x"]]
        for mine, theirs in zip(found.by["x"], whole.by["x"], strict=True):
            np.testing.assert_allclose(mine.loss, theirs.loss, rtol=1e-13)
            np.testing.assert_allclose(mine.ci, theirs.ci, rtol=1e-10)
        assert sum(each.n for each in found.by["x"]) == 3000
    if kind == "some missing":
        assert whole.by["x"][-1].value is None
    if kind == "some words":
        assert whole.by["x"][-1].value == "young"


def test_parts_in_one_state_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "CELLS", 100)
    y, p, x = rows()
    one = crossent.ScoreState()
    for k in range(0, 3000, 250):
        one.update(y[k : k + 250], probs=p[k : k + 250], by={"x": x[k : k + 250]})
    assert [(s.value, s.n) for s in one.finalize().by["x"]] == [
        (s.value, s.n) for s in state(y, p, x).finalize().by["x"]
    ]


def test_few_numbers_stay_as_they_are_unless_bins_are_wanted() -> None:
    y, p, _ = rows(240)
    hours = np.arange(240) % 24
    assert [part.value for part in state(y, p, hours).finalize().by["x"]] == list(range(24))
    found = state(y, p, hours, bins={"x": 3}).finalize()
    assert [part.value for part in found.by["x"]] == ["0 to 7", "8 to 15", "16 to 23"]
    assert found.bins == {"x": 3}
    assert state(y, p, hours).finalize().bins == {}


def test_words_and_truths_are_no_numbers() -> None:
    y, p, _ = rows(200)
    names = [f"name{k}" for k in range(200)]
    assert len(state(y, p, names).finalize().by["x"]) == 200
    assert [number_of(value) for value in (True, None, "", "1e", "nan", math.inf, np.float64(2), "-.5", 10**400)] == [
        None, None, None, None, None, None, 2.0, -0.5, None,
    ]  # fmt: skip
    np.testing.assert_array_equal(numbers_of([1, 2]), [1.0, 2.0])
    np.testing.assert_array_equal(numbers_of([1.5, math.inf]), [1.5, math.nan])
    np.testing.assert_array_equal(numbers_of([1, 10**400]), [1.0, math.nan])


def test_infinite_losses_are_in_their_bins() -> None:
    y = np.tile([0, 1], 100)
    p = np.where(y == 1, 0.7, 0.3)
    p[0] = 1.0
    found = crossent.score(y, probs=p, by={"x": np.arange(200)}, bins={"x": 2})
    assert [part.loss == math.inf for part in found.by["x"]] == [True, False]
    assert [part.n for part in found.by["x"]] == [100, 100]


def test_groups_that_are_joined_are_as_if_they_had_always_been() -> None:
    draw = np.random.default_rng(0)
    loss, group, w = draw.exponential(1.0, 400) + 100 * (np.arange(400) % 5), np.arange(400) % 5, draw.random(400)
    places = np.array([1, 0, 1, 2, 0])
    apart, joined = Totals(5), Totals(3)
    apart.add(LossRows(loss, w, group, loss > 1))
    joined.add(LossRows(loss, w, places[group], loss > 1))
    mine, theirs = regrouped(apart, places, 3).means(), joined.means()
    np.testing.assert_allclose(mine.value, theirs.value, rtol=1e-14)
    np.testing.assert_allclose(mine.interval(0.95), theirs.interval(0.95), rtol=1e-9)
    assert regrouped(Totals(), np.zeros(0, np.int64), 0).groups == 0


@pytest.mark.parametrize("bins", [{"x": 0}, {"x": 101}, {"x": 2.5}])
def test_numbers_of_bins_that_cannot_be(bins: Any) -> None:
    with pytest.raises(InputError, match="bins of 'x' must be a whole number from 1 to 100"):
        crossent.ScoreState(bins=bins)
    with pytest.raises(InputTypeError, match=r"bins must be like \{.age.: 5\}, got 5"):
        crossent.ScoreState(bins=5)  # pyright: ignore[reportArgumentType]
