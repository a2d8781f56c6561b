"""Predictions whose rows name their classes, in every library's form: the loss is that of NumPy in float64."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

import crossent
from crossent.errors import InputError
from crossent.scoring.input.shapes import keys_of, predictions, shape_of

RANDOM = np.random.default_rng(3)
CLASSES = ["ant", "bee", "cat"]
P = RANDOM.dirichlet(np.ones(3), 40)
Y = np.array([RANDOM.choice(3, p=row) for row in P])
LABELS = [CLASSES[k] for k in Y]
LOSS = float(-np.log(P[np.arange(40), Y]).mean())
OBJECTS = [dict(zip(CLASSES, row, strict=True)) for row in P.tolist()]
SHUFFLED = [{CLASSES[k]: row[CLASSES[k]] for k in RANDOM.permutation(3)} for row in OBJECTS]
RECORDS = [[{"label": key, "score": p} for key, p in row.items()] for row in SHUFFLED]
VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)


def dense(row):
    return {"type": 1, "size": None, "indices": None, "values": list(row)}


def sparse(row):
    places = [k for k, p in enumerate(row) if p]
    return {"type": 0, "size": len(row), "indices": places, "values": [row[k] for k in places]}


NAMED = {
    "dictionaries": SHUFFLED,
    "records": RECORDS,
    "series of dictionaries": pd.Series(SHUFFLED),
    "series of records": pd.Series(RECORDS),
    "frame of one column": pd.DataFrame({"cats": SHUFFLED}),
    "struct of polars": pl.Series(OBJECTS),
    "records of polars": pl.Series(RECORDS),
    "frame of polars": pl.DataFrame({"cats": OBJECTS}),
    "struct": pa.array(OBJECTS),
    "part of a struct": pa.array([OBJECTS[0], *OBJECTS]).slice(1),
    "chunks": pa.chunked_array([pa.array(OBJECTS[:7]), pa.array(OBJECTS[7:])]),
    "map": pa.array([list(row.items()) for row in SHUFFLED], pa.map_(pa.string(), pa.float64())),
    "part of a map": pa.array(
        [[("x", 1.0)], *(list(row.items()) for row in SHUFFLED)], pa.map_(pa.string(), pa.float64())
    ).slice(1),
    "map of dictionary keys": pa.array(
        [list(row.items()) for row in SHUFFLED], pa.map_(pa.string(), pa.float64())
    ).cast(pa.map_(pa.large_string(), pa.float64())),
    "records in arrow": pa.array(RECORDS),
    "part of records": pa.array([RECORDS[0], *RECORDS]).slice(1),
    "class and prob": pa.array([[{"class": r["label"], "prob": r["score"]} for r in row] for row in RECORDS]),
    "parallel": pa.array([{"classes": list(row), "scores": list(row.values())} for row in SHUFFLED]),
    "vertex": pa.array(
        [{"ids": ["7", "8", "9"], "displayNames": list(row), "confidences": list(row.values())} for row in SHUFFLED]
    ),
    "json": pa.array([json.dumps(row) for row in SHUFFLED]),
    "json of records": pa.array([json.dumps(row) for row in RECORDS]),
    "python": pa.array([str(row) for row in SHUFFLED]),
    "python of records": pa.array([str(row) for row in RECORDS]),
}
ORDERED = {
    "dense vectors": pa.array([dense(row) for row in P.tolist()], VECTOR),
    "sparse vectors": pa.array([sparse(row) for row in P.tolist()], VECTOR),
    "both": pa.array([(dense, sparse)[k % 2](row) for k, row in enumerate(P.tolist())], VECTOR),
    "part of vectors": pa.array([dense([1.0]), *(sparse(row) for row in P.tolist())], VECTOR).slice(1),
    "sparse matrix": scipy.sparse.csr_matrix(P),
    "sparse array": scipy.sparse.coo_array(P),
    "json": pa.array([json.dumps(row) for row in P.tolist()]),
    "numpy": pa.array([np.array2string(row, precision=17, floatmode="unique") for row in P]),
    "numbers of numpy": pa.array([str([np.float64(p) for p in row]) for row in P]),
}


@pytest.mark.parametrize("values", NAMED.values(), ids=NAMED)
def test_rows_that_name_their_classes(values):
    found = crossent.score(LABELS, probs=values)
    assert found.loss == pytest.approx(LOSS, rel=1e-14)
    assert set(found.classes) == set(CLASSES)
    assert found.loss == pytest.approx(log_loss(LABELS, P, labels=CLASSES), rel=1e-12)


@pytest.mark.parametrize("values", NAMED.values(), ids=NAMED)
def test_classes_of_the_caller_are_matched_by_name(values):
    backwards = crossent.score(LABELS, probs=values, classes=CLASSES[::-1])
    assert backwards.loss == pytest.approx(LOSS, rel=1e-14)
    assert list(backwards.classes) == CLASSES[::-1]


@pytest.mark.parametrize("values", ORDERED.values(), ids=ORDERED)
def test_rows_that_hold_all_numbers(values):
    assert crossent.score(Y, probs=values).loss == pytest.approx(LOSS, rel=1e-14)
    assert crossent.score(LABELS, probs=values, classes=CLASSES).loss == pytest.approx(LOSS, rel=1e-14)


@pytest.mark.parametrize("kind", ["logits", "logprobs"])
def test_logits_and_log_probabilities_too(kind):
    rows = [
        [{"label": key, "score": float(np.log(p)) + 3 * (kind == "logits")} for key, p in r.items()] for r in SHUFFLED
    ]
    assert crossent.score(LABELS, **{kind: rows}).loss == pytest.approx(LOSS, rel=1e-12)


@pytest.mark.parametrize(
    "classes", [None, CLASSES, dict(enumerate(CLASSES)), {name: k for k, name in enumerate(CLASSES)}]
)
def test_numbered_labels_of_hugging_face(classes):
    """`LABEL_2` is the third class, whatever the order of a row."""
    rows = [[{"label": f"LABEL_{CLASSES.index(r['label'])}", "score": r["score"]} for r in row] for row in RECORDS]
    assert crossent.score(Y if classes is None else LABELS, probs=rows, classes=classes).loss == pytest.approx(LOSS)


def test_a_missing_class_has_probability_0_if_the_others_add_up_to_1():
    rows = [{"a": 0.25, "b": 0.75}, {"b": 1.0}, {"a": 0.5, "c": 0.5}]
    assert crossent.score(["a", "b", "c"], probs=rows).loss == pytest.approx(np.log(8) / 3)
    assert crossent.score(["c", "b", "c"], probs=rows).loss == np.inf
    assert crossent.score(["a", "b"], probs=rows[:2], classes=["a", "b", "z"]).loss == pytest.approx(np.log(4) / 2)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"a": 0.25, "b": 0.75}, {"b": 0.9}], "class 'a' in row 1 (1 in total), and the others add up to 0.9"),
        ([[{"label": "a", "score": 0.9}], [{"label": "b", "score": 0.8}]], "class 'b' in row 0 (2 in total)"),
        ([[{"label": "a", "score": 1.0}]] * 2, "has one class in each row"),
        ([{"label": "a", "score": 0.9}, {"label": "b", "score": 0.8}], "the most probable one"),
        ([[{"label": "a", "score": 0.5}, {"label": "a", "score": 0.5}]] * 2, "names the class 'a' twice in row 0"),
        ([{"a": 0.5, "b": 0.5}, None], "no predictions in row 1"),
        ([[{"label": "a", "score": 0.5}, {"label": None, "score": 0.5}]] * 2, "without a name"),
        ([[{"label": "a", "score": None}, {"label": "b", "score": 0.5}]] * 2, "without a number"),
        ([{"probs": [0.5, 0.5], "y": 1}] * 2, "name one of them, such as probs.probs"),
        ([{"classes": ["a", "b"], "scores": [1.0]}] * 2, "2 classes and 1 numbers in row 0"),
    ],
)
def test_rows_that_are_refused(rows, says):
    with pytest.raises(InputError, match=None) as raised:
        crossent.score(["a", "b"], probs=rows)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["[0.5, 0.5]", "half"], "'half' in row 1"),
        (['{"a": 0.5, "a": 0.5}'], "'a' occurs twice"),
        (["[0.5 ... 0.5]"], "which leaves numbers out"),
        (["[0.5, 0.5]", '{"a": 1.0}'], "values of different kinds"),
        (["[0.5, 0.5]", "[0.5]"], "differ in length"),
        (["__import__('os').getcwd()"], "not numbers"),
        (["[__import__('os').getcwd()]"], "neither JSON nor"),
        (["[" * 5000], "neither JSON nor"),
    ],
)
def test_texts_that_are_refused(texts, says):
    with pytest.raises(InputError) as raised:
        crossent.score([0] * len(texts), probs=pa.array(texts))
    assert says in str(raised.value)


@pytest.mark.parametrize("kind", ["logits", "logprobs"])
def test_only_probabilities_have_a_default(kind):
    with pytest.raises(InputError, match="have no default"):
        crossent.score(["a", "b"], **{kind: [{"a": -0.7, "b": -0.7}, {"b": 0.0}]})


def test_names_that_are_none_of_the_classes_are_refused():
    with pytest.raises(InputError, match="name the class 'ant', which is not one of"):
        crossent.score(LABELS, probs=OBJECTS, classes=["x", "bee", "cat"])
    with pytest.raises(InputError, match="match the same class"):
        crossent.score(["a", "a"], probs=[{"a": 0.5, "a ": 0.5}] * 2, classes=["a", "b"])


@pytest.mark.parametrize(
    "values",
    [
        [sparse([0.5, 0.5]), dense([1.0])],
        [sparse([0.5, 0.5]), {**sparse([0.5, 0.5]), "indices": [0, 2]}],
        [sparse([0.5, 0.5]), {**sparse([0.5, 0.5]), "indices": [1, 1]}],
        [sparse([0.5, 0.5]), {**sparse([0.5, 0.5]), "indices": [-1, 1]}],
        [sparse([0.5, 0.5]), {**sparse([0.5, 0.5]), "indices": [0]}],
        [sparse([0.5, 0.5]), None],
        [{**sparse([0.5, 0.5]), "size": 2_000_000_000}],
    ],
    ids=["length", "beyond", "twice", "negative", "fewer", "none", "long"],
)
def test_damaged_vectors_are_refused(values):
    with pytest.raises(InputError):
        crossent.score([0] * len(values), probs=pa.array(values, VECTOR))


def test_a_sparse_matrix_that_would_fill_the_memory_is_refused():
    with pytest.raises(InputError, match=r"score parts of its rows by ScoreState.update"):
        crossent.score([0], probs=scipy.sparse.csr_matrix((10**6, 10**4)))


def test_parts_of_rows_may_come_in_any_order_of_classes():
    state = crossent.ScoreState()
    for begin in range(0, 40, 8):
        state.update(LABELS[begin : begin + 8], probs=SHUFFLED[begin : begin + 8])
    assert state.finalize().loss == pytest.approx(LOSS, rel=1e-13)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_all_shapes_of_one_table_have_one_matrix(data):
    names = data.draw(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=5, unique=True))
    rows = data.draw(st.lists(st.permutations(range(len(names))), min_size=1, max_size=4))
    weights = np.array(data.draw(st.lists(st.integers(1, 9), min_size=len(names), max_size=len(names))), float)
    p = weights / weights.sum()
    items = [[(names[k], p[k]) for k in row] for row in rows]
    wanted = np.tile(p, (len(rows), 1))
    for column in (
        pa.array(items, pa.map_(pa.string(), pa.float64())),
        pa.array([[{"name": key, "value": value} for key, value in row] for row in items]),
        pa.array([{"labels": [k for k, _ in row], "probs": [v for _, v in row]} for row in items]),
    ):
        found = predictions([column], ["p"], keys=names)
        assert (found.values == wanted).all()
        assert set(keys_of(column, "p")) == set(names)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (pa.struct([("a", pa.float32()), ("b", pa.int8())]), "struct"),
        (pa.map_(pa.int64(), pa.float64()), "map"),
        (pa.map_(pa.string(), pa.string()), None),
        (pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())])), "records"),
        (pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())])), None),
        (pa.list_(pa.struct([("label", pa.string()), ("score", pa.string())])), None),
        (pa.struct([("label", pa.string()), ("score", pa.float64())]), None),
        (VECTOR, "vector"),
        (pa.list_(pa.float64()), None),
        (pa.float64(), None),
    ],
    ids=str,
)
def test_shapes_are_told_by_types(kind, shape):
    assert shape_of(kind) == shape
