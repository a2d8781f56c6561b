"""Labels of any kind as codes: small integers that count from 0, and the values they stand for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.errors import InputError
from crossent.scoring.input.tensors import from_tensor, is_tensor


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Values as `codes` (N,) int64 into the list `values`."""

    codes: Any
    values: Sequence[Hashable]

    def __len__(self) -> int:
        return len(self.codes)


def column(values: Any, argument: str, of: object = None) -> Any:
    """Return one column of NumPy, torch, pandas, polars or pyarrow, or a sequence, as a NumPy vector.

    Parameters
    ----------
    values
        The column, (N,) or (N, 1).
    argument, of
        Name of the argument, and of the column in it if it has several, for errors.

    Raises
    ------
    InputError
        If it has several columns, or masked values.
    """
    name = argument if of is None else f"{argument} {of!r}"
    if is_tensor(values):
        tensor = from_tensor(values, name, argument)
        values = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    elif hasattr(values, "to_numpy") and hasattr(values, "null_count") and not hasattr(values, "dtype"):
        values = values.to_numpy(zero_copy_only=False) if hasattr(values, "offset") else values.to_numpy()  # pyarrow
    if np.ma.is_masked(values):
        raise InputError(f"{name} is a masked array with masked values; drop these rows first", argument=argument)
    texts = isinstance(values, list | tuple) and any(isinstance(value, str) for value in values)
    vector = np.asarray(values, object if texts else None)  # NumPy would write NaN and numbers among texts as texts
    if vector.ndim != 1:
        if vector.ndim == 2 and vector.shape[1] == 1:
            return vector[:, 0]
        raise InputError(f"{name} must be a single column, got shape {vector.shape}", argument=argument)
    return vector


def code(values: Any, argument: str, of: object = None) -> Coded:
    """Return any column of hashable values as codes, in order of appearance; NaN and None are one value, None.

    `argument` and `of` name the column in errors, as for `column`.
    """
    if isinstance(values, Coded):
        return values
    vector = column(values, argument, of)
    if vector.dtype.kind in "iub":
        return _code_integers(vector)
    if vector.dtype.kind in "mM":
        vector = vector.astype(f"{vector.dtype.kind}8[us]")  # of nanoseconds Python would get plain integers
    place: dict[Hashable, int] = {}
    items = vector.tolist()
    codes = np.fromiter((place.setdefault(_plain(item), len(place)) for item in items), np.int64, len(items))
    return Coded(codes, list(place))


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


def python_value(value: Any) -> Any:
    """Return a scalar of NumPy or torch as Python's own, and any other value as it is."""
    return value.item() if isinstance(value, np.generic) or (is_tensor(value) and value.shape == ()) else value


def missing(value: Any) -> bool:
    """Return whether a value is None, NaN or NaT."""
    return value is None or value != value  # noqa: PLR0124  NaN alone differs from itself


def listing(values: Sequence[Any]) -> str:
    """Return a list for an error text, shortened in the middle."""
    shown = [repr(value) for value in values]
    return "[" + ", ".join(shown if len(shown) <= 6 else [*shown[:3], "…", shown[-1]]) + "]"


def _plain(item: Any) -> Hashable:
    if missing(item):
        return None
    return item if isinstance(item, Hashable) else str(item)
