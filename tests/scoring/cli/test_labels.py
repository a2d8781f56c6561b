"""`crossent score --labels`: the score of Python, and errors that say what to pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import crossent
from tests.scoring.written import run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    p = draw.random((90, 2))
    y = (draw.random((90, 2)) < p).astype(int)
    table = pd.DataFrame(np.hstack([y, p]), columns=["y_red", "y_blue", "p_red", "p_blue"])
    table = table.astype({"y_red": int, "y_blue": int}).assign(doc=np.arange(90) // 3)
    table.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path / "labels.csv"


def test_the_command_is_the_function(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(file)
    wanted = crossent.score(table[["y_red", "y_blue"]], probs=table[["p_red", "p_blue"]], multilabel=True)
    ran = run(capsys, "score", file, "--labels", "y_*", "--probs", "p_*", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert set(found["labels"]) == {"red", "blue"}
    assert found["micro"]["loss"] == pytest.approx(wanted.loss, rel=1e-12)
    assert found["macro"]["roc_auc"] == pytest.approx(wanted.macro.roc_auc, rel=1e-12)


def test_columns_in_another_order_pair_by_name(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "score", file, "--labels", "y_blue,y_red", "--probs", "p_*", "--json")
    table = pd.read_csv(file)
    y, p = table[["y_red", "y_blue"]].to_numpy(), table[["p_red", "p_blue"]].to_numpy()
    assert json.loads(ran.out)["micro"]["loss"] == pytest.approx(-np.log(np.where(y == 1, p, 1 - p)).mean(), rel=1e-12)


def test_clusters_and_what_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "score", file, "--labels", "y_*", "--probs", "p_*", "--cluster", "doc", "--json")
    assert json.loads(ran.out)["micro"]["clusters"] == 30
    for options, words in (
        (("--labels", "y_red", "--probs", "p_*"), "1 columns of labels and 2 of predictions"),
        (("--labels", "z_*", "--probs", "p_*"), "no column matches 'z_*'"),
        (("--labels", "y_*", "--probs", "p_*", "--classes", "a,b"), "the classes 0 and 1"),
    ):
        ran = run(capsys, "score", file, *options)
        assert (ran.code, ran.out) == (2, "")
        assert words in ran.err


@pytest.mark.parametrize("options", [[], ["--label", "y_red", "--labels", "y_*"], ["--labels", "y_*", "--bits"]])
def test_options_that_do_not_go_together(file: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "score", file, "--probs", "p_*", *options)
    assert ran.code == 2
    assert "--label" in ran.err
