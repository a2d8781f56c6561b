"""The contract of a reader of a file format: its request, its batches, and its errors.

`files.READERS` is the table of all readers. To add a format, write two functions, make a `Reader` of them, and add one
entry to that table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from crossent.errors import InputError

BATCH_BYTES = 1 << 22
"""Bytes of a batch, about."""
ROW_BYTES = 1 << 26
"""Bytes of a row at most."""
_ROWS = 1 << 16


class FileError(InputError):
    """A file that is not what its name says, or that cannot be read in parts."""


class Portion(NamedTuple):
    """Consecutive rows of a table, a `pyarrow.RecordBatch`, and the share of the file that has been read by then."""

    batch: Any
    done: float


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
        Those of `names` that hold labels and not numbers. Where the format does not say what a column holds, these are
        read as text, and the others as numbers.
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
        `rows_at_a_time` says how many rows that is. Missing numbers are null or NaN; a column may hold lists of numbers
        of equal length, one number for each class.
    first_bytes
        What files of the format begin with; () if that is not known.
    always
        Whether every file of the format begins so. Else a file may have any other beginning that is of no known format.
    compressible
        Whether `columns` and `batches` read files compressed by gzip, bzip2, zstd and lz4 too.
    class_names
        Function of a path and a column of labels: returns the names of the classes 0, 1, … by what the file says about
        the column, None if it says nothing. By default no file does.

    Notes
    -----
    Both functions import what they need when they are called, and raise `FileError` for a file that they refuse. Errors
    of pyarrow, NumPy and zipfile may pass: `files` turns them into a `FileError` of one line that names the file.
    """

    format: str
    columns: Callable[[Path], Sequence[str]]
    batches: Callable[[Selection], Iterator[Portion]]
    first_bytes: tuple[bytes, ...] = ()
    always: bool = True
    compressible: bool = False
    class_names: Callable[[Path, str], Sequence[str] | None] | None = None


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
