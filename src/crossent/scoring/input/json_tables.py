"""Tables in one value of JSON: an array of records, and the forms of pandas, MLflow, W&B and servers of models.

    [{"y": 1, "p": 0.5}, …]                             records (pandas: orient="records")
    {"columns": ["y", "p"], "data": [[1, 0.5], …]}      orient="split", tables of MLflow and W&B
    {"schema": …, "data": [{"y": 1, "p": 0.5}, …]}      orient="table", and any object with one array of records
    {"y": {"0": 1, …}, "p": {"0": 0.5, …}}              orient="columns", which `DataFrame.to_json` writes by default
    {"0": {"y": 1, "p": 0.5}, …}                        orient="index"
    {"y": [1, …], "p": [0.5, …]}                        a dictionary of columns
    [[0.5, 0.5], …], {"predictions": [[0.5, 0.5], …]}   predictions alone, in a column "predictions"
    {"y": 1, "p": 0.5}⏎{…}⏎…                            JSON lines with this ending of the name

Values are read one after the other. Where columns lie one behind the other, each is read by a stream of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from crossent.errors import quoted
from crossent.scoring.input.json_cells import Cell, CellError, Twice, column
from crossent.scoring.input.json_files import JSONL
from crossent.scoring.input.json_scanner import Scanner, scanned
from crossent.scoring.input.labels import listing
from crossent.scoring.input.reader import BATCH_BYTES, FileError, Portion, Reader, Selection

_ROWS = 1 << 13  # of a batch at most
_KEYS = 1000  # of an object that are looked at
_STREAMS = 256
_ALONE = "predictions"
Form = Literal["lines", "rows", "lists", "index", "columns"]


@dataclass(frozen=True, slots=True)
class _Part:
    """A value of the outermost object: where it is, how it begins, its items, and its first keys if it is an object."""

    offset: int
    begin: str
    inner: str
    count: int
    keys: tuple[str, ...] = ()
    names: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class _Layout:
    """The form of a table, its columns, and the offsets at which its rows, or each of its columns, begin."""

    form: Form
    columns: tuple[str, ...]
    offsets: tuple[int, ...] = (0,)


def _layout(path: Path) -> _Layout:
    stat = path.stat()
    return _found_layout(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _found_layout(path: Path, _changed: int, _size: int) -> _Layout:
    with scanned(path) as (scanner, _):
        begin = scanner.peek()
        if begin == "[":
            return _of_array(scanner, path)
        if begin != "{":
            raise FileError(f"{path} is {'empty' if not begin else 'not a table: neither an array nor an object'}")
        parts = {}
        for name in scanner.pairs():
            if name in parts:
                raise FileError(f"{path}: the name {quoted(name)} occurs twice")
            parts[name] = _part(scanner, name)
        if scanner.peek():  # a further object
            return _Layout("lines", tuple(JSONL.columns(path)))
    return _of_object(parts, path)


def _of_array(scanner: Scanner, path: Path) -> _Layout:
    for _ in scanner.items():
        first = scanner.value()
        if isinstance(first, dict):
            return _Layout("rows", tuple(first))
        if isinstance(first, list):
            return _Layout("rows", (_ALONE,))
        raise FileError(
            f"{path}: an array of {_kind(first)}, but it must be an array of objects, each with a value for each column"
        )
    raise FileError(f"{path}: an array without rows")


def _part(scanner: Scanner, name: str) -> _Part:
    """Skip a value of the outermost object, and return its kind."""
    begin = scanner.peek()
    offset = scanner.offset
    if begin == "[" and name == "columns":
        found = scanner.value()
        return _Part(offset, begin, '"', len(found), names=tuple(found))
    inner, count, keys = "", 0, []
    if begin == "[":
        first: Any = None
        for _ in scanner.items():
            inner = inner or scanner.peek()
            found = scanner.value()
            first = found if count == 0 else first
            count += 1
        names = tuple(first) if isinstance(first, dict) else ()
        return _Part(offset, begin, inner, count, names=names)
    if begin == "{":
        names: tuple[str, ...] = ()
        for key in scanner.pairs():
            inner = inner or scanner.peek()
            found = scanner.value()
            if not count and isinstance(found, dict):
                names = tuple(found)
            if count < _KEYS:
                keys.append(key)
            count += 1
        return _Part(offset, begin, inner, count, tuple(keys), names)
    _ = scanner.value()
    return _Part(offset, begin, "", 0)


def _of_object(parts: dict[str, _Part], path: Path) -> _Layout:
    """Return the layout of a table that is one object."""
    arrays = {name: part for name, part in parts.items() if part.begin == "["}
    objects = {name: part for name, part in parts.items() if part.begin == "{"}
    data, named = arrays.get("data"), arrays.get("columns")
    if data is not None and named is not None and data.inner in ("[", ""):
        return _Layout("lists", tuple(map(_text, named.names)), (data.offset,))
    records = [part for part in arrays.values() if part.inner == "{" and part.names]
    if data is not None and data.inner == "{":
        records = [data]
    if len(records) == 1 and (len(arrays) == 1 or data is records[0]):
        return _Layout("rows", records[0].names, (records[0].offset,))
    counts = {part.count for part in arrays.values()}
    if arrays and not objects and len(counts) == 1:
        _require_few(len(arrays), path)
        return _Layout("columns", tuple(arrays), tuple(part.offset for part in arrays.values()))
    if objects and len(objects) == len(parts):
        return _of_objects(objects, path)
    raise FileError(
        f"{path}: an object with the names {listing(list(parts))}, which is not a known form of table; write an array "
        "of "
        'objects, as pandas does with orient="records", or JSON lines'
    )


def _of_objects(objects: dict[str, _Part], path: Path) -> _Layout:
    outer = _are_numbers(objects)
    inner = all(_are_numbers(part.keys) for part in objects.values())
    if inner == outer:
        raise FileError(
            f"{path}: an object of objects, whose rows may be {listing(list(objects))} or the names inside; write an "
            'array of objects, as pandas does with orient="records"'
        )
    if outer:
        return _Layout("index", next(iter(objects.values())).keys)
    _require_few(len(objects), path)
    return _Layout("columns", tuple(objects), tuple(part.offset for part in objects.values()))


def _are_numbers(names: Any) -> bool:
    return all(name.removeprefix("-").isdigit() for name in names)


def _require_few(count: int, path: Path) -> None:
    if count > _STREAMS:
        raise FileError(
            f"{path}: {count} columns, stored one after the other, are too many to read at once; write an array of "
            "objects, as "
            'pandas does with orient="records"'
        )


def _columns(path: Path) -> Sequence[str]:
    return _layout(path).columns


def _batches(wanted: Selection) -> Iterator[Portion]:
    layout = _layout(wanted.path)
    if layout.form == "lines":
        yield from JSONL.batches(wanted)
        return
    size = wanted.path.stat().st_size
    with ExitStack() as stack:
        if layout.form == "columns":
            offsets = dict(zip(layout.columns, layout.offsets, strict=True))
            opened = [stack.enter_context(scanned(wanted.path, offsets[name])) for name in wanted.names]
            rows = _across([scanner for scanner, _ in opened], wanted)
            raw, scanner = opened[-1][1], opened[-1][0]
        else:
            scanner, raw = stack.enter_context(scanned(wanted.path, layout.offsets[0]))
            rows = _rows(scanner, layout, wanted)
        number, begun = 0, scanner.offset
        found: list[list[Any]] = []
        for row in rows:
            found.append(row)
            if len(found) >= _ROWS or (len(found) % 64 == 0 and scanner.offset - begun > BATCH_BYTES):
                yield Portion(_batch(found, wanted, number), raw.tell() / size)
                number, begun, found = number + len(found), scanner.offset, []
        if found or not number:
            yield Portion(_batch(found, wanted, number), 1.0)


def _rows(scanner: Scanner, layout: _Layout, wanted: Selection) -> Generator[list[Any], None, None]:
    """Yield the wanted values of each row."""
    if layout.form == "lists":
        places = [layout.columns.index(name) for name in wanted.names]
        for number, _ in enumerate(scanner.items()):
            row = scanner.value()
            if not isinstance(row, list) or len(row) != len(layout.columns):
                raise FileError(f"{wanted.path}: row {number} of data does not have {len(layout.columns)} values")
            yield [row[place] for place in places]
        return
    parts: Iterator[Any] = scanner.pairs() if layout.form == "index" else scanner.items()
    alone = layout.columns == (_ALONE,)
    for number, _ in enumerate(parts):
        row = scanner.value()
        if alone and isinstance(row, list):
            yield [row]
            continue
        if not isinstance(row, dict):
            raise FileError(f"{wanted.path}: row {number} is {_kind(row)}, and must be an object")
        if isinstance(row, Twice) and (twice := next((name for name in wanted.names if name in row.names), None)):
            raise FileError(f"{wanted.path}: the name {quoted(twice)} occurs twice in row {number}")
        yield [row.get(name) for name in wanted.names]


def _across(scanners: Sequence[Scanner], wanted: Selection) -> Generator[list[Any], None, None]:
    """Yield the values of each row of columns that lie one behind the other."""
    streams = [_column(scanner) for scanner in scanners]
    number = 0
    while True:
        cells = [next(islice(stream, 1), None) for stream in streams]
        if all(cell is None for cell in cells):
            return
        keys = {None if cell is None else cell[0] for cell in cells}
        if len(keys) > 1 or None in cells:
            raise FileError(f"{wanted.path}: its columns have different rows from row {number} on")
        yield [cell[1] for cell in cells if cell is not None]
        number += 1


def _column(scanner: Scanner) -> Generator[tuple[str, Any], None, None]:
    """Yield the values of a column, each with the name of its row, "" in arrays."""
    names: Iterator[Any] = scanner.pairs() if scanner.peek() == "{" else scanner.items()
    for name in names:
        yield name or "", scanner.value()


def _batch(rows: Sequence[Sequence[Any]], wanted: Selection, number: int) -> Any:
    import pyarrow as pa

    arrays: list[Any] = []
    for k, name in enumerate(wanted.names):
        cells = [Cell(row[k], number + j) for j, row in enumerate(rows)]
        try:
            arrays.append(column(cells, text=name in wanted.texts))
        except CellError as error:
            raise FileError(f"{wanted.path}, row {error.line}: column {quoted(name)} holds {error}") from error
    return pa.RecordBatch.from_arrays(arrays, names=wanted.names)


def _kind(value: Any) -> str:
    kinds = {str: "a text", bool: "a truth value", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "null" if value is None else "an object")


def _text(name: Any) -> str:
    return name if isinstance(name, str) else str(name)


JSON = Reader("json", _columns, _batches, compressible=True)
