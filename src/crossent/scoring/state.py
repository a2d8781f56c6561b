"""`ScoreState`: rows come in parts, their sums stay, and a `Score` follows; states merge and may be pickled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from crossent.errors import InputError, InputTypeError
from crossent.scoring.finish import finish
from crossent.scoring.input.arguments import (
    RowArguments,
    ScoreOptions,
    bin_counts,
    ignored_labels,
    mistake_costs,
    smallest_charged,
)
from crossent.scoring.input.batch import batch
from crossent.scoring.input.classes import chosen
from crossent.scoring.input.series import as_list
from crossent.scoring.parts import Zero
from crossent.scoring.result import Score
from crossent.scoring.sums.row_sums import RowSums
from crossent.version import __version__

_NUMBERS = int | float | np.ndarray | np.number | np.bool_


class ScoreState:
    """Score rows that come in parts: `update` with each part, `merge` states, `finalize` to a `Score`.

    Parts and states may come in any order and size; results agree up to float64 rounding (1e-13). A state takes a few
    tens of kilobytes for ten classes, and grows only with the number of classes, slices and clusters. It can be
    pickled.

    Parameters
    ----------
    classes
        The classes in the order of the columns, or a mapping of labels to names; by default the column names if there
        are any, else 0 … V − 1. With one column per row, the second class is the positive one.
    ignore
        Labels of rows to leave out; `float("nan")` for missing ones.
    normalize
        Divide probabilities by their sum.
    zero
        Floor of the probability in the loss, or "inf" for none, so that a probability of 0 costs infinity.
    ci
        Confidence level of the intervals.
    worst
        Number of rows with the largest loss to list.
    rows
        Keep the loss of every row, so that `compare` can pair them: some 50 bytes a row.
    costs
        Costs of a false positive and a false negative, such as {"fp": 1, "fn": 5}; adds decision thresholds for two
        classes.
    bins
        Number of bins for numeric columns of `by`, such as {"age": 5}; by default columns with more than 50 values are
        cut into five.

    Raises
    ------
    InputError, InputTypeError
        If an option cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from crossent import ScoreState
    >>> first = ScoreState().update([0, 1], probs=np.array([[0.7, 0.3], [0.4, 0.6]]))
    >>> second = ScoreState().update([1], probs=np.array([[0.2, 0.8]]))
    >>> round(first.merge(second).finalize().loss, 6)
    0.363548
    """

    def __init__(
        self,
        *,
        classes: Sequence[Hashable] | Mapping[Any, Hashable] | None = None,
        ignore: Any = None,
        normalize: bool = False,
        zero: Zero = "inf",
        ci: float = 0.95,
        worst: int = 10,
        rows: bool = False,
        costs: Mapping[str, float] | None = None,
        bins: Mapping[str, int] | None = None,
    ) -> None:
        named = chosen(as_list(classes))
        self.options = ScoreOptions(
            classes=None if named is None else tuple(named.names),
            class_keys=() if named is None else named.others,
            ignore=ignored_labels(as_list(ignore)),
            normalize=normalize,
            zero=smallest_charged(zero),
            ci=ci,
            worst=worst,
            rows=rows,
            costs=mistake_costs(costs),
            bins=bin_counts(bins),
        )
        self.sums, self._whole = RowSums(self.options), True

    def __setstate__(self, parts: Any) -> None:
        """Take the parts of a pickled state, which may be damaged or of another version."""
        if not (isinstance(parts, dict) and _are_whole(cast("dict[str, Any]", parts))):
            raise InputError(
                f"this is no pickled ScoreState of crossent {__version__}: it is damaged, or of another version; score "
                "the rows again"
            )
        vars(self).update(cast("dict[str, Any]", parts))

    def update(
        self,
        y: Any,
        *,
        probs: Any = None,
        logits: Any = None,
        logprobs: Any = None,
        weight: Any = None,
        cluster: Any = None,
        by: Any = None,
        id: Any = None,
    ) -> ScoreState:
        """Add rows, and return the state itself.

        Parameters
        ----------
        y
            The true class of each row, (N,).
        probs, logits, logprobs
            One of the three, shape (N, V), or (N,) for the positive one of two classes: probabilities, logits (log-odds
            if one column), or log-probabilities.
        weight
            Weight of each row, ≥ 0; a row of weight 0 is left out.
        cluster
            Rows with the same value are not independent of each other.
        by
            Columns to slice the rows by: one, a mapping of names to columns, or a frame.
        id
            Names of the rows.

        Returns
        -------
        ScoreState
            The state itself.

        Raises
        ------
        InputError
            If the rows cannot be scored: a ValueError that names row, cause and fix. If some rows were already added,
            the state cannot be used again, and raises.
        InputTypeError
            If an argument has the wrong type: an InputError that is a TypeError too.

        Examples
        --------
        >>> ScoreState().update(["no", "yes"], probs=[0.5, 0.5], by=["a", "b"]).finalize()
        Traceback (most recent call last):
        ...
        crossent.errors.InputError: the labels in y hold names such as 'no'; pass classes= with the 2 names in the \
