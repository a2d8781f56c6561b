"""Tables as tools write them, recognised by their shape: which columns hold the labels, and which the predictions.

A tool is recognised by the names of its columns (`tools`), and its predictions by their values: probabilities of a row
add up to 1. The true labels are in the column that the tool's names point to, or in one that is called as people call
the truth, and each of its values is one of the classes. A column of predicted labels is never read as the truth, nor
the probability of the predicted class as the probability of one class. If two readings are possible, the error names
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.errors import Argument, InputError, Message, quoted
from crossent.scoring.input import tools
from crossent.scoring.input.classes import Classes, numbers_of
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.labels import listing
from crossent.scoring.input.seen import CLOSE, Seen
from crossent.scoring.input.tools import Reading
from crossent.scoring.parts import Kind

_ENOUGH = 10  # rows with the most probable class as label: enough to suspect predicted labels
_NOUNS = {"probs": "probabilities", "logits": "logits", "logprobs": "log-probabilities"}


@dataclass(frozen=True, slots=True)
class Recognised:
    """The recognised reading of a table without options.

    Parameters
    ----------
    columns
        The columns of labels and of predictions; `columns.label` is None if the table holds no labels.
    classes
        The classes in the order of the columns; None if they follow from the names of the columns.
    said
        The reading in one line.
    """

    columns: Columns
    classes: tuple[str, ...] | None
    said: str


def recognise(
    names: Sequence[str],
    types: Sequence[Any],
    sample: Any,
    *,
    label: str | None = None,
    kind: Kind = "probs",
    values: Sequence[str] | None = None,
    classes: Classes | None = None,
) -> Recognised | None:
    """Return how a table is to be read by its shape, or None if it is of no known one.

    Parameters
    ----------
    names, types
        Names and types of its columns.
    sample
        Its first rows, a record batch of these columns.
    label, kind, values, classes
        What the user has said: the column of labels, the predictions, the classes.

    Raises
    ------
    InputError
        If several readings are possible.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = {"y": [0, 1], "predict": [0, 1], "p0": [0.75, 0.25], "p1": [0.25, 0.75]}
    >>> batch = pa.RecordBatch.from_pydict(table)
    >>> recognise(batch.schema.names, batch.schema.types, batch).said
    "read as H2O predictions: labels in 'y', probabilities in 'p0', 'p1'"
    """
    if len(names) != len(types) or not len(sample):
        return None
    seen = Seen(sample, label)
    if values is not None:
        readings = [Reading("", tuple(values), kind)]
    else:
        readings = next(filter(None, (_readings(seen, tier) for tier in (tools.TOOLS, tools.FORMS, tools.LAST))), [])
    readings = _different([reading for reading in readings if label not in reading.values])
    if not readings:
        return None
    if len(readings) > 1:
        raise _several(readings)
    reading = readings[0]
    found = label or _truth(seen, reading, classes or tools.classes_of(reading, seen))
    columns = Columns(found, reading.kind, list(reading.values))
    return Recognised(columns, reading.classes, _said(seen, reading, found, given=label is not None))


def almost(sample: Any, label: str | None = None) -> str:
    """Return why columns that look like probabilities are not recognised, "" if none look so.

    Most of their rows add up to 1. Then a row that does not, or a label without a column, is likely to be a mistake.
    `sample` and `label` are those of `recognise`.
    """
    seen = Seen(sample, label)
    groups = [("", group) for group in tools.prefixed(seen)] + tools.named_as_labels(seen)
    for truth, group in groups:
        columns = [column for name in group if (column := seen.number(name)) is not None]
        if not len(columns) == len(group) > 1:
            continue
        sums = np.stack(columns, axis=1).sum(axis=1)
        off = np.abs(sums - 1.0) > CLOSE
        if 2 * np.count_nonzero(off) > len(sums):
            continue
        begin = f"{listing(group)[1:-1]} look like probabilities, but "
        if off.any():
            return f"{begin}row {int(off.argmax())} sums to {float(sums[off.argmax()]):.4g}"
        labels = seen.columns[truth].to_pylist() if truth else []
        for row, value in enumerate(labels):
            if value is not None and str(value) not in group:
                return f"{begin}label {quoted(value)} (row {row}) in {quoted(truth)} has no column"
    return ""


def _readings(seen: Seen, tier: Sequence[tools.Tool]) -> list[Reading]:
    return [reading for tool in tier for reading in tool.rule(seen)]


def _different(readings: Sequence[Reading]) -> list[Reading]:
    """Return readings of different columns, the first of those that read the same, and none of a column's fields."""
    found: dict[frozenset[str], Reading] = {}
    for reading in readings:
        _ = found.setdefault(frozenset(reading.values), reading)
    whole = [f"{reading.values[0]}." for reading in found.values() if len(reading.values) == 1]
    return [each for each in found.values() if not any(each.values[0].startswith(begin) for begin in whole)]


