"""Pairs of rows: two sets of kept rows brought into one order, so that their losses can be subtracted."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import Argument, InputError, Message
from crossent.scoring.input.classes import matched
from crossent.scoring.input.labels import listing, python_value
from crossent.scoring.sums.kept import KeptColumns
from crossent.scoring.sums.row_sums import RowSums


class Names(NamedTuple):
    """Names of the two sides of a comparison, in texts."""

    a: str = "a"
    b: str = "b"

    @property
    def both(self) -> str:
        """Both names, for errors about the two."""
        return f"{self.a} and {self.b}"


class Pair(NamedTuple):
    """The rows of both sides, in the same order."""

    a: KeptColumns
    b: KeptColumns


def paired(first: RowSums, second: RowSums, names: Names) -> Pair:
    """Return the kept rows of both in the order of the first; the classes may be in different orders.

    Raises
    ------
    InputError
        If the two do not have the same rows, or a pair has different true classes, weights or clusters, or two infinite
        losses.
    """
    classes = _classes(first)
    a, b = _ordered(_rows(first), _in_order_of(classes, second, names), names)
    wrong: Any = a.label != b.label
    if wrong.any():
        k = int(wrong.argmax())
        said = " and ".join(repr(classes[side.label[k]]) for side in (a, b))
        raise InputError(
            Message(
                f"{names.both} have different true classes, {said} in row {python_value(a.id[k])!r}; only the same "
                "rows can be compared: pass ",
                Argument("id"),
                " to pair them if they are in different orders",
            )
        )
    weights: list[Any] = [np.ones(len(side)) if side.weight is None else side.weight for side in (a, b)]
    wrong = weights[0] != weights[1]
    if wrong.any():
        k = int(wrong.argmax())
        said = " and ".join(f"{weight[k]:g}" for weight in weights)
        raise InputError(f"{names.both} have different weights, {said} in row {python_value(a.id[k])!r}")
    _require_same_clusters(a, b, names)
    _refuse_infinite_losses(a, b, names)
    return Pair(a, b)


def _classes(sums: RowSums) -> tuple[Hashable, ...]:
    assert sums.layout is not None
    return sums.layout.classes


def _in_order_of(classes: tuple[Hashable, ...], sums: RowSums, names: Names) -> KeptColumns:
    """Return the kept rows with labels that are places among `classes`, which may be in another order."""
    places = matched(_classes(sums), classes)
    if places is None:
        raise InputError(f"{names.both} have different classes, {listing(classes)} and {listing(_classes(sums))}")
    rows = _rows(sums)
    return rows if places == list(range(len(places))) else replace(rows, label=np.array(places)[rows.label])


def _rows(sums: RowSums) -> KeptColumns:
    assert sums.kept is not None
    return sums.kept.whole()


def _ordered(a: KeptColumns, b: KeptColumns, names: Names) -> Pair:
    """Return both sides in the order of the first: paired by ids if they have some, else by order."""
    if (a.id is None) != (b.id is None):
        with_ids, without = (names.b, names.a) if a.id is None else (names.a, names.b)
        raise InputError(
            Message(
                f"{with_ids} has ids and {without} has none; pass ",
                Argument("id"),
                " to both, or to neither to pair by order",
            )
        )
    if a.id is not None:
        return Pair(a, b.take(_matched(a.id, b.id, names)))
    if len(a) != len(b):
        raise InputError(
            Message(
                f"{names.a} has {len(a)} rows and {names.b} has {len(b)}; only the same rows can be compared: pass ",
                Argument("id"),
                " to pair them",
            )
        )
    return Pair(replace(a, id=a.number), b)


def _require_same_clusters(a: KeptColumns, b: KeptColumns, names: Names) -> None:
    """Raise unless the clusters of both sides put the same rows together; their numbers may differ."""
    if a.cluster is None and b.cluster is None:
        return
    if a.cluster is None or b.cluster is None:
        with_clusters, without = (names.b, names.a) if a.cluster is None else (names.a, names.b)
        raise InputError(
            Message(
                f"{with_clusters} has clusters and {without} has none; pass the same ", Argument("cluster"), " to both"
            )
        )
    first, place = np.unique(a.cluster, return_index=True)
    there = dict(zip(first.tolist(), b.cluster[place].tolist(), strict=True))
    wrong = np.array([there[name] for name in a.cluster.tolist()]) != b.cluster
    if wrong.any() or len(np.unique(b.cluster)) != len(first):
        k = int(wrong.argmax())
        raise InputError(
            Message(
                f"{names.both} have different clusters (row {python_value(a.id[k])!r}); pass the same ",
                *(Argument("cluster"), " to both"),
            )
        )


def _refuse_infinite_losses(a: KeptColumns, b: KeptColumns, names: Names) -> None:
    both = np.isposinf(a.loss) & np.isposinf(b.loss)
    if both.any():
        first = python_value(a.id[both.argmax()])
        raise InputError(
            Message(
                f"the loss of {int(both.sum())} rows is infinite in {names.a} and in {names.b} (row {first!r}), which "
                "has no difference; score both with a smallest probability, such as ",
                Argument("zero", 1e-6),
            )
        )


def _matched(mine: Any, theirs: Any, names: Names) -> Any:
    """Return the places of the ids `mine` among the ids `theirs`."""
    place = {python_value(name): k for k, name in enumerate(theirs)}
    ids = [python_value(name) for name in mine]
    for side, listed, count in ((names.a, ids, len(set(ids))), (names.b, theirs, len(place))):
        if count < len(listed):
            seen: set[Any] = set()
            twice = next(name for name in map(python_value, listed) if name in seen or seen.add(name))
            raise InputError(
                f"the ids of {side} are not unique: {len(listed)} rows have {count}, and {twice!r} names more than one",
                argument="id",
            )
    missing = [name for name in ids if name not in place]
    if missing or len(place) != len(ids):
        extra = next(iter(place.keys() - set(ids)), None)
        example = f"{missing[0]!r} is in {names.a} alone" if missing else f"{extra!r} is in {names.b} alone"
        raise InputError(
            f"{names.both} do not have the same rows: {len(missing)} ids are in {names.a} alone and "
            f"{len(place) - len(ids) + len(missing)} in {names.b} alone ({example}); "
            "compare the rows that both have",
            argument="id",
        )
    return np.array([place[name] for name in ids])
