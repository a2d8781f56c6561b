"""A score as a value: dictionaries, JSON, frames, and scores that merge."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pandas
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crossent
from crossent import ScoreState
from crossent.errors import Message
from tests.scoring.drawn import EXAMPLES, Data, data
from tests.scoring.exact import assert_same
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
    assert names | {"unit", "bits", "bits_ci", "perplexity", "perplexity_ci"} == set(read)
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


@pytest.mark.slow
@EXAMPLES
@given(data(), st.data())
def test_scores_merge(rows, more):
    cut = more.draw(st.integers(1, rows.n - 1))
    a, b = rows.take(slice(None, cut)).score(), rows.take(slice(cut, None)).score()
    kept = a.to_dict(), b.to_dict()
    assert_same(a.merge(b), rows.score())
    assert_same(a.merge(b), rows.score())  # neither was changed by it
    assert kept == (a.to_dict(), b.to_dict())
    assert_same(
        a.merge(b).merge(a),
        Data({k: np.concatenate([v, v[:cut]]) for k, v in rows.columns.items()}, rows.options).score(),
    )


def test_a_score_merges_with_scores_alone():
    with pytest.raises(TypeError, match="another Score, not with ScoreState"):
        scored().merge(ScoreState().update([1, 0], probs=[0.5, 0.5]))
    with pytest.raises(ValueError, match="without a state"):
        dataclasses.replace(scored(), state=None).merge(scored())


def test_warnings_keep_the_arguments_that_they_name():
    """A command can spell them in its own way, also after a pickle or a merge; JSON has plain texts."""
    result = crossent.score([1, 0, 1], probs=[0.0, 0.5, 1.0])
    for again in (result, pickle.loads(pickle.dumps(result)), copy.deepcopy(result), result.merge(result)):
        warning = next(text for text in again.warnings if "infinite" in text)
        assert isinstance(warning, Message)
        assert "pass zero=1e-6, for example" in warning
        assert "pass --zero, for example" in warning.spelled(lambda argument: f"--{argument.name}")
    assert {type(text) for text in result.to_dict()["warnings"]} == {str}
    assert json.loads(result.to_json())["warnings"] == list(result.warnings)
