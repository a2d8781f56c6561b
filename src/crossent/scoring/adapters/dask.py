"""Scores of Dask data frames and arrays: a state for each partition, merged in a tree. Needs the extra `dask`."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isnan
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.delayed import Delayed, delayed

from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.columns import Columns, columns
from crossent.scoring.parts import Kind
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState

SPLIT = 8
"""How many states are merged at a time."""


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
    """Return the score of predictions in a Dask data frame or in Dask arrays: that of `crossent.score`.

    Each partition becomes a `ScoreState` where it lies, and only states travel. The scheduler is the one in force:
    that of `dask.config`, or of the `distributed.Client` that was made last.

    Parameters
    ----------
    y
        A data frame with a column `label`, of which the rest are columns too; or the true class of each row, (N,), as
        an array or a series, and then the rest are arrays or series of the same partitions.
    label
        Name of the column that holds the true classes, for a data frame alone.
    probs, logits, logprobs
        One of the three: names of columns, or a pattern such as "p_*"; or an array (N, V) or (N,). See
        `crossent.score`.
    weight, cluster, id
        A name, or an array or series (N,). If `id` is not given, rows of a frame or series are called by its index,
        those of arrays by their numbers.
    by
        Names or a pattern, or an array or series, or a mapping of names to such.
    **options
        `classes`, `ignore`, `normalize`, `zero`, `ci` and `worst` of `crossent.score`.

    Returns
    -------
    Score
        Loss in nats, with everything else that one pass tells.

    Raises
    ------
    ValueError, TypeError
        If the rows cannot be scored, with partition, row, cause and fix.

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
    given = {"probs": probs, "logits": logits, "logprobs": logprobs}
    rest = {"weight": weight, "cluster": cluster, "by": by, "id": id}
    return state(y, label=label, **given, **rest, **options).compute().finalize()


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
    """Return what will compute to the `ScoreState` of all rows, to be merged with others or used in a larger graph.

    Parameters
    ----------
    y, label, probs, logits, logprobs, weight, cluster, by, id, **options
        As for `score`.

    Returns
    -------
    dask.delayed.Delayed
        Of a `ScoreState`.

    Raises
    ------
    ValueError, TypeError
        As `score`.

    Examples
    --------
    >>> import dask.array as da
    >>> import crossent.scoring.dask
    >>> y, p = da.from_array([1, 0, 1, 1], chunks=2), da.from_array([0.8, 0.3, 0.6, 0.5], chunks=2)
    >>> round(crossent.scoring.dask.state(y, probs=p).compute().finalize().loss, 6)
    0.445948
    """
    given: dict[Kind, Any] = {"probs": probs, "logits": logits, "logprobs": logprobs}
    rest = {"weight": weight, "cluster": cluster, "by": by, "id": id}
    return _whole(y, label, (given, rest), options)


Given = tuple[Mapping[Kind, Any], Mapping[str, Any]]
"""The predictions and the rest, as callers name them."""
Place = tuple[str, str]
"""What an array is: ("", "probs"), say, or ("by", its name)."""


def _whole(y: Any, label: str | None, given: Given, options: Mapping[str, Any]) -> Delayed:
    _ = ScoreState(**options)  # what is wrong with the options is said here and not by a worker
    if not is_dask_collection(y):
        raise TypeError(f"y must be a Dask data frame, array or series, got {type(y).__name__}; see crossent.score")
    frame = hasattr(y, "columns") and y.ndim == 2
    if frame and label is None:
        raise TypeError("for a data frame pass label=, the name of the column that holds the true classes")
    if not frame and label is not None:
        raise TypeError("label= is the name of a column of a data frame; y holds the true classes itself here")
    if frame:
        predictions, rest = given
        parts = _of_frame(y, columns(label, RowArguments(**predictions, **rest)), options)
    else:
        parts = _of_arrays(y, given, options)
    merge = delayed(partial(_merge, options=options), pure=False)
    while len(parts) > 1:
        parts = [merge(parts[k : k + SPLIT]) for k in range(0, len(parts), SPLIT)]
    return parts[0]


def _merge(states: Sequence[ScoreState], options: Mapping[str, Any]) -> ScoreState:
    whole = ScoreState(**options)  # a task must not change what it is given
    for each in states:
        _ = whole.merge(each)
    return whole


