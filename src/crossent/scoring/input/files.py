"""Tables in files, a batch of rows at a time: csv, parquet, arrow, jsonl, npy and npz."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossent.errors import one_line
from crossent.scoring.input import text_files as texts
from crossent.scoring.input.ahead import ahead
from crossent.scoring.input.labels import listing
from crossent.scoring.input.text_files import Batches, FileError

ELEMENTS = 1 << 19
"""Numbers in a batch, about."""
_KINDS = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".arrows": "arrow",
    ".feather": "arrow", ".ipc": "arrow", ".jsonl": "jsonl", ".ndjson": "jsonl", ".npz": "npz", ".npy": "npy",
}  # fmt: skip
_FIRST_BYTES = {
    b"PAR1": "parquet", b"ARROW1": "arrow", b"FEA1": "feather 1", b"PK\x03\x04": "npz", b"PK\x05\x06": "npz",
    b"\x93NUMPY": "npy", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A table in a file: its columns, and the format that it is in."""

    path: Path
    format: str
    columns: tuple[str, ...]

    def batches(self, names: Sequence[str], words: Sequence[str]) -> Batches:
        """Yield record batches of the named columns, each with the share of the file that has been read.

        Columns in `words` are read as text where the format does not say what they hold.

        Raises
        ------
        FileError
            If the file turns out not to be what it is said to be.
        """
        with _said(self.path):
            yield from ahead(_READERS[self.format](self, list(names), set(words)))


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
    plain = [suffix for suffix in suffixes if suffix not in texts.COMPRESSION]
    kind = _KINDS.get(plain[-1]) if plain else None
    with path.open("rb") as file:
        first = file.read(8)
    if kind is None:
        raise FileError(f"{path}: the name does not say what it is; known are {', '.join(_KINDS)}")
    packed = suffixes[-1] != plain[-1]
    if packed and kind not in {"csv", "jsonl"}:
        raise FileError(f"{path}: a compressed {kind} file cannot be read in parts; decompress it first")
    if not first:
        raise FileError(f"{path} is empty")
    _check_first(path, first, "gzip" if suffixes[-1] == ".gz" else None if packed else kind)
    with _said(path):
        columns = _COLUMNS[kind](path)
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            raise FileError(f"{path}: the column name {name!r} occurs twice")
        seen.add(name)
    return Table(path, kind, tuple(columns))


def _check_first(path: Path, first: bytes, kind: str | None) -> None:
    """Raise FileError if the first bytes are those of another kind of file."""
    found = next((name for start, name in _FIRST_BYTES.items() if first.startswith(start)), None)
    binary = {"parquet", "npz", "npy", "gzip"}
    if kind is None or found == kind or (found is None and kind not in binary):
        return
    if found is None:
        raise FileError(f"{path} does not begin as a {kind} file does; is it damaged, or something else?")
    advice = {
        "UTF-16": "save it as UTF-8", "feather 1": "write it anew as Feather 2 or parquet",
        "gzip": f"name it {path.name}.gz", "bzip2": f"name it {path.name}.bz2", "zstd": f"name it {path.name}.zst",
    }.get(found, f"name it {path.stem}.{found}")  # fmt: skip
    raise FileError(f"{path} is a {found} file by its first bytes, not {kind}; {advice}")


