"""Settles the columns of a table before its rows are read: which columns, whose classes, and which columns are texts.

`settled` looks columns up by name, pattern or path, recognises unnamed columns (`recognised`), and finds the classes:
from the rows, in a first pass over that column, or from the file's own label names.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from crossent.errors import Argument, InputError, Message
from crossent.scoring.input.arrow_values import decoded
from crossent.scoring.input.classes import Classes, chosen, in_order, numbers_of, of_columns
from crossent.scoring.input.columns import Columns, headless
from crossent.scoring.input.nested import column_of, opened
from crossent.scoring.input.reader import FileError, Portion
from crossent.scoring.input.recognised import almost, recognise
from crossent.scoring.input.seen import nested_paths
from crossent.scoring.input.shapes import classes_of_keys, keys_of, predictions, shape_of

SAMPLE = 1000
"""Rows that are looked at to recognise a table."""
_MOST_KEYS = 1 << 16
_NUMBERS = 1 << 23  # of a batch
_OF_LOGS = {"logprobs", "token_logprobs", "prompt_logprobs", "choices", "resps", "filtered_resps"}
"""Columns of logs of language models, which are no predictions of classes."""


class Asked(Protocol):
    """A table in one file or several."""

    @property
    def columns(self) -> Sequence[str]:
        """The names of its columns."""
        ...

    def batches(self, names: Iterable[str], texts: Iterable[str]) -> Iterator[Portion]:
        """Yield record batches of the named columns; `texts` are those that hold labels."""
        ...


@dataclass(frozen=True, slots=True)
class Settled:
    """How the rows of a table are to be read.

    Parameters
    ----------
    columns
        The columns, which all exist.
    classes
        The argument `classes` of a state: the caller's, or the table's.
    named
        The classes as labels mean them; None if they are numbers that count the columns.
    said
        One line on the recognised columns, "" if all were named.
    """

    columns: Columns
    classes: Any
    named: Classes | None
    said: str

    def pieces(self, batch: Any) -> Iterator[Any]:
        """Yield a record batch in pieces that stay small when rows of few numbers become rows of all classes."""
        width = len(self.columns.keys or ())
        step = max(1, _NUMBERS // width) if width else len(batch)
        for begin in range(0, len(batch), max(1, step)):
            yield batch.slice(begin, step)


def settled(table: Asked, columns: Columns, classes: Any = None, *, unlabelled: bool = False) -> Settled:
    """Return how a table is to be read.

    Parameters
    ----------
    table
        The table; its batches are asked for several times.
    columns
        What the caller names; labels and predictions may be left out.
    classes
        The argument `classes` of a state.
    unlabelled
        Whether the labels are elsewhere, so that the table needs none.

    Raises
    ------
    InputError
        If a column does not exist, or it is not clear which columns are meant.
    """
    said = ""
    given = classes
    found_by_shape = columns.values is None or (columns.label is None and not unlabelled)
    if found_by_shape:
        columns, classes, said = _recognised(table, columns, classes, unlabelled=unlabelled)
    found = _looked_up(table, columns)
    found, sample = _with_texts(table, found)
    mine = chosen(classes)
    if mine is None and sample is not None:
        found = _with_keys(table, found, sample)
    if given is None and found.label is not None and found.label not in found.roots:
        found, classes = _by_file(table, found, classes, sample)
        mine = chosen(classes)
    values = found.values or ()
    named = mine or (
        classes_of_keys(found.keys) if found.keys else of_columns(list(values)) if len(values) > 1 else None
    )
    return Settled(found, classes, named, said)


def _recognised(table: Asked, columns: Columns, classes: Any, *, unlabelled: bool) -> tuple[Columns, Any, str]:
    sample = _sample(table)
    values = columns.among(table.columns, _paths(sample)).values
    found = None
    if sample is not None:
        mine = chosen(classes)
        found = recognise(
            sample.schema.names,
            sample.schema.types,
            sample,
            label=columns.label,
            kind=columns.kind,
            values=cast("Sequence[str] | None", values),
            classes=mine,
        )
    if found is None or found.columns.values is None:
        raise InputError(_nothing_recognised(sample, columns), argument=columns.kind)
    if found.columns.label is None and not unlabelled:
        what = found.said.partition(":")[0] if values is None else "its columns are known"
        raise InputError(
            Message(f"{what}, and no column with a usual name of labels holds classes; pass ", Argument("label")),
            argument="label",
        )
    label = None if unlabelled and columns.label is None else found.columns.label
    result = replace(columns, label=label, kind=found.columns.kind, values=found.columns.values)
    return result, found.classes if classes is None else classes, found.said


def _sample(table: Asked) -> Any | None:
    """Return the first rows of all columns, with the types that the table gives them if it can."""
    if hasattr(table, "sample"):
        return cast("Any", table).sample(SAMPLE)
    return first_rows(table, [name for name in table.columns if list(table.columns).count(name) == 1], SAMPLE)


def _nothing_recognised(sample: Any, columns: Columns) -> str:
    names = [] if sample is None else sample.schema.names
    if {"inst#", "actual", "predicted"} <= set(names):
        return (
            "this table of Weka lacks the probabilities of all classes, or the name of one; write it with "
            "-classifications 'weka.classifiers.evaluation.output.prediction.CSV -distribution', or write a column of "
            "probabilities for each class, and the actual class without its number"
        )
    if {"label", "score"} <= set(names):
        return (
            "label and score are the predicted class and its probability alone; write those of all classes (of "
            "pipelines of Hugging Face: top_k=None)"
        )
    why = almost(sample, columns.label) if sample is not None and columns.values is None else ""
    parts: list[str | Argument] = [
        "the columns match no known tool; ",
        f"{why}: correct it, or pass " if why else "pass ",
    ]
    parts += [] if columns.label is not None else [Argument("label"), " with the column of true labels, and "]
    return Message(
        *parts,
        Argument("probs"),
        " (or ",
        Argument("logits"),
        ", ",
        Argument("logprobs"),
        ")",
        headless(names),
        "; logs of language models are scored by crossent lm" if _OF_LOGS & set(names) else "",
    )


def first_rows(table: Asked, names: Sequence[str], count: int, *, texts: bool = True) -> Any | None:
    """Return the first rows of some columns, None for none; as texts, or numbers, if the format has no types."""
    if not names:
        return None
    batches = cast("Any", table.batches(names, names if texts else ()))
    with closing(batches):
        for portion in batches:
            if len(portion.batch):
                return portion.batch.slice(0, count)
    return None


def _paths(sample: Any) -> list[str]:
    return [] if sample is None else nested_paths(sample)


def _looked_up(table: Asked, columns: Columns) -> Columns:
    """Return columns whose names, patterns and paths have been looked up."""
    existing = list(table.columns)
    values = columns.values
    texts = [values] if isinstance(values, str) else list(values or ())
    by = [columns.by] if isinstance(columns.by, str) else list(columns.by or ())
    parts = [part.strip() for text in [*texts, *by] for part in ([text] if text in existing else text.split(","))]
    dotted = [name for name in [*columns.single.values(), *parts] if "." in name and name not in existing]
    begins = {name.split(".")[0] for name in dotted}
    roots = [name for name in existing if any(name.split(".")[0] == begin for begin in begins)]
    return columns.among(existing, _paths(first_rows(table, roots, SAMPLE)) if roots else ())


def _with_texts(table: Asked, columns: Columns) -> tuple[Columns, Any]:
    """Return columns with a mark for predictions in text form, and the first rows of a single column of predictions."""
    values = list(columns.values or ())
    if len(values) != 1:
        return columns, None
    root = columns.roots.get(values[0], values[0])
    if root in columns.single.values():
        return columns, None
    try:
        sample = first_rows(table, [root], 1, texts=False)
    except FileError as error:  # it holds texts, or is damaged: then the first error is the right one
        try:
            sample = first_rows(table, [root], 1)
        except FileError:
            raise error from None
    if sample is None:
        return columns, None
    array = decoded(sample.column(0))
    return replace(columns, as_text=opened(array, root).type != array.type), column_of(sample, values[0])


def _with_keys(table: Asked, columns: Columns, first: Any) -> Columns:
    """Return columns with all classes that their rows name, by reading the column of predictions once before."""
    name = next(iter(columns.values or ()))
    shape = shape_of(opened(first, name).type)
    fixed = shape == "struct" and not columns.as_text and getattr(table, "typed", False)
    if shape is None or shape == "vector" or fixed:
        return columns
    root = columns.roots.get(name, name)
    found: dict[Hashable, None] = {}
    for portion in table.batches([root], [root] if columns.as_text else []):
        if len(portion.batch):
            found.update(dict.fromkeys(keys_of(column_of(portion.batch, name), name)))
        if len(found) > _MOST_KEYS:
            raise InputError(f"the rows name more than {_MOST_KEYS:,} classes", argument=columns.kind)
    keys = list(found) if shape == "struct" else sorted(found, key=in_order)
    return replace(columns, keys=tuple(keys))


def _by_file(table: Asked, columns: Columns, classes: Any, first: Any) -> tuple[Columns, Any]:
    """Return columns in the order of the classes that the file names its labels by, and these as a mapping."""
    ask = getattr(table, "class_names", None)
    names = None if ask is None or columns.label is None else ask(columns.label)
    if not names or classes is not None:
        return columns, classes
    values = list(columns.values or ())
    mapping: Mapping[Any, Hashable] = dict(enumerate(names))
    known = numbers_of(cast("Classes", chosen(mapping)))
    if columns.keys:
        forms = classes_of_keys(columns.keys)
        fits = all(known.find(key) for key in forms.names) or all(known.find(str(key)) for key in columns.keys)
        return columns, mapping if fits else None
    if len(values) < 2:
        count = 2 if first is None else _width(first, columns)
        return columns, mapping if count == len(names) else None
    found = [known.find(name) for name in of_columns(values).names]
    places = [place[0] for place in found if len(place) == 1]
    if len(values) != len(names) or sorted(places) != list(range(len(names))):
        return columns, None
    return replace(columns, values=[values[places.index(k)] for k in range(len(names))]), mapping


def _width(first: Any, columns: Columns) -> int:
    """Return how many classes the first row of a single column has."""
    name = next(iter(columns.values or ()))
    shape = predictions([first], [name], columns.kind).values.shape
    return shape[1] if len(shape) == 2 else 2
