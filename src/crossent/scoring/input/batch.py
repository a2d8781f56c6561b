"""The front door of a score: what callers pass, checked and brought into one form."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral, Real
from os.path import commonprefix
from typing import Any, Literal

import numpy as np

from crossent.scoring.input.arrow import from_arrow
from crossent.scoring.input.labels import Coded, classes_of, code, column, listing, numeric
from crossent.scoring.parts import Zero

Kind = Literal["probs", "logits", "logprobs"]
LEAST_WEIGHT = 1e-70


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are read and what is kept of them; the same for all states that merge."""

    classes: tuple[Hashable, ...] | None = None
    ignore: tuple[Any, ...] = ()
    normalize: bool = False
    zero: Zero = "inf"
    level: float = 0.95
    worst: int = 10
    rows: bool = False

    def __post_init__(self) -> None:
        if self.zero != "inf" and not (isinstance(self.zero, Real) and 0.0 < self.zero < 1.0):
            raise ValueError(
                f"zero must be 'inf', or the smallest probability to charge, between 0 and 1; got {self.zero!r}"
            )
        if not (isinstance(self.level, Real) and 0.0 < self.level < 1.0):
            raise ValueError(f"ci must be a level of confidence between 0 and 1, such as 0.95; got {self.level!r}")
        if not isinstance(self.worst, Integral) or self.worst < 0:
            raise ValueError(f"worst must be a whole number of rows, got {self.worst!r}")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must differ from each other, got {listing(self.classes)}")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """N rows: values (N, C), or (N,) of the second of two classes, each row's class (IGNORED: left out), and more."""

    kind: Kind
    values: Any
    label: Any
    classes: tuple[Hashable, ...]
    weight: Any | None
    cluster: Coded | None
    by: Mapping[str, Coded]
    id: Any | None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def binary(self) -> bool:
        """Whether there is one number per row."""
        return len(self.values.shape) == 1


def options(classes: Any, ignore: Any, normalize: bool, zero: Any, ci: float, worst: int, rows: bool) -> Options:
    """Return the options that callers name."""
    many = isinstance(ignore, list | tuple | set | frozenset)
    if classes is not None and (isinstance(classes, str | Set) or not isinstance(classes, Iterable)):
        raise TypeError(f"classes must be a list of the classes in the order of the columns, got {classes!r}")
    named = None if classes is None else tuple(_item(name) for name in classes)
    floor: Any = "inf" if zero in {"inf", 0, math.inf} else zero
    ignored = tuple(ignore) if many else () if ignore is None else (ignore,)
    return Options(named, ignored, normalize, floor, ci, worst, rows)


def batch(y: Any, given: Mapping[Kind, Any], rest: Mapping[str, Any], chosen: Options) -> Batch:
    """Return the rows that callers pass.

    Raises
    ------
    ValueError, TypeError
        If something is missing, of another length or shape, no number, or no class.
    """
    present: list[Kind] = [kind for kind, values in given.items() if values is not None]
    if len(present) != 1:
        got = " and ".join(present) or "none of them"
        raise TypeError(f"pass exactly one of probs=, logits= and logprobs=; got {got}")
    kind = present[0]
    values, names = matrix(given[kind], kind)
    _refuse_swapped(y, values, kind)
    labels = y if isinstance(y, Coded) else code(y, "y")
    rows = len(labels.codes)
    if len(values) != rows:
        raise ValueError(f"y has {rows} rows and {kind} has {len(values)}; they must be the same rows")
    columns = 2 if values.ndim == 1 else values.shape[1]
    classes = _classes(chosen.classes, names, columns, labels)
    label = classes_of(labels, classes, chosen.ignore)
    cluster, by, ids = rest.get("cluster"), _slices(rest.get("by")), rest.get("id")
    coded = None if cluster is None else code(cluster, "cluster")
    result = Batch(kind, values, label, classes, _weights(rest.get("weight")), coded, by, _ids(ids))
    for name, part in (("weight", result.weight), ("cluster", cluster), ("id", ids), *by.items()):
        size = rows if part is None else len(part.codes if isinstance(part, Coded) else part)
        if size != rows:
            raise ValueError(f"y has {rows} rows and {name} has {size}; they must be the same rows")
    return result


def matrix(values: Any, kind: str) -> tuple[Any, list[str] | None]:
    """Return numbers (N, C), or (N,) for a single column, as an array that the core reads, and the columns' names."""
    names: list[str] | None = None
    if hasattr(values, "detach"):  # torch: kept as it is, for the core reads bfloat16 and NumPy does not
        array = values.detach().cpu()
        if not array.dtype.is_floating_point:
            array = array.double()
    else:
        if type(values).__module__.startswith("pyarrow"):
            values, names = from_arrow(values, kind)
        elif hasattr(values, "columns"):
            values, names = _frame(values)
        array = _floats(values, kind)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in {1, 2} or (array.ndim == 2 and array.shape[1] == 0):
        raise ValueError(
            f"{kind} must have shape (rows, classes), or (rows,) for the positive class of two; "
            f"got {tuple(array.shape)}" + ("; reshape to (-1, classes), and y to (-1,)" if array.ndim > 2 else "")
        )
    return array, names


