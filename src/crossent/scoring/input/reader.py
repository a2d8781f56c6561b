"""The contract of a reader of a file format: its request, its batches, and its errors.

`files.READERS` is the table of all readers. To add a format, write two functions, make a `Reader` of them, and add one
entry to that table.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from crossent.errors import Argument, InputError, InputTypeError, Message, one_line, quoted

BATCH_BYTES = 1 << 22
"""Bytes of a batch, about."""
ROW_BYTES = 1 << 26
"""Bytes of a row at most."""
_ROWS = 1 << 16


class FileError(InputError):
    """A file with contents other than its name says, or that cannot be read in parts."""


@contextmanager
def errors_named(name: str, path: Path | None = None) -> Generator[None, None, None]:
    """Turn any error of a reader into a one-line `FileError` that names the file.

    `path` is the place of a temporary copy, which the user does not know.
    """
    try:
        yield
    except MemoryError:  # the command knows its limit
        raise
    except FileError as error:
        parts = error.message.parts if isinstance(error.message, Message) else (error.message,)
        if path is not None and str(path) != name:
            parts = tuple(part.replace(str(path), name) if isinstance(part, str) else part for part in parts)
        said = Message(*parts)
        raise error.with_message(said if name in said else Message(f"{name}: ", said)) from error
    except Exception as error:  # from pyarrow, NumPy, zipfile and below: a damaged file may raise any error
        if isinstance(error, OSError) and error.filename is not None:
            raise
        text = one_line(" ".join(str(error).split())) or type(error).__name__
        if path is not None:
            text = text.replace(str(path), name)
        raise FileError(f"{name}: {text[:300]}") from error


class Portion(NamedTuple):
    """Consecutive rows of a table, a `pyarrow.RecordBatch`, and the share of the file that has been read by then.

    `file` is the name of the file that they come from where a table lies in several; readers leave it out.
    """

    batch: Any
    done: float
    file: str | None = None


DELIMITERS = {"tab": "\t", "\\t": "\t", "space": " "}
"""Words for delimiters that are hard to type."""


@dataclass(frozen=True, slots=True)
class FileOptions:
    r"""Options of files that neither their names nor their first bytes show.

    Parameters
    ----------
    format
        Name of the format of all files, such as "csv"; None if the endings of their names say it.
    delimiter
        Character between two values of a line, or "tab"; None for the one of the format.
    decimal
        Character between whole numbers and fractions.
    encoding
        Encoding of text, such as "cp1252"; None for UTF-8.
    na
        Texts that stand for no number, beside those of pandas.
    sheet
        Name of the sheet of a workbook; None for its first one.

    Raises
    ------
    InputError
        If a value cannot be used.

    Examples
    --------
    >>> FileOptions(delimiter="tab").delimiter
    '\t'
    """

    format: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    na: tuple[str, ...] = ()
    sheet: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", DELIMITERS.get(self.delimiter, self.delimiter))
            _require_mark("delimiter", self.delimiter, " or tab")
        if self.decimal is not None:
            _require_mark("decimal", self.decimal, "")
            if self.decimal.isalnum() or self.decimal in "+- ":
                raise InputError(f"decimal must be a mark such as ',', got {quoted(self.decimal)}", argument="decimal")
        if self.delimiter is not None and self.delimiter == self.decimal:
            raise InputError(
                f"delimiter and decimal are both {quoted(self.decimal)}, and must differ", argument="decimal"
            )
        if self.encoding is not None:
            import codecs

            try:
                _ = codecs.lookup(self.encoding)
                _ = "1".encode(self.encoding)
            except (LookupError, UnicodeError, ValueError) as error:
                raise InputError(
                    f"encoding must be the name of one, such as cp1252 or utf-16, got {quoted(self.encoding)}",
                    argument="encoding",
                ) from error

    @property
    def passed(self) -> dict[str, str]:
        """Those of the options that few readers take, by name."""
        named = {name: getattr(self, name) for name in ("delimiter", "decimal", "encoding", "sheet")}
        return {name: value for name, value in named.items() if value is not None}


def _require_mark(name: str, mark: Any, more: str) -> None:
    if not isinstance(mark, str):
        raise InputTypeError(f"{name} must be one character, got {quoted(mark)}", argument=name)
    if len(mark) != 1 or not mark.isascii() or mark in '\r\n"\0' or not (mark.isprintable() or mark == "\t"):
        raise InputError(f"{name} must be one character such as ';'{more}, got {quoted(mark)}", argument=name)


@dataclass(frozen=True, slots=True)
class Selection:
    """Columns to read from a file.

    Parameters
    ----------
    path
        The file.
    columns
        Names of all columns of the file, in their order.
    names
        Names of the columns to read, in the order in which batches must have them.
    texts
        Those of `names` that hold labels and not numbers. If the format has no column types, these are read as text,
        and the others as numbers.
    """

    path: Path
    columns: tuple[str, ...]
    names: list[str]
    texts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Reader:
    """How the files of one format are read, a batch of rows at a time.

    Parameters
    ----------
    format
        Name of the format in errors, such as "parquet".
    columns
        Function of a path: returns the names of the file's columns, in their order.
    batches
        Function of a `Selection`: yields the rows in their order as `Portion`s of about `BATCH_BYTES` bytes.
        `rows_at_a_time` returns that number of rows. Missing numbers are null or NaN; a column may hold lists of
        numbers of equal length, one number for each class.
    first_bytes
        What files of the format begin with; () if that is not known.
    always
        Whether every file of the format begins so. Else a file may have any other beginning that is of no known format.
    compressible
        Whether `columns` and `batches` read files compressed by gzip, bzip2, zstd and lz4 too.
    options
        Names of the `FileOptions` that `configured` takes, beside `na`.
    configured
        Function of `FileOptions`: returns the reader that reads files so. None if there is nothing to choose.
    said
        Function of a path: returns a note on automatic choices, such as the first of several sheets; "" if nothing was.
    class_names
        Function of a path and a column of labels: returns the names of the classes 0, 1, … by the file's description of
        the column, None if it has nothing. By default no file does.

    Notes
    -----
    Both functions import their libraries when called, and raise `FileError` for a file that they refuse. Errors of
    pyarrow, NumPy and zipfile may pass: `files` turns them into a `FileError` of one line that names the file.
    """

    format: str
    columns: Callable[[Path], Sequence[str]]
    batches: Callable[[Selection], Iterator[Portion]]
    first_bytes: tuple[bytes, ...] = ()
    always: bool = True
    compressible: bool = False
    options: frozenset[str] = frozenset()
    configured: Callable[[FileOptions], Reader] | None = None
    said: Callable[[Path], str] | None = None
    class_names: Callable[[Path, str], Sequence[str] | None] | None = None

    def with_options(self, options: FileOptions) -> Reader:
        """Return the reader for these options.

        Raises
        ------
        InputError
            If it does not take one of them.
        """
        for name, value in options.passed.items():
            if name not in self.options:
                raise FileError(
                    Message("a ", self.format, " file has no ", name, "; leave out ", Argument(name, value)),
                    argument=name,
                )
        return self if self.configured is None or options == FileOptions() else self.configured(options)


def rows_at_a_time(row_bytes: float) -> int:
    """Return how many rows a batch should have if each takes so many bytes.

    Raises
    ------
    FileError
        If not even one row may be read at a time.
    """
    if row_bytes > ROW_BYTES:
        raise FileError(
            f"a row takes {row_bytes / (1 << 20):,.0f} MiB, more than the {ROW_BYTES >> 20} that a row may take; is "
            "the file damaged, or are its axes swapped?"
        )
    return max(1, min(_ROWS, int(BATCH_BYTES / max(1.0, row_bytes))))
