"""Columns of every type of pandas and polars, nullable, encoded and backed by Arrow, in every role of `score`."""

from __future__ import annotations

import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import crossent
from crossent.errors import InputError
from crossent.scoring.input.series import as_ids, as_numbers, code
from tests.scoring.exact import close

NAN = float("nan")
TEXTS = ["b", None, "a", "b"]
TRUTHS = [True, None, False, True]
WHOLE = [2**53 + 1, None, 2, 2**53 + 1]
FLOATS = [0.5, None, 0.25, 0.5]
DECIMALS = [Decimal("0.50"), None, Decimal("0.25"), Decimal("0.50")]
DAYS = [date(2026, 1, 2), None, date(2026, 1, 3), date(2026, 1, 2)]
MOMENTS = [datetime(2026, 1, 2, 3), None, datetime(2026, 1, 3, 4), datetime(2026, 1, 2, 3)]
SPANS = [timedelta(hours=1), None, timedelta(days=1), timedelta(hours=1)]


def of_pandas(values, dtype):
    return pd.Series(values, dtype=dtype, name="x")


# name: (the column, what Python says that its values are)
COLUMNS = {
    **{f"pandas {kind}": (of_pandas(TEXTS, kind), TEXTS) for kind in ("string", "string[python]", "string[pyarrow]",
                                                                     "str", "object", "category")},
    "pandas category of numbers": (of_pandas([3, None, 1, 3], "category"), [3, None, 1, 3]),
    "pandas boolean": (of_pandas(TRUTHS, "boolean"), TRUTHS),
    "pandas bool[pyarrow]": (of_pandas(TRUTHS, "bool[pyarrow]"), TRUTHS),
    "pandas objects with NA": (of_pandas([pd.NA if v is None else v for v in TEXTS], object), TEXTS),
    "pandas Int64": (of_pandas(WHOLE, "Int64"), WHOLE),
    "pandas UInt64": (of_pandas(WHOLE, "UInt64"), WHOLE),
    "pandas int64[pyarrow]": (of_pandas(WHOLE, "int64[pyarrow]"), WHOLE),
    "pandas Float64": (of_pandas(FLOATS, "Float64"), FLOATS),
    "pandas Float32": (of_pandas([0.1, None], "Float32"), [0.1, None]),
    "pandas float32": (of_pandas([0.1, None], "float32"), [0.1, None]),
    "pandas double[pyarrow]": (of_pandas(FLOATS, "double[pyarrow]"), FLOATS),
    "pandas decimal[pyarrow]": (of_pandas(DECIMALS, pd.ArrowDtype(pa.decimal128(7, 2))), FLOATS),
    "pandas Decimal objects": (of_pandas(DECIMALS, object), FLOATS),
    "pandas date[pyarrow]": (of_pandas(DAYS, pd.ArrowDtype(pa.date32())), DAYS),
    "pandas datetime": (of_pandas(MOMENTS, "datetime64[ns]"), MOMENTS),
    "pandas timestamp[pyarrow]": (of_pandas(MOMENTS, "timestamp[ns][pyarrow]"), MOMENTS),
    "pandas timedelta": (of_pandas(SPANS, "timedelta64[ns]"), SPANS),
    "pandas duration[pyarrow]": (of_pandas(SPANS, "duration[us][pyarrow]"), SPANS),
    "pandas null[pyarrow]": (of_pandas([None, None], "null[pyarrow]"), [None, None]),
    "pandas dictionary[pyarrow]": (
        of_pandas(TEXTS, pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))), TEXTS,
    ),
    "pandas array of Int64": (pd.array(WHOLE, dtype="Int64"), WHOLE),
    "pandas categorical": (pd.Categorical(TEXTS), TEXTS),
    "pandas index of strings": (pd.Index(TEXTS, dtype="string"), TEXTS),
    "pandas index of categories": (pd.CategoricalIndex(TEXTS), TEXTS),
    "pandas sparse": (of_pandas([0.0, 0.5], "Sparse[float]"), [0.0, 0.5]),
    "pandas frame of one column": (of_pandas(TEXTS, "string").to_frame(), TEXTS),
    **{f"polars {kind}": (pl.Series("x", TEXTS, dtype=kind), TEXTS) for kind in (pl.String, pl.Categorical,
                                                                               pl.Enum(["a", "b"]))},
    "polars Boolean": (pl.Series("x", TRUTHS), TRUTHS),
    "polars Int64": (pl.Series("x", WHOLE), WHOLE),
    "polars Int128": (pl.Series("x", [2**70, None, 1], dtype=pl.Int128), [2**70, None, 1]),
    "polars Float64": (pl.Series("x", FLOATS), FLOATS),
    "polars Float32": (pl.Series("x", [0.1, None], dtype=pl.Float32), [0.1, None]),
    "polars Decimal": (pl.Series("x", DECIMALS, dtype=pl.Decimal(7, 2)), FLOATS),
    "polars Null": (pl.Series("x", [None, None]), [None, None]),
    "polars Date": (pl.Series("x", DAYS), DAYS),
    "polars Datetime": (pl.Series("x", MOMENTS, dtype=pl.Datetime("ns")), MOMENTS),
    "polars Duration": (pl.Series("x", SPANS), SPANS),
    "polars Binary": (pl.Series("x", [b"b", None, b"a", b"b"]), TEXTS),
    "polars Object": (pl.Series("x", TEXTS, dtype=pl.Object), TEXTS),
    "polars frame of one column": (pl.DataFrame({"x": TEXTS}), TEXTS),
    "polars list of one": (pl.Series("x", [[1], None, [2]]), [1, None, 2]),
    "narwhals": (nw.from_native(of_pandas(TEXTS, "string"), series_only=True), TEXTS),
    "arrow chunks": (pa.chunked_array([TEXTS[:2], TEXTS[2:]]), TEXTS),
    "arrow chunks of dictionaries": (
        pa.chunked_array([pa.array(TEXTS[:2]).dictionary_encode(), pa.array(TEXTS[2:]).dictionary_encode()]), TEXTS,
    ),
    "arrow chunks of dictionaries with null": (
        pa.chunked_array([pa.array(TEXTS[:2]).dictionary_encode("encode"), pa.array(TEXTS[2:]).dictionary_encode()]),
        TEXTS,
    ),
    "arrow table of one column": (pa.table({"x": TEXTS}), TEXTS),
    "list with NA": (["b", pd.NA, "a", "b"], TEXTS),
    "list with NaN": (["b", NAN, "a", "b"], TEXTS),
    "list with NaT": ([datetime(2026, 1, 2), pd.NaT], [datetime(2026, 1, 2), None]),
    "list of numbers with NA": ([2**53 + 1, pd.NA, 2, 2**53 + 1], WHOLE),
    "list of Decimals": (DECIMALS, FLOATS),
    "list of UUIDs": ([uuid.UUID(int=2**127), None], [str(uuid.UUID(int=2**127)), None]),
    "list of bytes": ([b"b", None, b"a", b"b"], TEXTS),
    "NumPy's bytes": (np.array([b"b", b"a"]), ["b", "a"]),
    "NumPy's float32": (np.array([0.1, NAN], np.float32), [0.1, None]),
    "NumPy's dates": (np.array(["2026-01-02", "NaT"], "M8[D]"), [date(2026, 1, 2), None]),
    "NumPy's nanoseconds": (np.array([1, 2], "M8[ns]"), [f"1970-01-01 00:00:00.00000000{k}" for k in (1, 2)]),
}  # fmt: skip
NUMBERS = [name for name, (_, values) in COLUMNS.items() if all(isinstance(v, float | int | None) for v in values)
           and "objects with" not in name and "Object" not in name and "list of one" not in name]  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_codes_stand_for_the_values(name):
    column, values = COLUMNS[name]
    found = code(column, "y")
    decoded = [found.values[k] for k in found.codes]
    assert decoded == values
    assert [type(value) for value in decoded] == [type(value) for value in values]


