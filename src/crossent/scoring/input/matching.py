"""Labels become the numbers of their classes; the error for an unknown label includes the fix."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from crossent.errors import LONGEST, Argument, InputError, Message, one_line, quoted
from crossent.scoring.input.classes import NO_VALUE, Classes, Numbers, is_number, numbers_of, written
from crossent.scoring.input.labels import Coded, listing
from crossent.scoring.input.plain import missing

IGNORED = -1
"""The class of rows that are left out."""
_SHOWN = 6  # labels that a hint lists
Hint = list[str | Argument]
_Y = Argument("y", is_subject=True)


def classes_of(labels: Coded, classes: Classes, ignore: Iterable[Any]) -> Any:
    """Return the class of each label, `IGNORED` where the label is one of `ignore`.

    An empty text is a missing value unless it is a class; if all classes are numbers, so are texts such as "NA": in
    labels, and in `ignore`.

    Raises
    ------
    InputError
        If a label is neither a class nor to be ignored, with the label, its first row and the fix.
    """
    numbers = numbers_of(classes)
    ignored = [_read(label, numbers) for label in ignore]
    values = [_read(label, numbers) for label in labels.values]

    def find(label: Any, value: Any) -> int | None:
        if ignored and any(_same(label, other) or _same(value, other) for other in ignored):
            return IGNORED
        found = numbers.find(value)
        return found[0] if len(found) == 1 else None

    table = [find(label, value) for label, value in zip(labels.values, values, strict=True)]
    present = np.bincount(labels.codes, minlength=len(table)) > 0
    wrong = [k for k, found in enumerate(table) if found is None and present[k]]
    if wrong:
        rows = np.isin(labels.codes, wrong)
        first, count = int(rows.argmax()), int(rows.sum())
        where = f"row {first}, {count} row{'s' if count > 1 else ''} in total"
        seen = [value for k, value in enumerate(values) if present[k] and value is not None and table[k] != IGNORED]
        raise InputError(_not_a_class(values[labels.codes[first]], where, classes, seen), argument="y")
    if table == list(range(len(table))):
        return labels.codes
    return np.array([IGNORED if k is None else k for k in table], np.int64)[labels.codes]


def _read(label: Any, numbers: Numbers) -> Any:
    """Return a label, or None for a missing value."""
    if missing(label):
        return None
    if isinstance(label, str) and label.strip() in (NO_VALUE if numbers.numeric else {""}) and not numbers.find(label):
        return None
    return label


def _not_a_class(label: Any, where: str, classes: Classes, seen: Sequence[Any]) -> Message:
    """Return the error for a label that is not a class; the hint depends on `seen`, all labels."""
    if label is None:  # the command writes NaN as nan, which may be a class, or a text to keep
        called_nan = numbers_of(classes).find("nan") or any(written(value).lower() == "nan" for value in seen)
        skip = Argument("ignore", "" if called_nan else float("nan"))
        return Message(_Y, f" has no value ({where}); drop such rows, or pass ", skip, " to skip them")
    found = numbers_of(classes).find(label)
    if len(found) > 1:
        return _ambiguous(label, where, classes, found)
    if classes.unnamed and isinstance(label, str) and not is_number(label):
        last = ", the positive class last" if len(classes) == 2 else ""
        order = f" with the {len(classes)} names in the order of the columns{last}"
        return Message("the labels in ", _Y, f" hold names such as {quoted(label)}; pass ", Argument("classes"), order)
    text = f"label {quoted(label)} ({where}) is not one of the {len(classes)} classes {listing(classes.names)}"
    unknown = [value for value in seen if not numbers_of(classes).find(value)]
    hint = _for_numbers(label, unknown, seen, len(classes)) if classes.unnamed else _for_names(label, classes, seen)
    return Message(text, *(hint or _in_general(label, unknown, seen, classes)))


def _for_names(label: Any, classes: Classes, seen: Sequence[Any]) -> Hint:
    """Return the fix for a label that is not among classes with names; [] if that is unknown."""
    if alike := _looks_alike(label, classes):
        return [f"; it differs from {alike}: write both alike"]
    if classes.columns and len(seen) == len(classes):
        order = f" in the order of the columns {listing(classes.columns)}"
        return ["; pass ", Argument("classes"), " with the labels of ", _Y, order]
    return []


def _for_numbers(label: Any, unknown: Sequence[Any], seen: Sequence[Any], count: int) -> Hint:
    """Return the fix for a label that is not among the classes 0 … `count` − 1; [] if that is unknown."""
    counted = _other_numbers(seen, count)
    hint: Hint = [f"; {counted}, pass that as ", Argument("classes")] if counted else []
    if len(unknown) == 1 and is_number(label) and float(label) < 0.0:  # -1, -100: a class, or none
        hint += ["; or use " if counted else "; use ", Argument("ignore", label), " to skip such rows"]
    return hint


def _in_general(label: Any, unknown: Sequence[Any], seen: Sequence[Any], classes: Classes) -> Hint:
    """Return the fix for an unknown label if names and numbers give no hint."""
    if isinstance(label, float) and not label.is_integer() and 0.0 < label < 1.0:
        return ["; are y and the predictions swapped? Soft labels are for crossent.cross_entropy"]
    if len(classes) == 2 and len(seen) > 2:
        several = f"for {len(seen)} classes pass a column for each (of scikit-learn predict_proba, not predict)"
        if len(unknown) == 1 and len(seen) == 3 and not classes.unnamed:
            skip = Argument("ignore", label)
            third = "or pass a column for the third class (of scikit-learn predict_proba, not predict)"
            return ["; correct it, pass ", skip, f" to skip such rows, {third}"]
        return [f": one or two columns hold two classes; {several}"]
    skip = Argument("ignore", label if len(unknown) == 1 else list(unknown[:_SHOWN]))
    if not (classes.unnamed or classes.columns):
        return ["; write both alike, or use ", skip, " to skip such rows"]
    return ["; use ", skip, " to skip such rows, or ", Argument("classes"), " to name the columns"]


def _ambiguous(label: Any, where: str, classes: Classes, found: Sequence[int]) -> Message:
    """Return the error about a label that may mean several classes."""
    names: Sequence[Any] = classes.columns or classes.names
    said = " or ".join(f"{'column' if classes.columns else 'class'} {quoted(names[k])}" for k in found)
    return Message(
        f"label {quoted(label)} ({where}) may mean {said}; pass ",
        *(Argument("classes"), " with the labels of ", _Y, f" in the order of the columns {listing(names)}"),
    )


def _other_numbers(seen: Sequence[Any], count: int) -> str:
    """Return a hint at class numbers other than 0 … V − 1, from the labels; else ""."""
    if not all(is_number(value) for value in seen) or len({type(value) for value in seen}) > 1:
        return ""
    numbers = sorted(float(value) for value in seen)
    if len(numbers) == count:
        return f"if the columns are {listing(sorted(seen, key=float))} in this order"
    if numbers[0] >= 1.0 and numbers[-1] == count:
        return f"if labels count from 1, and the columns are {listing(range(1, count + 1))} in this order"
    return ""


def _looks_alike(label: Any, classes: Classes) -> str:
    """Return the class that a label looks like, and how they differ; "" if there is none."""
    if not isinstance(label, str):
        return ""
    for name in classes.names:
        if isinstance(name, str) and _plainest(name) == _plainest(label):
            if name.casefold() == label.casefold():
                return f"the class {quoted(name)} in upper and lower case"
            got, meant = (one_line(ascii(text), LONGEST) for text in (label, name))
            return f"the class {meant} in characters that look alike, {got}"
    return ""


def _plainest(text: str) -> str:
    """Return a text without invisible characters: case, widths, spaces, and marks without a width."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in plain if unicodedata.category(c) not in {"Cf", "Cc", "Zs"})


def _same(label: Any, other: Any) -> bool:
    if missing(label) or missing(other):
        return missing(label) and missing(other)
    return label == other or written(label) == written(other)
