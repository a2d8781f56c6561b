"""Tables in text files: csv and tsv, compressed or not; and what other formats of text share with them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from crossent.errors import one_line, quoted
from crossent.scoring.input.classes import NO_VALUE
from crossent.scoring.input.reader import FileError, Portion, Reader, Selection

_BLOCK = 1 << 22
_COUNTED = "In CSV column #"
LONGEST = 1 << 24
"""Bytes in a line at most."""
COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
"""Ending of a name and pyarrow's name of each compression."""


def compression_of(path: Path) -> str | None:
    """Return pyarrow's name of the compression that the name of a file says, or None."""
    return COMPRESSION.get(path.suffix.lower())


def first_line(path: Path, *, quotes: bool = False) -> str:
    """Return the first line that is not blank; with `quotes` a line ends where all quotation marks are closed."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression=compression_of(path)) as file:
        start = file.read(LONGEST)
    text, _, rest = start.lstrip(b"\xef\xbb\xbf\r\n\t ").partition(b"\n")
    if quotes and text.count(b'"') % 2:
        text = _closed(text, rest)
    if not text:
        raise FileError(f"{path} is empty: it holds blank lines only")
    if len(text) >= LONGEST - 64:
        raise FileError(f"{path}, line 1: longer than {LONGEST >> 20} MiB")
    try:
        decoded = text.decode().rstrip("\r")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not text in UTF-8 (byte {text[error.start]:#x} in line 1)") from error
    if any(not (c.isprintable() or c in ("\t\n\r" if quotes else "\t")) for c in decoded):
        raise FileError(f"{path} is not text: its first line holds {quoted(decoded)}")
    return decoded


def _closed(text: bytes, rest: bytes) -> bytes:
    """Return a line with an open quotation mark, and the lines behind it to that which closes it."""
    lines = [text]
    for line in io.BytesIO(rest):
        lines.append(line)
        if line.count(b'"') % 2:
            break
    return lines[0] + b"\n" + b"".join(lines[1:]).removesuffix(b"\n")


def delimited(format: str, delimiter: str) -> Reader:
    """Return the reader of a format whose lines are values with a delimiter between them, the first line the names."""
    return Reader(format, partial(_names, delimiter), partial(_delimited_batches, delimiter), compressible=True)


def _names(between: str, path: Path) -> list[str]:
    """Return the names in the first line."""
    first = first_line(path, quotes=True)
    names = next(csv.reader(io.StringIO(first, newline=""), delimiter=between))
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
    with wanted.path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), compression_of(wanted.path)) as file:
        try:
            stream = reader.open_csv(
                file,
                read_options=reader.ReadOptions(block_size=_BLOCK),
                parse_options=reader.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=convert,
            )
            for batch in stream:
                yield Portion(batch, raw.tell() / size)
        except pa.ArrowInvalid as error:  # which counts the columns
            text = " ".join(str(error).split())
            if "straddl" in text:
                text = f"a row is longer than {_BLOCK >> 20} MiB; is there a quotation mark that nothing closes?"
            raise FileError(f"{wanted.path}: {one_line(_with_name(text, wanted.columns))[:300]}") from error


def _with_name(text: str, columns: Sequence[str]) -> str:
    """Return an error of pyarrow with the name of the column in place of its number, which stands at its beginning."""
    number, colon, rest = text.removeprefix(_COUNTED).partition(":")
    if not (text.startswith(_COUNTED) and number.isdecimal() and int(number) < len(columns)):
        return text
    return f"In column {quoted(columns[int(number)])}{colon}{rest}"


CSV, TSV = delimited("csv", ","), delimited("tsv", "\t")
