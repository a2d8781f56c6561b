"""Columns of a table: names and patterns looked up among the columns, and what is said where one does not exist."""

from __future__ import annotations

import re

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


def test_names_that_match_but_for_a_space():
    for part, existing, wanted in (
        ("p_*", ["y", " p_0", " p_1"], "names begin with a space: pass '*p_*'"),
        ("p_0", ["y", "p_0 "], "names end with a space: pass 'p_0*'"),
        ("p_0", ["y", " p_0 "], "names begin and end with a space: pass '*p_0*'"),
    ):
        with pytest.raises(InputError, match=re.escape(wanted)):
            select(part, existing)
        assert select(re.findall(r"'(.*)'", wanted)[0], existing) == existing[1:]


def test_names_that_are_numbers_of_a_first_row():
    with pytest.raises(InputError, match="these are numbers: has the file no header"):
        Columns("y", "probs", "p_*").among(["0", "0.25", "0.75"])
    with pytest.raises(InputError) as caught:
        Columns("y", "probs", "p_*").among(["0", "1", "2"])
    assert "header" not in str(caught.value)
