"""Scores of Dask data frames and arrays: a `ScoreState` for each partition, merged as a tree. The extra is `dask`."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isnan
from typing import Any, NamedTuple

import numpy as np
from dask.base import is_dask_collection
from dask.delayed import Delayed, delayed

from crossent.errors import Argument, InputError, InputTypeError, Message, quoted
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.columns import Columns, columns
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState

SPLIT = 8
"""Number of states that are merged at a time."""


def score(
    y: Any,
    *,
    label: str | None = None,
    probs: Any = None,
    logits: Any = None,
    logprobs: Any = None,
    weight: Any = None,
    cluster: Any = None,
    by: Any = None,
    id: Any = None,
    **options: Any,
) -> Score:
    """Return the score of predictions in a Dask data frame or in Dask arrays, as `crossent.score` does.

    Each partition becomes a `ScoreState` on its worker, and only states are sent. The scheduler is that of
    `dask.config`, or of the latest `distributed.Client`.

    Parameters
    ----------
    y
        A data frame, whose columns the other arguments name; or the true class of each row, (N,), as an array or a
        series, and then the other arguments are arrays or series with the same partitions.
    label
        Name of the column of true classes, only for a data frame.
    probs, logits, logprobs
        One of the three: names of columns, or a pattern such as "p_*"; or an array (N, V) or (N,). See
        `crossent.score`.
    weight, cluster, id
        The name of a column, or an array or series (N,). By default rows of a frame or series have its index as `id`,
        and rows of arrays their numbers.
    by
        Names of columns or a pattern; or an array or series, or a mapping of names to arrays or series.
    **options
        `classes`, `ignore`, `normalize`, `zero`, `ci` and `worst` of `crossent.score`.

    Returns
    -------
    Score
        Loss in nats, with its interval, calibration and parts.

    Raises
    ------
    InputError, InputTypeError
        If the rows cannot be scored, with partition, row, cause and fix; a ValueError and a TypeError.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> import crossent.scoring.dask
    >>> frame = pd.DataFrame({"y": ["cat", "dog", "cat"], "p_cat": [0.7, 0.4, 0.2], "p_dog": [0.3, 0.6, 0.8]})
    >>> parts = dd.from_pandas(frame, npartitions=2)
    >>> result = crossent.scoring.dask.score(parts, label="y", probs="p_*")
    >>> round(result.loss, 6), result.n, result.worst[0].id
    (0.825646, 3, 2)
    """
    given = RowArguments(probs, logits, logprobs, weight, cluster, by, id)
    return _state(y, label, given, options).compute().finalize()


def state(
    y: Any,
    *,
    label: str | None = None,
    probs: Any = None,
    logits: Any = None,
    logprobs: Any = None,
    weight: Any = None,
    cluster: Any = None,
    by: Any = None,
    id: Any = None,
    **options: Any,
) -> Delayed:
    """Return the `ScoreState` of all rows as a delayed value, to merge it with others or use it in a larger graph.

    Parameters
    ----------
    y, label, probs, logits, logprobs, weight, cluster, by, id, **options
        As for `score`.

    Returns
    -------
    dask.delayed.Delayed
        Computes to a `ScoreState`.

    Raises
    ------
    InputError, InputTypeError
        As `score`.

    Examples
    --------
    >>> import dask.array as da
    >>> import crossent.scoring.dask
    >>> y, p = da.from_array([1, 0, 1, 1], chunks=2), da.from_array([0.8, 0.3, 0.6, 0.5], chunks=2)
    >>> round(crossent.scoring.dask.state(y, probs=p).compute().finalize().loss, 6)
    0.445948
    """
    return _state(y, label, RowArguments(probs, logits, logprobs, weight, cluster, by, id), options)


def _state(y: Any, label: str | None, given: RowArguments, options: Mapping[str, Any]) -> Delayed:
    """Return the state of all rows as a delayed value; `y` is a data frame, or the true classes."""
    _ = ScoreState(**options)  # wrong options raise here, not on a worker
    if not is_dask_collection(y):
        raise InputTypeError(
            f"y must be a Dask data frame, array or series, got {type(y).__name__}; see crossent.score", argument="y"
        )
    frame = hasattr(y, "columns") and y.ndim == 2
    if frame and label is None:
        raise InputTypeError(
            Message("for a data frame pass ", Argument("label"), ", the name of the column of true classes"),
            argument="label",
        )
    if not frame and label is not None:
        raise InputTypeError(
            Message(
                Argument("label"), " is the name of a column of a data frame; y holds the true classes itself here"
            ),
            argument="label",
        )
    parts = _of_frame(y, columns(label, given), options) if frame else _of_arrays(y, given, options)
    merge = delayed(partial(_merge, options=options), pure=False)
    while len(parts) > 1:
        parts = [merge(parts[k : k + SPLIT]) for k in range(0, len(parts), SPLIT)]
    return parts[0]


def _merge(states: Sequence[ScoreState], options: Mapping[str, Any]) -> ScoreState:
    whole = ScoreState(**options)  # a task must not change its inputs
    for each in states:
        _ = whole.merge(each)
    return whole


def _of_frame(frame: Any, named: Columns, options: Mapping[str, Any]) -> list[Delayed]:
    """Return the state of each partition of a data frame."""
    found = named.among(frame.columns)
    one = delayed(partial(_frame_state, found=found, options=options), pure=False)
    return [one(part, number) for number, part in enumerate(frame[found.needed].to_delayed())]


def _frame_state(frame: Any, number: int, *, found: Columns, options: Mapping[str, Any]) -> ScoreState:
    """Return the state of one partition, a pandas data frame."""
    result = ScoreState(**options)
    if len(frame) == 0:
        return result
    rest = {role: frame[name] for role, name in found.single.items() if role != "label"}
    by = {name: frame[name] for name in found.by or ()}
    with _within(number):
        names = list(found.values or ())
        values = frame[names] if len(names) > 1 else _stacked(frame[names[0]])
        return result.update(frame[found.label], **{found.kind: values, "by": by or None, "id": frame.index, **rest})


def _stacked(column: Any) -> Any:
    """Return a column of numbers unchanged, (N,), and a column of lists as an array, (N, V)."""
    first = column.iloc[0]
    if isinstance(first, str):
        raise InputError(
            f"column {quoted(column.name)} holds text, such as {quoted(first[:20])}; if these were lists, Dask "
            "converted them to text: read them under dask.config.set({'dataframe.convert-string': False})"
        )
    return np.stack(column.to_list()) if hasattr(first, "__len__") else column


@contextmanager
def _within(number: int) -> Generator[None, None, None]:
    """Raise the `InputError`s of a block with the number of their partition."""
    try:
        yield
    except InputError as error:
        raise error.with_message(Message(f"partition {number}: ", error.message)) from error


class Slot(NamedTuple):
    """The place of an array among the arguments of `ScoreState.update`: an argument, and for `by` a name in it."""

    argument: str
    name: str


def _of_arrays(y: Any, given: RowArguments, options: Mapping[str, Any]) -> list[Delayed]:
    """Return the state of each partition of arrays."""
    by, predictions = given.by, given.predictions
    if hasattr(by, "columns"):  # a series or a frame
        by = dict(by.items()) if by.ndim == 2 else {str(by.name or "by"): by}
    elif not (by is None or isinstance(by, Mapping)):
        by = {"by": by}
    named = {predictions.kind: predictions.values, "weight": given.weight, "cluster": given.cluster, "id": given.id}
    arrays = {Slot(name, name): array for name, array in named.items() if array is not None}
    arrays |= {Slot("by", str(name)): array for name, array in (by or {}).items()}
    blocks = {slot: _blocks(slot, array, y) for slot, array in arrays.items()}
    one = delayed(partial(_array_state, options=options), pure=False)
    return [
        one(part, {slot: each[number] for slot, each in blocks.items()}, number)
        for number, part in enumerate(_blocks(Slot("y", "y"), y, y))
    ]


def _blocks(slot: Slot, array: Any, y: Any) -> list[Any]:
    """Return the partitions of an array as delayed values, cut like those of y."""
    argument, name = slot
    if not is_dask_collection(array):
        raise InputTypeError(
            f"{name} must be a Dask array or series like y, got {type(array).__name__}", argument=argument
        )
    if not hasattr(array, "chunks"):
        blocks = list(array.to_delayed())
    else:
        if array.ndim == 0:
            raise InputError(f"{name} must have one or two axes, got none", argument=argument)
        if hasattr(y, "chunks") and not isnan(sum(y.chunks[0])) and not isnan(sum(array.chunks[0])):
            if array.shape[0] != y.shape[0]:
                raise InputError(
                    f"y has {y.shape[0]} rows and {name} has {array.shape[0]}; they must be the same rows",
                    argument=argument,
                )
            array = array.rechunk({0: y.chunks[0]})
        if array.ndim > 1:
            array = array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
        blocks = array.to_delayed().reshape(-1).tolist()
    if len(blocks) != y.npartitions:
        raise InputError(
            f"y has {y.npartitions} partitions and {name} has {len(blocks)}; they must be the same rows: "
            "repartition one of them, or call compute_chunk_sizes()",
            argument=argument,
        )
    return blocks


def _array_state(y: Any, blocks: Mapping[Slot, Any], number: int, *, options: Mapping[str, Any]) -> ScoreState:
    """Return the state of one partition, NumPy arrays or pandas series."""
    result = ScoreState(**options)
    if len(y) == 0:
        return result
    by = {slot.name: block for slot, block in blocks.items() if slot.argument == "by"}
    rest = {"id": getattr(y, "index", None)}  # of a series
    rest |= {slot.argument: block for slot, block in blocks.items() if slot.argument != "by"}
    with _within(number):
        return result.update(y, **rest, by=by or None)
