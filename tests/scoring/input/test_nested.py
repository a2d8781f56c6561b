"""Paths into columns of objects, and texts that hold lists and objects."""

from __future__ import annotations

import pyarrow as pa
import pytest

from crossent.errors import InputError
from crossent.scoring.input.nested import column_of, is_nested, of_objects, opened, paths, root_of


def batch(**columns):
    return pa.RecordBatch.from_pydict(columns)


def test_a_path_leads_into_objects():
    rows = batch(meta=[{"y": 1, "deep": {"z": "a"}}, {"y": 2, "deep": None}, None], p=[0.5, 0.5, 0.5])
    assert column_of(rows, "meta.y").to_pylist() == [1, 2, None]
    assert column_of(rows, "meta.deep.z").to_pylist() == ["a", None, None]
    assert column_of(rows.slice(1), "meta.y").to_pylist() == [2, None]


def test_a_column_with_a_dot_wins():
    rows = batch(**{"meta": [{"y": 1}], "meta.y": [7], "a.b": [{"c.d": 3}]})
    assert column_of(rows, "meta.y").to_pylist() == [7]
    assert column_of(rows, "a.b.c.d").to_pylist() == [3]


@pytest.mark.parametrize("path", ["meta.z", "meta.y.z", "other", "meta.", ".y", "meta..y"])
def test_a_path_that_leads_nowhere(path):
    with pytest.raises(InputError, match=r"there is no column|has no field"):
        column_of(batch(meta=[{"y": 1}]), path)


def test_paths_of_a_column():
    kind = pa.struct([("y", pa.int8()), ("pred", pa.struct([("p", pa.list_(pa.float64()))]))])
    assert list(paths("meta", kind)) == ["meta.y", "meta.pred", "meta.pred.p"]
    assert list(paths("meta", pa.int8())) == []


def test_the_longest_root_is_taken():
    assert root_of("a.b.c", ["a", "a.b", "c"]) == "a.b"
    assert root_of("a", ["a"]) == "a"
    assert root_of("b.c", ["a"]) is None


def test_paths_into_texts_of_json():
    rows = batch(meta=['{"y": 1, "q": [0.5]}', None, '{"y": 2}'])
    assert column_of(rows, "meta.y").to_pylist() == [1, None, 2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[0.25, 0.75]", [0.25, 0.75]),
        ("[0.25 0.75]", [0.25, 0.75]),
        ("[1e-3\n  9.99e-1]", [1e-3, 9.99e-1]),
        ("(0.25, 0.75)", [0.25, 0.75]),
        ("[np.float64(0.25), np.float32(0.75)]", [0.25, 0.75]),
        ("array([0.25, 0.75])", [0.25, 0.75]),
        ("{'a': 0.25, 'b': 0.75}", {"a": 0.25, "b": 0.75}),
        ("{0: 0.25, 1: 0.75}", {"0": 0.25, "1": 0.75}),
        ("[{'label': 'a', 'score': 1.0}]", [{"label": "a", "score": 1.0}]),
        ('{"a": NaN}', {"a": float("nan")}),
    ],
)
def test_texts_are_lists_and_objects(text, value):
    found = opened(pa.array([None, "  ", text]), "p").to_pylist()
    assert found[:2] == [None, None]
    assert str(found[2]) == str(value)


def test_other_texts_stay_texts():
    for texts in (["a", "[b"], ["0.5"], [None], ["", "cat"]):
        assert opened(pa.array(texts, pa.string()), "p").to_pylist() == texts
    assert not is_nested("cat")
    assert opened(pa.array(["{1}", "[x]"]).dictionary_encode().cast(pa.string()).slice(0, 0), "p").to_pylist() == []


@pytest.mark.parametrize("text", ["[" * 10**5, "{" * 100, "[0.5, __import__('os')]", "[1" + ", 1" * 10**6, "['\ud800"])
def test_texts_that_are_neither(text):
    with pytest.raises((InputError, UnicodeEncodeError)):
        opened(pa.array([text]), "p")


def test_keys_must_differ_as_texts():
    with pytest.raises(InputError, match="not unique"):
        of_objects([{1: 0.5, "1": 0.5}], "p")