order of the columns, the positive class last
        """
        self._require_whole()
        rows = batch(y, RowArguments(probs, logits, logprobs, weight, cluster, by, id), self.options)
        if len(rows):
            self._whole = False
            self.sums.add(rows)
            self._whole = True
        return self

    def _require_whole(self) -> None:
        if not self._whole:
            raise InputError("a previous update failed midway; create a new ScoreState")

    def merge(self, other: ScoreState) -> ScoreState:
        """Add the rows of another state, and return the state itself.

        Parameters
        ----------
        other
            A state with the same options and classes; it is not changed.

        Returns
        -------
        ScoreState
            The state itself.

        Raises
        ------
        InputError
            If the states differ in options, classes, kind of predictions, slices, or use of clusters and ids.
        InputTypeError
            If the other is not a state.

        Examples
        --------
        >>> a, b = ScoreState(), ScoreState(zero=1e-9)
        >>> a.merge(b)
        Traceback (most recent call last):
        ...
        crossent.errors.InputError: these states were made with different options (zero: 'inf' and 1e-09), and \
cannot be merged
        """
        if not isinstance(other, ScoreState):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputTypeError(f"a state merges with another ScoreState, not with {type(other).__name__}")
        for state in (self, other):
            state._require_whole()
        self.options.require_same(other.options)
        self.sums.merge(other.sums)
        return self

    def finalize(self) -> Score:
        """Return the score of the rows so far; more may be added afterwards.

        Returns
        -------
        Score
            As `crossent.score` returns it.

        Raises
        ------
        InputError
            If there are no rows to score.

        Examples
        --------
        >>> ScoreState().finalize()
        Traceback (most recent call last):
        ...
        crossent.errors.InputError: there are no rows to score
        """
        self._require_whole()
        return finish(self.sums, self)

    def all_reduce(self, group: Any = None) -> ScoreState:
        """Merge the states of all ranks of a torch.distributed process group; every rank gets the result.

        Every rank must call it. States are sent pickled, between the ranks of one program.

        Parameters
        ----------
        group
            A process group, by default that of all ranks.

        Returns
        -------
        ScoreState
            The state itself, with the rows of all ranks.

        Raises
        ------
        InputError
            If the states cannot be merged.

        Examples
        --------
        >>> state = ScoreState().update([1], probs=[0.5])
        >>> state.all_reduce().finalize().n                   # doctest: +SKIP
        8
        """
        from torch import distributed

        states: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(states, self, group=group)
        self.sums = RowSums(self.options)
        for state in states:
            self.merge(state)
        return self


def _are_whole(parts: dict[str, Any]) -> bool:
    """Return whether a pickled state has all parts of a state, with the right attribute names."""
    options, sums = parts.get("options"), parts.get("sums")
    if not isinstance(options, ScoreOptions) or not isinstance(parts.get("_whole"), bool):
        return False
    try:
        fresh = RowSums(replace(options))  # which checks the options
    except (AttributeError, TypeError, ValueError):
        return False
    return parts.keys() == vars(ScoreState()).keys() and _alike(sums, fresh)


def _alike(found: Any, fresh: Any) -> bool:
    """Return whether an object has the class and the attributes of a fresh one, and so have its parts."""
    if fresh is None or isinstance(fresh, _NUMBERS):  # which become something, or another type, with the first rows
        return fresh is None or found is None or isinstance(found, _NUMBERS)
    if type(found) is not type(fresh) or not hasattr(fresh, "__dict__"):
        return type(found) is type(fresh)
    mine, others = vars(found), vars(fresh)
    return mine.keys() == others.keys() and all(_alike(mine[name], other) for name, other in others.items())