@pytest.mark.parametrize("name", COLUMNS)
def test_ids_are_the_values(name):
    column, values = COLUMNS[name]
    assert as_ids(column).tolist() == values


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_the_values(name):
    column, values = COLUMNS[name]
    wanted = np.array([NAN if v is None else v for v in values], float)
    np.testing.assert_allclose(as_numbers(column, "weight"), wanted, rtol=2**-24 if "32" in name else 0)


@pytest.mark.parametrize("name", COLUMNS)
def test_labels_slices_clusters_and_ids_of_a_score(name):
    """The score is that of the values in a plain list, which NumPy's own objects hold."""
    column, values = COLUMNS[name]
    n, kinds = len(values), sorted({v for v in values if v is not None}, key=str)
    p = np.random.default_rng(0).dirichlet(np.ones(max(2, len(kinds))), n)
    classes = [*kinds, "none of these", "nor this"][: p.shape[1]] if len(kinds) < 2 else kinds
    rows = [k for k, v in enumerate(values) if v is not None]
    if not rows:
        with pytest.raises(InputError, match="there are no rows to score"):
            _ = crossent.score(column, probs=p, classes=classes, ignore=pd.NA)
        return
    found = crossent.score(column, probs=p, classes=classes, ignore=pd.NA, by=column, cluster=column, id=column)
    close(found.loss, float(np.mean([-np.log(p[k, classes.index(values[k])]) for k in rows])))
    assert found.n == len(rows)
    assert {part.value for part in next(iter(found.by.values()))} == set(kinds)
    assert found.clusters == len(kinds)
    assert {row.id for row in found.worst} == set(kinds)


