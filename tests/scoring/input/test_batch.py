"""Rows as callers pass them: columns that must be as long as y, weights, slices, and arguments in the wrong place."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import crossent
from crossent import score
from tests.scoring.exact import made
from tests.scoring.refusals import INF, NAN, P, Y, assert_refused, names

# name: (call, words that the error must hold; lower case)
ERRORS = {
    "swapped": (lambda: score(P, probs=Y), ["y", "swap"]),
    "one-hot y": (lambda: score(np.eye(3)[Y], probs=P), ["y", "argmax"]),
    "transposed": (lambda: score(Y, probs=P.T), ["3", "4"]),
    "lengths": (lambda: score(Y[:3], probs=P), ["3", "4"]),
    "weights of another length": (lambda: score(Y, probs=P, weight=[1, 2]), ["weight", "2", "4"]),
    "clusters of another length": (lambda: score(Y, probs=P, cluster=[1, 2]), ["cluster", "2", "4"]),
    "slices of another length": (lambda: score(Y, probs=P, by={"a": [1, 2]}), ["a", "2", "4"]),
    "ids of another length": (lambda: score(Y, probs=P, id=["a"]), ["id", "1", "4"]),
    "negative weight": (lambda: score(Y, probs=P, weight=[1, 1, -2, 1]), ["row 2", "weight", "-2"]),
    "NaN weight": (lambda: score(Y, probs=P, weight=[1, NAN, 1, 1]), ["row 1", "weight", "nan"]),
    "infinite weight": (lambda: score(Y, probs=P, weight=[1, INF, 1, 1]), ["row 1", "weight", "inf"]),
    "weights of words": (lambda: score(Y, probs=P, weight=list("abcd")), ["weight"]),
    "weights by class": (lambda: score(Y, probs=P, weight={0: 1.0, 1: 2.0, 2: 1.0}), ["weight"]),
    "matrix of weights": (lambda: score(Y, probs=P, weight=P), ["weight"]),
    "too few classes": (lambda: score(names(Y), probs=P, classes=["ant", "bee"]), ["classes", "2", "3"]),
    "slices that are a number": (lambda: score([0, 1], probs=[0.5, 0.5], by=3), ["by"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    assert_refused(*ERRORS[name])


def test_columns_of_slices_have_names():
    y, z = made(0, 20, 2)
    assert list(crossent.score(y, logits=z, by={"a": y, "b": y}).by) == ["a", "b"]
    assert list(crossent.score(y, logits=z, by=pa.table({"a": y, "b": y})).by) == ["a", "b"]
    assert len(crossent.score(y, logits=z, by=y).by) == 1
    assert crossent.score(y, logits=z).by == {}