@contextmanager
def _said(path: Path) -> Generator[None, None, None]:
    """Turn whatever a reader raises into one line that names the file."""
    import pyarrow as pa

    broken = (pa.ArrowException, zipfile.BadZipFile, zlib.error, struct.error, EOFError, MemoryError, RuntimeError)
    try:
        yield
    except FileError:
        raise
    except (*broken, OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        text = one_line(" ".join(str(error).split())) or type(error).__name__
        raise FileError(f"{path}: {text[:300]}") from error


def _rows(width: int) -> int:
    return max(1, min(1 << 16, ELEMENTS // max(1, width)))


def _width(batch: Any) -> int:
    """Return how many numbers the first row of a record batch has."""
    values = (column[0].as_py() for column in batch.columns) if len(batch) else ()
    return sum(len(value) if isinstance(value, list) else 1 for value in values)


# parquet and arrow


def _parquet_columns(path: Path) -> list[str]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.schema_arrow.names


def _parquet_batches(table: Table, names: list[str], _: set[str]) -> Batches:
    from pyarrow import parquet

    done = 0
    with parquet.ParquetFile(table.path, pre_buffer=False, buffer_size=1 << 15) as file:
        first = next(file.iter_batches(1, columns=names), None)
        if first is None:
            return
        for batch in file.iter_batches(_rows(_width(first)), columns=names):
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


def _arrow_batches(table: Table, names: list[str], _: set[str]) -> Batches:
    import pyarrow as pa

    size = table.path.stat().st_size
    with pa.memory_map(str(table.path)) as file:
        reader = _arrow(file)
        whole = getattr(reader, "num_record_batches", None)
        numbered = reader if whole is None else (reader.get_batch(k) for k in range(whole))
        for k, batch in enumerate(numbered, 1):
            chosen = batch.select(names)
            chosen.validate(full=True)  # offsets of a damaged file may point anywhere
            step = _rows(_width(chosen))
            for begin in range(0, len(chosen), step):
                yield chosen.slice(begin, step), file.tell() / size if whole is None else k / whole


# npy and npz


def _numpy(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _npy_columns(path: Path) -> list[str]:
    fields = _numpy(path).dtype.names
    return list(fields) if fields else [path.stem, *sorted(p.stem for p in path.parent.glob("*.npy") if p != path)]


def _npy_batches(table: Table, names: list[str], _: set[str]) -> Batches:
    array = _numpy(table.path)
    if array.dtype.names:
        arrays = {name: array[name] for name in names}
    else:
        arrays = {name: _numpy(table.path.with_name(f"{name}.npy")) for name in names}
    width = _checked({name: (array.shape, array.dtype) for name, array in arrays.items()})
    rows, step = len(next(iter(arrays.values()))), _rows(width)
    for begin in range(0, rows, step):
        yield _batch({name: array[begin : begin + step] for name, array in arrays.items()}), min(1, begin + step) / rows


def _npz_columns(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        return [name.removesuffix(".npy") for name in file.namelist()]


def _npz_batches(table: Table, names: list[str], _: set[str]) -> Batches:
    with zipfile.ZipFile(table.path) as whole, ExitStack() as opened:
        there = whole.namelist()
        files = {
            name: opened.enter_context(whole.open(f"{name}.npy" if f"{name}.npy" in there else name)) for name in names
        }
        heads = {name: _npy_head(file, name) for name, file in files.items()}
        width = _checked({name: (shape, dtype) for name, (shape, dtype) in heads.items()})
        rows, step = next(iter(heads.values()))[0][0], _rows(width)
        for begin in range(0, rows, step):
            count = min(step, rows - begin)
            yield _batch({name: _read(files[name], *heads[name], count) for name in names}), (begin + count) / rows


def _npy_head(file: Any, name: str) -> tuple[tuple[int, ...], Any]:
    """Return shape and dtype of an array in a zip file, which is read row by row after that."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise FileError(f"array {name!r} is in Fortran's order, which cannot be read in parts; save it with order C")
    return shape, dtype


def _read(file: Any, shape: tuple[int, ...], dtype: Any, count: int) -> Any:
    row = int(np.prod(shape[1:], dtype=np.int64))
    data = file.read(count * row * dtype.itemsize)
    return np.frombuffer(data, dtype, count * row).reshape(count, *shape[1:])


def _checked(arrays: dict[str, tuple[tuple[int, ...], Any]]) -> int:
    """Return how many numbers a row has.

    Raises
    ------
    FileError
        If the arrays are no columns of one table.
    """
    for name, (shape, dtype) in arrays.items():
        if dtype.kind not in "biufU":
            what = "Python objects, which are never read" if dtype.hasobject else f"{dtype}, not numbers or text"
            raise FileError(f"array {name!r} holds {what}")
        if len(shape) not in {1, 2}:
            raise FileError(f"array {name!r} has shape {shape}; it must be (rows,) or (rows, classes)")
    lengths = {name: shape[0] for name, (shape, _) in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise FileError(f"the arrays differ in length: {listing(list(lengths.items()))}")
    return sum(1 if len(shape) == 1 else shape[1] for shape, _ in arrays.values())


def _batch(parts: dict[str, Any]) -> Any:
    import pyarrow as pa

    columns = [
        pa.array(part) if part.ndim == 1 else pa.FixedSizeListArray.from_arrays(part.reshape(-1), part.shape[1])
        for part in (
            part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("=")) for part in parts.values()
        )
    ]
    return pa.RecordBatch.from_arrays(columns, names=list(parts))


_COLUMNS: dict[str, Callable[[Path], list[str]]] = {
    "csv": texts.csv_columns, "parquet": _parquet_columns, "arrow": _arrow_columns, "jsonl": texts.jsonl_columns,
    "npy": _npy_columns, "npz": _npz_columns,
}  # fmt: skip
_READERS: dict[str, Callable[[Table, list[str], set[str]], Iterator[tuple[Any, float]]]] = {
    "csv": texts.csv_batches, "parquet": _parquet_batches, "arrow": _arrow_batches, "jsonl": texts.jsonl_batches,
    "npy": _npy_batches, "npz": _npz_batches,
}  # fmt: skip
