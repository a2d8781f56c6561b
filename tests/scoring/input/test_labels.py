"""Labels of any kind become classes: containers, names, missing values, and labels that are no class."""

from __future__ import annotations

from datetime import datetime

import narwhals as nw
import numpy as np
import pyarrow as pa
import pytest
import torch

import crossent
from crossent import score
from crossent.errors import InputError
from crossent.scoring.input.labels import classes_of, code, missing
from tests.scoring.exact import close, exact_mean, made
from tests.scoring.refusals import INF, NAN, P, Y, assert_refused, names


def test_classes_are_the_columns_not_the_alphabet():
    """scikit-learn sorts labels; here the order of the columns is what the caller says."""
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    result = crossent.score(["dog", "ant"], probs=p, classes=["dog", "ant", "cat"])
    close(result.loss, exact_mean([0.7, 0.8]))
    assert result.classes == ("dog", "ant", "cat")


LABELS = {
    "list": list,
    "tuple": tuple,
    "uint8": lambda y: np.asarray(y, np.uint8),
    "uint64": lambda y: np.asarray(y, np.uint64),
    "float": lambda y: np.asarray(y, np.float64),
    "bool": lambda y: np.asarray(y, bool),
    "strided": lambda y: np.repeat(y, 2)[::2],
    "column": lambda y: np.asarray(y)[:, None],
    "numpy objects": lambda y: np.array([int(v) for v in y], object),
    "torch": torch.tensor,
    "arrow": lambda y: pa.array(list(map(int, y))),
    "chunked": lambda y: pa.chunked_array([list(map(int, y[:7])), list(map(int, y[7:]))]),
    "dictionary": lambda y: pa.array(list(map(int, y))).dictionary_encode(),
    "series": lambda y: nw.from_native(pa.chunked_array([list(map(int, y))]), series_only=True),
    "range of numpy ints": lambda y: [np.int16(v) for v in y],
}


@pytest.mark.parametrize("container", LABELS)
def test_containers_of_labels_weights_and_more(container):
    y, z = made(11, 40, 2)
    w = np.random.default_rng(0).integers(1, 4, size=40)
    by = np.array(["x", "y"])[np.arange(40) % 2]
    plain = crossent.score(y, logits=z, weight=w, by=by)
    result = crossent.score(LABELS[container](y), logits=z, weight=pa.array(w), by={"by": pa.array(by.tolist())})
    close(result.loss, plain.loss)
    assert [s.loss for s in result.by["by"]] == [s.loss for s in next(iter(plain.by.values()))]


# name: (call, words that the error must hold; lower case)
ERRORS = {
    "swapped, binary": (lambda: score([0.9, 0.2, 0.7], probs=[1, 0, 1]), ["0.9", "row 0"]),
    "a path": (lambda: score("labels.csv", probs=P), ["y"]),
    "labels from 1": (lambda: score([1, 2, 3, 2], probs=P), ["label 3", "row 2", "[1, 2, 3]"]),
    "label outside": (lambda: score([0, 1, 7, 1], probs=P), ["label 7", "row 2"]),
    "negative label": (lambda: score([0, -100, 2, 1], probs=P), ["label -100", "row 1", "ignore=-100"]),
    "binary -1 and 1": (lambda: score([1, -1, 1], probs=[0.5, 0.4, 0.3]), ["-1", "row 1", "classes="]),
    "float labels": (lambda: score([0, 1, 1.5, 1], probs=P), ["1.5", "row 2"]),
    "names without classes": (lambda: score(names(Y), probs=P), ["'ant'", "classes="]),
    "a name that is no class": (
        lambda: score(["ant", "bee", "dog", "bee"], probs=P, classes=["ant", "bee", "cat"]),
        ["'dog'", "row 2"],
    ),
    "None label": (lambda: score([0, None, 2, 1], probs=P), ["row 1", "ignore="]),
    "NaN label": (lambda: score([0, NAN, 2, 1], probs=P), ["row 1", "ignore="]),
    "null label": (lambda: score(pa.array([0, None, 2, 1]), probs=P), ["row 1", "ignore="]),
    "infinite label": (lambda: score([0, INF, 2, 1], probs=P), ["inf", "row 1"]),
    "masked labels": (lambda: score(np.ma.masked_array(Y, [0, 1, 0, 0]), probs=P), ["mask"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    assert_refused(*ERRORS[name])


def test_names_of_numpy_are_names():
    classes = np.array(["ant", "bee", "cat"])
    result = score(classes[Y], probs=P, classes=list(classes), by={"b": classes[Y]}, id=classes[[0, 1, 2, 0]])
    assert "np." not in repr(result)
    assert all(type(c) is str for c in result.classes)
    assert type(result.worst[0].label) is str
    with pytest.raises(ValueError, match="'dog'") as caught:
        score(np.array(["dog"]), probs=P[:1], classes=list(classes))
    assert "np." not in str(caught.value)


def as_option(argument):
    return f"--{argument.name}" + (f" {argument.value}" if argument.has_value else "")


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        ([0, 2, 7, 1], "use --ignore 7 to skip such rows, or --classes to name the columns"),
        ([0, None, 2, 1], "or pass --ignore nan to skip them"),
        ([1, 2, 3, 2], "pass that as --classes"),
        (names(Y), "pass --classes with the 3 names in the order of the columns"),
        (["0", "1", "by=3", "1"], "y holds names such as 'by=3'; pass --classes"),
    ],
)
def test_hints_name_their_arguments(labels, hint):
    with pytest.raises(InputError) as caught:
        score(labels, probs=P)
    assert hint in caught.value.spelled(as_option)
    assert caught.value.argument == "y"


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([3, 1, 3, 2], [1, 2, 3]),
        ([10**12, -5, 10**12], [-5, 10**12]),
        ([True, False, True], [False, True]),
        (["b", None, "a", "b", NAN], ["b", None, "a"]),
        ([1.5, NAN, 1.5], [1.5, None]),
    ],
    ids=["small integers", "far integers", "bools", "names", "floats"],
)
def test_codes_stand_for_the_values(labels, values):
    found = code(labels, "y")
    assert list(found.values) == values
    assert len(found) == len(labels)
    assert [found.values[k] for k in found.codes] == [None if missing(label) else label for label in labels]


def test_dates_are_dates_of_python():
    found = code(np.array(["2026-01-02", "NaT"], "datetime64[ns]"), "by")
    assert list(found.values) == [datetime(2026, 1, 2), None]


@pytest.mark.parametrize("label", [3, 3.0, "3", " 3 ", "+3", "3.00", np.int8(3)])
def test_a_label_written_like_a_class_is_it(label):
    assert classes_of(code([label], "y"), ["2", "3"], ()).tolist() == [1]


def test_true_and_false_are_one_and_zero():
    assert classes_of(code(["True", "false", True], "y"), [0, 1], ()).tolist() == [1, 0, 1]


def test_names_that_are_ignored_need_no_classes():
    """Of labels 0 and 1 and a word for no label, the word is no class that somebody must name."""
    assert score(["0", "1", "?"], probs=[0.5, 0.5, 0.5], ignore="?").n == 2
