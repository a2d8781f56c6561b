"""Scores of Ray data sets: a `ScoreState` for each block, merged by an aggregation of Ray Data. Needs the extra `ray`.

The aggregations derive from `AggregateFn`. An `AggregateFnV2` reads a single column, and Ray drops all others before it
groups rows.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Dataset
from ray.data.aggregate import AggregateFn
from ray.data.block import Block, BlockAccessor
from ray.exceptions import RayTaskError

from crossent.errors import InputError, quoted
from crossent.scoring import result
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.arrow import arguments
from crossent.scoring.input.columns import columns
from crossent.scoring.state import ScoreState


class State(AggregateFn):
    """Aggregation of rows to a pickled `ScoreState`, to keep and merge later.

    A group without rows gives None.

    Parameters
    ----------
    label, probs, logits, logprobs, weight, cluster, by, id, **options
        As for `score`.
    alias_name
        Name of the column of results in the aggregated data set.

    Raises
    ------
    InputError, InputTypeError
        If the rows cannot be scored, with row, cause and fix; a ValueError and a TypeError.

    Examples
    --------
    >>> import pickle, ray
    >>> import crossent.scoring.ray
    >>> data = ray.data.read_parquet("predictions")                                           # doctest: +SKIP
    >>> days = data.groupby("day").aggregate(crossent.scoring.ray.State(label="y", probs="p"))  # doctest: +SKIP
    >>> states = {row["day"]: pickle.loads(row["state"]) for row in days.iter_rows()}         # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        label: str,
        probs: Any = None,
        logits: Any = None,
        logprobs: Any = None,
        weight: str | None = None,
        cluster: str | None = None,
        by: Any = None,
        id: str | None = None,
        alias_name: str = "state",
        **options: Any,
    ) -> None:
        self.columns = columns(label, RowArguments(probs, logits, logprobs, weight, cluster, by, id))
        self.options = options
        _ = ScoreState(**options)  # wrong options raise here, not on a worker
        super().__init__(  # pyright: ignore[reportArgumentType]  Ray's own default is None
            _nothing, _merge, alias_name, accumulate_block=self._add, finalize=self._finish
        )

    def _add(self, before: bytes | None, block: Block) -> bytes | None:
        accessor = BlockAccessor.for_block(block)
        table = accessor.to_arrow()
        if len(table) == 0:
            return before
        there = self.columns.among(table.column_names)
        names = list(there.values or ())
        if len(names) == 1:
            table = _without_tensors(table, accessor, names[0])
        state = ScoreState(**self.options)
        for batch in table.select(there.needed).combine_chunks().to_batches():
            _ = state.update(**arguments(batch, there))
        return _merge(before, pickle.dumps(state))

    def _finish(self, state: bytes | None) -> Any:
        return state


class Score(State):
    """Aggregation of rows to a `crossent.Score`, for `Dataset.aggregate` and `GroupedData.aggregate`.

    A group without rows to score gives None.

    Parameters
    ----------
    label, probs, logits, logprobs, weight, cluster, by, id, **options
        As for `score`.
    alias_name
        Name of the column of results in the aggregated data set.

    Raises
    ------
    InputError, InputTypeError
        If the rows cannot be scored, with row, cause and fix; a ValueError and a TypeError.

    Examples
    --------
    >>> import ray
    >>> import crossent.scoring.ray
    >>> data = ray.data.read_parquet("predictions")                                             # doctest: +SKIP
    >>> days = data.groupby("day").aggregate(crossent.scoring.ray.Score(label="y", probs="p_*"))  # doctest: +SKIP
    >>> {row["day"]: row["score"].loss for row in days.iter_rows()}                             # doctest: +SKIP
    {'Monday': 0.41, 'Tuesday': 0.38}
    """

    def __init__(self, *, alias_name: str = "score", **columns_and_options: Any) -> None:
        super().__init__(alias_name=alias_name, **columns_and_options)

    def _finish(self, state: bytes | None) -> Any:
        whole: ScoreState | None = None if state is None else pickle.loads(state)
        return whole.finalize() if whole is not None and whole.sums.n else None


def score(dataset: Dataset, **columns_and_options: Any) -> result.Score:
    """Return the `crossent.score` of predictions in a Ray data set.

    Each block becomes a `ScoreState` on its worker, and only states are sent. Only the needed columns of files are
    read.

    Parameters
    ----------
    dataset
        A data set with the following columns.
    label
        Name of the column that holds the true class of each row.
    probs, logits, logprobs
        One of the three: names of columns, or a pattern such as "p_*", or one column that holds a number or a vector
        in each row. See `crossent.score`.
    weight, cluster, id
        Names of columns. Without `id` the worst rows cannot be found again: Ray promises no order of the rows.
    by
        Names of columns or a pattern.
    **options
        `classes`, `ignore`, `normalize`, `zero`, `ci` and `worst` of `crossent.score`.

    Returns
    -------
    Score
        Loss in nats, with all other results of one pass.

    Raises
    ------
    InputError, InputTypeError
        If the rows cannot be scored, with row, cause and fix; a ValueError and a TypeError.

    Examples
    --------
    >>> import ray
    >>> import crossent.scoring.ray
    >>> data = ray.data.read_parquet("predictions")                                   # doctest: +SKIP
    >>> crossent.scoring.ray.score(data, label="y", probs="p_*", cluster="patient").ci  # doctest: +SKIP
    (0.371, 0.428)
    """
    aggregation = State(**columns_and_options)
    names = dataset.columns()
    found = None
    if names is not None:  # a data set without any block has no columns
        needed = aggregation.columns.among(names).needed
        try:
            found = dataset.select_columns(needed).aggregate(aggregation)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None  # without Ray's log of the worker
            raise
    state = ScoreState() if found is None or found[aggregation.name] is None else pickle.loads(found[aggregation.name])
    return state.finalize()


def _merge(first: bytes | None, second: bytes | None) -> bytes | None:
    if first is None or second is None:
        return second if first is None else first
    whole: ScoreState = pickle.loads(first)
    return pickle.dumps(whole.merge(pickle.loads(second)))


def _nothing(_: Any) -> bytes | None:
    return None


def _without_tensors(table: pa.Table, accessor: BlockAccessor, name: str) -> pa.Table:
    """Return the table of a block with its column of Ray's tensors as a column of lists."""
    if not isinstance(table.schema.field(name).type, pa.BaseExtensionType):
        return table
    tensors = np.asarray(accessor.to_numpy(name))
    if tensors.ndim != 2:
        raise InputError(f"the tensors of column {quoted(name)} must be vectors of one length, got {tensors.shape[1:]}")
    lists = pa.FixedSizeListArray.from_arrays(tensors.reshape(-1), tensors.shape[1])
    return table.set_column(table.column_names.index(name), name, lists)
