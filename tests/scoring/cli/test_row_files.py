"""`--rows`: every row in a file, as `Score.rows` has it, in any format, and whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import crossent
from tests.scoring.cli.runs import ANIMALS, MORE, P, Y
from tests.scoring.written import run, saved


def read(path: Path) -> pd.DataFrame:
    readers: Any = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".arrow": pd.read_feather}
    return readers[path.suffix](path)


@pytest.mark.parametrize("end", ["csv", "parquet", "arrow"])
def test_it_is_what_the_score_of_python_lists(end: str, tmp_path: Path, capsys: Any) -> None:
    made = {"y": ANIMALS[Y], **MORE, **{f"p_{name}": P[:, k] for k, name in enumerate(ANIMALS)}}
    path, out = saved(tmp_path / "a.parquet", made), tmp_path / f"rows.{end}"
    options = ("--label", "y", "--probs", "p_*", "--id", "name", "--by", "lang", "--weight", "w", "--rows", out)
    ran = run(capsys, "score", path, *options)
    assert (ran.code, ran.err) == (0, f"wrote {out}\n")
    found = read(out)
    wanted = crossent.score(
        ANIMALS[Y], probs=P, classes=ANIMALS, id=MORE["name"], by={"lang": MORE["lang"]}, weight=MORE["w"]
    ).rows
    wanted = pd.DataFrame(wanted.to_pandas() if hasattr(wanted, "to_pandas") else wanted)
    assert list(found.columns) == list(wanted.columns)
    for name in found.columns:
        if found[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-14)
        else:
            assert found[name].tolist() == wanted[name].tolist()


def test_many_batches_are_one_file(tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 200_000), rng.random(200_000)
    path, out = saved(tmp_path / "a.parquet", {"y": y, "p": p}), tmp_path / "rows.parquet"
    assert run(capsys, "score", path, "--label", "y", "--probs", "p", "--rows", out).code == 0
    found = read(out)
    assert found["id"].tolist() == list(range(200_000))
    np.testing.assert_allclose(found["probability"], np.where(y == 1, p, 1.0 - p), rtol=1e-14)


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    p = rng.random(100_000)
    p[-1] = 2.0
    path, out = saved(tmp_path / "a.parquet", {"y": rng.integers(0, 2, 100_000), "p": p}), tmp_path / "rows.parquet"
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--rows", out)
    assert (ran.code, "outside [0, 1]" in ran.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet"]


def test_names_of_files_say_the_format(tmp_path: Path, capsys: Any) -> None:
    path = saved(tmp_path / "a.csv", {"y": [0, 1], "p": [0.25, 0.5]})
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--rows", tmp_path / "rows.txt")
    assert (ran.code, "its name must end in" in ran.err) == (2, True)
