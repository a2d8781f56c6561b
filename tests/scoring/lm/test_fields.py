"""Fields of records, or an error that names them."""

from __future__ import annotations

import pytest

from crossent.scoring.lm import LogError
from crossent.scoring.lm.fields import choices_of, column_of, mapping, name_of, one_of, sequence, text_of


def test_null_is_empty():
    assert mapping(None, "x") == {}
    assert sequence(None, "x") == []
    assert column_of({}, "x", 2) == [None, None]
    assert text_of(None) is None
    assert name_of("") is None


def test_what_is_there_comes_back():
    assert mapping({"a": 1}, "x") == {"a": 1}
    assert sequence([1], "x") == [1]
    assert column_of({"x": [1, 2]}, "x", 2) == [1, 2]
    assert (text_of("a"), name_of(7)) == ("a", "7")
    assert choices_of({"choices": [{"a": 1}]}) == [{"a": 1}]
    assert choices_of({"a": 1}) == [{"a": 1}]
    assert (one_of("n", 0, [{}]), one_of("n", 1, [{}, {}])) == ("n", "n, choice 1")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mapping([], "x"), "`x` must be an object, not a list of 0"),
        (lambda: sequence({}, "x"), "`x` must be a list, not an empty object"),
        (lambda: column_of({"x": [1]}, "x", 2), "`x` has 1 entries for 2 log-probabilities"),
        (lambda: text_of(7), "a token's text must be a string, not 7"),
        (lambda: name_of(True), "an id must be a string or an integer, not True"),
    ],
)
def test_anything_else_is_named(call, said):
    with pytest.raises(LogError, match=said):
        call()
