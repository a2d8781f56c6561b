"""Labels of any kind as codes: small integers that count from 0, and the values they stand for."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import Argument, InputError, Message
from crossent.scoring.input.tensors import from_tensor, is_tensor

IGNORED = -1
"""The class of rows that are left out."""
_TRUTH = {"true": "1", "false": "0"}


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
    vector = np.asarray(values)
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


class _Numbers(NamedTuple):
    """The number of each class, by its value and by how it is written."""

    exact: dict[Hashable, int]
    written: dict[str, int]


@lru_cache(maxsize=16)
def _numbers(classes: tuple[Hashable, ...]) -> _Numbers:
    exact = {value: k for k, value in enumerate(classes)}
    return _Numbers(exact, {_written(value): k for k, value in enumerate(classes)})


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


def classes_of(labels: Coded, classes: Sequence[Hashable], ignore: Iterable[Any]) -> Any:
    """Return the class of each label, `IGNORED` where the label is one of `ignore`.

    A label is a class if it equals it, or is written like it: 3, 3.0 and "3" are all the class "3". Classes that nobody
    named are a range.

    Raises
    ------
    InputError
        If a label is neither a class nor to be ignored, with the label, its first row and the fix.
    """
    ignored, numbers = list(ignore), _numbers(tuple(classes))

    def find(label: Any) -> int | None:
        if ignored and any(_same(label, other) for other in ignored):
            return IGNORED
        found = numbers.exact.get(label)
        return numbers.written.get(_written(label)) if found is None else found

    table = [find(label) for label in labels.values]
    present = np.bincount(labels.codes, minlength=len(table)) > 0
    wrong = [k for k, found in enumerate(table) if found is None and present[k]]
    if wrong:
        rows = np.isin(labels.codes, wrong)
        first, count = int(rows.argmax()), int(rows.sum())
        where = f"row {first}, {count} row{'s' if count > 1 else ''} in total"
        seen = [value for k, value in enumerate(labels.values) if present[k]]
        raise InputError(_not_a_class(labels.values[labels.codes[first]], where, classes, seen), argument="y")
    if table == list(range(len(table))):
        return labels.codes
    return np.array([IGNORED if k is None else k for k in table], np.int64)[labels.codes]


def listing(values: Sequence[Any]) -> str:
    """Return a list for an error text, shortened in the middle."""
    shown = [repr(value) for value in values]
    return "[" + ", ".join(shown if len(shown) <= 6 else [*shown[:3], "…", shown[-1]]) + "]"


def _not_a_class(label: Any, where: str, classes: Sequence[Any], seen: Sequence[Any]) -> Message:
    """Return the error about a label that is no class; `seen` are all labels, from which a hint follows."""
    if missing(label):
        skip = Argument("ignore", float("nan"))
        return Message(f"y has no value ({where}); drop such rows, or pass ", skip, " to skip them")
    text = f"label {label!r} ({where}) is not one of the {len(classes)} classes {listing(classes)}"
    if isinstance(classes, range) and isinstance(label, str) and not _written(label).lstrip("-").isdigit():
        last = ", the positive class last" if len(classes) == 2 else ""
        order = f" with the {len(classes)} names in the order of the columns{last}"
        return Message(f"y holds names such as {label!r}; pass ", Argument("classes"), order)
    if isinstance(label, float) and not label.is_integer() and 0.0 < label < 1.0:
        return Message(f"{text}; are y and the predictions swapped? Soft labels are for crossent.cross_entropy")
    if len(seen) == len(classes) and len({type(value) for value in seen}) == 1:
        order = listing(sorted(seen))
        return Message(f"{text}; if the columns are {order} in this order, pass that as ", Argument("classes"))
    if len(classes) == 2 and len(seen) > 2:
        return Message(
            f"{text}: one column, or two, are for two classes; for {len(seen)} classes pass a column for each (of "
            "scikit-learn predict_proba, not predict)"
        )
    skip = Argument("ignore", label)
    return Message(f"{text}; use ", skip, " to skip such rows, or ", Argument("classes"), " to name the columns")


def _plain(item: Any) -> Hashable:
    if missing(item):
        return None
    return item if isinstance(item, Hashable) else str(item)


def _same(label: Any, other: Any) -> bool:
    if missing(label) or missing(other):
        return missing(label) and missing(other)
    return label == other or _written(label) == _written(other)


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
