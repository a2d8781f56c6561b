"""Tables in text files: csv, tsv and jsonl, compressed or not."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from crossent.errors import one_line, quoted
from crossent.scoring.input.classes import NO_VALUE
from crossent.scoring.input.reader import FileError, Portion, Reader, Selection

LONGEST = 1 << 24
"""Bytes in a line at most."""
COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
"""Ending of a name and pyarrow's name of each compression."""


def _compression(path: Path) -> str | None:
    return COMPRESSION.get(path.suffix.lower())


def _first_line(path: Path) -> str:
    """Return the first line that is not blank."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression=_compression(path)) as file:
        start = file.read(LONGEST)
    text = start.lstrip(b"\xef\xbb\xbf\r\n\t ").split(b"\n", 1)[0]
    if not text:
        raise FileError(f"{path} is empty: it holds blank lines only")
    if len(text) >= LONGEST - 64:
        raise FileError(f"{path}, line 1: longer than {LONGEST >> 20} MiB")
    try:
        decoded = text.decode().rstrip("\r")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not text in UTF-8 (byte {text[error.start]:#x} in line 1)") from error
    if any(not (c.isprintable() or c == "\t") for c in decoded):
        raise FileError(f"{path} is not text: its first line holds {quoted(decoded)}")
    return decoded


def delimited(format: str, delimiter: str) -> Reader:
    """Return the reader of a format whose lines are values with a delimiter between them, the first line the names."""
    return Reader(format, partial(_names, delimiter), partial(_delimited_batches, delimiter), compressible=True)


def _names(between: str, path: Path) -> list[str]:
    """Return the names in the first line."""
    first = _first_line(path)
    names = next(csv.reader([first], delimiter=between))
    if len(names) == 1:
        other = next((mark for mark in (";", "\t", "|", ",") if mark in first and mark != between), None)
        if other is not None:
            raise FileError(f"{path}: its columns are separated by {quoted(other)}, not by {quoted(between)}")
    return names


def _delimited_batches(delimiter: str, wanted: Selection) -> Iterator[Portion]:
    import pyarrow as pa
    from pyarrow import csv as reader

    types = {name: pa.string() if name in wanted.texts else pa.float64() for name in wanted.names}
    # "NA" and an empty cell are texts in a column of texts: whether they stand for no value, only classes can say
    convert = reader.ConvertOptions(include_columns=wanted.names, column_types=types, null_values=sorted(NO_VALUE))
    size = wanted.path.stat().st_size
    with wanted.path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), _compression(wanted.path)) as file:
        try:
            stream = reader.open_csv(
                file,
                read_options=reader.ReadOptions(block_size=1 << 22),
                parse_options=reader.ParseOptions(delimiter=delimiter),
                convert_options=convert,
            )
            for batch in stream:
                yield Portion(batch, raw.tell() / size)
        except pa.ArrowInvalid as error:  # which counts the columns
            text = " ".join(str(error).split())
            named = re.sub(r"CSV column #(\d+)", lambda found: f"column {quoted(wanted.columns[int(found[1])])}", text)
            raise FileError(f"{wanted.path}: {one_line(named)[:300]}") from error


def _jsonl_columns(path: Path) -> list[str]:
    """Return the names in the first object."""
    return list(_first_object(path))


def _first_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_first_line(path))
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FileError(f"{path}, line 1: not JSON ({why})") from error
    if not isinstance(found, dict):
        raise FileError(f"{path}, line 1: not an object with a value for each column, but {type(found).__name__}")
    return {str(name): value for name, value in found.items()}


def _jsonl_batches(wanted: Selection) -> Iterator[Portion]:
    """Yield batches of a jsonl file; its first object says which columns are lists."""
    import pyarrow as pa
    from pyarrow import json as reader

    first = _first_object(wanted.path)
    types = {name: _type(first.get(name), text=name in wanted.texts) for name in wanted.names}
    schema = pa.schema([pa.field(name, kind) for name, kind in types.items()])
    options = reader.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    size = wanted.path.stat().st_size
    with wanted.path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), _compression(wanted.path)) as file:
        try:
            for batch in reader.open_json(file, reader.ReadOptions(block_size=LONGEST), options):
                yield Portion(batch, raw.tell() / size)
        except pa.ArrowInvalid as error:
            text = " ".join(str(error).split())
            if "straddl" in text:
                text = f"a line is longer than {LONGEST >> 20} MiB"
            raise FileError(f"{wanted.path}: {one_line(text)[:300]}") from error


def _type(value: Any, *, text: bool) -> Any:
    """Return the type of a column from its first value: numbers, unless it may hold text."""
    import pyarrow as pa

    if isinstance(value, list):
        return pa.list_(pa.float64())
    if not text:
        return pa.float64()
    kinds = ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64()))
    return next((kind for python, kind in kinds if isinstance(value, python)), pa.string())


CSV, TSV = delimited("csv", ","), delimited("tsv", "\t")
JSONL = Reader("jsonl", _jsonl_columns, _jsonl_batches, compressible=True)
