"""Tables in files, a batch of rows at a time: csv, parquet, arrow, jsonl, npy and npz."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossent.score._labels import listing

ELEMENTS = 1 << 20
"""Numbers in a batch, about."""
LONGEST = 1 << 24
"""Bytes in a line of jsonl at most."""
_KINDS = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow",
    ".ipc": "arrow", ".jsonl": "jsonl", ".ndjson": "jsonl", ".npz": "npz", ".npy": "npy",
}  # fmt: skip


class FileError(ValueError):
    """A file that cannot be read as what it is said to be."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table in a file: its columns, and the format that it is in."""

    path: Path
    format: str
    columns: tuple[str, ...]

    def batches(self, names: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[Any, float]]:
        """Yield record batches of the named columns, each with the share of the file that has been read.

        Columns in `texts` are read as text where the format does not say what they hold.

        Raises
        ------
        FileError
            If the file turns out not to be what it is said to be.
        """
        with _said(self.path):
            yield from _ahead(_READERS[self.format](self, list(names), set(texts)))


def open_table(path: str | Path) -> Table:
    """Return the table in a file; its format follows from the name.

    Raises
    ------
    OSError
        If the file cannot be read.
    FileError
        If its name does not say what it is, or it is not that.
    """
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    plain = [suffix for suffix in suffixes if suffix not in {".gz", ".bz2", ".zst", ".lz4"}]
    kind = _KINDS.get(plain[-1]) if plain else None
    if kind is None:
        raise FileError(f"{path}: the name does not say what it is; known are {', '.join(_KINDS)}")
    if suffixes[-1] != plain[-1] and kind not in {"csv", "jsonl"}:
        raise FileError(f"{path}: a compressed {kind} file cannot be read in parts; decompress it first")
    with path.open("rb") as file:
        if not file.read(1):
            raise FileError(f"{path} is empty")
    with _said(path):
        columns = _COLUMNS[kind](path)
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise FileError(f"{path}: the column name {twice!r} occurs twice")
    return Table(path, kind, tuple(columns))


