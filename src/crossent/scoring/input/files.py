"""Tables in files, a batch of rows at a time: the table of readers, and the choice among them.

The ending of a file's name chooses its reader in `READERS`; `reader.Reader` is the contract of a reader. To read a
further format, add one entry here: for values with another delimiter `text_files.delimited` makes the reader, for
anything else write one (`text_files`, `json_files`, `arrow_files` and `numpy_files` have the others).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossent.errors import Argument, Message, quoted
from crossent.inputs import why_not_readable
from crossent.scoring.input.ahead import ahead
from crossent.scoring.input.arrow_files import ARROW, PARQUET
from crossent.scoring.input.excel_files import XLSX
from crossent.scoring.input.json_files import JSONL
from crossent.scoring.input.json_tables import JSON
from crossent.scoring.input.numpy_files import NPY, NPZ
from crossent.scoring.input.output_files import OUTPUT
from crossent.scoring.input.reader import FileError, FileOptions, Portion, Reader, Selection, errors_named
from crossent.scoring.input.safetensors_files import SAFETENSORS
from crossent.scoring.input.text_files import COMPRESSION, CSV, TSV

READERS = {
    ".csv": CSV, ".tsv": TSV,
    ".parquet": PARQUET, ".pq": PARQUET,
    ".arrow": ARROW, ".arrows": ARROW, ".feather": ARROW, ".ipc": ARROW,
    ".jsonl": JSONL, ".ndjson": JSONL,
    ".json": JSON,
    ".txt": OUTPUT, ".out": OUTPUT, ".pred": OUTPUT, ".preds": OUTPUT,
    ".npz": NPZ,
    ".npy": NPY,
    ".safetensors": SAFETENSORS,
    ".xlsx": XLSX, ".xlsm": XLSX,
}  # fmt: skip
"""The reader of each ending of a file's name."""


@dataclass(frozen=True, slots=True)
class _UnreadFormat:
    """A format that no reader reads: the beginning of its files, and the fix."""

    format: str
    first_bytes: tuple[bytes, ...]
    advice: tuple[str | Argument, ...]


_UNREAD = (
    _UnreadFormat("gzip", (b"\x1f\x8b",), ("name it {path.name}.gz",)),
    _UnreadFormat("bzip2", (b"BZh",), ("name it {path.name}.bz2",)),
    _UnreadFormat("zstd", (b"\x28\xb5\x2f\xfd",), ("name it {path.name}.zst",)),
    _UnreadFormat("xz", (b"\xfd7zXZ\0",), ("name it {path.name}.xz",)),
    _UnreadFormat("feather 1", (b"FEA1",), ("write it anew as Feather 2 or parquet",)),
    _UnreadFormat("xls", (b"\xd0\xcf\x11\xe0",), ("save it as .xlsx, or as csv",)),
)
_ADVICE = {
    ".xls": "workbooks of Excel 97 are not read; save it as .xlsx, or as csv",
    ".ods": "workbooks of OpenDocument are not read; save it as .xlsx, or as csv",
    ".pkl": "pickles are never read, because they may run any code; write parquet or csv",
    ".pickle": "pickles are never read, because they may run any code; write parquet or csv",
    ".pt": "pickles of torch are never read, because they may run any code; save it as safetensors",
    ".tar": "tar archives are not read; unpack it first, and pass the folder",
    ".orc": "ORC files are not read; write parquet",
    ".avro": "Avro files are not read; write parquet",
    ".h5": "HDF5 files are not read; write parquet",
}
"""Fixes for file formats without a reader, by ending."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table in a file: its columns, and the reader of its format.

    `name` is the name in errors, and `path` the place of the file.
    """

    path: Path
    reader: Reader
    columns: tuple[str, ...]
    name: str

    def batches(self, names: Iterable[str], texts: Iterable[str]) -> Iterator[Portion]:
        """Yield record batches of the named columns, each with the share of the file that has been read.

        Columns in `texts` are read as text if the format has no types.

        Raises
        ------
        FileError
            If the file turns out not to be what its name says, or a named column occurs twice.
        """
        yield from ahead(self.portions(names, texts))

    def portions(self, names: Iterable[str], texts: Iterable[str]) -> Iterator[Portion]:
        """Yield the batches lazily."""
        wanted = Selection(self.path, self.columns, list(names), frozenset(texts))
        times = Counter(self.columns)
        for name in wanted.names:
            if times[name] > 1:
                raise FileError(f"{self.name}: the column name {quoted(name)} occurs twice")
        with errors_named(self.name, self.path):
            yield from self.reader.batches(wanted)

    @property
    def said(self) -> str:
        """A note on automatic choices, or ""."""
        return "" if self.reader.said is None else self.reader.said(self.path)

    @property
    def typed(self) -> bool:
        """Whether the file has column types, so that all rows have the same fields."""
        return self.reader.format in {"parquet", "arrow"}

    def class_names(self, label: str) -> Sequence[str] | None:
        """Return the names of the classes 0, 1, … that the file gives a column of labels; None if it gives none."""
        ask = self.reader.class_names
        with errors_named(self.name, self.path):
            return None if ask is None else ask(self.path, label)


