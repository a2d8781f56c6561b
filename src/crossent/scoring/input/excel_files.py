"""Tables in workbooks of Excel (.xlsx); a sheet is read row by row."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

from crossent.errors import Argument, Message, quoted
from crossent.scoring.input.classes import NO_VALUE
from crossent.scoring.input.labels import listing
from crossent.scoring.input.reader import FileError, FileOptions, Portion, Reader, Selection

ROWS, COLUMNS = 1 << 20, 1 << 14
"""Rows and columns of a sheet at most, by Excel's own limits."""
_STEP = 4096  # rows of a batch
_HELD = 1 << 28
"""Bytes at most of a part that is held as a whole, such as the texts of all cells."""
_ROW = 1 << 24  # bytes of a row
_CHUNK = 1 << 20
_ROW_TAG = re.compile(rb"<(?:\w+:)?row[\s/>]")
_ERRORS = frozenset(("#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!"))


@contextmanager
def _opened(path: Path, *, values: bool = True) -> Generator[Any, None, None]:
    """Open a workbook to be read row by row: the values of its cells, or the formulas in place of theirs."""
    try:
        import openpyxl
    except ImportError as error:
        raise FileError(
            f"{path} is a workbook of Excel, and openpyxl is not installed: pip install 'crossent[excel]'"
        ) from error
    _require_safe(path)
    with warnings.catch_warnings(action="ignore"):  # about styles and charts, which are not read
        book = openpyxl.load_workbook(path, read_only=True, data_only=values, keep_links=False)
    try:
        yield book
    finally:
        book.close()


