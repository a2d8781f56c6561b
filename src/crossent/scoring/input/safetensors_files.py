"""Tables in safetensors files: tensors (rows,) and (rows, classes) by name, mapped and read in parts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import quoted
from crossent.inputs import why_not_readable
from crossent.scoring.input.numpy_files import Head, record_batch, row_bytes
from crossent.scoring.input.reader import FileError, Portion, Reader, Selection, rows_at_a_time

_LONGEST_HEADER = 100_000_000
"""Bytes of a header, by the format's own limit."""
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "|b1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip
_SHIFT = 16  # bits between bfloat16 and float32


class _Tensor(NamedTuple):
    """Where a tensor lies in a file."""

    kind: str
    head: Head
    begin: int


def _tensors(path: Path) -> dict[str, _Tensor]:
    """Return the tensors that the header of a file describes.

    Raises
    ------
    FileError
        If the header is damaged, or speaks of bytes that the file does not have.
    """
    if reason := why_not_readable(path):
        raise FileError(f"{path} {reason}")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_LONGEST_HEADER, size - 8):
            raise FileError(f"{path} does not begin as a safetensors file does; is it damaged, or something else?")
        header = _header(file.read(length), path)
    found: dict[str, _Tensor] = {}
    for name, described in header.items():
        if name != "__metadata__":
            found[name] = _tensor(name, described, 8 + length, size)
    if not found:
        raise FileError(f"{path} holds no tensors")
    return found


def _header(data: bytes, path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        header = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: its header is not JSON ({error}); is it damaged, or something else?") from error
    if not isinstance(header, dict):
        raise FileError(f"{path}: its header is not an object; is it damaged, or something else?")
    return header


def _tensor(name: str, described: Any, begin: int, size: int) -> _Tensor:
    try:
        kind, shape, (first, end) = (described[key] for key in ("dtype", "shape", "data_offsets"))
        numbers = [*shape, first, end]
        if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"tensor {quoted(name)} has an invalid description; the file is damaged") from error
    dtype = np.dtype(_TYPES.get(kind, "u1") if isinstance(kind, str) else "u1")
    if begin + end > size or (isinstance(kind, str) and kind in _TYPES and _wrong(shape, dtype, end - first)):
        raise FileError(
            f"tensor {quoted(name)} of shape {tuple(shape)} and type {kind} does not match its bytes in the file; it "
            "is damaged"
        )
    return _Tensor(str(kind), Head(tuple(shape), dtype), begin + first)


def _wrong(shape: list[int], dtype: Any, size: int) -> bool:
    return math.prod(shape) * dtype.itemsize != size


def _columns(path: Path) -> list[str]:
    return list(_tensors(path))


def _batches(wanted: Selection) -> Iterator[Portion]:
    tensors = _tensors(wanted.path)
    chosen = {name: tensors[name] for name in wanted.names}
    for name, tensor in chosen.items():
        if tensor.kind not in _TYPES:
            raise FileError(f"tensor {quoted(name)} has type {tensor.kind}, which is not read; save it as F32")
    step = rows_at_a_time(row_bytes({name: tensor.head for name, tensor in chosen.items()}))
    arrays = {name: _mapped(wanted.path, tensor) for name, tensor in chosen.items()}
    rows = next(iter(chosen.values())).head.shape[0]
    for begin in range(0, rows, step):
        parts = {name: _floats(array[begin : begin + step], chosen[name].kind) for name, array in arrays.items()}
        yield Portion(record_batch(parts), min(rows, begin + step) / rows)


def _mapped(path: Path, tensor: _Tensor) -> Any:
    if 0 in tensor.head.shape:
        return np.empty(tensor.head.shape, tensor.head.dtype)
    return np.memmap(path, tensor.head.dtype, "r", tensor.begin, tensor.head.shape)


def _floats(array: Any, kind: str) -> Any:
    """Return rows unchanged, but bfloat16 as float32."""
    array = np.asarray(array)
    return (array.astype(np.uint32) << _SHIFT).view(np.float32) if kind == "BF16" else array


SAFETENSORS = Reader("safetensors", _columns, _batches)
