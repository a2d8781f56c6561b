"""Values inside values: columns of structs by path, and texts of JSON as columns of lists and structs.

`meta.y` is the field y of the column meta. A column whose own name has a dot is taken first. A cell of text may hold a
list or an object of JSON, or one as Python, pandas and NumPy write it to csv files: `[0.1 0.9]`, `{'a': 0.1}`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from crossent.errors import InputError, quoted
from crossent.scoring.input.arrow_values import decoded

_DEPTH = 8  # structs in structs that a path may name
_LONGEST = 1 << 20  # characters of a text that is read as Python's own
_NUMPY = re.compile(r"(?:np|numpy)\.(?:float|int)\d+\(([^()]*)\)|\barray\((\[[^()]*\])(?:, dtype=[\w.]+)?\)")
_SPACED = re.compile(r"\[[\s\d.eE+\-naif]*\]")
_NUMBER = re.compile(r"[^\s\[\],]+")


def root_of(name: str, names: Iterable[str]) -> str | None:
    """Return the column that a path begins with, the longest of those that fit; None if there is none.

    Examples
    --------
    >>> root_of("meta.y", ["meta", "p"]), root_of("a.b.c", ["a", "a.b"]), root_of("y", ["meta"])
    ('meta', 'a.b', None)
    """
    known, parts = set(names), name.split(".")
    if name in known:
        return name
    begins = (".".join(parts[:k]) for k in range(len(parts) - 1, 0, -1))
    return next((begin for begin in begins if begin in known), None)


def column_of(batch: Any, name: str) -> Any:
    """Return a column of a record batch: the one of this name, or the one that a path leads to.

    Raises
    ------
    InputError
        If the path leads nowhere.
    """
    place = batch.schema.get_field_index(name)  # a table may have thousands of columns, and a list of names for each
    if place >= 0:
        return batch.column(place)
    root = root_of(name, batch.schema.names)
    if root is None or name == f"{root}.":
        raise InputError(f"there is no column {quoted(name)}")
    array, rest = opened(batch.column(root), root), name[len(root) + 1 :]
    while rest:
        fields = [array.type.field(k).name for k in range(array.type.num_fields)] if is_struct(array.type) else []
        found = root_of(rest, fields)
        if found is None:
            raise InputError(f"column {quoted(root)} has no field {quoted(rest)} in these rows")
        array, rest = decoded(array.flatten()[fields.index(found)]), rest[len(found) + 1 :]
    return array


def is_struct(kind: Any) -> bool:
    """Return whether a type is a struct, an object of JSON."""
    from pyarrow import types

    return types.is_struct(kind)


def paths(name: str, kind: Any, depth: int = _DEPTH) -> Iterator[str]:
    """Yield the paths to the fields of a column of structs, and to those of its structs."""
    kind = getattr(kind, "storage_type", kind)
    if not is_struct(kind) or not depth:
        return
    for k in range(kind.num_fields):
        field = kind.field(k)
        yield f"{name}.{field.name}"
        yield from paths(f"{name}.{field.name}", field.type, depth - 1)


def opened(array: Any, name: str, first: int = 0) -> Any:
    """Return a column decoded; texts that hold lists or objects become columns of these. Rows count from `first`."""
    from pyarrow import types

    array = decoded(array)
    if not (types.is_string(array.type) or types.is_large_string(array.type)) or not _holds_values(array):
        return array
    return of_objects([_value(text, name, first + row) for row, text in enumerate(array.to_pylist())], name)


def _holds_values(texts: Any) -> bool:
    """Return whether the first text that is not empty is a list or an object."""
    for text in texts:
        found = (text.as_py() or "").strip()
        if found:
            return is_nested(found)
    return False


def is_nested(text: str) -> bool:
    """Return whether a text seems to be a list or an object, and no word or number."""
    return text.lstrip().startswith(("{", "[", "(", "array(["))


def of_objects(values: Sequence[Any], name: str, *, text_keys: bool = False) -> Any:
    """Return Python's lists and dictionaries as a column of pyarrow; `text_keys` is whether all keys are texts.

    Raises
    ------
    InputError
        If the rows are of different kinds.
    """
    import pyarrow as pa

    try:
        return pa.array(values if text_keys else [_with_texts_as_keys(value) for value in values], from_pandas=False)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(f"column {quoted(name)} holds values of different kinds: {text}") from error


def _with_texts_as_keys(value: Any) -> Any:
    """Return a value with texts in place of other keys, which pyarrow does not take."""
    if isinstance(value, Mapping):
        keys = [key if isinstance(key, str) else str(key) for key in value]
        if len(set(keys)) < len(keys):
            raise ValueError(f"the keys {keys} are not unique")
        return dict(zip(keys, map(_with_texts_as_keys, value.values()), strict=True))
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return [_with_texts_as_keys(each) for each in value]
    return value


def _value(text: str | None, name: str, row: int) -> Any:
    if text is None or not text.strip():
        return None
    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        if isinstance(error, TwiceError):
            raise InputError(f"column {quoted(name)}, row {row}: {error}") from error
    try:
        return _of_python(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        hint = ", which leaves numbers out" if "..." in text else ""
        raise InputError(
            f"column {quoted(name)} holds {quoted(text)} in row {row}{hint}: neither JSON nor a list of numbers"
        ) from error


class TwiceError(ValueError):
    """An object of JSON with a name that occurs twice."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of an object of JSON as a dictionary.

    Raises
    ------
    TwiceError
        If a name occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TwiceError(f"the name {quoted(twice)} occurs twice in an object")
    return found


def _of_python(text: str) -> Any:
    """Return the value of text written by Python or NumPy: a literal, or numbers with spaces between them."""
    if len(text) > _LONGEST:
        raise ValueError("too long")
    text = _NUMPY.sub(lambda found: found[1] or found[2], text)
    if _SPACED.fullmatch(text):
        return [float(number) for number in _NUMBER.findall(text)]
    return ast.literal_eval(text)
