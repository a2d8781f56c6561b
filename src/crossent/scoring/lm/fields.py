"""Fields of records for readers of logs: objects, lists, columns, texts and names, else an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from crossent.scoring.lm.document import JsonObject, LogError, described


def mapping(value: Any, what: str) -> JsonObject:
    """Return an object, an empty one for null."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise LogError(f"`{what}` must be an object, not {described(value)}")
    return cast("JsonObject", value)


def sequence(value: Any, what: str) -> list[Any]:
    """Return a list, an empty one for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise LogError(f"`{what}` must be a list, not {described(value)}")
    return cast("list[Any]", value)


def column_of(record: JsonObject, what: str, length: int) -> list[Any]:
    """Return a list with one entry for each log-probability; nulls if the log does not have it."""
    if record.get(what) is None:
        return [None] * length
    column = sequence(record[what], what)
    if len(column) != length:
        raise LogError(f"`{what}` has {len(column)} entries for {length} log-probabilities; was the line cut off?")
    return column


def at(record: Any, key: str) -> Any:
    """Return the value of a record at a key, such as `meta.lang`, null if there is none; a key with a dot comes first.

    Examples
    --------
    >>> at({"meta": {"lang": "de"}}, "meta.lang"), at({"meta.lang": "en", "meta": {}}, "meta.lang")
    ('de', 'en')
    """
    value: Any = record
    for name in [key] if isinstance(record, Mapping) and key in record else key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def text_of(value: Any) -> str | None:
    """Return the text of a token, None for null."""
    if value is not None and not isinstance(value, str):
        raise LogError(f"a token's text must be a string, not {described(value)}")
    return value


def name_of(value: Any) -> str | None:
    """Return an id as text, None for an empty one."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise LogError(f"an id must be a string or an integer, not {described(value)}")
    return str(value)


def choices_of(record: JsonObject) -> list[JsonObject]:
    """Return the choices of a response; a choice on its own is one."""
    if "choices" not in record:
        return [record]
    return [mapping(choice, "a choice") for choice in sequence(record["choices"], "choices")]


def one_of(name: str, number: int, choices: list[JsonObject]) -> str:
    """Return the name of a choice, which has its number where there are several."""
    return f"{name}, choice {number}" if len(choices) > 1 else name
