"""Tables in text files: csv and tsv, compressed or not; and code shared with other text formats."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from crossent.errors import Argument, Message, one_line, quoted
from crossent.scoring.input.classes import NO_VALUE
from crossent.scoring.input.reader import FileError, FileOptions, Portion, Reader, Selection

_BLOCK = 1 << 22
WEKA = "distribution "
"""How the columns of Weka's tables are called that hold the probabilities of a row, before their numbers 1, 2, …"""
_OF_WEKA = ["inst#", "actual", "predicted", "error", "distribution"]
_COUNTED = "In CSV column #"
LONGEST = 1 << 24
"""Bytes in a line at most."""
COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
"""Ending of a name and pyarrow's name of each compression."""
_WIDE = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def compression_of(path: Path) -> str | None:
    """Return pyarrow's name of the compression in the ending of a file name, or None."""
    return COMPRESSION.get(path.suffix.lower())


def first_line(path: Path, *, quotes: bool = False, encoding: str | None = None) -> str:
    """Return the first line that is not blank; with `quotes` a line ends where all quotation marks are closed."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression=compression_of(path)) as file:
        start = file.read(LONGEST)
    if encoding is not None:
        start = _recoded(start, path, encoding)
    elif wide := next((name for first, name in _WIDE.items() if start.startswith(first)), None):
        raise FileError(
            Message(
                f"{path} is a {wide.upper()} file by its first bytes, not UTF-8; pass ", Argument("encoding", wide),
                ", or save it as UTF-8",
            )
        )  # fmt: skip
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
        raise _not_utf8(path, text[error.start], "in line 1") from error
    if any(not (c.isprintable() or c in ("\t\n\r" if quotes else "\t")) for c in decoded):
        raise FileError(f"{path} is not text: its first line holds {quoted(decoded)}")
    return decoded


def _recoded(start: bytes, path: Path, encoding: str) -> bytes:
    """Return the beginning of a file, whose last character may be cut, in UTF-8."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(start).encode()
    except (UnicodeError, LookupError, AttributeError) as error:
        raise FileError(
            f"{path} is not text in {encoding}: {' '.join(str(error).split())[:200]}", argument="encoding"
        ) from error


def _not_utf8(path: Path, byte: int | None, where: str) -> FileError:
    """Return the error for a text in an unknown encoding."""
    which = f"byte {byte:#x} {where}" if byte is not None else where
    return FileError(
        Message(
            f"{path} is not text in UTF-8 ({which}); if it was saved on Windows pass ", Argument("encoding", "cp1252"),
            ", else save it as UTF-8",
        )
    )  # fmt: skip


def _closed(text: bytes, rest: bytes) -> bytes:
    """Return a line with an open quotation mark, and the lines behind it to that which closes it."""
    lines = [text]
    for line in io.BytesIO(rest):
        lines.append(line)
        if line.count(b'"') % 2:
            break
    return lines[0] + b"\n" + b"".join(lines[1:]).removesuffix(b"\n")


def delimited(format: str, delimiter: str, options: FileOptions | None = None) -> Reader:
    """Return the reader of a format whose lines are values with a delimiter between them, the first line the names."""
    options = options or FileOptions()
    mark = options.delimiter or delimiter
    return Reader(
        format,
        partial(_names, mark, options.encoding),
        partial(_delimited_batches, mark, options),
        compressible=True,
        options=frozenset(("delimiter", "decimal", "encoding")),
        configured=partial(delimited, format, delimiter),
    )


def _names(between: str, encoding: str | None, path: Path) -> list[str]:
    """Return the names in the first line."""
    first = first_line(path, quotes=True, encoding=encoding)
    names = next(csv.reader(io.StringIO(first, newline=""), delimiter=between))
    if len(names) == 1:
        other = next((mark for mark in (";", "\t", "|", ",") if mark in first and mark != between), None)
        if other is not None:
            said = Argument("delimiter", "tab" if other == "\t" else other)
            raise FileError(
                Message(f"{path}: its columns are separated by {quoted(other)}, not by {quoted(between)}; pass ", said)
            )
    return _numbered(names)


