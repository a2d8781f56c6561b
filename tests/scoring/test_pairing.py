"""Pairs of rows: by id in any order, else by order; and rows that are not the same."""

from __future__ import annotations

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
