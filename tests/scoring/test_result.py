"""What a score is turned into: dictionaries, JSON, frames, text, HTML."""

from __future__ import annotations

import dataclasses
import json
import math

import pandas
import pyarrow as pa
import pytest

import crossent
from tests.scoring.exact import made
from tests.scoring.results import SCORES, scored


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("name", SCORES)
def test_json(name):
    """JSON that any parser reads, and that says what the fields say."""
    result = SCORES[name]()
    read = json.loads(result.to_json(), parse_constant=refuse)
    assert read == json.loads(json.dumps(result.to_dict(), allow_nan=False))
    names = {f.name for f in dataclasses.fields(result)} - {"state"}
    assert names | {"bits", "bits_ci", "perplexity", "perplexity_ci"} == set(read)
    assert read["n"] == result.n
    if math.isfinite(result.loss):
        assert (read["loss"], read["perplexity"]) == (result.loss, result.perplexity)
    else:
        assert (read["loss"], read["perplexity"]) == ("inf", "inf")
    assert [c["n"] for c in read["per_class"]] == [c.n for c in result.per_class]
    assert "np." not in result.to_json()
    assert "np." not in repr(result)


@pytest.mark.parametrize("name", SCORES)
def test_frame(name):
    result = SCORES[name]()
    table = result.to_frame("pyarrow")
    assert isinstance(table, pa.Table)
    assert table.column_names == ["slice", "value", "n", "weight", "loss", "low", "high", "se", "accuracy"]
    parts = list(result.per_class) + [s for slices in result.by.values() for s in slices]
    assert table.column("loss").to_pylist() == pytest.approx([result.loss, *(s.loss for s in parts)], nan_ok=True)
    assert table.column("n").to_pylist() == [result.n, *(s.n for s in parts)]
    assert table.column("slice").to_pylist() == ["all"] + ["class"] * len(result.per_class) + [
        key for key, slices in result.by.items() for _ in slices
    ]


def test_other_frames():
    frame = scored().to_frame("pandas")
    assert isinstance(frame, pandas.DataFrame)
    assert frame["n"].tolist()[0] == 200
    with pytest.raises(ValueError, match="excel"):
        scored().to_frame("excel")


def test_scores_are_values():
    """Fields cannot be set by accident."""
    result = scored()
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.loss = 0.0


def test_columns_of_slices_have_names():
    y, z = made(0, 20, 2)
    assert list(crossent.score(y, logits=z, by={"a": y, "b": y}).by) == ["a", "b"]
    assert list(crossent.score(y, logits=z, by=pa.table({"a": y, "b": y})).by) == ["a", "b"]
    assert len(crossent.score(y, logits=z, by=y).by) == 1
    assert crossent.score(y, logits=z).by == {}
