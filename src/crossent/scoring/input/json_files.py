"""Tables in files of JSON: an object a line, compressed or not.

pyarrow reads a block of lines at a time, with the types of the block's first values. A block that holds anything else
(1 and then 0.5, true and then 0, a whole number beyond 64 bits, a name twice) is read again by Python, value by value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import quoted
from crossent.scoring.input.reader import FileError, Portion, Reader, Selection
from crossent.scoring.input.text_files import LONGEST, compression_of, first_line

_BLOCK = 1 << 22
"""Bytes that are read at a time."""
_LOOKED_AT = 100  # objects of a block in which a first value is sought
_DIGITS = 76  # of the longest decimal of pyarrow
_INT64 = range(-(2**63), 2**63)


def _columns(path: Path) -> list[str]:
    """Return the names in the first object."""
    line = first_line(path)
    return list(_object(line, str(path), 1, ()))


def _batches(wanted: Selection) -> Iterator[Portion]:
    import pyarrow as pa

    size, lines = wanted.path.stat().st_size, 0
    with wanted.path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), compression_of(wanted.path)) as file:
        for block in _blocks(file, wanted.path):
            if block.strip():
                yield Portion(_batch(block, wanted, lines + 1), raw.tell() / size)
            lines += block.count(b"\n")


def _blocks(file: Any, path: Path) -> Generator[bytes, None, None]:
    """Yield a file in blocks of whole lines."""
    rest = file.read(3).removeprefix(b"\xef\xbb\xbf")
    while data := file.read(_BLOCK):
        lines, newline, begun = data.rpartition(b"\n")
        if newline:
            yield rest + lines + newline
        rest = begun if newline else rest + begun
        if len(rest) > LONGEST:
            raise FileError(f"{path}: a line is longer than {LONGEST >> 20} MiB")
    yield rest


def _batch(block: bytes, wanted: Selection, line: int) -> Any:
    """Return the objects of a block, whose first line has this number, as a record batch."""
    import pyarrow as pa
    from pyarrow import json as reader

    schema = pa.schema(list(_types(block, wanted).items()))
    parse = reader.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = reader.read_json(pa.BufferReader(block), reader.ReadOptions(block_size=len(block) + 1), parse)
        if not any(_rounded(table.column(name)) for name in wanted.texts):
            return table.select(wanted.names).combine_chunks().to_batches()[0]
    except pa.ArrowInvalid:  # Python says what is wrong, and where
        pass
    rows = _objects(block, wanted, line)
    columns: list[Any] = []
    for name in wanted.names:
        cells = [_Cell(row.get(name), number) for number, row in rows]
        try:
            columns.append(_texts(cells) if name in wanted.texts else _numbers(cells))
        except _CellError as error:
            raise FileError(f"{wanted.path}, line {error.line}: column {quoted(name)} holds {error}") from error
    return pa.RecordBatch.from_arrays(columns, names=wanted.names)


class _Cell(NamedTuple):
    """A value of a column, and the line that it comes from."""

    value: Any
    line: int


class _CellError(Exception):
    """A value that its column cannot hold."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def _rounded(column: Any) -> bool:
    """Return whether whole numbers in a column of floats may have lost digits."""
    from pyarrow import types

    return types.is_float64(column.type) and bool((np.abs(column.to_numpy()) >= 2.0**53).any())


def _types(block: bytes, wanted: Selection) -> dict[str, Any]:
    """Return the types of the columns by their first values in a block."""
    import pyarrow as pa

    found: dict[str, Any] = {}
    for line in block.split(b"\n", _LOOKED_AT)[:_LOOKED_AT]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict):
            break
        for name in wanted.names:
            if name not in found and row.get(name) is not None:
                found[name] = _type(row[name], text=name in wanted.texts)
        if len(found) == len(wanted.names):
            break
    return {name: found.get(name, pa.string() if name in wanted.texts else pa.float64()) for name in wanted.names}


def _type(value: Any, *, text: bool) -> Any:
    import pyarrow as pa

    if isinstance(value, list):
        return pa.list_(pa.float64())
    if not text:
        return pa.float64()
    kinds = ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64()))
    return next((kind for python, kind in kinds if isinstance(value, python)), pa.string())


def _objects(block: bytes, wanted: Selection, line: int) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a block as Python reads them, each with the number of its line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, text in enumerate(block.split(b"\n"), line):
        if text.strip():
            try:
                decoded = text.decode()
            except UnicodeDecodeError as error:
                byte = text[error.start]
                raise FileError(f"{wanted.path}, line {number}: not text in UTF-8 (byte {byte:#x})") from error
            rows.append((number, _object(decoded, str(wanted.path), number, wanted.names)))
    return rows


def _object(text: str, path: str, line: int, names: Sequence[str]) -> dict[str, Any]:
    """Return the object in a line; each of `names` may be there once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next((name for name in names if keys.count(name) > 1), None)
            if twice is not None:
                raise FileError(f"{path}, line {line}: the name {quoted(twice)} occurs twice")
        return found

    try:
        found = json.loads(text, object_pairs_hook=once, parse_float=_finite)
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FileError(f"{path}, line {line}: not JSON ({why})") from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise FileError(f"{path}, line {line}: not an object with a value for each column, but {kind}")
    return found


def _finite(digits: str) -> float:
    found = float(digits)
    if math.isinf(found):
        raise ValueError(f"{digits[:40]} is more than a float holds")
    return found


def _numbers(cells: list[_Cell]) -> Any:
    """Return a column of numbers, or of lists of numbers; null is a missing one."""
    import pyarrow as pa

    def number(value: Any, line: int) -> float | None:
        if value is None or isinstance(value, int | float):
            return None if value is None else float(value)
        raise _CellError(line, f"{json.dumps(value)[:60]}, which is not a number")

    first = next((value for value, _ in cells if value is not None), None)
    if not isinstance(first, list):
        return pa.array([number(value, line) for value, line in cells], pa.float64())
    for value, line in cells:
        if value is not None and not isinstance(value, list):
            raise _CellError(line, f"{json.dumps(value)[:60]}, where lines before it have lists")
    lists = [None if row is None else [number(value, line) for value in row] for row, line in cells]
    return pa.array(lists, pa.list_(pa.float64()))


def _texts(cells: list[_Cell]) -> Any:
    """Return a column of labels, slices or ids of any kinds: one of a plain type if it has one, else a union."""
    import pyarrow as pa

    values = [value for value, _ in cells]
    kinds = {_child(value) for value in values if value is not None}
    if kinds & {"list", "object"}:
        try:
            return pa.array(values)
        except pa.ArrowException as error:
            line = next(line for value, line in cells if isinstance(value, list | dict))
            raise _CellError(line, "a list or an object, and must hold one value per row") from error
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


JSONL = Reader("jsonl", _columns, _batches, compressible=True)
