"""Pairs of rows: by id in any order, else by order; and rows that are not the same."""

from __future__ import annotations

import uuid
from datetime import date

import numpy as np
import pandas as pd
import pytest

import crossent
from tests.scoring.exact import near
from tests.scoring.pairs import P, Y, pair, scored


def test_ids_pair_rows_in_any_order():
    y, p, q = pair()
    ids = np.arange(300) * 3 + 7
    order = np.random.default_rng(0).permutation(300)
    w = np.linspace(1, 2, 300)
    straight = crossent.compare(*(crossent.score(y, probs=m, id=ids, weight=w) for m in (p, q)))
    b = crossent.score(y[order], probs=q[order], id=ids[order], weight=w[order])
    shuffled = crossent.compare(crossent.score(y, probs=p, id=ids, weight=w), b)
    near(straight.difference, shuffled.difference)
    near(straight.ci, shuffled.ci)
    assert [r.id for r in straight.worst_regressions] == [r.id for r in shuffled.worst_regressions]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: scored(Y[:3], P[:3]), ["4", "3", "rows"]),
        (lambda: scored([1, 0, 0, 0]), ["row 2"]),
        (lambda: scored(weight=[1, 1, 1, 2]), ["row 3", "weight"]),
        (lambda: scored([1, 0, 1, 0], [[0.1, 0.8, 0.1]] * 4), ["class"]),
        (lambda: scored(["b", "a", "b", "a"], P, classes=["a", "b"]), ["different classes", "[0, 1]", "['a', 'b']"]),
        (lambda: scored(cluster=[1, 1, 2, 2]), ["cluster"]),
        (lambda: crossent.ScoreState().update(Y, probs=P), ["rows=True"]),
        (lambda: crossent.ScoreState(rows=True), ["no rows"]),
    ],
    ids=["length", "label", "weight", "classes", "names of classes", "cluster", "state", "empty"],
)
def test_refused(other, words):
    with pytest.raises(ValueError, match=r".") as caught:
        crossent.compare(scored(), other())
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_refused_ids():
    a = scored(id=["a", "b", "c", "d"])
    for ids, word in ((["a", "b", "c", "e"], "'d'"), (["a", "b", "c", "c"], "'c'")):
        with pytest.raises(ValueError, match=word) as caught:
            crossent.compare(a, scored(id=ids))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 1, 0], [1, 2, 0]])
def test_columns_in_another_order_are_the_same_classes(order):
    y, p, q = pair()
    names = np.array(["p_cat", "p_dog", "p_emu"])
    labels = np.array(["cat", "dog", "emu"])[y]
    a = crossent.score(labels, probs=pd.DataFrame(p, columns=names))
    b = crossent.score(labels, probs=pd.DataFrame(q[:, order], columns=names[order]))
    rows = np.arange(len(y))
    for one, other, sign in ((a, b, 1), (b, a, -1)):
        near(crossent.compare(one, other).difference, sign * (np.log(q[rows, y]) - np.log(p[rows, y])).mean())


def test_one_column_of_either_class():
    """The second class is the positive one, so the column of the other class has the classes in the other order."""
    labels = np.array(["cat", "dog"])[Y]
    a = scored(labels, P, classes=["cat", "dog"])
    b = scored(labels, 1.0 - np.array(P), classes=["dog", "cat"])
    near(crossent.compare(a, b).difference, 0.0)


HEX = "0123456789abcdef0123456789abcdef"
IDS = {
    "numbers": (np.arange(4), ["0", "1", "2", "3"]),
    "numbers of a column with gaps": (np.arange(4), ["0.0", "1.0", "2.0", "3.0"]),
    "numbers with zeros before": (np.arange(4), ["000", "001", "002", "003"]),
    "floats": (np.arange(4) / 10, ["0", "0.1", "0.20", ".3"]),
    "far numbers": ([2**63 + k for k in range(4)], [str(2**63 + k) for k in range(4)]),
    "moments": (
        np.arange("2026-01-01", "2026-01-05", dtype="M8[D]").astype("M8[ns]"),
        [f"2026-01-0{k} 00:00:00" for k in range(1, 5)],
    ),
    "nanoseconds": (np.arange(4).astype("M8[ns]"), [f"1970-01-01T00:00:00.00000000{k}" for k in range(4)]),
    "days": ([date(2026, 1, k) for k in range(1, 5)], [f"2026-01-0{k}T00:00:00.000Z" for k in range(1, 5)]),
    "UUIDs": ([uuid.UUID(HEX[k:] + HEX[:k]) for k in range(4)], [HEX[k:] + HEX[:k] for k in range(4)]),
    "bytes of UUIDs": (
        [bytes.fromhex(HEX[k:] + HEX[:k]) for k in range(4)],
        [str(uuid.UUID(HEX[k:] + HEX[:k])).upper() for k in range(4)],
    ),
    "truths": ([True, False], ["false", "true"][::-1]),
    "names": (["a", "b", "c", "d"], [" a", "b ", "c", "d"]),
}


@pytest.mark.parametrize("case", IDS)
def test_ids_that_mean_the_same_are_paired(case):
    """As a csv file holds text where a parquet file holds numbers, moments and bytes."""
    ids, written = IDS[case]
    n = len(ids)
    a = scored(Y[:n], P[:n], id=ids)
    for way in (slice(None), slice(None, None, -1)):
        b = scored(Y[:n][way], P[:n][way], id=written[way])
        assert (crossent.compare(a, b).n, crossent.compare(a, b).difference) == (n, 0.0)
        assert crossent.compare(b, a).difference == 0.0


def test_ids_that_are_equal_are_paired_whatever_they_mean():
    """ "7" and "007" are two rows where a file has both."""
    for ids in (["7", "007", "7.0", "x"], ["1e5", "100000", "1e6", "1000000"]):
        a, b = scored(id=ids), scored(Y[::-1], P[::-1], id=ids[::-1])
        assert crossent.compare(a, b).difference == 0.0


def test_ids_that_mean_the_same_in_one_file_pair_nothing():
    with pytest.raises(ValueError, match="do not have the same rows"):
        _ = crossent.compare(scored(id=["7", "007", "8", "9"]), scored(id=[7, 8, 9, 10]))


def test_rows_without_an_id():
    with pytest.raises(ValueError, match="row 2 of b has no id"):
        _ = crossent.compare(scored(id=["a", "b", "c", "d"]), scored(id=["a", "b", None, "d"]))


def test_ids_of_several_types_stay_what_they_are():
    """States whose parts have ids of different types: NumPy would make floats or text of them."""
    far = 2**63 + 1
    parts = [np.array([far], np.uint64), np.array([-1]), np.array(["x"])]
    states = [crossent.ScoreState(rows=True), crossent.ScoreState(rows=True)]
    for k, part in enumerate(parts):
        _ = states[0].update(Y[k : k + 1], probs=P[k : k + 1], id=part)
    _ = states[1].update(Y[2::-1], probs=P[2::-1], id=["x", -1, far])
    assert crossent.compare(*states).difference == 0.0
