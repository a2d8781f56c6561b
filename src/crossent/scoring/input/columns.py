"""The columns of a table that a score reads: names and patterns, looked up among the columns of the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from crossent.errors import Argument, InputError, InputTypeError, Message, quoted
from crossent.scoring.input.arguments import Predictions, RowArguments
from crossent.scoring.input.classes import is_number
from crossent.scoring.input.labels import listing
from crossent.scoring.input.nested import root_of
from crossent.scoring.parts import KINDS, Kind


def select(
    pattern: str | Sequence[str], columns: Sequence[str], argument: str | None = None, paths: Sequence[str] = ()
) -> list[str]:
    """Return the columns that a pattern names: names or patterns such as p_*, one text with commas or several texts.

    A name is taken before a pattern, so a column called "p[0]" can be named. Parts keep the order that they are given
    in, so that `classes=` may be in that order too; the columns of one pattern keep the order of the table. `paths`
    are fields in columns, such as "pred.a", which a part with a dot may name if no column matches it.

    Raises
    ------
    InputError
        If a part matches no column; `argument` is the name of the one that holds the pattern.
    """
    if isinstance(pattern, str) and pattern not in columns:
        parts = [part.strip() for part in pattern.split(",")]
    else:
        parts = [pattern] if isinstance(pattern, str) else list(pattern)
    if not any(parts):
        raise InputError(f"no column is named; the columns are {listing(columns)}", argument=argument)
    found: dict[str, None] = {}
    for part in parts:
        here = [part] if part in columns else [name for name in columns if fnmatchcase(name, part)]
        if not here and "." in part:
            deep = [path for path in paths if path.count(".") == part.count(".") and fnmatchcase(path, part)]
            here = [part] if part in paths else deep
        if not here:
            raise InputError(_nothing(part, [*columns, *paths]), argument=argument)
        found.update(dict.fromkeys(here))
    return list(found)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that a score reads. `values` and `by` are patterns until `among` has looked them up.

    `label` and `values` may be None until the columns are recognised. `no_value` are texts for missing values in the
    columns of labels, slices, clusters and ids. `keys` are all classes that rows name, where each row names its own;
    `as_text` is whether a column of predictions holds texts, and `roots` has the columns of paths such as "meta.y".
    """

    label: str | None
    kind: Kind
    values: str | Sequence[str] | None
    weight: str | None = None
    cluster: str | None = None
    by: str | Sequence[str] | None = None
    id: str | None = None
    no_value: tuple[str, ...] = ()
    keys: tuple[Any, ...] | None = None
    as_text: bool = False
    roots: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def single(self) -> Mapping[str, str]:
        """The columns that are named one by one, by their roles."""
        roles = {"label": self.label, "weight": self.weight, "cluster": self.cluster, "id": self.id}
        return {role: name for role, name in roles.items() if name is not None}

    @property
    def needed(self) -> list[str]:
        """The names of all columns, once each; for a path, the column it begins with."""
        names = [*self.single.values(), *(self.by or ()), *(self.values or ())]
        return list(dict.fromkeys(self.roots.get(name, name) for name in names))

    @property
    def texts(self) -> list[str]:
        """The columns among the needed ones that hold labels and not numbers, or texts that hold numbers."""
        names = [self.label, self.cluster, *(self.by or ()), self.id, *((self.values or ()) if self.as_text else ())]
        return list(dict.fromkeys(self.roots.get(name, name) for name in names if name is not None))

    def among(self, names: Iterable[str], paths: Iterable[str] = ()) -> Columns:
        """Return these columns with all names and patterns looked up among the columns of a table.

        `paths` are fields of columns that may be named too.

        Raises
        ------
        InputError
            If a column does not exist, or would be a prediction and something else.
        """
        existing, inside = [str(name) for name in names], list(paths)
        for role, name in self.single.items():
            if name not in existing and name not in inside:
                said = _nothing(name, [*existing, *inside], marks="")
                raise InputError(Message(Argument(role, is_subject=True), f": {said}"), argument=role)
        values = None if self.values is None else select(self.values, existing, self.kind, inside)
        by = None if self.by is None else select(self.by, existing, "by", inside)
        for role, name in self.single.items():
            if name in (values or ()):
                raise InputError(
                    f"column {quoted(name)} is {role} and one of {self.kind} {listing(values or ())}; choose a "
                    "narrower pattern",
                    argument=self.kind,
                )
        named = [*self.single.values(), *(by or ()), *(values or ())]
        known = {*existing}
        roots = {name: root for name in named if name not in known and (root := root_of(name, existing))}
        return replace(self, values=values, by=by, roots=roots)


