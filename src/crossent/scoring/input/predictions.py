"""Predictions of any library as an array (N, V) that the core reads, and the names of their columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from crossent.errors import InputError, InputTypeError
from crossent.scoring.input.arrow import from_arrow
from crossent.scoring.input.arrow_numbers import Matrix
from crossent.scoring.input.classes import Classes
from crossent.scoring.input.nested import of_objects
from crossent.scoring.input.series import as_arrow, as_numbers, numbers_of_objects
from crossent.scoring.input.shapes import predictions
from crossent.scoring.input.tensors import from_tensor, is_tensor

_MOST_BYTES = 1 << 32  # of a sparse matrix with its zeros


def matrix(values: Any, kind: str, labels: tuple[int, ...] = ()) -> Matrix:
    """Return predictions of NumPy, torch, pandas, polars or pyarrow as numbers that the core reads.

    Parameters
    ----------
    values
        Predictions, (N, V), or (N,) or (N, 1) for the positive one of two classes.
    kind
        Name of the argument, for errors.
    labels
        Shape of y, which tells the axes of predictions with too many apart.

    Raises
    ------
    InputError, InputTypeError
        If they have another shape, masked values, or no numbers.
    """
    names: list[str] | None = None
    classes: Classes | None = None
    if (rows := _rows_of_objects(values)) is not None:
        values = predictions([of_objects(rows, kind)], [kind], kind)
    if isinstance(values, Matrix):
        values, names, classes = values
    if is_tensor(values):  # kept as it is, for the core reads bfloat16 and NumPy does not
        array = from_tensor(values, kind, kind)
        if not array.dtype.is_floating_point:
            array = array.double()
    else:
        if type(values).__module__.startswith("pyarrow"):
            values, names, classes = from_arrow(values, kind)
        elif hasattr(values, "collect_schema") or hasattr(values, "columns"):  # of a lazy frame columns are expensive
            values, names, classes = _frame(values, kind)
        elif hasattr(values, "tocsr"):
            values = _of_sparse(values, kind)
        elif (column := as_arrow(values)) is not None:
            values, _, classes = predictions([column], [kind], kind)
        array = _floats(values, kind, labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in {1, 2} or (array.ndim == 2 and array.shape[1] == 0):
        raise InputError(
            f"{kind} must have shape (rows, classes), or (rows,) for the positive class of two; "
            f"got {tuple(array.shape)}{_with_two_axes(values, array.shape, kind, labels)}",
            argument=kind,
        )
    return Matrix(array, names, classes)


def _with_two_axes(values: Any, shape: tuple[int, ...], kind: str, labels: tuple[int, ...]) -> str:
    """Return how to make rows and classes of predictions with more axes, by the shape of y; "" if there are fewer."""
    if len(shape) < 3:
        return ""
    if isinstance(values, list | tuple) and np.ndim(values[0]) == 2 and labels[:1] == shape[1:2]:
        return _of_outputs(len(values), kind, labels)
    count = math.prod(labels)
    last = labels == shape[:-1] or (len(labels) == 1 and count == math.prod(shape[:-1]))
    second = labels == shape[:1] + shape[2:] or (len(labels) == 1 and count * shape[1] == math.prod(shape))
    moved = f"{kind}.movedim(1, -1)" if is_tensor(values) else f"np.moveaxis({kind}, 1, -1)"
    as_last = f"reshape to (-1, {shape[-1]}), and y to (-1,)"
    as_second = f"move them last first, {moved}.reshape(-1, {shape[1]}), and reshape y to (-1,)"
    if last == second:
        return f"; if the classes are the last axis, {as_last}; if they are axis 1, {as_second}"
    return f"; {as_last}" if last else f"; the classes are axis 1: {as_second}"


def _of_outputs(count: int, kind: str, labels: tuple[int, ...]) -> str:
    """Return the fix for a list of predictions of several outputs, as from a forest's `predict_proba`."""
    if count == 1:
        return f"; this is a list of one output: pass {kind}[0]"
    if labels[1:] == (count,):
        return f"; these are {count} outputs: score each of them, y[:, k] with {kind}[k]"
    return f"; these are {count} outputs: pass the one that y belongs to, {kind}[k]"


def _floats(values: Any, kind: str, labels: tuple[int, ...]) -> Any:
    """Return numbers as a floating-point array that the core reads."""
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":
            array = _of_objects(array)
    except ValueError as error:
        if all(getattr(part, "ndim", 0) == 2 for part in values):
            raise InputError(
                f"{kind} must have shape (rows, classes){_of_outputs(len(values), kind, labels)}", argument=kind
            ) from error
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


def _of_objects(array: Any) -> Any:
    """Return Python's objects as numbers if they are numbers, or rows of numbers; else as they are."""
    if array.ndim == 1 and len(array) and all(hasattr(row, "__len__") and not isinstance(row, str) for row in array):
        array = np.asarray([np.asarray(row) for row in array])
    found = numbers_of_objects(array) if array.dtype.kind == "O" else array
    return array if found is None else found


def _frame(frame: Any, kind: str) -> Matrix:
    """Return the numbers of a frame, column by column where it has types that NumPy lacks, and the names of columns."""
    import narwhals as nw

    table = nw.from_native(frame)
    table = table.collect() if isinstance(table, nw.LazyFrame) else table
    names, columns = [str(name) for name in table.columns], list(table.iter_columns())
    if all(column.dtype.is_float() or column.dtype.is_integer() for column in columns):
        array = table.to_numpy()
        if array.dtype.kind in "iuf":
            return Matrix(array, names)
    arrays = [as_arrow(column) for column in columns]
    if len(columns) == 1 and (rows := _rows_of_objects(table.to_native()[names[0]])) is not None:
        arrays = [of_objects(rows, names[0])]
    if all(array is not None for array in arrays):
        found = predictions(arrays, names, kind)
        return found if found.classes is not None else Matrix(found.values, names)
    vectors = [as_numbers(column, kind, of=name) for column, name in zip(columns, names, strict=True)]
    return Matrix(np.stack(vectors, axis=1), names)


def _rows_of_objects(values: Any) -> list[Any] | None:
    """Return a column of Python's dictionaries, or of lists of dictionaries, as a list; None for anything else."""
    objects = isinstance(values, list | tuple) or str(getattr(values, "dtype", "")).lower() == "object"
    if not objects or not len(values) or len(getattr(values, "shape", (1,))) != 1:
        return None
    first: Any = next(iter(values))
    several = isinstance(first, list | tuple | np.ndarray) and len(first) > 0 and isinstance(first[0], Mapping)
    if isinstance(first, Mapping) or several:
        return [list(row) if isinstance(row, np.ndarray) else row for row in values]
    if hasattr(first, "toArray"):  # vectors of Spark
        return [row.toArray().tolist() for row in values]
    return None


def _of_sparse(values: Any, kind: str) -> Any:
    """Return a sparse matrix of SciPy with all its numbers; those that it does not store are 0."""
    size = 8 * math.prod(values.shape)
    if size > _MOST_BYTES:
        raise InputError(
            f"{kind} is a sparse matrix of shape {tuple(values.shape)}, {size >> 30} GiB with its zeros; score parts "
            "of its rows by ScoreState.update",
            argument=kind,
        )
    return values.toarray()
