"""Tables in files, a batch of rows at a time: the table of readers, and the choice among them.

The ending of a file's name chooses its reader in `READERS`; `reader.Reader` is the contract of a reader. To read a
further format, add one entry here: for values with another delimiter `text_files.delimited` makes the reader, for
anything else write one (`text_files`, `json_files`, `arrow_files` and `numpy_files` have the others).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossent.errors import one_line, quoted
from crossent.inputs import why_not_readable
from crossent.scoring.input.ahead import ahead
from crossent.scoring.input.arrow_files import ARROW, PARQUET
from crossent.scoring.input.json_files import JSONL
from crossent.scoring.input.json_tables import JSON
from crossent.scoring.input.numpy_files import NPY, NPZ
from crossent.scoring.input.reader import FileError, Portion, Reader, Selection
from crossent.scoring.input.text_files import COMPRESSION, CSV, TSV

READERS = {
    ".csv": CSV, ".tsv": TSV,
    ".parquet": PARQUET, ".pq": PARQUET,
    ".arrow": ARROW, ".arrows": ARROW, ".feather": ARROW, ".ipc": ARROW,
    ".jsonl": JSONL, ".ndjson": JSONL,
    ".json": JSON,
    ".npz": NPZ,
    ".npy": NPY,
}  # fmt: skip
"""The reader of each ending of a file's name."""


@dataclass(frozen=True, slots=True)
class _UnreadFormat:
    """A format that no reader reads: how its files begin, and what to do with them."""

    format: str
    first_bytes: tuple[bytes, ...]
    advice: str


_UNREAD = (
    _UnreadFormat("gzip", (b"\x1f\x8b",), "name it {path.name}.gz"),
    _UnreadFormat("bzip2", (b"BZh",), "name it {path.name}.bz2"),
    _UnreadFormat("zstd", (b"\x28\xb5\x2f\xfd",), "name it {path.name}.zst"),
    _UnreadFormat("feather 1", (b"FEA1",), "write it anew as Feather 2 or parquet"),
    _UnreadFormat("UTF-16", (b"\xff\xfe", b"\xfe\xff"), "save it as UTF-8"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table in a file: its columns, and the reader of its format."""

    path: Path
    reader: Reader
    columns: tuple[str, ...]

    def batches(self, names: Iterable[str], texts: Iterable[str]) -> Iterator[Portion]:
        """Yield record batches of the named columns, each with the share of the file that has been read.

        Columns in `texts` are read as text where the format does not say what they hold.

        Raises
        ------
        FileError
            If the file turns out not to be what its name says, or a named column occurs twice.
        """
        wanted = Selection(self.path, self.columns, list(names), frozenset(texts))
        for name in wanted.names:
            if self.columns.count(name) > 1:
                raise FileError(f"{self.path}: the column name {quoted(name)} occurs twice")
        with _errors_named(self.path):
            yield from ahead(self.reader.batches(wanted))

    def class_names(self, label: str) -> Sequence[str] | None:
        """Return the names of the classes 0, 1, … that the file gives a column of labels; None if it gives none."""
        ask = self.reader.class_names
        with _errors_named(self.path):
            return None if ask is None else ask(self.path, label)


def open_table(path: str | Path) -> Table:
    """Return the table in a file; the ending of its name says its format.

    Raises
    ------
    OSError
        If the file cannot be read.
    FileError
        If no reader knows the ending of its name, or the file is of another format.
    """
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    plain = [suffix for suffix in suffixes if suffix not in COMPRESSION]
    _require_file(path)
    with path.open("rb") as file:
        first = file.read(8)
    if not plain or plain[-1] not in READERS:
        raise FileError(f"{path}: the name does not say what it is; known are {', '.join(READERS)}")
    reader, compressed = READERS[plain[-1]], suffixes[-1] != plain[-1]
    if compressed and not reader.compressible:
        raise FileError(f"{path}: a compressed {reader.format} file cannot be read in parts; decompress it first")
    if not compressed:
        _check_beginning(path, first, reader.format, always=reader.always and bool(reader.first_bytes))
    elif suffixes[-1] == ".gz":
        _check_beginning(path, first, "gzip", always=True)
    with _errors_named(path):
        columns = reader.columns(path)
    return Table(path, reader, tuple(columns))


def _require_file(path: Path) -> None:
    if str(path) == "-":
        raise FileError("- is standard input, whose format no name says; write it to a file first")
    if reason := why_not_readable(path):
        raise FileError(f"{path} {reason}")


def _check_beginning(path: Path, first: bytes, wanted: str, *, always: bool) -> None:
    """Raise FileError if a file begins as one of another format does, or not as it must."""
    known = (*READERS.values(), *_UNREAD)
    found = next((each for each in known if first.startswith(each.first_bytes)), None)
    if found is None and always:
        raise FileError(f"{path} does not begin as a {wanted} file does; is it damaged, or something else?")
    if found is None or found.format == wanted:
        return
    advice = (
        found.advice.format(path=path) if isinstance(found, _UnreadFormat) else f"name it {path.stem}.{found.format}"
    )
    raise FileError(f"{path} is a {found.format} file by its first bytes, not {wanted}; {advice}")


@contextmanager
def _errors_named(path: Path) -> Generator[None, None, None]:
    """Turn whatever a reader raises into a FileError of one line that names the file."""
    try:
        yield
    except MemoryError:  # the command knows its limit
        raise
    except FileError as error:
        if str(path) in str(error):
            raise
        raise FileError(f"{path}: {error}") from error
    except Exception as error:  # of pyarrow, NumPy, zipfile and what these use: a damaged file may raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise
        text = one_line(" ".join(str(error).split())) or type(error).__name__
        raise FileError(f"{path}: {text[:300]}") from error
