"""`crossent calibrate` beside the estimators of Python on the same numbers, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from scipy.special import log_softmax, softmax

import crossent
from crossent.scoring import TemperatureScaling, VectorScaling
from tests.scoring.calibration.drawn import drawn
from tests.scoring.written import run, saved

NAMES = ["cat", "dog", "emu"]


def table(path: Path, kind: str = "probs", n: int = 400) -> tuple[Path, Any, Any]:
    z, y, _ = drawn(n, 3)
    values = {"probs": softmax(z, axis=1), "logits": z, "logprobs": log_softmax(z, axis=1)}[kind]
    made = {"y": np.array(NAMES)[y], "id": [f"{k:04d}" for k in range(n)]}
    return saved(path, {**made, **{f"p_{name}": values[:, k] for k, name in enumerate(NAMES)}}), values, y


@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
@pytest.mark.parametrize("method", ["temperature", "vector"])
@pytest.mark.parametrize("ends", [("parquet", "parquet"), ("csv", "csv"), ("jsonl", "arrow")])
def test_what_is_written_is_what_the_estimator_predicts(
    kind: Any, method: str, ends: tuple[str, str], tmp_path: Path, capsys: Any
) -> None:
    path, values, y = table(tmp_path / f"a.{ends[0]}", kind)
    out = tmp_path / f"b.{ends[1]}"
    named = ("--label", "y", f"--{kind}", "p_*")
    ran = run(capsys, "calibrate", path, *named, "--out", out, "--method", method, "--json")
    assert (ran.code, ran.err) == (0, f"wrote {out}\n")
    estimator = (TemperatureScaling if method == "temperature" else VectorScaling)(input=kind)
    gain = estimator.cross_fit(values, y)
    found = ran.json()
    assert found["gain"]["gain"] == pytest.approx(gain.gain, rel=1e-8)
    assert found["calibrated_loss"] == pytest.approx(estimator.calibrated_loss_, rel=1e-12)
    if method == "temperature":
        assert found["temperature"] == pytest.approx(estimator.temperature_, rel=1e-9)
    scored = run(capsys, "score", out, *named, "--json").json()
    assert scored["loss"] == pytest.approx(estimator.calibrated_loss_, rel=1e-9)
    wanted = crossent.score(y, probs=estimator.predict_proba(values))
    assert scored["accuracy"] == wanted.accuracy


def test_other_columns_stay_as_they_are(tmp_path: Path, capsys: Any) -> None:
    path, _, _ = table(tmp_path / "a.csv")
    out = tmp_path / "b.parquet"
    assert run(capsys, "calibrate", path, "--label", "y", "--probs", "p_*", "--out", out).code == 0
    found = pyarrow.parquet.read_table(out)
    assert found.column_names == ["y", "id", "p_cat", "p_dog", "p_emu"]
    assert found.column("id").to_pylist()[:2] == ["0000", "0001"]


def test_another_file_is_calibrated_by_the_fit(tmp_path: Path, capsys: Any) -> None:
    path, values, y = table(tmp_path / "a.parquet")
    z = drawn(50, 3, seed=7).logits
    other = saved(tmp_path / "new.csv", {f"p_{name}": softmax(z, axis=1)[:, k] for k, name in enumerate(NAMES)})
    out = tmp_path / "b.parquet"
    ran = run(capsys, "calibrate", path, "--label", "y", "--probs", "p_*", "--apply", other, "--out", out)
    assert ran.code == 0
    found = pyarrow.parquet.read_table(out)
    wanted = TemperatureScaling(input="probs").fit(values, y).predict_proba(softmax(z, axis=1))
    np.testing.assert_allclose(np.stack([found.column(k).to_numpy() for k in range(3)], axis=1), wanted, rtol=1e-9)


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_one_column_and_lists(kind: Any, tmp_path: Path, capsys: Any) -> None:
    z, y, _ = drawn(300, 2)
    odds = z[:, 1] - z[:, 0]
    one = odds if kind == "logits" else 1.0 / (1.0 + np.exp(-odds))
    many = z if kind == "logits" else softmax(z, axis=1)
    losses = []
    for name, values in (("one", one), ("many", list(many))):
        path = saved(tmp_path / f"{name}.parquet", {"y": y, "p": values})
        out = tmp_path / f"{name}.out.parquet"
        ran = run(capsys, "calibrate", path, "--label", "y", f"--{kind}", "p", "--out", out, "--json")
        assert ran.code == 0, ran.err
        losses.append(run(capsys, "score", out, "--label", "y", f"--{kind}", "p", "--json").json()["loss"])
        assert losses[-1] == pytest.approx(ran.json()["calibrated_loss"], rel=1e-9)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_the_text_says_what_is_gained(tmp_path: Path, capsys: Any) -> None:
    path, _, _ = table(tmp_path / "a.parquet")
    ran = run(
        capsys, "calibrate", path, "--label", "y", "--probs", "p_*", "--out", tmp_path / "b.csv", "--cluster", "id"
    )
    assert "the predictions are too sure, from 400 rows in 400 clusters" in ran.out
    assert "each row scored by a fit to other rows" in ran.out
    assert "\n5 folds\n" in ran.out


def test_labels_of_another_file(tmp_path: Path, capsys: Any) -> None:
    path, values, y = table(tmp_path / "a.parquet")
    truth = saved(tmp_path / "truth.csv", {"id": [f"{k:04d}" for k in range(400)][::-1], "t": np.array(NAMES)[y][::-1]})
    options = ("--truth", truth, "--on", "id", "--probs", "p_*", "--out", tmp_path / "b.parquet", "--json")
    ran = run(capsys, "calibrate", path, *options)
    assert ran.json()["temperature"] == pytest.approx(TemperatureScaling(input="probs").fit(values, y).temperature_)


def test_without_a_best_temperature_nothing_is_written(tmp_path: Path, capsys: Any) -> None:
    path = saved(tmp_path / "a.csv", {"y": [0, 1, 0, 1], "p": [0.25, 0.75, 0.125, 0.875]})
    out = tmp_path / "b.csv"
    ran = run(capsys, "calibrate", path, "--label", "y", "--probs", "p", "--out", out)
    assert (ran.code, ran.out, out.exists()) == (1, "", False)
    assert (
        "nothing is written, because there is no best temperature: in every row the true class is the most" in ran.err
    )


def test_mistakes_are_said_in_a_line(tmp_path: Path, capsys: Any) -> None:
    path, _, _ = table(tmp_path / "a.parquet")
    named = ("--label", "y", "--probs", "p_*")
    lists = tmp_path / "a.jsonl"
    _ = lists.write_text("".join(json.dumps({"y": k % 2, "p": {"0": 0.5, "1": 0.5}}) + "\n" for k in range(9)))
    short = saved(tmp_path / "short.parquet", {"y": ["cat", "dog"], "p_cat": [0.5, 0.25]})
    for arguments, part in (
        ((path, *named, "--out", tmp_path / "b.xlsx"), "its name must end in .parquet, .pq, .arrow, .feather, .csv"),
        ((path, *named, "--out", path), "it is an input file"),
        ((path, *named, "--out", tmp_path / "b.csv", "--folds", "500"), "folds must be from 2 to the 400 rows"),
        ((path, *named, "--out", tmp_path / "b.csv", "--apply", short), "there is no column 'p_dog'"),
        ((lists, "--label", "y", "--probs", "p", "--out", tmp_path / "b.csv"), "write a column for each class first"),
    ):
        ran = run(capsys, "calibrate", *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
        assert part in ran.err