def _of_frame(frame: Any, chosen: Columns, options: Mapping[str, Any]) -> list[Delayed]:
    found = chosen.among(frame.columns)
    one = delayed(partial(_frame_state, chosen=found, options=options), pure=False)
    return [one(part, number) for number, part in enumerate(frame[found.needed].to_delayed())]


def _frame_state(frame: Any, number: int, *, chosen: Columns, options: Mapping[str, Any]) -> ScoreState:
    result = ScoreState(**options)
    if len(frame) == 0:
        return result
    rest = {role: frame[name] for role, name in chosen.single.items() if role != "label"}
    by = {name: frame[name] for name in chosen.by or ()}
    with _within(number):
        values = frame[list(chosen.values)] if len(chosen.values) > 1 else _stacked(frame[chosen.values[0]])
        return result.update(frame[chosen.label], **{chosen.kind: values, "by": by or None, "id": frame.index, **rest})


def _stacked(column: Any) -> Any:
    """Return a column of numbers (N,) as it is, and one of lists of equal lengths as an array (N, V)."""
    first = column.iloc[0]
    if isinstance(first, str):
        raise ValueError(
            f"column {column.name!r} holds text, such as {first[:20]!r}; if these were lists, Dask made text of them: "
            "read them under dask.config.set({'dataframe.convert-string': False})"
        )
    return np.stack(column.to_list()) if hasattr(first, "__len__") else column


@contextmanager
def _within(number: int) -> Generator[None, None, None]:
    """Say in which partition an error was."""
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"partition {number}: {error}") from error


def _of_arrays(y: Any, given: Given, options: Mapping[str, Any]) -> list[Delayed]:
    predictions, rest = given
    by = rest["by"]
    if hasattr(by, "columns"):  # a series or a frame
        by = dict(by.items()) if by.ndim == 2 else {str(by.name or "by"): by}
    elif not (by is None or isinstance(by, Mapping)):
        by = {"by": by}
    named = {**predictions, **{role: rest[role] for role in ("weight", "cluster", "id")}}
    arrays = {("", name): array for name, array in named.items() if array is not None}
    arrays |= {("by", str(name)): array for name, array in (by or {}).items()}
    blocks = {place: _blocks(place[1], array, y) for place, array in arrays.items()}
    one = delayed(partial(_array_state, options=options), pure=False)
    return [
        one(part, {place: each[number] for place, each in blocks.items()}, number)
        for number, part in enumerate(_blocks("y", y, y))
    ]


def _blocks(name: str, array: Any, y: Any) -> list[Any]:
    """Return what the partitions of an array hold, aligned with those of y."""
    if not is_dask_collection(array):
        raise TypeError(f"{name} must be a Dask array or series like y, got {type(array).__name__}")
    if not hasattr(array, "chunks"):
        blocks = list(array.to_delayed())
    else:
        if array.ndim == 0:
            raise ValueError(f"{name} must have one or two axes, got none")
        if hasattr(y, "chunks") and not isnan(sum(y.chunks[0])) and not isnan(sum(array.chunks[0])):
            if array.shape[0] != y.shape[0]:
                raise ValueError(f"y has {y.shape[0]} rows and {name} has {array.shape[0]}; they must be the same rows")
            array = array.rechunk({0: y.chunks[0]})
        if array.ndim > 1:
            array = array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
        blocks = array.to_delayed().reshape(-1).tolist()
    if len(blocks) != y.npartitions:
        raise ValueError(
            f"y has {y.npartitions} partitions and {name} has {len(blocks)}; they must be the same rows: "
            "repartition one of them, or call compute_chunk_sizes()"
        )
    return blocks


def _array_state(y: Any, blocks: Mapping[Place, Any], number: int, *, options: Mapping[str, Any]) -> ScoreState:
    result = ScoreState(**options)
    if len(y) == 0:
        return result
    by = {name: block for (role, name), block in blocks.items() if role == "by"}
    rest = {"id": getattr(y, "index", None)}  # of a series
    rest |= {name: block for (role, name), block in blocks.items() if role != "by"}
    with _within(number):
        return result.update(y, **rest, by=by or None)
