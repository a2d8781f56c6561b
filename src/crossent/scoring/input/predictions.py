"""Predictions of any library as an array (N, V) that the core reads, and the names of their columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.errors import InputError, InputTypeError
from crossent.scoring.input.arrow import Matrix, column_names, from_arrow
from crossent.scoring.input.tensors import from_tensor, is_tensor


def matrix(values: Any, kind: str) -> Matrix:
    """Return predictions of NumPy, torch, pandas, polars or pyarrow as numbers that the core reads.

    Parameters
    ----------
    values
        Predictions, (N, V), or (N,) or (N, 1) for the positive one of two classes.
    kind
        Name of the argument, for errors.

    Raises
    ------
    InputError, InputTypeError
        If they have another shape, masked values, or no numbers.
    """
    names: list[str] | None = None
    if isinstance(values, Matrix):
        values, names = values
    if is_tensor(values):  # kept as it is, for the core reads bfloat16 and NumPy does not
        array = from_tensor(values, kind, kind)
        if not array.dtype.is_floating_point:
            array = array.double()
    else:
        if type(values).__module__.startswith("pyarrow"):
            values, names = from_arrow(values, kind), column_names(values)
        elif hasattr(values, "columns"):
            values, names = _frame(values)
        array = _floats(values, kind)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in {1, 2} or (array.ndim == 2 and array.shape[1] == 0):
        raise InputError(
            f"{kind} must have shape (rows, classes), or (rows,) for the positive class of two; "
            f"got {tuple(array.shape)}" + ("; reshape to (-1, classes), and y to (-1,)" if array.ndim > 2 else ""),
            argument=kind,
        )
    return Matrix(array, names)


def _floats(values: Any, kind: str) -> Any:
    """Return numbers as a floating-point array that the core reads."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(
            f"{kind} must have as many numbers in each row, one for each class ({error})", argument=kind
        ) from error
    if np.ma.is_masked(values):
        raise InputError(f"{kind} is a masked array with masked values; drop these rows first", argument=kind)
    if array.dtype.kind not in "iubf":
        raise InputTypeError(
            f"{kind} must hold numbers, got dtype {array.dtype}; convert the columns to floats", argument=kind
        )
    if array.dtype.kind != "f" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        return array.astype(np.float64)
    if any(stride % array.itemsize for stride in array.strides):  # a field of records
        return np.ascontiguousarray(array)
    return array


def _frame(frame: Any) -> Matrix:
    import narwhals as nw

    table = nw.from_native(frame)
    table = table.collect() if isinstance(table, nw.LazyFrame) else table
    return Matrix(table.to_numpy(), [str(name) for name in table.columns])
