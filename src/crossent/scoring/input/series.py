"""One column of any library: NumPy, torch, pandas, polars, pyarrow, narwhals, or Python's own values.

Values that pyarrow can hold without loss take the way of files (`arrow`), so that a frame and a file with the same
values have the same labels, slices and ids. Arrays of NumPy and torch stay arrays; other values are converted one by
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from crossent.errors import InputError, InputTypeError, quoted
from crossent.scoring.input.arrow import coded, names_of_rows
from crossent.scoring.input.arrow_numbers import numbers
from crossent.scoring.input.arrow_values import whole
from crossent.scoring.input.labels import Coded
from crossent.scoring.input.plain import ALREADY_PLAIN, is_plain, missing, plain
from crossent.scoring.input.tensors import from_tensor, is_tensor


def code(values: Any, argument: str, of: object = None) -> Coded:
    """Return any column of values as codes; NaN and everything else that is missing are one value, None.

    Parameters
    ----------
    values
        The column, (N,) or (N, 1).
    argument, of
        Name of the argument, and of the column in it if it has several, for errors.

    Raises
    ------
    InputError
        If it has several columns, masked values, or rows that hold several values.
    """
    if isinstance(values, Coded):
        return values
    called = _called(argument, of)
    array = as_arrow(values)
    if array is not None:
        found = coded(array, called, argument)
        return found if isinstance(found, Coded) else _code_integers(found)
    vector = as_vector(values, argument, of)
    if vector.dtype.kind in "iub":
        return _code_integers(vector)
    if vector.dtype.kind in "fmM":
        known, codes = np.unique(vector, return_inverse=True)
        return Coded(codes.reshape(-1), [plain(value) for value in known])
    place: dict[Any, int] = {}
    items = _plain_items(vector, called, argument)
    codes = np.fromiter((place.setdefault(item, len(place)) for item in items), np.int64, len(items))
    return Coded(codes, list(place))


def as_ids(values: Any) -> Any:
    """Return the argument `id` as a vector: integers stay, other values become plain ones."""
    array = as_arrow(values)
    if array is not None:
        return names_of_rows(array, "id", "id")
    vector = as_vector(values, "id")
    if vector.dtype.kind in "iu":
        return vector
    return objects(_plain_items(vector, "id", "id"))


def as_list(values: Any) -> Any:
    """Return a column of a library as a list of plain values, for arguments that are lists; anything else as it is."""
    array = as_arrow(values)
    if array is not None:
        return names_of_rows(array, "the list", "").tolist()
    if not _is_of_numpy(values) or len(np.shape(values)) != 1:
        return values
    return _plain_items(np.asarray(values), "the list", "")


def as_numbers(values: Any, argument: str, of: object = None) -> Any:
    """Return one column of numbers, (N,), as a vector of NumPy; missing ones are NaN. Arguments are those of `code`.

    Raises
    ------
    InputError, InputTypeError
        If it has several columns, masked values, or something else than numbers.
    """
    array, called = as_arrow(values), _called(argument, of)
    vector = as_vector(values if array is None else numbers([array], [called]), argument, of)
    found = numbers_of_objects(vector) if vector.dtype.kind == "O" else vector
    if found is None or found.dtype.kind not in "iubf":
        raise InputTypeError(f"{called} must hold numbers, got dtype {vector.dtype}", argument=argument)
    return found


def numbers_of_objects(array: Any) -> Any | None:
    """Return an array of Python's objects as float64 if all are numbers or missing, else None."""
    flat = [_number(item) for item in array.reshape(-1).tolist()]
    return None if any(number is None for number in flat) else np.array(flat, np.float64).reshape(array.shape)