def open_table(path: str | Path, options: FileOptions | None = None, *, name: str | None = None) -> Table:
    """Return the table in a file; the ending of its name gives its format.

    Parameters
    ----------
    path
        The file.
    options
        What the user says about it.
    name
        What errors call it: its path, by default.

    Raises
    ------
    OSError
        If the file cannot be read.
    FileError
        If no reader knows the ending of its name, or the file is of another format.
    """
    path, options = Path(path), options or FileOptions()
    name = str(path) if name is None else name
    suffixes = [suffix.lower() for suffix in path.suffixes]
    _require_file(path, name)
    with path.open("rb") as file:
        first = file.read(8)
    reader = _reader(suffixes, options.format, name)
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSION
    if compressed and not reader.compressible:
        raise FileError(f"{name}: a compressed {reader.format} file cannot be read in parts; decompress it first")
    if not compressed:
        _check_beginning(name, first, reader, options.format)
    elif suffixes[-1] == ".gz" and not first.startswith(b"\x1f\x8b"):
        _refuse_beginning(name, first, "gzip", None)
    with errors_named(name, path):
        reader = reader.with_options(options)
        columns = reader.columns(path)
    return Table(path, reader, tuple(columns), name)


def reader_of(name: str | Path, format: str | None = None) -> Reader:
    """Return the reader of a file by the ending of its name, or of the named format.

    Raises
    ------
    FileError
        If there is none.
    """
    return _reader([suffix.lower() for suffix in Path(name).suffixes], format, str(name))


def _reader(suffixes: Sequence[str], format: str | None, name: str) -> Reader:
    if format is not None:
        found = next((each for end, each in READERS.items() if format.lower() in (each.format, end[1:])), None)
        if found is None:
            known = ", ".join(dict.fromkeys(each.format for each in READERS.values()))
            raise FileError(f"format must be one of {known}; got {quoted(format)}", argument="format")
        return found
    plain = [suffix for suffix in suffixes if suffix not in COMPRESSION]
    if not plain or plain[-1] not in READERS:
        advice = _ADVICE.get(plain[-1] if plain else "")
        if advice is not None:
            raise FileError(f"{name}: {advice}")
        raise FileError(
            Message(
                f"{name}: the file name shows no known format; known are {', '.join(READERS)}; or pass ",
                Argument("format", "csv"),
            )
        )
    return READERS[plain[-1]]


def _require_file(path: Path, name: str) -> None:
    if reason := why_not_readable(path):
        raise FileError(f"{name} {reason}")


def _check_beginning(name: str, first: bytes, reader: Reader, format: str | None) -> None:
    """Raise FileError if a file begins as one of another format does, or not as it must."""
    if first.startswith(reader.first_bytes or (b"\0no file",)):
        return
    if (reader.always and reader.first_bytes) or any(first.startswith(each.first_bytes) for each in _known()):
        _refuse_beginning(name, first, reader.format, format)


def _known() -> tuple[Reader | _UnreadFormat, ...]:
    return (*READERS.values(), *_UNREAD)


def _refuse_beginning(name: str, first: bytes, wanted: str, format: str | None) -> None:
    found = next((each for each in _known() if first.startswith(each.first_bytes)), None)
    if found is None:
        raise FileError(f"{name} does not begin as a {wanted} file does; is it damaged, or something else?")
    path = Path(name)
    advice: tuple[str | Argument, ...] = (f"name it {path.stem}.{found.format}",)
    if isinstance(found, _UnreadFormat):
        advice = tuple(part.format(path=path) if isinstance(part, str) else part for part in found.advice)
    elif format is not None:
        advice = ("leave out ", Argument("format", format))
    raise FileError(Message(f"{name} is a {found.format} file by its first bytes, not {wanted}; ", *advice))
