"""Which columns of a table hold what: names and patterns, found among the columns that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from crossent.scoring.input.batch import Kind
from crossent.scoring.input.labels import listing


def select(pattern: str | Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the columns that a pattern names: names or patterns such as p_*, one text with commas or several texts.

    A name is taken before a pattern, so a column called "p[0]" can be named. Parts keep the order that they are given
    in, so that `classes=` may be in that order too; the columns of one pattern keep the order of the table.

    Raises
    ------
    ValueError
        If a part matches no column.
    """
    if isinstance(pattern, str) and pattern not in columns:
        parts = [part.strip() for part in pattern.split(",")]
    else:
        parts = [pattern] if isinstance(pattern, str) else list(pattern)
    if not any(parts):
        raise ValueError(f"no column is named; the columns are {listing(columns)}")
    found: dict[str, None] = {}
    for part in parts:
        here = [part] if part in columns else [name for name in columns if fnmatchcase(name, part)]
        if not here:
            raise ValueError(_nothing(part, columns))
        found.update(dict.fromkeys(here))
    return list(found)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that a score reads. `values` and `by` are patterns until `among` has looked them up."""

    label: str
    kind: Kind
    values: str | Sequence[str]
    weight: str | None = None
    cluster: str | None = None
    by: str | Sequence[str] | None = None
    id: str | None = None

    @property
    def single(self) -> Mapping[str, str]:
        """The columns that are named one by one, by what they are."""
        given = {"label": self.label, "weight": self.weight, "cluster": self.cluster, "id": self.id}
        return {role: name for role, name in given.items() if name is not None}

    @property
    def needed(self) -> list[str]:
        """The names of all columns, once each."""
        return list(dict.fromkeys([*self.single.values(), *(self.by or ()), *self.values]))

    def among(self, names: Iterable[str]) -> Columns:
        """Return the same with all names looked up among those of a table.

        Raises
        ------
        ValueError
            If a column is not there, or would be a prediction and something else.
        """
        there = [str(name) for name in names]
        for role, name in self.single.items():
            if name not in there:
                raise ValueError(f"{role}: {_nothing(name, there)}")
        values, by = select(self.values, there), None if self.by is None else select(self.by, there)
        for role, name in self.single.items():
            if name in values:
                raise ValueError(
                    f"column {name!r} is {role} and one of {self.kind} {listing(values)}; choose a narrower pattern"
                )
        return replace(self, values=values, by=by)


def columns(label: Any, given: Mapping[Kind, Any], rest: Mapping[str, Any]) -> Columns:
    """Return the columns that callers name.

    Raises
    ------
    TypeError
        If not exactly one of probabilities, logits and log-probabilities is named, or something is not a name.
    """
    present: list[Kind] = [kind for kind, values in given.items() if values is not None]
    if len(present) != 1:
        raise TypeError(
            f"name the columns of exactly one of probs=, logits= and logprobs=; got {' and '.join(present) or 'none'}"
        )
    single = {"label": label, **{role: rest[role] for role in ("weight", "cluster", "id")}}
    for role, name in single.items():
        if not isinstance(name, str) and (name is not None or role == "label"):
            raise TypeError(f"{role} must be the name of a column, got {name!r}")
    patterns = {present[0]: given[present[0]], "by": rest["by"]}
    for role, pattern in patterns.items():
        many = isinstance(pattern, list | tuple) and all(isinstance(part, str) for part in pattern)
        if not (many or isinstance(pattern, str) or (pattern is None and role == "by")):
            raise TypeError(f"{role} must be names of columns, or a pattern such as 'p_*', got {pattern!r}")
    return Columns(kind=present[0], values=given[present[0]], by=rest["by"], **single)


def _nothing(part: str, columns: Sequence[str]) -> str:
    near = " or ".join(repr(name) for name in get_close_matches(part, columns, 3))
    what = f"no column matches {part!r}" if any(mark in part for mark in "*?[") else f"there is no column {part!r}"
    return f"{what}; " + (f"did you mean {near}? The" if near else "the") + f" columns are {listing(columns)}"