def _numbered(names: list[str]) -> list[str]:
    """Return names of columns; Weka names only the first of the columns of probabilities."""
    begin = len(_OF_WEKA) - 1
    if names[: begin + 1] != _OF_WEKA or "" not in names[begin:]:
        return names
    end = begin + 1 + sum(1 for _ in takewhile(lambda name: not name, names[begin + 1 :]))
    return [*names[:begin], *(f"{WEKA}{k}" for k in range(1, end - begin + 1)), *names[end:]]


def _delimited_batches(delimiter: str, options: FileOptions, wanted: Selection) -> Iterator[Portion]:
    import pyarrow as pa

    weka = f"{WEKA}1" in wanted.columns
    starred = {name for name in wanted.names if weka and name.startswith(WEKA)}
    types = {name: pa.string() if name in {*wanted.texts, *starred} else pa.float64() for name in wanted.names}
    names = wanted.columns if weka else ()
    size = wanted.path.stat().st_size
    with wanted.path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), compression_of(wanted.path)) as file:
        try:
            for batch in _stream(file, delimiter, options, names, include_columns=wanted.names, column_types=types):
                yield Portion(_without_stars(batch, starred, wanted.texts) if starred else batch, raw.tell() / size)
        except pa.ArrowInvalid as error:  # which counts the columns
            raise _said(error, wanted, delimiter, options) from error
        except UnicodeError as error:  # of a transcoder
            raise FileError(f"{wanted.path} is not text in {options.encoding}: {error}", argument="encoding") from error


def _without_stars(batch: Any, starred: Collection[str], texts: Collection[str]) -> Any:
    """Return a batch of Weka's, which marks the largest probability of a row by a star."""
    import pyarrow as pa
    from pyarrow import compute

    columns = list(batch.columns)
    for k, name in enumerate(batch.schema.names):
        if name in starred:
            bare = compute.call_function("utf8_ltrim", [columns[k]], compute.TrimOptions("*"))
            columns[k] = bare if name in texts else bare.cast(pa.float64())
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _stream(file: Any, delimiter: str, options: FileOptions, names: Sequence[str] = (), **convert: Any) -> Any:
    """Return pyarrow's reader of delimited text; `names` are those to give the columns in place of the first line's.

    "NA" and an empty cell are texts in a column of texts: only the classes decide whether they are missing values.
    """
    from pyarrow import csv as reader

    null_values = sorted(NO_VALUE | {*options.na})
    decimal = options.decimal or "."
    return reader.open_csv(
        file,
        read_options=reader.ReadOptions(
            block_size=_BLOCK,
            encoding=options.encoding or "utf8",
            column_names=names or None,
            skip_rows=1 if names else 0,
        ),
        parse_options=reader.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=reader.ConvertOptions(null_values=null_values, decimal_point=decimal, **convert),
    )


def _said(error: Exception, wanted: Selection, delimiter: str, options: FileOptions) -> FileError:
    """Return an error of pyarrow with the name of the column, and with the option that may be missing."""
    text = " ".join(str(error).split())
    if "straddl" in text:
        text = f"a row is longer than {_BLOCK >> 20} MiB; is there a quotation mark that nothing closes?"
    if "invalid UTF8" in text:
        return _not_utf8(wanted.path, None, text.partition(":")[0][:100])
    value = text.rpartition("invalid value '")[2].rstrip("'")
    words = f"{wanted.path}: {one_line(_with_name(text, wanted.columns))[:300]}"
    if options.decimal is None and delimiter != "," and _is_number(value.replace(",", ".")):
        return FileError(Message(words, "; pass ", Argument("decimal", ",")))
    return FileError(words)


def _is_number(text: str) -> bool:
    try:
        _ = float(text)
    except ValueError:
        return False
    return True


def _with_name(text: str, columns: Sequence[str]) -> str:
    """Return an error of pyarrow with the name of the column in place of its number, which stands at its beginning."""
    number, colon, rest = text.removeprefix(_COUNTED).partition(":")
    if not (text.startswith(_COUNTED) and number.isdecimal() and int(number) < len(columns)):
        return text
    return f"In column {quoted(columns[int(number)])}{colon}{rest}"


CSV, TSV = delimited("csv", ","), delimited("tsv", "\t")