def columns(label: Any, named: RowArguments, no_value: Sequence[str] = (), *, by_shape: bool = False) -> Columns:
    """Return the columns that a caller names: the one of labels, and the others by name or pattern.

    `no_value` are texts for missing values in the columns of labels, slices, clusters and ids. With `by_shape` the
    caller may leave the labels and the predictions to `survey.settled`.

    Raises
    ------
    InputTypeError
        If not exactly one kind of predictions is named, or something is not a name.
    """
    none_named = by_shape and all(getattr(named, kind) is None for kind in KINDS)
    predictions = Predictions("probs", None) if none_named else named.predictions
    single = {"label": label, "weight": named.weight, "cluster": named.cluster, "id": named.id}
    for role, name in single.items():
        if not isinstance(name, str) and (name is not None or (role == "label" and not by_shape)):
            raise InputTypeError(f"{role} must be the name of a column, got {quoted(name)}", argument=role)
    for role, pattern in {predictions.kind: predictions.values, "by": named.by}.items():
        many = isinstance(pattern, list | tuple) and all(isinstance(part, str) for part in pattern)
        if not (many or isinstance(pattern, str) or (pattern is None and (role == "by" or none_named))):
            raise InputTypeError(
                f"{role} must be names of columns, or a pattern such as 'p_*', got {quoted(pattern)}", argument=role
            )
    return Columns(kind=predictions.kind, values=predictions.values, by=named.by, no_value=tuple(no_value), **single)


def _nothing(part: str, columns: Sequence[str], marks: str = "*?[") -> str:
    """Return the error for a name, or a pattern if it has one of the marks, that matches no column."""
    same = [name for name in columns if name.casefold() == part.casefold()]
    near = " or ".join(quoted(name) for name in same[:3] or get_close_matches(part, columns, 3))
    what = (
        f"no column matches {quoted(part)}"
        if any(mark in part for mark in marks)
        else f"there is no column {quoted(part)}"
    )
    said = f"{what}; " + (f"did you mean {near}? The" if near else "the") + f" columns are {listing(columns)}"
    return said + (_spaced(part, columns) if marks else "") + headless(columns)


def _spaced(part: str, columns: Sequence[str]) -> str:
    """Return the name to pass if one differs only by a space, else ""."""
    found = [name for name in columns if name != name.strip() and fnmatchcase(name.strip(), part)]
    if not found:
        return ""
    begins, ends = any(name[0].isspace() for name in found), any(name[-1].isspace() for name in found)
    wanted = f"{'*' if begins else ''}{part}{'*' if ends and not part.endswith('*') else ''}"
    where = "begin and end" if begins and ends else "begin" if begins else "end"
    return f"; names {where} with a space: pass {quoted(wanted)}"


def headless(columns: Sequence[str]) -> str:
    """Return a hint that the first row has been taken for names of columns, "" if they do not look so.

    Examples
    --------
    >>> headless(["0", "0.25", "0.75"]), headless(["0", "1"])
    ('; these are numbers: has the file no header? Write the names of the columns above its first row', '')
    """
    numbers = [name for name in columns if is_number(name)]
    if 2 * len(numbers) < len(columns) or not any(re.search(r"[.eE]", name) for name in numbers):
        return ""
    return "; these are numbers: has the file no header? Write the names of the columns above its first row"
