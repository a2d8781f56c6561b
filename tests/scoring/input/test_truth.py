"""Labels of another file beside predictions: the loss is that of a table joined by pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import crossent
from tests.scoring.pairs import pair
from tests.scoring.written import run, saved

IDS = {
    "texts": [f"r{k:03d}" for k in range(300)],
    "numbers": list(range(1000, 1300)),
    "numbers as texts": [str(k) for k in range(300)],
}


def sides(ids: Any, folder: Path, ends: tuple[str, str] = ("csv", "parquet")) -> tuple[Path, Path, pd.DataFrame]:
    """Write predictions, and labels with two more rows, in another order; return both, and what they make."""
    y, p, _ = pair()
    rng = np.random.default_rng(0)
    mine = pd.DataFrame({"id": ids, **{f"p_{k}": p[:, k] for k in range(3)}})
    more = [*ids, *([max(ids) + 1, max(ids) + 2] if isinstance(ids[0], int) else ["x1", "x2"])]
    truth = pd.DataFrame({"id": more, "class": [*y, 0, 1], "w": rng.random(302), "lang": rng.choice(["de", "en"], 302)})
    truth = truth.sample(frac=1.0, random_state=1)
    paths = (saved(folder / f"p.{ends[0]}", dict(mine)), saved(folder / f"t.{ends[1]}", dict(truth)))
    whole = mine.merge(truth, on="id", how="left")
    whole.attrs["truth"] = truth["id"].tolist()
    return *paths, whole


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("ends", [("csv", "parquet"), ("parquet", "csv"), ("jsonl", "arrow")])
def test_it_is_the_join_of_pandas(ids: str, ends: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    predictions, truth, whole = sides(IDS[ids], tmp_path, ends)
    options = ("--truth", truth, "--on", "id", "--label", "class", "--weight", "w", "--by", "lang", "--probs", "p_*")
    ran = run(capsys, "score", predictions, *options, "--json")
    extra = next(each for each in whole.attrs["truth"] if each not in set(whole["id"]))
    said = ran.err.replace("'", "")
    assert (ran.code, said) == (
        0,
        f"{truth} has labels of 2 more rows without a prediction, {extra} among them; they are not scored\n",
    )
    p = whole[["p_0", "p_1", "p_2"]].to_numpy()
    wanted = crossent.score(whole["class"], probs=p, weight=whole["w"], by={"lang": whole["lang"]})
    found = ran.json()
    assert found["loss"] == pytest.approx(wanted.loss, rel=1e-13)
    assert [part["loss"] for part in found["by"]["lang"]] == pytest.approx([part.loss for part in wanted.by["lang"]])
    assert str(found["worst"][0]["id"]) == str(whole["id"][wanted.worst[0].id])


def test_without_ids_the_order_pairs_rows(tmp_path: Path, capsys: Any) -> None:
    y, p, _ = pair()
    predictions = tmp_path / "p.npy"
    np.save(predictions, p)
    truth = saved(tmp_path / "t.csv", {"y": y})
    found = run(capsys, "score", predictions, "--truth", truth, "--probs", "p", "--json")
    assert (found.code, found.err) == (0, f"read as labels in 'y' of {truth}\n")
    assert found.json()["loss"] == pytest.approx(crossent.score(y, probs=p).loss, rel=1e-13)
    for rows in (299, 301):
        short = saved(tmp_path / "short.csv", {"y": np.resize(y, rows)})
        ran = run(capsys, "score", predictions, "--truth", short, "--probs", "p")
        assert (ran.code, "pass --on with a column of ids that both have" in ran.err) == (2, True)


def test_one_name_may_be_label_there_and_prediction_here(tmp_path: Path, capsys: Any) -> None:
    """As in Kaggle's solution and submission, where both are called target."""
    predictions = saved(tmp_path / "p.csv", {"id": [1, 2, 3], "target": [0.25, 0.5, 0.75]})
    truth = saved(tmp_path / "t.csv", {"id": [3, 1, 2], "target": [1, 0, 1], "Usage": ["a", "b", "a"]})
    options = ("--truth", truth, "--on", "id", "--label", "target", "--probs", "target")
    ran = run(capsys, "score", predictions, *options, "--by", "Usage", "--json")
    assert ran.json()["loss"] == pytest.approx(-np.log([0.75, 0.5, 0.75]).mean(), rel=1e-13)
    assert [part["n"] for part in ran.json()["by"]["Usage"]] == [2, 1]


def test_ids_that_nobody_named_must_agree(tmp_path: Path, capsys: Any) -> None:
    """Rows are paired by their order, unless a column that both have says that these are other rows."""
    predictions = saved(tmp_path / "p.csv", {"id": ["a", "b", "c"], "p": [0.25, 0.5, 0.75]})
    same = saved(tmp_path / "same.csv", {"id": ["a", "b", "c"], "y": [0, 1, 1]})
    other = saved(tmp_path / "other.csv", {"id": ["a", "c", "b"], "y": [0, 1, 1]})
    assert run(capsys, "score", predictions, "--truth", same, "--probs", "p", "--label", "y").code == 0
    ran = run(capsys, "score", predictions, "--truth", other, "--probs", "p", "--label", "y")
    assert (ran.code, "row 1 is 'b' here and 'c' in" in ran.err, "pass --on id" in ran.err) == (2, True, True)


def test_a_label_beside_the_predictions_gives_way_and_that_is_said(tmp_path: Path, capsys: Any) -> None:
    predictions = saved(tmp_path / "p.csv", {"id": [1, 2], "y": [0, 0], "p": [0.25, 0.5]})
    truth = saved(tmp_path / "t.csv", {"id": [1, 2], "y": [1, 1]})
    ran = run(capsys, "score", predictions, "--truth", truth, "--on", "id", "--label", "y", "--probs", "p", "--json")
    assert ran.json()["loss"] == pytest.approx(-np.log([0.25, 0.5]).mean())
    assert "not in the column of that name in the predictions" in ran.err


def test_mistakes_are_said_in_a_line(tmp_path: Path, capsys: Any) -> None:
    predictions = saved(tmp_path / "p.csv", {"id": ["a", "b", "c"], "p": [0.25, 0.5, 0.75]})
    cases = {
        "short": ({"id": ["a", "c"], "y": [0, 1]}, "'b' (row 1 and 0 more) of column 'id' is not in"),
        "twice": ({"id": ["a", "b", "c", "b"], "y": [0, 1, 1, 0]}, "names 1 rows twice, 'b' among them"),
        "none": ({"id": ["a", "b", None, "c"], "y": [0, 1, 1, 0]}, "has 1 rows without an id"),
        "other": ({"name": ["a", "b", "c"], "y": [0, 1, 1]}, "there is no column 'id' in"),
        "many": ({"id": ["a", "b", "c"], "u": [0, 1, 1], "v": [0, 1, 1]}, "pass --label"),
    }
    for name, (columns, part) in cases.items():
        truth = saved(tmp_path / f"{name}.parquet", columns)
        ran = run(capsys, "score", predictions, "--truth", truth, "--on", "id", "--probs", "p")
        assert (ran.code, ran.out) == (2, ""), ran.err
        assert part in ran.err.splitlines()[-1]
        assert all(line.startswith("read as labels in") for line in ran.err.splitlines()[:-1])
    truth = saved(tmp_path / "t.parquet", {"id": ["a", "b", "c"], "y": [0, 1, 1]})
    ran = run(capsys, "score", predictions, "--truth", truth, "--on", "id", "--probs", "p", "--label", "z")
    assert "there is no column 'z' in" in ran.err