def _require_safe(path: Path) -> None:
    """Raise FileError for XML attacks: entities that grow, and parts or rows without end."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "xl/workbook.xml" not in names and not any(name.endswith("workbook.xml") for name in names):
            raise FileError(f"{path} is a zip archive, not a workbook of Excel")
        for info in archive.infolist():
            if not info.filename.endswith((".xml", ".rels")):
                continue
            is_sheet = "/worksheets/" in info.filename
            if not is_sheet and info.file_size > _HELD:
                raise FileError(
                    f"its part {quoted(info.filename)} unpacks to {info.file_size >> 20:,} MiB, more than the "
                    f"{_HELD >> 20} that may be held; save the sheet as csv"
                )
            with archive.open(info) as part:
                _refuse_entities(part, info.filename)
            if is_sheet:
                with archive.open(info) as part:
                    _refuse_endless_rows(part, info.filename)


class _RootError(Exception):
    """The root of a document has begun, so it has no definition of a type."""


def _refuse_entities(part: Any, name: str) -> None:
    """Raise FileError if an XML document defines entities: no workbook does, and they can expand to gigabytes."""

    def refuse(*_: object) -> None:
        raise FileError(f"its part {quoted(name)} defines a type of document, which no workbook does; it is damaged")

    def stop(*_: object) -> None:
        raise _RootError

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler = refuse, stop
    read = 0
    try:
        while data := part.read(_CHUNK):
            parser.Parse(data, False)
            read += len(data)
            if read > _ROW:
                raise FileError(f"its part {quoted(name)} has no beginning; it is damaged")
    except _RootError:
        return
    except expat.ExpatError as error:
        raise FileError(f"its part {quoted(name)} is not XML ({error}); it is damaged") from error


def _refuse_endless_rows(part: Any, name: str) -> None:
    length, rest = 0, b""
    while data := part.read(_CHUNK):
        found = [match.start() for match in _ROW_TAG.finditer(rest + data)]
        length = len(rest + data) - found[-1] if found else length + len(data)
        rest = data[-64:] if not found else b""
        if length > _ROW:
            raise FileError(
                f"its part {quoted(name)} has a row of more than {_ROW >> 20} MiB; it is damaged, or no table"
            )


def _sheet(book: Any, options: FileOptions) -> Any:
    """Return the sheet that the options name, or the first one."""
    named = {sheet.title: sheet for sheet in book.worksheets}
    if not named:
        raise FileError("the workbook has no sheets")
    if options.sheet is None:
        return next(iter(named.values()))
    if options.sheet not in named:
        raise FileError(
            f"there is no sheet {quoted(options.sheet)}; the sheets are {listing(list(named))}", argument="sheet"
        )
    return named[options.sheet]


def _rows(sheet: Any, first: int, width: int) -> Iterator[Sequence[Any]]:
    """Yield the rows of a sheet from a number on, with so many cells each."""
    sheet.reset_dimensions()  # which some programs write wrongly
    return sheet.iter_rows(min_row=first, max_row=ROWS, max_col=width, values_only=True)


def _heading(sheet: Any) -> tuple[int, list[str]]:
    """Return the number of the first row that is not blank, and the names in it."""
    with warnings.catch_warnings(action="ignore"):
        for number, row in enumerate(_rows(sheet, 1, COLUMNS), 1):
            last = max((k for k, value in enumerate(row) if value is not None), default=-1)
            if last >= 0:
                return number, [_name(value, k) for k, value in enumerate(row[: last + 1])]
    raise FileError(f"sheet {quoted(sheet.title)} is empty")


def _name(value: Any, place: int) -> str:
    """Return the name of a column; a cell without one is called as pandas calls it."""
    return f"Unnamed: {place}" if value is None else _text(value)


def _columns(options: FileOptions, path: Path) -> list[str]:
    with _opened(path) as book:
        return _heading(_sheet(book, options))[1]


def _batches(options: FileOptions, wanted: Selection) -> Iterator[Portion]:
    import pyarrow as pa

    none = NO_VALUE | {*options.na}
    with _opened(wanted.path) as book:
        sheet = _sheet(book, options)
        most = sheet.max_row or ROWS  # from the sheet's own dimension
        heading, names = _heading(sheet)
        places = [names.index(name) for name in wanted.names]
        checked = False
        for first, rows, is_last in _in_batches(_rows(sheet, heading + 1, len(names)), heading + 1):
            cells = [[row[place] for row in rows] for place in places]
            numeric = [column for name, column in zip(wanted.names, cells, strict=True) if name not in wanted.texts]
            if not checked and any(None in column for column in numeric):
                checked = True
                _refuse_uncomputed(wanted, options, first, rows)
            columns = [
                _texts(column) if name in wanted.texts else _numbers(column, name, first, options.decimal, none)
                for name, column in zip(wanted.names, cells, strict=True)
            ]
            done = 1.0 if is_last else min(1.0, (first + len(rows)) / most)
            yield Portion(pa.RecordBatch.from_arrays(columns, names=wanted.names), done)


def _refuse_uncomputed(wanted: Selection, options: FileOptions, first: int, rows: Sequence[Sequence[Any]]) -> None:
    """Raise FileError if the first empty cell of a column of numbers is a formula, whose value no program has saved."""
    with _opened(wanted.path, values=False) as book:
        sheet = _sheet(book, options)
        names = _heading(sheet)[1]
        places = [names.index(name) for name in wanted.names if name not in wanted.texts]
        row = next(k for k, row in enumerate(rows) if any(row[place] is None for place in places))
        formulas = next(_rows(sheet, first + row, len(names)), ())
    for place in places:
        if rows[row][place] is None and place < len(formulas) and formulas[place] is not None:
            raise FileError(
                f"column {quoted(names[place])} holds a formula without its value in row {first + row} of the sheet; "
                "open the workbook in Excel or LibreOffice, and save it"
            )


class _Batch(NamedTuple):
    """Rows of a sheet, the number of the first, and whether they are the last ones."""

    first: int
    rows: list[Sequence[Any]]
    is_last: bool


def _in_batches(rows: Iterator[Sequence[Any]], first: int) -> Iterator[_Batch]:
    """Yield rows in batches; blank rows at the end do not count."""
    coming = _without_blank_end(rows)
    held = _next_rows(coming)
    while held:
        following = _next_rows(coming)
        yield _Batch(first, held, is_last=not following)
        first, held = first + len(held), following


def _next_rows(rows: Iterator[Sequence[Any]]) -> list[Sequence[Any]]:
    with warnings.catch_warnings(action="ignore"):
        return list(islice(rows, _STEP))


def _without_blank_end(rows: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    blank = 0
    for row in rows:
        if all(value is None for value in row):
            blank += 1
            continue
        yield from repeat((None,) * len(row), blank)
        blank = 0
        yield row


def _numbers(cells: Sequence[Any], name: str, first: int, decimal: str | None, none: frozenset[str]) -> Any:
    """Return cells as a column of numbers; empty cells and texts for missing values become null."""
    import pyarrow as pa

    found: list[float | None] = []
    for row, value in enumerate(cells, first):
        if isinstance(value, int | float):
            found.append(float(value))
        elif value is None or (isinstance(value, str) and value.strip() in none):
            found.append(None)
        else:
            found.append(_number(value, name, row, decimal))
    return pa.array(found, pa.float64())


def _number(value: Any, name: str, row: int, decimal: str | None) -> float:
    text = _text(value).strip()
    try:
        if value in _ERRORS or not isinstance(value, str):
            raise ValueError
        return float(text if decimal is None else text.replace(decimal, "."))
    except ValueError as error:
        said: list[str | Argument] = [
            f"column {quoted(name)} holds {quoted(text)} in row {row} of the sheet, which is not a number"
        ]
        if decimal is None and re.fullmatch(r"[+-]?\d*,\d+", text):
            said += ["; pass ", Argument("decimal", ",")]
        raise FileError(Message(*said)) from error


def _texts(cells: Sequence[Any]) -> Any:
    """Return cells as a column of labels: of one plain type if they have one, else of text."""
    import pyarrow as pa

    kinds = {type(value) for value in cells if value is not None}
    if kinds <= {bool} or kinds <= {int} or kinds <= {float} or kinds <= {str}:
        try:
            return pa.array(cells)
        except (pa.ArrowException, OverflowError):
            return pa.array([None if value is None else str(value) for value in cells], pa.string())
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in cells], pa.float64())
    return pa.array([None if value is None else _text(value) for value in cells], pa.string())


def _text(value: Any) -> str:
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, datetime | date | time):
        return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    return str(value)


def _said(options: FileOptions, path: Path) -> str:
    """Return a note on the sheet that is read, if it was not named."""
    with _opened(path) as book:
        names = [sheet.title for sheet in book.worksheets]
    if options.sheet is not None or len(names) < 2:
        return ""
    return f"sheet {quoted(names[0])}, the first of {len(names)}; --sheet reads another of {listing(names)}"


def workbook(options: FileOptions | None = None) -> Reader:
    """Return the reader of workbooks."""
    options = options or FileOptions()
    return Reader(
        "xlsx",
        partial(_columns, options),
        partial(_batches, options),
        first_bytes=(b"PK\x03\x04",),
        options=frozenset(("sheet", "decimal")),
        configured=workbook,
        said=partial(_said, options),
    )


XLSX = workbook()
