"""`crossent.errors`: one message, spelled by each face; data that look like an argument stay data."""

import copy
import pickle

import pytest

from crossent.errors import Argument, InputError, InputTypeError, Message, as_python, one_line, spelled


def option(argument: Argument) -> str:
    return f"--{argument.name}" + (f" {argument.value}" if argument.has_value else "")


def test_each_face_spells_arguments_only() -> None:
    message = Message("label 'by=3' is no class; use ", Argument("ignore", "by=3"), " or ", Argument("classes"))
    assert message == "label 'by=3' is no class; use ignore='by=3' or classes="
    assert message.spelled(option) == "label 'by=3' is no class; use --ignore by=3 or --classes"


def test_messages_nest() -> None:
    inner = Message("pass ", Argument("normalize", True))
    outer = Message("rows do not sum to 1; ", inner)
    assert outer.spelled(option) == "rows do not sum to 1; pass --normalize True"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_message_survives_copies(again) -> None:
    message = Message("use ", Argument("ignore", 5))
    assert again(message) == message
    assert again(message).spelled(option) == "use --ignore 5"


def test_plain_text_is_spelled_as_it_is() -> None:
    assert spelled("ignore=5", option) == "ignore=5"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "x=5"),
        ("a", "x='a'"),
        (float("nan"), "x=float('nan')"),
        (float("-inf"), "x=float('-inf')"),
        (1e-6, "x=1e-6"),
        (None, "x=None"),
        ([float("nan"), "a", [2]], "x=[float('nan'), 'a', [2]]"),
        (..., "x="),
    ],
)
def test_python_spelling(value, text) -> None:
    assert as_python(Argument("x", value)) == text


def test_kinds() -> None:
    error = InputError(Message("no; use ", Argument("ignore", 5)), argument="y")
    assert isinstance(error, ValueError)
    assert (str(error), error.argument, error.spelled(option)) == ("no; use ignore=5", "y", "no; use --ignore 5")
    with pytest.raises(TypeError):
        raise InputTypeError("y must be a list", argument="y")


class FoundError(InputError):
    """An error of a room of its own."""


def test_an_error_with_another_message_is_of_the_same_class_about_the_same_argument() -> None:
    inner = FoundError(Message("use ", Argument("ignore", 5)), argument="y")
    outer = inner.with_message(Message("partition 3: ", inner.message))
    assert type(outer) is FoundError
    assert (str(outer), outer.argument) == ("partition 3: use ignore=5", "y")
    assert outer.spelled(option) == "partition 3: use --ignore 5"


@pytest.mark.parametrize("kind", [InputError, InputTypeError, FoundError])
def test_an_error_that_was_pickled_is_spelled_as_before(kind) -> None:
    error = pickle.loads(pickle.dumps(kind(Message("use ", Argument("ignore", 5)), argument="y")))
    assert type(error) is kind
    assert (error.argument, error.spelled(option)) == ("y", "use --ignore 5")


def test_one_line_keeps_what_prints() -> None:
    assert one_line("größe = 5 €") == "größe = 5 €"
    assert one_line("a\r\nb\u2028\x1b[31m") == "a\\r\\nb\\u2028\\x1b[31m"
