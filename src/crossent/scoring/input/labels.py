"""Labels of any kind as codes: small integers that count from 0, and the values they stand for."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

IGNORED = -1
_TRUTH = {"true": "1", "false": "0"}


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Values as `codes` (N,) int64 into the list `values`."""

    codes: Any
    values: Sequence[Hashable]


def column(values: Any, name: str) -> Any:
    """Return one column of NumPy, torch, pandas, polars or pyarrow, or a sequence, as a NumPy vector.

    Raises
    ------
    ValueError
        If it has not one axis.
    """
    if hasattr(values, "detach"):  # torch
        values = values.detach().cpu().numpy()
    elif hasattr(values, "to_numpy") and hasattr(values, "null_count") and not hasattr(values, "dtype"):
        values = values.to_numpy(zero_copy_only=False) if hasattr(values, "offset") else values.to_numpy()  # pyarrow
    if np.ma.is_masked(values):
        raise ValueError(f"{name} is a masked array with masked values; drop these rows first")
    vector = np.asarray(values)
    if vector.ndim != 1:
        if vector.ndim == 2 and vector.shape[1] == 1:
            return vector[:, 0]
        raise ValueError(f"{name} must be a single column, got shape {vector.shape}")
    return vector


def code(values: Any, name: str) -> Coded:
    """Return the codes of any column of hashable values, in order of appearance; NaN and None are one value, None."""
    if isinstance(values, Coded):
        return values
    vector = column(values, name)
    if vector.dtype.kind in "iub":
        return _code_integers(vector)
    if vector.dtype.kind in "mM":
        vector = vector.astype(f"{vector.dtype.kind}8[us]")  # of nanoseconds Python would get plain integers
    place: dict[Hashable, int] = {}
    items = vector.tolist()
    codes = np.fromiter((place.setdefault(_plain(item), len(place)) for item in items), np.int64, len(items))
    return Coded(codes, list(place))


@lru_cache(maxsize=16)
def _lookup(classes: tuple[Hashable, ...]) -> tuple[dict[Hashable, int], dict[str, int]]:
    """Return the place of each class by what it is and by how it is written."""
    return {value: k for k, value in enumerate(classes)}, {_written(value): k for k, value in enumerate(classes)}


def _code_integers(vector: Any) -> Coded:
    if len(vector) == 0:
        return Coded(np.empty(0, np.int64), [])
    low, high = int(vector.min()), int(vector.max())
    if vector.dtype.kind == "b" or high - low > 4 * len(vector) + 1024 or high >= 2**63:
        known, codes = np.unique(vector, return_inverse=True)
        return Coded(codes.reshape(-1), known.tolist())
    codes = vector.astype(np.int64) - low  # as np.unique would, without sorting
    there = np.bincount(codes) > 0
    if not there.all():
        codes = (np.cumsum(there) - 1)[codes]
    return Coded(codes, (np.flatnonzero(there) + low).tolist())


def missing(value: Any) -> bool:
    """Return whether a value is None, NaN or NaT."""
    return value is None or value != value  # noqa: PLR0124  NaN alone differs from itself


def classes_of(labels: Coded, classes: Sequence[Hashable], ignore: Iterable[Any]) -> Any:
    """Return the class of each label, `IGNORED` where the label is one of `ignore`.

    A label is a class if it equals it, or is written like it: 3, 3.0 and "3" are all the class "3".

    Raises
    ------
    ValueError
        If a label is neither a class nor to be ignored, with the label, its first row and what to do.
    """
    ignored, (exact, written) = list(ignore), _lookup(tuple(classes))

    def find(label: Any) -> int | None:
        if ignored and any(_same(label, other) for other in ignored):
            return IGNORED
        found = exact.get(label)
        return written.get(_written(label)) if found is None else found

    table = [find(label) for label in labels.values]
    there = np.bincount(labels.codes, minlength=len(table)) > 0
    wrong = [k for k, found in enumerate(table) if found is None and there[k]]
    if wrong:
        rows = np.isin(labels.codes, wrong)
        row = int(rows.argmax())
        seen = [value for k, value in enumerate(labels.values) if there[k]]
        raise ValueError(_not_a_class(labels.values[labels.codes[row]], row, int(rows.sum()), (classes, seen)))
    if table == list(range(len(table))):
        return labels.codes
    return np.array([IGNORED if k is None else k for k in table], np.int64)[labels.codes]


def listing(values: Sequence[Any]) -> str:
    """Return a list for an error text, shortened in the middle."""
    shown = [repr(value) for value in values]
    return "[" + ", ".join(shown if len(shown) <= 6 else [*shown[:3], "…", shown[-1]]) + "]"


def _not_a_class(label: Any, row: int, rows: int, sets: tuple[Sequence[Any], Sequence[Any]]) -> str:
    classes, seen = sets
    where = f"row {row}, {rows} row{'s' if rows > 1 else ''} in total"
    if missing(label):
        return f"y has no value ({where}); drop such rows, or pass ignore=float('nan') to skip them"
    text = f"label {label!r} ({where}) is not one of the {len(classes)} classes {listing(classes)}"
    if isinstance(label, float) and not label.is_integer() and 0.0 < label < 1.0:
        return f"{text}; are y and the predictions swapped? Soft labels are for crossent.cross_entropy"
    if len(seen) == len(classes) and len({type(value) for value in seen}) == 1:
        return f"{text}; if the columns are {listing(sorted(seen))} in this order, pass that as classes="
    if len(classes) == 2 and len(seen) > 2:
        return (
            f"{text}: one column, or two, are for two classes; for {len(seen)} classes pass a column for each (of "
            "scikit-learn predict_proba, not predict)"
        )
    return f"{text}; use ignore={label!r} to skip such rows, or classes= to name the columns"


def _plain(item: Any) -> Hashable:
    if missing(item):
        return None
    return item if isinstance(item, Hashable) else str(item)


def _same(label: Any, other: Any) -> bool:
    if missing(label) or missing(other):
        return missing(label) and missing(other)
    return label == other or _written(label) == _written(other)


def numeric(value: str) -> bool:
    """Return whether a text is written like a class that is a number."""
    return _written(value).lstrip("-").isdigit()


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    whole, _, zeros = text.partition(".")
    return whole.lstrip("+") if whole.lstrip("+-").isdigit() and not zeros.strip("0") else text
