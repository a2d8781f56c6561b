"""Columns of a table: names and patterns looked up among the columns, and what is said where one does not exist."""

from __future__ import annotations

import pytest

from crossent.errors import InputError
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.columns import Columns, columns, select

TABLE = ["y", "p_cat", "p_dog", "w", "lang", "p[0]"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("p_*", ["p_cat", "p_dog"]),
        ("p_dog,p_cat", ["p_dog", "p_cat"]),
        ("p_dog, p_*", ["p_dog", "p_cat"]),
        (["w", "y"], ["w", "y"]),
        ("p[0]", ["p[0]"]),
        ("p[_]cat", ["p_cat"]),
        ("*", TABLE),
    ],
)
def test_names_and_patterns(pattern, found):
    assert select(pattern, TABLE) == found


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("q_*", "no column matches 'q_*'; the columns are"),
        ("p_cta", "there is no column 'p_cta'; did you mean 'p_cat'? The columns are"),
        ("", "no column is named; the columns are"),
        ([], "no column is named"),
    ],
)
def test_what_is_not_there(pattern, words):
    with pytest.raises(InputError) as caught:
        select(pattern, TABLE, "probs")
    assert words in str(caught.value)
    assert caught.value.argument == "probs"


def test_roles_and_patterns_are_looked_up_together():
    found = Columns("y", "probs", "p_*", weight="w", by="lang").among(TABLE)
    assert found.values == ["p_cat", "p_dog"]
    assert found.by == ["lang"]
    assert found.needed == ["y", "w", "lang", "p_cat", "p_dog"]
    assert found.single == {"label": "y", "weight": "w"}


@pytest.mark.parametrize(
    ("named", "argument", "words"),
    [
        (Columns("Y", "probs", "p_*"), "label", "label: there is no column 'Y'"),
        (Columns("y", "probs", "p_*", cluster="doc"), "cluster", "cluster: there is no column 'doc'"),
        (Columns("y", "probs", "p_*", by="q"), "by", "there is no column 'q'"),
        (Columns("p_cat", "probs", "p_*"), "probs", "column 'p_cat' is label and one of probs ['p_cat', 'p_dog']"),
    ],
)
def test_roles_that_cannot_be(named, argument, words):
    with pytest.raises(InputError) as caught:
        named.among(TABLE)
    assert words in str(caught.value)
    assert caught.value.argument == argument


def test_callers_name_one_kind_of_predictions():
    found = columns("y", RowArguments(logits="z_*", id="name"))
    assert (found.label, found.kind, found.values, found.id) == ("y", "logits", "z_*", "name")
    for named, argument, words in (
        (RowArguments(), None, "pass exactly one of probs=, logits= and logprobs=; got none of them"),
        (RowArguments(probs="p", logits="z"), None, "got probs= and logits="),
        (RowArguments(probs=3), "probs", "probs must be names of columns, or a pattern"),
        (RowArguments(probs="p", weight=2.0), "weight", "weight must be the name of a column"),
    ):
        with pytest.raises(TypeError) as caught:
            columns("y", named)
        assert words in str(caught.value)
        assert caught.value.argument == argument
