"""Labels become the numbers of their classes; labels that are no class, and what the error says to do."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crossent import score
from crossent.errors import InputError
from crossent.scoring.input.classes import Classes
from crossent.scoring.input.matching import classes_of
from crossent.scoring.input.series import code
from tests.scoring.exact import close, exact_mean
from tests.scoring.refusals import INF, NAN, P, Y, assert_refused, names

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


def as_option(argument):
    return f"--{argument.name}" + (f" {argument.value}" if argument.has_value else "")


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        ([0, 2, 7, 1], "use --ignore 7 to skip such rows, or --classes to name the columns"),
        ([0, None, 2, 1], "or pass --ignore nan to skip them"),
        ([1, 2, 3, 2], "pass that as --classes"),
        (names(Y), "pass --classes with the 3 names in the order of the columns"),
        (["0", "1", "by=3", "1"], "the labels in --y hold names such as 'by=3'; pass --classes"),
    ],
)
def test_hints_name_their_arguments(labels, hint):
    with pytest.raises(InputError) as caught:
        score(labels, probs=P)
    assert hint in caught.value.spelled(as_option)
    assert caught.value.argument == "y"


@pytest.mark.parametrize("label", [3, 3.0, "3", " 3 ", "+3", "3.00", np.int8(3)])
def test_a_label_written_like_a_class_is_it(label):
    assert classes_of(code([label], "y"), Classes(("2", "3")), ()).tolist() == [1]


def test_true_and_false_are_one_and_zero():
    assert classes_of(code(["True", "false", True], "y"), Classes((0, 1)), ()).tolist() == [1, 0, 1]


def test_names_that_are_ignored_need_no_classes():
    """Of labels 0 and 1 and a word for no label, the word is no class that somebody must name."""
    assert score(["0", "1", "?"], probs=[0.5, 0.5, 0.5], ignore="?").n == 2


@pytest.mark.parametrize("text", ["NA", "nan", "null", "None", "", " ", "N/A"])
def test_texts_of_no_value_among_numbers_are_no_value(text):
    with pytest.raises(InputError, match="y has no value"):
        score(["0", "1", text, "2"], probs=P)
    close(score(["0", "1", text, "1"], probs=P, ignore=NAN).loss, exact_mean([0.7, 0.8, 0.4]))


@pytest.mark.parametrize("text", ["NA", "nan", "null", "None", "N/A"])
def test_texts_of_no_value_among_names_are_texts(text):
    labels, classes = ["ant", "bee", text, "bee"], ["ant", "bee", "cat"]
    with pytest.raises(InputError, match=f"label '{text}'"):
        score(labels, probs=P, classes=classes, ignore=NAN)
    close(score(labels, probs=P, classes=classes, ignore=text).loss, exact_mean([0.7, 0.8, 0.4]))
    close(score(labels, probs=P, classes=["ant", "bee", text]).loss, exact_mean([0.7, 0.8, 0.6, 0.4]))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("Cat", "it differs from the class 'cat' in upper and lower case"),
        ("c\u200bat", r"it differs from the class 'cat' in characters that look alike, 'c\u200bat'"),
        ("ｃat", r"in characters that look alike, '\uff43at'"),
        ("dog", "write both alike, or use ignore='dog' to skip such rows"),
    ],
)
def test_labels_that_look_like_a_class_show_the_difference(label, words):
    with pytest.raises(InputError) as caught:
        score(["ant", "bee", label, "bee"], probs=P, classes=["ant", "bee", "cat"])
    assert words in str(caught.value)


def test_labels_that_look_alike_are_cut():
    with pytest.raises(InputError, match="look alike") as caught:
        score(["ant", "bee", "cat" + "\u200b" * 100_000, "bee"], probs=P, classes=["ant", "bee", "cat"])
    assert len(str(caught.value)) < 500
