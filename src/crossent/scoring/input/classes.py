"""Classes: names of the prediction columns, and the labels that match them.

A label means a class if it is the class, or is written like it: 3, 3.0 and "3" are one label. Columns with names have
short ones, without their common beginning and end (p_cat, p_dog are cat, dog), and a label may include any part of the
removed text, up to the whole name of the column. A label that could mean two classes is refused.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from os.path import commonprefix
from typing import Any, NamedTuple

from crossent.errors import InputError, InputTypeError, quoted
from crossent.scoring.input.labels import listing
from crossent.scoring.input.plain import missing, plain

NO_VALUE = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip
"""Texts that stand for no value where numbers are expected: those of pandas."""
_TRUTH = {"true": "1", "false": "0"}
_BEFORE, _AFTER = "_-.: /([{'\"=", "_-.: /)]}'\""
"""Characters that may end the common beginning of names, and that may begin their common end."""


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of the columns of predictions, in their order.

    Parameters
    ----------
    names
        What results call them; a range by default.
    others
        Further labels that mean each of them; () if there are none.
    columns
        Names of the columns that they were made from; () if the columns have none, or the user named the classes.
    """

    names: Sequence[Hashable]
    others: tuple[tuple[Hashable, ...], ...] = ()
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unnamed(self) -> bool:
        """Whether the classes are the column numbers, because they have no names."""
        return isinstance(self.names, range)


def of_columns(columns: Sequence[str]) -> Classes:
    """Return the classes of columns with these names.

    Examples
    --------
    >>> of_columns(["p_new_york", "p_new_jersey"])                                  # doctest: +NORMALIZE_WHITESPACE
    Classes(names=('york', 'jersey'),
            others=(('p_new_york', 'new_york'), ('p_new_jersey', 'new_jersey')),
            columns=('p_new_york', 'p_new_jersey'))
    """
    return _of_names(tuple(map(str, columns)))


@lru_cache(maxsize=16)
def _of_names(names: tuple[str, ...]) -> Classes:
    begins, ends = _cuts(names)
    cut = [tuple(name[begin : len(name) - end] for begin in begins for end in ends) for name in names]
    others = tuple(tuple(dict.fromkeys(forms[:-1])) for forms in cut)
    return Classes(tuple(forms[-1] for forms in cut), others if len(names) > 1 else (), names)


def class_names(columns: Sequence[str]) -> tuple[Hashable, ...]:
    """Return the names of columns without their common beginning and end: p_cat, p_dog are cat, dog.

    Examples
    --------
    >>> class_names(["p_cat", "p_dog"]), class_names(["cat_prob", "dog_prob"]), class_names(["p0", "p1", "p10"])
    (('cat', 'dog'), ('cat', 'dog'), ('0', '1', '10'))
    """
    return tuple(of_columns(columns).names)


class _Cuts(NamedTuple):
    """Numbers of characters that may be cut off every name at its beginning and at its end, in ascending order."""

    begins: list[int]
    ends: list[int]


def _cuts(names: Sequence[str]) -> _Cuts:
    prefix = commonprefix(list(names))  # noqa: RUF071  of names, not of paths
    begins = [0, *(k + 1 for k, mark in enumerate(prefix) if mark in _BEFORE)]
    word = len(re.sub(r"\d+$", "", prefix))
    if all(re.fullmatch(r"\d+", name[word:]) for name in names):  # p0, p1, …, p10
        return _Cuts(sorted({*begins, word}), [0])
    rest = [name[begins[-1] :] for name in names]
    suffix = commonprefix([name[::-1] for name in rest])  # noqa: RUF071
    ends = (k + 1 for k, mark in enumerate(suffix) if mark in _AFTER and not (mark == "." and suffix[:k].isdigit()))
    return _Cuts(begins, [0, *ends])  # the end of 1.5 is no end


def chosen(classes: Any) -> Classes | None:
    """Return the argument `classes` of a user: a list of names in the order of the columns, or a mapping to names.

    A mapping of 0 … V − 1 to names is read as a model's `id2label`; of other labels, in the order of the columns, to
    names; of names to 0 … V − 1 that of `label2id`. Both sides are labels of the class.

    Raises
    ------
    InputTypeError
        If it is a single text, has no order, or is not a collection.
    InputError
        If two classes have the same name.

    Examples
    --------
    >>> chosen({1: "pos", 0: "neg"})
    Classes(names=('neg', 'pos'), others=((0,), (1,)), columns=())
    """
    if classes is None:
        return None
    if isinstance(classes, str | Set) or not isinstance(classes, Iterable):
        raise InputTypeError(
            f"classes must be a list of the classes in the order of the columns, got {quoted(classes)}",
            argument="classes",
        )
    if isinstance(classes, Mapping):
        keys, names = _of_mapping(classes)
        found = Classes(tuple(names), tuple((key,) for key in keys))
    else:
        found = Classes(tuple(plain(name) for name in classes))
    values: Sequence[Any] = found.names
    for name in values:
        if not isinstance(name, Hashable):
            raise InputTypeError(
                f"classes must be values such as texts and numbers, got {quoted(name)}", argument="classes"
            )
    if len(set(found.names)) < len(found.names):
        raise InputError(f"classes must differ from each other, got {listing(found.names)}", argument="classes")
    return found


