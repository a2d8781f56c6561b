"""Values of JSON as columns of pyarrow: numbers, lists, labels of any kinds, and objects in objects."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from crossent.errors import InputError, quoted
from crossent.scoring.input.nested import of_objects

_DIGITS = 76  # of the longest decimal of pyarrow
_INT64 = range(-(2**63), 2**63)


class Twice(dict[str, Any]):
    """A JSON object with these names twice."""

    names: frozenset[str] = frozenset()


def column(cells: Sequence[Cell], *, text: bool) -> Any:
    """Return the values of a column as one of pyarrow; `text` is whether they are labels, not numbers.

    Raises
    ------
    CellError
        If a value is of another kind than those before it.
    """
    first = next((cell for cell in cells if cell.value is not None), None)
    if first is not None and is_nested(first.value):
        return _nested(cells)
    return _texts(cells) if text else _numbers(cells)


def is_nested(value: Any) -> bool:
    """Return whether a value is an object, or a list of objects or of texts."""
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict | str))


def _nested(cells: Sequence[Cell]) -> Any:
    for cell in cells:
        if twice := _twice(cell.value):
            raise CellError(cell.line, f"an object in which the name {quoted(twice)} occurs twice")
    try:
        return of_objects([cell.value for cell in cells], "", text_keys=True)
    except InputError as error:
        raise CellError(cells[0].line, f"values of different kinds, there or below: {str(error)[-120:]}") from error


def _twice(value: Any) -> str:
    """Return a name that occurs twice in an object, at any depth; "" if there is none."""
    if isinstance(value, Twice):
        return min(value.names)
    inside: Any = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for each in inside if isinstance(each, dict | list) and (found := _twice(each))), "")


def with_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of an object as a dictionary, a `Twice` if a name occurs twice."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    repeated = Twice(found)
    repeated.names = frozenset(name for name, count in Counter(names).items() if count > 1)
    return repeated


class Cell(NamedTuple):
    """A value of a column, and the line that it comes from."""

    value: Any
    line: int


class CellError(Exception):
    """A value that its column cannot hold."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def finite(digits: str) -> float:
    """Return a number of JSON, which a float must hold."""
    found = float(digits)
    if math.isinf(found):
        raise ValueError(f"{digits[:40]} is more than a float holds")
    return found


def _numbers(cells: Sequence[Cell]) -> Any:
    """Return a column of numbers, or of lists of numbers; null is a missing one."""
    import pyarrow as pa

    def number(value: Any, line: int) -> float | None:
        if value is None or isinstance(value, int | float):
            return None if value is None else float(value)
        raise CellError(line, f"{json.dumps(value)[:60]}, which is not a number")

    values = [value for value, _ in cells]
    if {type(value) for value in values} <= {float, type(None)}:
        return pa.array(values, pa.float64())
    first = next((value for value in values if value is not None), None)
    if not isinstance(first, list):
        return pa.array([number(value, line) for value, line in cells], pa.float64())
    for value, line in cells:
        if value is not None and not isinstance(value, list):
            raise CellError(line, f"{json.dumps(value)[:60]}, where lines before it have lists")
    lists = [None if row is None else [number(value, line) for value in row] for row, line in cells]
    return pa.array(lists, pa.list_(pa.float64()))


def _texts(cells: Sequence[Cell]) -> Any:
    """Return a column of labels, slices or ids of any kinds: one of a plain type if it has one, else a union."""
    import pyarrow as pa

    values = [value for value, _ in cells]
    kinds = {_child(value) for value in values if value is not None}
    if kinds & {"list", "object"}:
        try:
            return pa.array(values)
        except pa.ArrowException as error:
            line = next(line for value, line in cells if isinstance(value, list | dict))
            raise CellError(line, "a list or an object, and must hold one value per row") from error
    types: dict[str, Any] = {
        "null": pa.null(), "bool": pa.bool_(), "int": pa.int64(), "far": pa.decimal256(_DIGITS, 0),
        "float": pa.float64(), "text": pa.string(),
    }  # fmt: skip
    if len(kinds) <= 1:
        kind = next(iter(kinds), "null")
        return pa.array([_stored(value) for value in values], types[kind])
    children: dict[str, list[Any]] = {kind: [] for kind in types}
    places: list[tuple[int, int]] = []
    for value in values:
        kind = _child(value)
        places.append((list(types).index(kind), len(children[kind])))
        children[kind].append(_stored(value))
    which, where = zip(*places, strict=True)
    arrays = [pa.array(children[kind], types[kind]) for kind in types]
    return pa.UnionArray.from_dense(pa.array(which, pa.int8()), pa.array(where, pa.int32()), arrays)


def _child(value: Any) -> str:
    """Return the kind of a value of JSON; whole numbers beyond 64 bits are a kind of their own."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if value in _INT64 else "far" if len(str(abs(value))) <= _DIGITS else "text"
    names = {type(None): "null", bool: "bool", float: "float", str: "text", list: "list"}
    return names.get(type(value), "object")


def _stored(value: Any) -> Any:
    kind = _child(value)
    if kind == "far":
        return Decimal(value)
    return str(value) if kind == "text" else value
