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
from crossent.scoring.input.plain import missing
from crossent.scoring.input.series import code
from tests.scoring.exact import close, exact_mean, made
from tests.scoring.refusals import NAN, P, Y


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


def test_names_of_numpy_are_names():
    classes = np.array(["ant", "bee", "cat"])
    result = score(classes[Y], probs=P, classes=list(classes), by={"b": classes[Y]}, id=classes[[0, 1, 2, 0]])
    assert "np." not in repr(result)
    assert all(type(c) is str for c in result.classes)
    assert type(result.worst[0].label) is str
    with pytest.raises(ValueError, match="'dog'") as caught:
        score(np.array(["dog"]), probs=P[:1], classes=list(classes))
    assert "np." not in str(caught.value)


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
