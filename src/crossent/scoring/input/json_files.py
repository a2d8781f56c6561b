"""Tables in files of JSON: an object a line, compressed or not.

pyarrow reads a block of lines at a time, with the types of the block's first values. A block that holds anything else
(1 and then 0.5, true and then 0, a whole number beyond 64 bits, a name twice) is read again by Python, value by value.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossent.errors import quoted
from crossent.scoring.input.json_cells import Cell, CellError, Twice, column, finite, is_nested, with_repeats
from crossent.scoring.input.reader import FileError, Portion, Reader, Selection
from crossent.scoring.input.text_files import LONGEST, compression_of, first_line

_BLOCK = 1 << 22
"""Bytes that are read at a time."""
_LOOKED_AT = 100  # objects of a block in which a first value is sought


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

    types = _types(block, wanted)
    parse = reader.ParseOptions(
        explicit_schema=pa.schema([(name, kind or pa.null()) for name, kind in types.items()]),
        unexpected_field_behavior="ignore",
    )
    try:
        if None in types.values():  # objects, whose further names pyarrow would leave out
            raise pa.ArrowInvalid("")
        table = reader.read_json(pa.BufferReader(block), reader.ReadOptions(block_size=len(block) + 1), parse)
        if not any(_rounded(table.column(name)) for name in wanted.texts):
            return table.select(wanted.names).combine_chunks().to_batches()[0]
    except pa.ArrowInvalid:  # Python's parser names the error and its place
        pass
    rows = _objects(block, wanted, line)
    columns: list[Any] = []
    for name in wanted.names:
        cells = [Cell(row.get(name), number) for number, row in rows]
        try:
            columns.append(column(cells, text=name in wanted.texts))
        except CellError as error:
            raise FileError(f"{wanted.path}, line {error.line}: column {quoted(name)} holds {error}") from error
    return pa.RecordBatch.from_arrays(columns, names=wanted.names)


def _rounded(column: Any) -> bool:
    """Return whether whole numbers in a column of floats may have lost digits."""
    from pyarrow import types

    return types.is_float64(column.type) and bool((np.abs(column.to_numpy()) >= 2.0**53).any())


def _types(block: bytes, wanted: Selection) -> dict[str, Any]:
    """Return the types of the columns by their first values in a block, None for those of objects."""
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

    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _record(value[0])
    if is_nested(value):
        return None
    if isinstance(value, list):
        return pa.list_(pa.float64())
    if not text:
        return pa.float64()
    kinds = ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64()))
    return next((kind for python, kind in kinds if isinstance(value, python)), pa.string())


def _record(value: dict[str, Any]) -> Any:
    """Return the type of lists of records such as {"label": "cat", "score": 0.5}, None if these are others."""
    import pyarrow as pa

    kinds = {name: pa.string() if isinstance(each, str) else pa.float64() for name, each in value.items()}
    plain = all(isinstance(each, str | float | int) and not isinstance(each, bool) for each in value.values())
    texts = sum(isinstance(each, str) for each in value.values())
    return pa.list_(pa.struct(list(kinds.items()))) if plain and texts == 1 and len(kinds) == 2 else None


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
    try:
        found = json.loads(text, object_pairs_hook=with_repeats, parse_float=finite)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FileError(f"{path}, line {line}: not JSON ({why})") from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise FileError(f"{path}, line {line}: not an object with a value for each column, but {kind}")
    twice = next((name for name in names if isinstance(found, Twice) and name in found.names), None)
    if twice is not None:
        raise FileError(f"{path}, line {line}: the name {quoted(twice)} occurs twice")
    return found


JSONL = Reader("jsonl", _columns, _batches, compressible=True)
