"""Errors and warnings that name arguments as data, so that Python and the command line each use their own words.

A hint such as "pass ignore=5 to skip such rows" is right for a Python function and wrong for a command, which would say
`--ignore 5`. A `Message` therefore keeps the arguments that it names as `Argument`s. Its text is the one for Python;
another face renders it with a spelling of its own. No text is ever searched for arguments, because data that look
like one (a class named "by=3") are data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

_UNSET: Any = ...
LONGEST = 60
"""Characters of a value from outside that a message or a table shows."""
_LONGEST_HINT = 300


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument that a hint tells the user to pass.

    Parameters
    ----------
    name
        Name of the argument in Python, such as "ignore".
    value
        The value to pass; `...` (the default) leaves it to the user.
    is_subject
        Whether the message is about the argument, and does not ask to pass it. Python then writes its name alone.
    """

    name: str
    value: Any = _UNSET
    is_subject: bool = False

    @property
    def has_value(self) -> bool:
        """Whether the hint includes the value to pass: one that is too long to be typed is left to the user."""
        if self.value is _UNSET:
            return False
        several = self.value if isinstance(self.value, list | tuple) else [self.value]
        texts = [len(str(value)) for value in several]
        return max(texts, default=0) <= LONGEST and sum(texts) <= _LONGEST_HINT


Spelling = Callable[[Argument], str]
"""How a face writes an argument."""


def as_python(argument: Argument) -> str:
    """Return an argument as Python writes it: `ignore=5`, or `ignore=` without a value.

    Examples
    --------
    >>> as_python(Argument("ignore", [float("nan"), 5])), as_python(Argument("id")), as_python(Argument("zero", 1e-6))
    ("ignore=[float('nan'), 5]", 'id=', 'zero=1e-6')
    >>> as_python(Argument("zero", is_subject=True))
    'zero'
    """
    if argument.is_subject:
        return argument.name
    return f"{argument.name}=" + (_literal(argument.value) if argument.has_value else "")


def _literal(value: Any) -> str:
    """Return a value as Python code: NaN and infinities too, whose `repr` is not code."""
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if not isinstance(value, float):
        return repr(value)
    return repr(value).replace("e-0", "e-") if math.isfinite(value) else f"float('{value}')"


class Message(str):
    """A text for people that remembers which of its parts name arguments.

    Parameters
    ----------
    parts
        Texts and `Argument`s, in order.

    Examples
    --------
    >>> message = Message("label 7 is no class; use ", Argument("ignore", 7), " to skip such rows")
    >>> message
    'label 7 is no class; use ignore=7 to skip such rows'
    >>> message.spelled(lambda argument: f"--{argument.name} {argument.value}")
    'label 7 is no class; use --ignore 7 to skip such rows'
    """

    parts: tuple[str | Argument, ...]

    def __new__(cls, *parts: str | Argument) -> Message:  # noqa: D102
        flat: list[str | Argument] = []
        for part in parts:
            flat += part.parts if isinstance(part, Message) else (part,)
        self = super().__new__(cls, _text(flat, as_python))
        self.parts = tuple(flat)
        return self

    def __getnewargs__(self) -> tuple[str | Argument, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the arguments that rebuild the message, for copies and pickles."""
        return self.parts

    def spelled(self, spelling: Spelling) -> str:
        """Return the text with each argument as a face writes it."""
        return _text(self.parts, spelling)


def _text(parts: list[str | Argument] | tuple[str | Argument, ...], spelling: Spelling) -> str:
    return "".join(str(part) if isinstance(part, str) else spelling(part) for part in parts)


def spelled(text: str, spelling: Spelling) -> str:
    """Return a text as a face writes it; a text that is not a `Message` names no arguments."""
    return text.spelled(spelling) if isinstance(text, Message) else text


def one_line(value: object, longest: int | None = None) -> str:
    r"""Return a value from outside as one line that any terminal can print, cut in the middle if it is too long.

    Characters that move the cursor or turn the direction of writing are shown as Python writes them.

    Examples
    --------
    >>> one_line("a\nb\x1b"), one_line("a long text", 7)
    ('a\\nb\\x1b', 'a l…ext')
    """
    text = str(value)
    if longest is not None and len(text) > longest:
        text = _cut(text, longest)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if longest is None or len(text) <= longest else _cut(text, longest)


def _cut(text: str, longest: int) -> str:
    end = longest // 2
    return f"{text[: longest - end - 1]}…{text[-end:]}"


def shown(value: object) -> str:
    """Return a value from outside as a cell of a table shows it: one line of at most `LONGEST` characters.

    Examples
    --------
    >>> shown("None"), shown(None), shown("")
    ('None', '(no value)', "''")
    """
    if value is None:
        return "(no value)"
    return one_line(value, LONGEST) if str(value).strip() else repr(str(value))


def quoted(value: object) -> str:
    """Return a value from outside as a message quotes it: as Python writes it, with at most `LONGEST` characters.

    Examples
    --------
    >>> quoted("cat"), len(quoted("x" * 100_000))
    ("'cat'", 60)
    """
    return one_line(repr(value), LONGEST)


class InputError(ValueError):
    """An argument cannot be used; the message names it, the place, the likely cause and the fix.

    Parameters
    ----------
    message
        The text, a `Message` if it names arguments.
    argument
        Name of the argument that is wrong, or None if several are.
    """

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__(one_line(message))
        self.message = message
        self.argument = argument

    def spelled(self, spelling: Spelling) -> str:
        """Return the message with each argument as a face writes it."""
        return spelled(self.message, spelling)

    def with_message(self, message: str) -> Self:
        """Return an error of the same class about the same argument, with another message."""
        return type(self)(message, argument=self.argument)


@contextmanager
def errors_spelled(spelling: Spelling) -> Generator[None, None, None]:
    """Raise the `InputError`s of a block in the words of a face.

    Examples
    --------
    >>> with errors_spelled(lambda argument: f"--{argument.name}"):
    ...     raise InputError(Message("no column is named; use ", Argument("probs")))
    Traceback (most recent call last):
    ...
    crossent.errors.InputError: no column is named; use --probs
    """
    try:
        yield
    except InputError as error:
        raise error.with_message(error.spelled(spelling)) from None


class InputTypeError(InputError, TypeError):
    """An argument has the wrong type; also a TypeError, as Python's own would be."""


class UsageError(InputError):
    """A command was called in a way that cannot be carried out: one line to print, exit code 2."""


class MissedError(Exception):
    """A threshold that the user set was missed: one line to print, exit code 1."""