class _Named(NamedTuple):
    """Classes of a mapping, in the order of the columns: further labels, and names."""

    keys: list[Any]
    names: list[Any]


def _of_mapping(classes: Mapping[Any, Any]) -> _Named:
    keys, names = (list(map(plain, side)) for side in (classes.keys(), classes.values()))
    counted = {str(k) for k in range(len(keys))}
    by_key, by_name = (set(map(str, side)) == counted for side in (keys, names))
    if by_key and by_name and list(map(str, keys)) != list(map(str, names)):
        raise InputError(
            f"classes maps numbers to numbers in another order, {quoted(dict(classes))}; pass a list of the classes in "
            "the order of the columns",
            argument="classes",
        )
    if by_name and not by_key:  # label2id
        keys, names = names, keys
    if by_name or by_key:
        order = sorted(range(len(keys)), key=lambda k: int(str(keys[k])))
        keys, names = ([side[k] for k in order] for side in (keys, names))
    return _Named(keys, names)


class Numbers(NamedTuple):
    """The number of each class, by each label that means it: by its value, and by how it is written.

    A label that means several classes has all their numbers. `numeric` is whether all classes are numbers.
    """

    exact: dict[Hashable, tuple[int, ...]]
    written: dict[str, tuple[int, ...]]
    numeric: bool

    def find(self, label: Hashable) -> tuple[int, ...]:
        """Return the numbers of the classes that a label may mean: one, several or none."""
        found = self.exact.get(label, ())
        return found or (() if label is None else self.written.get(written(label), ()))


@lru_cache(maxsize=16)
def numbers_of(classes: Classes) -> Numbers:
    """Return the number of each class by the labels that mean it."""
    exact: dict[Hashable, tuple[int, ...]] = {}
    alike: dict[str, tuple[int, ...]] = {}
    for k, name in enumerate(classes.names):
        for label in (name, *(classes.others[k] if classes.others else ())):
            value = None if missing(label) else label
            exact[value] = tuple(dict.fromkeys((*exact.get(value, ()), k)))
            if value is not None:
                alike[written(value)] = tuple(dict.fromkeys((*alike.get(written(value), ()), k)))
    return Numbers(exact, alike, all(is_number(name) for name in classes.names))


def matched(mine: Sequence[Hashable], theirs: Sequence[Hashable]) -> list[int] | None:
    """Return the place of each of the classes `mine` among `theirs`, None unless both are the same classes."""
    numbers = numbers_of(Classes(tuple(theirs)))
    found = [numbers.find(None if missing(name) else name) for name in mine]
    places = [place[0] for place in found if len(place) == 1]
    return places if len(mine) == len(theirs) and len(set(places)) == len(theirs) else None


def written(value: Any) -> str:
    """Return how a label is written: equal for labels that mean the same, such as 3, 3.0 and "3"."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return str(int(value))
    text = unicodedata.normalize("NFC", str(value).strip())
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    whole, _, zeros = text.partition(".")
    return whole.lstrip("+") if whole.lstrip("+-").isdigit() and not zeros.strip("0") else text


def in_order(value: Any) -> tuple[Any, ...]:
    """Return a key that sorts values as people do: numbers by size, then texts, numbers in them by size; None last.

    Examples
    --------
    >>> sorted(["1", "10", "11", "2", "b10", "b9", None, 3.5], key=in_order)
    ['1', '2', 3.5, '10', '11', 'b9', 'b10', None]
    """
    if missing(value):
        return (2,)
    if is_number(value):
        return (0, float(value), str(value))
    parts = re.split(r"(\d+)", str(value).casefold())
    texts, digits = parts[::2], [part.lstrip("0") for part in parts[1::2]]
    sizes = [(len(part), part) for part in digits]
    return (1, *(each for pair in zip(texts, [*sizes, (0, "")], strict=True) for each in pair), str(value))


def is_number(value: Any) -> bool:
    """Return whether a label is a finite number, or written like one."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
