"""Rows of a score as a frame: the numbers of the rows, in words of the caller, whatever frames are there."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest

import crossent
from crossent.errors import InputError
from crossent.scoring import result
from tests.scoring.pairs import pair


@pytest.mark.parametrize("backend", ["polars", "pandas", "pyarrow"])
def test_each_row_says_what_it_cost(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y, p, _ = pair()
    monkeypatch.setattr(result, "_backend", lambda: backend)
    rows = nw.from_native(crossent.score(y, probs=p).rows, eager_only=True)
    assert type(rows.to_native()).__module__.split(".")[0] == backend
    row = np.arange(len(y))
    assert rows.columns == ["id", "label", "loss", "probability", "predicted", "confidence"]
    for name, wanted in {
        "id": row, "label": y, "predicted": p.argmax(axis=1), "probability": p[row, y], "confidence": p.max(axis=1),
        "loss": -np.log(p[row, y]),
    }.items():  # fmt: skip
        np.testing.assert_allclose(rows[name].to_numpy(), wanted, rtol=1e-14)


def test_names_weights_clusters_and_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "_backend", lambda: "pyarrow")
    found: Any = crossent.score(
        ["cat", "dog", None, "dog"],
        probs=[0.5, 0.25, 0.5, 0.75],
        classes=["cat", "dog"],
        ignore=[None],
        id=["a", "b", "c", "d"],
        weight=[1.0, 2.0, 3.0, 0.0],
        cluster=[7, 8, 8, 9],
        by={"lang": ["de", None, "en", "en"], "loss": [1, 2, 3, 4]},
    ).rows
    assert found.to_pydict() == {
        "id": ["a", "b"], "label": ["cat", "dog"], "loss": [-np.log(0.5), -np.log(0.25)], "probability": [0.5, 0.25],
        "predicted": ["cat", "cat"], "confidence": [0.5, 0.75], "weight": [1.0, 2.0], "cluster": [7, 8],
        "lang": ["de", None], "by loss": [1, 2],
    }  # fmt: skip


def test_rows_of_merged_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "_backend", lambda: "pyarrow")
    a = crossent.score([1, 0], probs=[0.5, 0.5], by={"lang": ["de", "en"]})
    b = crossent.score([1, 1], probs=[0.25, 0.75], by={"lang": ["en", "fr"]})
    found: Any = a.merge(b).rows
    assert found.column("id").to_pylist() == [0, 1, 2, 3]
    assert found.column("lang").to_pylist() == ["de", "en", "en", "fr"]


def test_rows_that_were_not_kept() -> None:
    found = crossent.ScoreState().update([1], probs=[0.5]).finalize()
    with pytest.raises(InputError, match=r"were not kept; score with crossent\.score"):
        _ = found.rows