FRAMES = {
    "Float64": lambda p: pd.DataFrame(p).astype("Float64"),
    "float64[pyarrow]": lambda p: pd.DataFrame(p).astype("float64[pyarrow]"),
    "decimal[pyarrow]": lambda p: pd.DataFrame(p).astype(pd.ArrowDtype(pa.decimal128(38, 20))),
    "Decimal objects": lambda p: pd.DataFrame(p).map(Decimal),
    "objects": lambda p: pd.DataFrame(p.astype(object)),
    "mixed": lambda p: pd.DataFrame(
        {"a": pd.Series(p[:, 0], dtype="Float64"), "b": p[:, 1], "c": list(map(Decimal, p[:, 2]))}
    ),
    "polars Decimal": lambda p: pl.DataFrame(p, schema=list("abc")).cast(pl.Decimal(38, 20)),
    "polars": lambda p: pl.DataFrame(p, schema=list("abc")),
    "polars lazy": lambda p: pl.LazyFrame(p, schema=list("abc")),
    "polars with Float32": lambda p: pl.DataFrame(p, schema=list("abc")).cast({"a": pl.Float32}),
    "arrow": lambda p: pa.table({name: p[:, k] for k, name in enumerate("abc")}),
    "arrow batch": lambda p: pa.record_batch({name: p[:, k] for k, name in enumerate("abc")}),
    "arrow decimals": lambda p: pa.table({name: pa.array(map(Decimal, p[:, k])) for k, name in enumerate("abc")}),
    "pandas series of lists": lambda p: pd.Series(p.tolist()),
    "pandas series of arrays": lambda p: pd.Series(list(p)),
    "pandas list[pyarrow]": lambda p: pd.Series(p.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.float64()))),
    "polars list": lambda p: pl.Series(p.tolist()),
    "polars array": lambda p: pl.Series(p, dtype=pl.Array(pl.Float64, 3)),
    "frame of one column of lists": lambda p: pl.DataFrame({"p": p.tolist()}),
    "Decimal lists": lambda p: [[Decimal(x) for x in row] for row in p.tolist()],
    "objects of NumPy": lambda p: p.astype(object),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_predictions(name):
    p = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5]])
    found = crossent.score([0, 1, 2], probs=FRAMES[name](p), classes=[0, 1, 2])
    close(found.loss, -np.log([0.5, 0.75, 0.5]).mean())


@pytest.mark.parametrize(
    "make",
    [
        lambda values: pd.Series(values, dtype="Float64"),
        lambda values: pd.Series(values, dtype="float64[pyarrow]"),
        lambda values: pd.Series([None if v is None else Decimal(v) for v in values]),
        lambda values: pd.Series(values, dtype="Float64").to_frame("p"),
        pl.Series,
        lambda values: pl.Series(values).cast(pl.Decimal(7, 3)),
        lambda values: [pd.NA if v is None else v for v in values],
    ],
)
def test_one_column_of_predictions_and_its_gaps(make):
    close(crossent.score([1, 0], probs=make([0.5, 0.25])).loss, -np.log([0.5, 0.75]).mean())
    with pytest.raises(InputError, match=r"NaN .*row 1"):
        _ = crossent.score([1, 0], probs=make([0.5, None]))