def _ahead(batches: Iterator[tuple[Any, float]]) -> Iterator[tuple[Any, float]]:
    """Read the next batch while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


@contextmanager
def _said(path: Path) -> Generator[None, None, None]:
    """Turn whatever a reader raises into one line that names the file."""
    import pyarrow as pa

    try:
        yield
    except FileError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, UnicodeError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: {text[:300]}") from error


def _rows(columns: int) -> int:
    return max(1024, min(1 << 16, ELEMENTS // max(1, columns)))


# csv


def _delimiter(path: Path) -> str:
    return "\t" if ".tsv" in path.suffixes else ","


def _csv(path: Path, file: Any, **convert: Any) -> Any:
    from pyarrow import csv

    return csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=1 << 22),
        parse_options=csv.ParseOptions(delimiter=_delimiter(path)),
        convert_options=csv.ConvertOptions(**convert),
    )


def _csv_columns(path: Path) -> list[str]:
    import pyarrow as pa

    with pa.input_stream(str(path)) as file:
        return _csv(path, file).schema.names


def _csv_batches(table: Table, names: list[str], texts: set[str]) -> Iterator[tuple[Any, float]]:
    import pyarrow as pa

    types = {name: pa.string() if name in texts else pa.float64() for name in names}
    size = table.path.stat().st_size
    with table.path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), _compression(table.path)) as file:
        try:
            options = {"include_columns": names, "column_types": types, "strings_can_be_null": True}
            for batch in _csv(table.path, file, **options):
                yield batch, raw.tell() / size
        except pa.ArrowInvalid as error:  # which counts the columns that are read
            named = re.sub(r"CSV column #(\d+)", lambda found: f"column {names[int(found[1])]!r}", str(error))
            raise FileError(f"{table.path}: {' '.join(named.split())}") from error


def _compression(path: Path) -> str | None:
    return {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}.get(path.suffix.lower())


# jsonl


def _jsonl_columns(path: Path) -> list[str]:
    return list(_first_object(path))


def _first_object(path: Path) -> dict[str, Any]:
    import pyarrow as pa

    with pa.input_stream(str(path), compression=_compression(path)) as file:
        line = file.read(LONGEST).split(b"\n", 1)[0]
    try:
        found = json.loads(line)
    except ValueError as error:
        raise FileError(f"{path}, line 1: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise FileError(f"{path}, line 1: not an object with a value for each column, but {type(found).__name__}")
    return {str(name): value for name, value in found.items()}


def _jsonl_batches(table: Table, names: list[str], texts: set[str]) -> Iterator[tuple[Any, float]]:
    import pyarrow as pa
    from pyarrow import json as reader

    first = _first_object(table.path)
    fields: list[Any] = []
    for name in names:
        value = first.get(name)
        if name in texts:
            kind = pa.int64() if isinstance(value, int) and not isinstance(value, bool) else None
            kind = pa.bool_() if isinstance(value, bool) else pa.float64() if isinstance(value, float) else kind
            fields.append(pa.field(name, kind or pa.string()))
        else:
            fields.append(pa.field(name, pa.list_(pa.float64()) if isinstance(value, list) else pa.float64()))
    options = reader.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    size = table.path.stat().st_size
    with table.path.open("rb") as raw, pa.input_stream(pa.PythonFile(raw), _compression(table.path)) as file:
        stream = reader.open_json(file, reader.ReadOptions(block_size=LONGEST), options)
        for batch in stream:
            yield batch, raw.tell() / size


# parquet and arrow


def _parquet_columns(path: Path) -> list[str]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.schema_arrow.names


def _parquet_batches(table: Table, names: list[str], _: set[str]) -> Iterator[tuple[Any, float]]:
    from pyarrow import parquet

    done = 0
    with parquet.ParquetFile(table.path, pre_buffer=False, buffer_size=1 << 15) as file:
        for batch in file.iter_batches(_rows(len(names)), columns=names):
            done += len(batch)
            yield batch, done / file.metadata.num_rows


def _arrow(file: Any) -> Any:
    import pyarrow as pa

    head = file.read(6)
    file.seek(0)
    return pa.ipc.open_file(file) if head == b"ARROW1" else pa.ipc.open_stream(file)


def _arrow_columns(path: Path) -> list[str]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return _arrow(file).schema.names


def _arrow_batches(table: Table, names: list[str], _: set[str]) -> Iterator[tuple[Any, float]]:
    import pyarrow as pa

    size = table.path.stat().st_size
    with pa.memory_map(str(table.path)) as file:
        reader = _arrow(file)
        whole = getattr(reader, "num_record_batches", None)
        numbered = reader if whole is None else (reader.get_batch(k) for k in range(whole))
        for k, batch in enumerate(numbered, 1):
            batch.validate(full=True)
            chosen = batch.select(names)
            step = _rows(len(names))
            for begin in range(0, len(chosen), step):
                yield chosen.slice(begin, step), file.tell() / size if whole is None else k / whole


# npy and npz


def _npy_columns(path: Path) -> list[str]:
    _numpy(path)  # the arrays beside it are its columns
    return [path.stem, *sorted(other.stem for other in path.parent.glob("*.npy") if other != path)]


def _numpy(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _npz_columns(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as file:
        return list(file.files)


def _npz_batches(table: Table, names: list[str], _: set[str]) -> Iterator[tuple[Any, float]]:
    with np.load(table.path, allow_pickle=False) as file:
        yield from _sliced({name: file[name] for name in names})


def _npy_batches(table: Table, names: list[str], _: set[str]) -> Iterator[tuple[Any, float]]:
    yield from _sliced({name: _numpy(table.path.with_name(f"{name}.npy")) for name in names})


def _sliced(arrays: dict[str, Any]) -> Iterator[tuple[Any, float]]:
    import pyarrow as pa

    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise FileError(f"the arrays differ in length: {listing(list(lengths.items()))}")
    rows, step = next(iter(lengths.values())), _rows(max(array[:1].size for array in arrays.values()))
    for begin in range(0, rows, step):
        parts = {name: array[begin : begin + step] for name, array in arrays.items()}
        columns = [
            pa.array(part) if part.ndim == 1 else pa.FixedSizeListArray.from_arrays(part.reshape(-1), part[:1].size)
            for part in parts.values()
        ]
        yield pa.RecordBatch.from_arrays(columns, names=list(parts)), min(1.0, (begin + step) / rows)


_COLUMNS = {
    "csv": _csv_columns, "parquet": _parquet_columns, "arrow": _arrow_columns, "jsonl": _jsonl_columns,
    "npy": _npy_columns, "npz": _npz_columns,
}  # fmt: skip
_READERS = {
    "csv": _csv_batches, "parquet": _parquet_batches, "arrow": _arrow_batches, "jsonl": _jsonl_batches,
    "npy": _npy_batches, "npz": _npz_batches,
}  # fmt: skip