def _floats(values: Any, kind: str) -> Any:
    """Return numbers as a floating-point array that the core reads."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{kind} must have as many numbers in each row, one for each class ({error})") from error
    if np.ma.is_masked(values):
        raise ValueError(f"{kind} is a masked array with masked values; drop these rows first")
    if array.dtype.kind not in "iubf":
        raise TypeError(f"{kind} must hold numbers, got dtype {array.dtype}; convert the columns to floats")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        return array.astype(np.float64)
    if any(stride % array.itemsize for stride in array.strides):  # a field of records
        return np.ascontiguousarray(array)
    return array


def _frame(frame: Any) -> tuple[Any, list[str]]:
    import narwhals as nw

    table = nw.from_native(frame)
    table = table.collect() if isinstance(table, nw.LazyFrame) else table
    names = table.columns
    return table.to_numpy(), [str(name) for name in names]


def _refuse_swapped(y: Any, values: Any, kind: str) -> None:
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) < 2 or shape[1] == 1:
        return
    if values.ndim == 1:
        raise ValueError(f"y has shape {tuple(shape)} and {kind} one axis: are they swapped? The truth comes first")
    raise ValueError(
        f"y must be one class per row, got shape {tuple(shape)}; if these are one-hot rows, pass y.argmax(1), "
        "and for soft labels use crossent.cross_entropy"
    )


def _classes(
    chosen: Sequence[Hashable] | None, names: list[str] | None, columns: int, labels: Coded
) -> tuple[Hashable, ...]:
    """Return the classes of the columns: those named, those of named columns, or 0 to C − 1."""
    if chosen is not None:
        if len(chosen) != columns:
            raise ValueError(f"classes names {len(chosen)} classes {listing(chosen)}, the predictions have {columns}")
        return tuple(chosen)
    if names is not None and len(names) == columns:
        return class_names(names)
    if any(isinstance(value, str) for value in labels.values):
        text = [value for value in labels.values if isinstance(value, str)]
        if not all(numeric(value) for value in text):
            raise ValueError(
                f"y holds names such as {text[0]!r}; pass classes= with the {columns} names in the order of the "
                "columns" + (", the positive class last" if columns == 2 else "")
            )
    return tuple(range(columns))


def class_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of columns without what all of them begin with: p_cat, p_dog are cat, dog."""
    prefix = commonprefix(list(columns))  # noqa: RUF071  of names, not of paths
    cut = max(prefix.rfind(mark) for mark in "_-.: /") + 1
    whole = re.sub(r"\d+$", "", prefix)
    digits = all(re.fullmatch(r"\d+", name[len(whole) :]) for name in columns)  # p0, p1, …, p10
    return tuple(name[len(whole) if digits else cut :] for name in columns)


def _slices(by: Any) -> dict[str, Coded]:
    if by is None:
        return {}
    if isinstance(by, Mapping):
        return {str(name): code(values, f"by {name!r}") for name, values in by.items()}
    if hasattr(by, "columns") or hasattr(by, "column_names"):
        import narwhals as nw

        table = nw.from_native(by, eager_only=True)
        return {str(name): code(table[name].to_list(), f"by {name!r}") for name in table.columns}
    if isinstance(by, list | tuple) and by and all(np.ndim(part) == 1 for part in by):
        raise ValueError("by is a list of columns; name them: by={'name': column, …}")
    return {str(getattr(by, "name", None) or "by"): code(by, "by")}


def _weights(weight: Any) -> Any:
    if weight is None:
        return None
    vector = column(weight, "weight")
    if vector.dtype.kind not in "iubf":
        raise TypeError(f"weight must hold numbers, got dtype {vector.dtype}")
    vector = vector.astype(np.float64)
    wrong = ~(np.isfinite(vector) & (vector >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"weight {vector[row]} (row {row}, {int(wrong.sum())} in total) is not a finite number ≥ 0; "
            "a row of weight 0 is left out"
        )
    there = vector[vector > 0]
    if len(there) and (there.min() < LEAST_WEIGHT or there.max() > 1.0 / LEAST_WEIGHT):
        raise ValueError(
            f"weights from {there.min():.3g} to {there.max():.3g} are beyond what their powers leave room for; divide "
            "all of them by a typical one (their scale changes nothing)"
        )
    return vector


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _ids(ids: Any) -> Any:
    return None if ids is None else column(ids, "id")