@pytest.mark.parametrize("ignore", [pd.NA, pd.NaT, NAN, np.float32("nan"), [pd.NA], np.array([NAN]), [None]], ids=repr)
@pytest.mark.parametrize("gap", [pd.NA, None, NAN])
def test_missing_labels_are_ignored_whatever_they_are_called(ignore, gap):
    y = pd.Series([1, gap, 0], dtype="Int64")
    assert crossent.score(y, probs=[0.5, 0.5, 0.5], ignore=ignore).n == 2
    assert crossent.score(pd.Series(["1", gap, "0"], dtype=object), probs=[0.5, 0.5, 0.5], ignore=ignore).n == 2


@pytest.mark.parametrize("make", [pd.Series, pl.Series, np.array, list, tuple, set, pd.Index, pa.array])
def test_several_labels_are_ignored_from_any_library(make):
    assert crossent.score(["a", "?", "0", "1"], probs=[0.5] * 4, ignore=make(["a", "?"])).n == 2


def test_gaps_of_a_state_and_of_a_comparison():
    y = pd.Series(["a", "b", pd.NA, "b"], dtype="string")
    by = pd.DataFrame({"g": pd.Series([1, pd.NA, 1, 2], dtype="Int64"), "h": pd.Series(TRUTHS, dtype="boolean")})
    cluster = pd.Series([0, pd.NA, 0, 1], dtype="Int64")
    options = {"classes": ["a", "b"], "ignore": pd.NA, "rows": True}
    ids = pd.Series([10, 11, 12, 13], dtype="Int64")
    p = pd.DataFrame({"a": [0.5, 0.25, 0.5, 0.25], "b": [0.5, 0.75, 0.5, 0.75]}, dtype="Float64")
    state = crossent.ScoreState(**options).update(y, probs=p, by=by, cluster=cluster, id=ids)
    other = crossent.ScoreState(**options).update(y[::-1], probs=p[::-1], by=by, cluster=cluster[::-1], id=ids[::-1])
    found = state.finalize()
    assert [(part.value, part.n) for part in found.by["h"]] == [(True, 2), (None, 1)]
    assert found.clusters == 3
    compared = crossent.compare(state, other)
    assert (compared.n, compared.difference) == (3, 0.0)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([[1], [1, 2]], "y must hold one value per row"),
        (pd.Series([[1, 2], [3, 4]]), "y must hold one value per row, got a list in row 0"),
        (pl.Series([[1, 0], [0, 1]]), "y holds .*list.*one-hot.*argmax"),
        (pl.Series([{"a": 1}, {"a": 2}]), "y holds struct"),
        (pd.DataFrame({"a": [1, 0], "b": [0, 1]}), "one class per row, got shape"),
    ],
)
def test_what_holds_several_values(y, words):
    with pytest.raises(InputError, match=words):
        _ = crossent.score(y, probs=[[0.5, 0.5], [0.5, 0.5]])


def test_slices_that_cannot_be_told_apart_are_refused_by_name():
    with pytest.raises(InputError, match="by 'lang' holds struct"):
        _ = crossent.score([0, 1], probs=[0.5, 0.5], by={"lang": pl.Series([{"a": 1}, {"a": 2}])})


@pytest.mark.parametrize("weight", [pd.Series(["1", "2"]), pl.Series(["1", "2"]), pd.Series([1, "2"], dtype=object)])
def test_weights_of_text(weight):
    with pytest.raises(InputError, match=r"not numbers|must hold numbers"):
        _ = crossent.score([0, 1], probs=[0.5, 0.5], weight=weight)


def test_integers_beyond_floats_stay_apart():
    ids = np.array([2**53, 2**53 + 1])
    for made in (ids, pd.Series([*ids.tolist(), None], dtype="Int64")[:2], pa.array([*ids.tolist(), None])[:2]):
        assert as_ids(made).tolist() == ids.tolist()
