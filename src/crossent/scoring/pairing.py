"""Pairs of rows: two sets of kept rows brought into one order, so that their losses can be subtracted."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import Argument, InputError, Message, quoted
from crossent.scoring.input.classes import matched
from crossent.scoring.input.ids import meaning
from crossent.scoring.input.labels import listing
from crossent.scoring.input.plain import plain
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
        said = " and ".join(quoted(classes[side.label[k]]) for side in (a, b))
        raise InputError(
            Message(
                f"{names.both} have different true classes, {said} in row {quoted(plain(a.id[k]))}; only the same "
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
        raise InputError(f"{names.both} have different weights, {said} in row {quoted(plain(a.id[k]))}")
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
        return Pair(a, b.take(_matched(a, b, names)))
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
                f"{names.both} have different clusters (row {quoted(plain(a.id[k]))}); pass the same ",
                *(Argument("cluster"), " to both"),
            )
        )


def _refuse_infinite_losses(a: KeptColumns, b: KeptColumns, names: Names) -> None:
    both = np.isposinf(a.loss) & np.isposinf(b.loss)
    if both.any():
        first = plain(a.id[both.argmax()])
        raise InputError(
            Message(
                f"the loss of {int(both.sum())} rows is infinite in both {names.a} and {names.b} (row "
                f"{quoted(first)}), so their difference is undefined; score both with a smallest probability, such as ",
                Argument("zero", 1e-6),
            )
        )


def _matched(a: KeptColumns, b: KeptColumns, names: Names) -> Any:
    """Return the positions of the ids of a in b.

    Ids are the same if they are equal. If that does not pair all rows, they are the same if they mean the same: "0" in
    a csv file is 0 in a parquet file.
    """
    ids, others = _ids(a, names.a), _ids(b, names.b)
    place = {name: k for k, name in enumerate(others)}
    if place.keys() != set(ids):
        meanings, places = [meaning(name) for name in ids], {meaning(name): k for name, k in place.items()}
        if len(places) == len(place) and len(set(meanings)) == len(meanings):
            return _places(meanings, places, (ids, others), names)
    return _places(ids, place, (ids, others), names)


def _ids(side: KeptColumns, name: str) -> list[Hashable]:
    """Return the ids of a side; raise unless all are present and unique."""
    ids = [plain(each) for each in side.id]
    if None in ids:
        row = side.number[ids.index(None)]
        raise InputError(f"row {row} of {name} has no id to pair it by; drop such rows", argument="id")
    if (count := len(set(ids))) < len(ids):
        seen: set[Hashable] = set()
        twice = next(each for each in ids if each in seen or seen.add(each))
        raise InputError(
            f"the ids of {name} are not unique: {len(ids)} rows have {count} ids, and {quoted(twice)} occurs more than "
            "once",
            argument="id",
        )
    return ids


def _places(mine: list[Any], place: dict[Any, int], ids: tuple[list[Hashable], list[Hashable]], names: Names) -> Any:
    """Return the place of each of `mine`; `ids` has the ids of both sides as written in their files."""
    missing = [name for name, key in zip(ids[0], mine, strict=True) if key not in place]
    if missing or len(place) != len(mine):
        there = set(mine)
        extra = next((ids[1][k] for key, k in place.items() if key not in there), None)
        example = f"{quoted(missing[0])} is in {names.a} alone" if missing else f"{quoted(extra)} is in {names.b} alone"
        raise InputError(
            f"{names.both} do not have the same rows: {len(missing)} ids are in {names.a} alone and "
            f"{len(place) - len(mine) + len(missing)} in {names.b} alone ({example}); "
            "compare the rows that both have",
            argument="id",
        )
    return np.array([place[key] for key in mine])
