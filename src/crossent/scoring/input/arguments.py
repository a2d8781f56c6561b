"""The arguments of the public functions as two records: options of a state, and the columns of rows.

`score`, `ScoreState` and the adapters spell their arguments out for users. Everything below them passes these records
whole.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import Argument, InputError, InputTypeError, Message, quoted
from crossent.scoring.input.plain import plain
from crossent.scoring.parts import KINDS, Kind, Zero

MOST_BINS = 100
"""Bins of a column of numbers."""


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """Options of a `ScoreState`: how to read rows, and which statistics to keep. States merge if their options agree.

    The fields are the arguments of `ScoreState`, checked; `ignore` holds any number of labels, and `class_keys` the
    further labels of each class. `costs` are those of a false positive and of a false negative, `bins` the numbers of
    bins of columns of `by`, by name.
    """

    classes: tuple[Hashable, ...] | None = None
    class_keys: tuple[tuple[Hashable, ...], ...] = ()
    ignore: tuple[Any, ...] = ()
    normalize: bool = False
    zero: Zero = "inf"
    ci: float = 0.95
    worst: int = 10
    rows: bool = False
    costs: tuple[float, float] = (1.0, 1.0)
    bins: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.zero != "inf" and not (isinstance(self.zero, Real) and 0.0 < self.zero < 1.0):
            raise InputError(
                Message(
                    Argument("zero", is_subject=True),
                    " must be inf or a probability between 0 and 1; got ",
                    quoted(self.zero),
                ),
                argument="zero",
            )
        check_level(self.ci)
        if not isinstance(self.worst, Integral) or self.worst < 0:
            raise InputError(f"worst must be a whole number of rows, got {quoted(self.worst)}", argument="worst")

    def require_same(self, other: ScoreOptions) -> None:
        """Raise `InputError` with the name of the first option that differs."""
        for name in ScoreOptions.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if repr(mine) != repr(theirs):  # NaN is equal to NaN here
                raise InputError(
                    f"these states were made with different options ({name}: {quoted(mine)} and {quoted(theirs)}), "
                    "and cannot be merged"
                )


class Predictions(NamedTuple):
    """Predictions as a caller passes them, and their kind."""

    kind: Kind
    values: Any


@dataclass(frozen=True, slots=True, eq=False)
class RowArguments:
    """Arguments of `ScoreState.update` beside `y`: data of the rows, or names of the columns that hold them."""

    probs: Any = None
    logits: Any = None
    logprobs: Any = None
    weight: Any = None
    cluster: Any = None
    by: Any = None
    id: Any = None

    @property
    def predictions(self) -> Predictions:
        """The one kind of predictions that was passed.

        Raises
        ------
        InputTypeError
            If none or several were passed.
        """
        passed: list[Kind] = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(passed) == 1:
            return Predictions(passed[0], getattr(self, passed[0]))
        which = [Argument("probs"), ", ", Argument("logits"), " and ", Argument("logprobs")]
        got = [part for kind in passed for part in (" and ", Argument(kind))][1:] or ["none of them"]
        raise InputTypeError(Message("pass exactly one of ", *which, "; got ", *got))


def mistake_costs(costs: Any) -> tuple[float, float]:
    """Return the costs of a false positive and of a false negative, 1 by default.

    Examples
    --------
    >>> mistake_costs({"fn": 5}), mistake_costs(None)
    ((1.0, 5.0), (1.0, 1.0))
    """
    found = {"fp": 1.0, "fn": 1.0}
    given = {} if costs is None else costs
    if not isinstance(given, Mapping) or not set(given) <= set(found):
        raise InputError(f"costs must be like {{'fp': 1, 'fn': 5}}, got {quoted(costs)}", argument="costs")
    for name, cost in given.items():
        if not (isinstance(cost, Real) and 0.0 < float(cost) < math.inf):
            raise InputError(f"the cost of a mistake must be positive, got {name}={quoted(cost)}", argument="costs")
        found[name] = float(cost)
    return found["fp"], found["fn"]


def bin_counts(bins: Any) -> tuple[tuple[str, int], ...]:
    """Return the argument `bins`, the number of bins by name of a column of numbers, in the order of the names."""
    given = {} if bins is None else bins
    if not isinstance(given, Mapping):
        raise InputTypeError(f"bins must be like {{'age': 5}}, got {quoted(bins)}", argument="bins")
    for name, count in given.items():
        if not isinstance(count, Integral) or not 1 <= int(count) <= MOST_BINS:
            raise InputError(
                f"bins of {quoted(name)} must be a whole number from 1 to {MOST_BINS}, got {quoted(count)}",
                argument="bins",
            )
    return tuple(sorted((str(name), int(count)) for name, count in given.items()))


def check_level(ci: float) -> None:
    """Raise `InputError` unless a level of confidence lies between 0 and 1."""
    if not (isinstance(ci, Real) and 0.0 < ci < 1.0):
        raise InputError(
            f"ci must be a level of confidence between 0 and 1, such as 0.95; got {quoted(ci)}", argument="ci"
        )


def ignored_labels(ignore: Any) -> tuple[Any, ...]:
    """Return the argument `ignore`, one label or several, as a tuple; `pandas.NA` and the like become None."""
    if ignore is None:
        return ()
    several = isinstance(ignore, list | tuple | set | frozenset) or np.ndim(ignore) == 1
    return tuple(plain(label) for label in (ignore if several else (ignore,)))


def smallest_charged(zero: Any) -> Any:
    """Return the argument `zero`, with "inf" for every spelling of infinity."""
    return "inf" if zero in ("inf", 0, math.inf) else zero
