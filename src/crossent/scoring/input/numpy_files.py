"""Tables in files of NumPy: npz archives, and npy files with named fields or with the other columns beside them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import quoted
from crossent.inputs import why_not_readable
from crossent.scoring.input.labels import listing
from crossent.scoring.input.reader import FileError, Portion, Reader, Selection, rows_at_a_time

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_LONGEST_HEAD = 1 << 20


class Head(NamedTuple):
    """Shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: Any


def _mapped(path: Path) -> Any:
    if reason := why_not_readable(path):
        raise FileError(f"{path} {reason}")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _npy_columns(path: Path) -> list[str]:
    fields = _mapped(path).dtype.names
    return list(fields) if fields else [path.stem, *sorted(p.stem for p in path.parent.glob("*.npy") if p != path)]


def _npy_batches(wanted: Selection) -> Iterator[Portion]:
    array = _mapped(wanted.path)
    if array.dtype.names:
        arrays = {name: array[name] for name in wanted.names}
    else:
        arrays = {name: _mapped(wanted.path.with_name(f"{name}.npy")) for name in wanted.names}
    step = rows_at_a_time(row_bytes({name: Head(array.shape, array.dtype) for name, array in arrays.items()}))
    rows = len(next(iter(arrays.values())))
    for begin in range(0, rows, step):
        batch = record_batch({name: array[begin : begin + step] for name, array in arrays.items()})
        yield Portion(batch, min(1, begin + step) / rows)


def _npz_columns(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        return [name.removesuffix(".npy") for name in file.namelist()]


def _npz_batches(wanted: Selection) -> Iterator[Portion]:
    with zipfile.ZipFile(wanted.path) as archive, ExitStack() as opened:
        files = {name: opened.enter_context(_member(archive, name)) for name in wanted.names}
        heads = {name: _head(file, name) for name, file in files.items()}
        step = rows_at_a_time(row_bytes(heads))
        for name, head in heads.items():
            _require_whole(archive.getinfo(files[name].name), head, name)
        rows = next(iter(heads.values())).shape[0]
        for begin in range(0, rows, step):
            count = min(step, rows - begin)
            batch = record_batch({name: _read(files[name], heads[name], count) for name in wanted.names})
            yield Portion(batch, (begin + count) / rows)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    """Return an array's file in an archive, to be read in parts."""
    members = archive.NameToInfo
    info = members[f"{name}.npy" if f"{name}.npy" in members else name]
    if info.compress_type not in _METHODS:
        raise FileError(
            f"array {quoted(name)} is compressed by zip's method {info.compress_type}, which cannot be read in parts; "
            "save it by np.savez_compressed"
        )
    return archive.open(info)


def _require_whole(info: zipfile.ZipInfo, head: Head, name: str) -> None:
    """Raise FileError unless an archive holds the bytes of the array's shape."""
    size = math.prod(head.shape) * head.dtype.itemsize
    if not size <= info.file_size <= size + _LONGEST_HEAD:
        raise FileError(
            f"array {quoted(name)} of shape {head.shape} takes {size:,} bytes and the archive holds "
            f"{info.file_size:,}; the file is damaged"
        )


def _head(file: Any, name: str) -> Head:
    """Return shape and type of an array in an archive, whose rows can be read one after the other from then on."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise FileError(
            f"array {quoted(name)} is in Fortran's order, which cannot be read in parts; save it with order C"
        )
    return Head(shape, dtype)


def _read(file: Any, head: Head, count: int) -> Any:
    """Return the next rows of an array in an archive."""
    size = count * math.prod(head.shape[1:])
    data = file.read(size * head.dtype.itemsize)
    return np.frombuffer(data, head.dtype, size).reshape(count, *head.shape[1:])


def row_bytes(heads: Mapping[str, Head]) -> int:
    """Return how many bytes a row takes.

    Raises
    ------
    FileError
        If the arrays are not columns of one table.
    """
    for name, (shape, dtype) in heads.items():
        if dtype.kind not in "biufUSMm":
            what = "Python objects, which are never read" if dtype.hasobject else f"{dtype}, not numbers or text"
            raise FileError(f"array {quoted(name)} holds {what}")
        if min(shape, default=0) < 0:
            raise FileError(f"array {quoted(name)} has shape {shape}; the file is damaged")
        if len(shape) not in {1, 2} or shape[1:] == (0,):
            raise FileError(f"array {quoted(name)} has shape {shape}; it must be (rows,) or (rows, classes)")
    lengths = {name: head.shape[0] for name, head in heads.items()}
    if len(set(lengths.values())) > 1:
        raise FileError(f"the arrays differ in length: {listing(list(lengths.items()))}")
    return sum(math.prod(head.shape[1:]) * head.dtype.itemsize for head in heads.values())


def record_batch(arrays: Mapping[str, Any]) -> Any:
    """Return arrays (n,) and (n, V) as a record batch."""
    import pyarrow as pa

    columns: list[Any] = []
    for part in arrays.values():
        flat = _column(part.reshape(-1))
        columns.append(flat if part.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, part.shape[1]))
    return pa.RecordBatch.from_arrays(columns, names=list(arrays))


def _column(vector: Any) -> Any:
    """Return a vector as a column of pyarrow, which has fewer types."""
    import pyarrow as pa

    native = vector if vector.dtype.isnative else vector.astype(vector.dtype.newbyteorder("="))
    if native.dtype.kind in "Mm":
        return _moments(native)
    return pa.array(native if native.dtype.char != "g" else native.astype(np.float64))


def _moments(vector: Any) -> Any:
    """Return datetime64 or timedelta64 as moments of pyarrow, or as text if it has none."""
    import pyarrow as pa

    kind, (unit, _) = vector.dtype.kind, np.datetime_data(vector.dtype)
    if unit == "D" and kind == "M" and (np.abs(vector.astype(np.int64)) < 2**31).all():
        return pa.array(vector)
    near = {"ms": "ms", "us": "us", "ns": "ns", "ps": "us", "fs": "us", "as": "us"}.get(unit, "s")
    if not (kind == "m" and unit in ("Y", "M")):  # which have no fixed length
        moments = vector.astype(f"{kind}8[{near}]")
        if ((moments.astype(vector.dtype) == vector) | np.isnat(vector)).all():
            return pa.array(moments)
    return pa.array([None if np.isnat(value) else str(value).replace("T", " ") for value in vector], pa.string())


NPY = Reader("npy", _npy_columns, _npy_batches, (b"\x93NUMPY",))
NPZ = Reader("npz", _npz_columns, _npz_batches, (b"PK\x03\x04", b"PK\x05\x06"))