def as_arrow(values: Any) -> Any | None:
    """Return a column as one array of pyarrow, None if it is of NumPy, or pyarrow cannot hold it without loss."""
    values = _only_column(values)
    if _is_of_numpy(values) or str(getattr(values, "dtype", "")) == "Object":  # polars passes addresses of these
        return None
    if not any(hasattr(values, f"__arrow_{way}__") for way in ("c_stream", "c_array", "array")):
        return None
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return whole(values)
    try:
        array = whole(pa.chunked_array(values) if hasattr(values, "__arrow_c_stream__") else pa.array(values))
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError):
        return None
    foreign = isinstance(array.type, pa.BaseExtensionType) and not array.type.extension_name.startswith("arrow.")
    return None if foreign else array  # the storage of pandas's periods, for one, is numbers


def as_vector(values: Any, argument: str, of: object = None) -> Any:
    """Return one column as a vector of NumPy; arguments and errors are those of `code`."""
    values, name = _only_column(values), _called(argument, of)
    if is_tensor(values):
        tensor = from_tensor(values, name, argument)
        values = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    elif hasattr(values, "to_list") and not _is_of_numpy(values) and not hasattr(values, "columns"):
        values = objects(values.to_list())
    if np.ma.is_masked(values):
        raise InputError(f"{name} is a masked array with masked values; drop these rows first", argument=argument)
    try:
        vector = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"{name} must hold one value per row ({error})", argument=argument) from error
    if vector.ndim == 2 and vector.shape[1] == 1:
        return vector[:, 0]
    if vector.ndim != 1:
        raise InputError(f"{name} must be a single column, got shape {vector.shape}", argument=argument)
    mixed = (
        isinstance(values, list | tuple) and vector.dtype.kind in "SU"
    )  # NumPy turns values next to texts into texts
    return objects(values) if mixed else vector


def objects(items: Sequence[Any]) -> Any:
    """Return any Python objects as a vector of NumPy."""
    return np.fromiter(items, object, len(items))


def _called(argument: str, of: object) -> str:
    return argument if of is None else f"{argument} {quoted(of)}"


def _is_of_numpy(values: Any) -> bool:
    return isinstance(getattr(values, "dtype", None), np.dtype)


def _only_column(values: Any) -> Any:
    """Return the only column of a frame, a column of narwhals in its own library, and other values unchanged."""
    if hasattr(values, "to_native"):
        values = values.to_native()
    if not hasattr(values, "columns"):
        return values
    if hasattr(values, "schema") and hasattr(values, "num_columns"):  # of pyarrow
        return values.column(0) if values.num_columns == 1 else values
    names = list(values.columns)
    return values[names[0]] if len(names) == 1 else values


def _plain_items(vector: Any, called: str, argument: str) -> list[Any]:
    """Return the values of a vector as plain ones."""
    scalars = vector.dtype.kind in "mM" or vector.dtype in (
        np.float16,
        np.float32,
    )  # tolist changes these values
    items = list(vector) if scalars else vector.tolist()
    if ALREADY_PLAIN.issuperset(map(type, items)):
        return items
    for row, item in enumerate(items):
        items[row] = found = plain(item)
        if not is_plain(found):
            kind = type(found).__name__
            raise InputError(f"{called} must hold one value per row, got a {kind} in row {row}", argument=argument)
    return items


def _number(item: Any) -> float | None:
    if missing(item):
        return math.nan
    return float(item) if isinstance(item, Real | Decimal | np.bool_) else None


def _code_integers(vector: Any) -> Coded:
    if len(vector) == 0:
        return Coded(np.empty(0, np.int64), [])
    low, high = int(vector.min()), int(vector.max())
    if vector.dtype.kind == "b" or high - low > 4 * len(vector) + 1024 or high >= 2**63:
        known, codes = np.unique(vector, return_inverse=True)
        return Coded(codes.reshape(-1), known.tolist())
    codes = vector.astype(np.int64) - low  # as np.unique would, without sorting
    present = np.bincount(codes) > 0
    if not present.all():
        codes = (np.cumsum(present) - 1)[codes]
    return Coded(codes, (np.flatnonzero(present) + low).tolist())