def _several(readings: Sequence[Reading]) -> InputError:
    parts: list[str | Argument] = ["the table can be read in several ways; pass "]
    for k, reading in enumerate(readings[:3]):
        parts += [" or " if k else "", Argument(reading.kind, ",".join(reading.values))]
    return InputError(Message(*parts), argument=readings[0].kind)


def _truth(seen: Seen, reading: Reading, classes: Classes) -> str | None:
    """Return the column of true labels, None if there is none.

    Raises
    ------
    InputError
        If several may be.
    """
    inside = {name for name in seen.names if any(name.startswith(f"{value}.") for value in reading.values)}
    free = [name for name in seen.names if name not in reading.values and name not in inside]
    for name in reading.truth:
        if name in free and seen.in_classes(name, classes):
            return name
    fitting = [name for name in free if tools.is_truth(name) and seen.in_classes(name, classes)]
    if not fitting and reading.anywhere:
        fitting = [name for name in free if not name.startswith(".") and seen.in_classes(name, classes)]
    if not fitting:  # of labels that are no classes the error says which
        called = [name for name in free if tools.is_truth(name) and seen.labels(name)]
        fitting = called if len(called) == 1 else []
    if len(fitting) > 1:
        parts = [part for name in fitting[:4] for part in (" or ", Argument("label", name))][1:]
        raise InputError(Message("several columns may hold the true labels; pass ", *parts), argument="label")
    return fitting[0] if fitting else None


def _said(seen: Seen, reading: Reading, label: str | None, *, given: bool) -> str:
    tool = f"{reading.tool} predictions" if reading.tool else "predictions"
    values = [quoted(value) for value in reading.values]
    shown = ", ".join(values if len(values) <= 6 else [*values[:3], "…", values[-1]])
    many = f" ({len(values)})" if len(values) > 6 else ""
    labels = "no labels" if label is None else f"labels in {quoted(label)}"
    suspect = label is not None and not given and _are_predicted(seen, reading, label)
    doubt = "; each label is the most probable class: are they predicted ones?" if suspect else ""
    return f"read as {tool}: {labels}, {_NOUNS[reading.kind]} in {shown}{many}{doubt}"


def _are_predicted(seen: Seen, reading: Reading, label: str) -> bool:
    """Return whether the label of each row is its most probable class, in enough rows to tell."""
    classes = tools.classes_of(reading, seen)
    columns = [found for name in reading.values if (found := seen.number(name)) is not None]
    whole = seen.rows(next(iter(reading.values)))
    if whole is not None:
        rows = whole[0]
    elif len(columns) != len(reading.values):
        return False
    else:
        rows = np.stack(columns if len(columns) > 1 else [0.5 - columns[0], columns[0] - 0.5], axis=1)
    known = numbers_of(classes)
    labels = [known.find(value) for value in seen.columns[label].to_pylist()]
    if len(labels) < _ENOUGH or not all(len(place) == 1 for place in labels):
        return False
    return bool((rows.argmax(axis=1) == [place[0] for place in labels]).all())
