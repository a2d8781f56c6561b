"""`crossent score` on several files, archives, pipes and URLs: the same numbers as one call of `crossent.score`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest

import crossent
from crossent.scoring.cli.reading import state_of
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.columns import columns as named
from crossent.scoring.input.reader import FileOptions
from tests.scoring import written
from tests.scoring.cli.runs import MORE, NAMES, P, Y, score, scored
from tests.scoring.written import COMMAND, columns, run, same, saved

FRAME = pd.DataFrame({**columns(Y, P), **MORE})
CALL = ("--label", "y", "--probs", "p_*")


def parts(folder: Path, ending: str = "csv", made: Any = None) -> list[Path]:
    folder.mkdir(exist_ok=True)
    table = {**columns(Y, P), **MORE} if made is None else made
    cut = [{name: np.asarray(cells)[k : k + 100] for name, cells in table.items()} for k in (0, 100, 200)]
    return [saved(folder / f"part-{k}.{ending}", cells) for k, cells in enumerate(cut)]


def of(paths: Any, capsys: Any, *options: object) -> Any:
    ran = run(capsys, "score", *paths, *CALL, "--json", *options)
    assert (ran.code, ran.err) == (0, "")
    return ran.json()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "npz", "xlsx"])
def test_parts_are_one_table(ending: str, tmp_path: Path, capsys: Any) -> None:
    wanted = score(Y, classes=NAMES, by={"lang": MORE["lang"]}, weight=MORE["w"], id=MORE["name"])
    made = parts(tmp_path / "parts", ending)
    for paths in (made, [tmp_path / "parts"], [tmp_path / "parts" / "*"]):
        same(of(paths, capsys, "--by", "lang", "--weight", "w", "--id", "name"), wanted)


def test_partitions_are_slices_and_labels(tmp_path: Path, capsys: Any) -> None:
    FRAME.to_parquet(tmp_path / "hive", partition_cols=["lang"])
    order = np.argsort(FRAME["lang"], kind="stable")
    wanted = crossent.score(Y[order], probs=P[order], classes=NAMES, by={"lang": MORE["lang"][order]}).to_dict()
    found = of([tmp_path / "hive"], capsys, "--by", "lang")
    assert found["by"].keys() == wanted["by"].keys()
    same(found["by"], wanted["by"])
    FRAME.to_parquet(tmp_path / "labels", partition_cols=["y"])
    assert of([tmp_path / "labels"], capsys)["loss"] == pytest.approx(wanted["loss"], rel=1e-13)


def test_the_worst_rows_name_their_files(tmp_path: Path, capsys: Any) -> None:
    made = parts(tmp_path / "parts")
    found, wanted = of(made, capsys), score(Y, classes=NAMES)
    for mine, other in zip(found["worst"], wanted["worst"], strict=True):
        assert mine["id"] == f"{made[other['id'] // 100]} row {other['id'] % 100}"
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-13)
    assert of(made[:1], capsys)["worst"][0]["id"] in range(100)
    assert of(made, capsys, "--id", "name")["worst"][0]["id"].startswith("row-")
    assert f"{made[wanted['worst'][0]['id'] // 100].name} row " in run(capsys, "score", *made, *CALL).out


def test_an_error_names_the_file_and_where_its_rows_begin(tmp_path: Path, capsys: Any) -> None:
    probabilities = P.copy()
    probabilities[217] = [0.9, 0.9, 0.9]
    made = parts(tmp_path / "parts", made=columns(Y, probabilities))
    ran = run(capsys, "score", *made, *CALL)
    assert ran.code == 2
    assert ran.err.startswith(
        f"crossent: {made[2]} (which begins with row 200): the probabilities of row 217 sum to 2.7"
    )
    ran = run(capsys, "score", made[2], *CALL)
    assert ran.err.startswith(f"crossent: {made[2]}: the probabilities of row 17 sum to 2.7")
    ran = run(capsys, "score", *made, "--label", "z", "--probs", "p_*")
    assert ran.err.startswith(f"crossent: {made[0]} and 2 more: --label: there is no column 'z'")


def test_a_report_of_several_files_is_none_of_them(tmp_path: Path, capsys: Any) -> None:
    made = parts(tmp_path / "parts")
    report = tmp_path / "r.html"
    ran = run(capsys, "score", *made, *CALL, "--html", report)
    assert (ran.code, ran.err) == (0, f"wrote {report}\n")
    assert "Loss of the predictions in part-0.csv and 2 more" in report.read_text()
    archive = saved(tmp_path / "packed.zip", columns(Y, P))
    for inputs, target in ((made, made[1]), ([tmp_path / "parts"], made[2]), ([archive], archive)):
        before = target.read_bytes()
        ran = run(capsys, "score", *inputs, *CALL, "--html", target)
        assert ran.code == 2
        assert "it is an input file" in ran.err
        assert target.read_bytes() == before


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "packed.csv.xz", "a.jsonl"])
def test_a_pipe(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / name, columns(Y, P))
    more = ["--format", "csv"] if ".csv" in name else []
    command = [sys.executable, "-W", "error", "-c", COMMAND, "score", "-", *CALL, "--json", *more]
    with path.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False, timeout=60)
    said = "" if more else f"read as {name[2:]}, by its first bytes\n"
    assert (done.returncode, done.stderr) == (0, said)
    same(written.Ran(0, done.stdout, "").json(), score(Y, classes=NAMES))


def test_files_elsewhere(capsys: Any) -> None:
    system = fsspec.filesystem("memory")
    try:
        with system.open("/preds/a.csv", "wb") as file:
            _ = file.write(written.csv(columns(Y, P)))
        same(of(["memory://preds/a.csv"], capsys), score(Y, classes=NAMES))
    finally:
        system.store.clear()


def test_options_of_text(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a.csv"
    FRAME.to_csv(path, sep=";", decimal=",", index=False, encoding="cp1252")
    found = scored(path, capsys, "--delimiter", ";", "--decimal", ",", "--encoding", "cp1252", "--by", "lang")
    same(found, score(Y, classes=NAMES, by={"lang": MORE["lang"]}))
    FRAME.assign(w="?").to_csv(tmp_path / "b.data", sep="\t", index=False)
    same(scored(tmp_path / "b.data", capsys, "--format", "csv", "--delimiter", "tab"), score(Y, classes=NAMES))
    ran = run(capsys, "score", tmp_path / "b.data", *CALL, "--format", "tsv", "--weight", "w")
    assert "b.data: In column 'w': " in ran.err
    assert "invalid value '?'" in ran.err
    ran = run(capsys, "score", tmp_path / "b.data", *CALL, "--format", "tsv", "--weight", "w", "--na", "?")
    assert "weight" in ran.err
    for option, value in (("--delimiter", ";;"), ("--decimal", "x"), ("--encoding", "klingon"), ("--format", "doc")):
        ran = run(capsys, "score", path, *CALL, option, value)
        assert ran.code == 2
        assert f"{option[2:]} must be" in ran.err


def test_a_sheet(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a.xlsx"
    with pd.ExcelWriter(path) as book:
        FRAME.iloc[:10].to_excel(book, sheet_name="few", index=False)
        FRAME.to_excel(book, sheet_name="all rows", index=False)
    same(scored(path, capsys, "--sheet", "all rows"), score(Y, classes=NAMES))
    ran = run(capsys, "score", path, *CALL, "--json")
    assert (ran.code, ran.json()["n"]) == (0, 10)
    assert ran.err == "read as sheet 'few', the first of 2; --sheet reads another of ['few', 'all rows']\n"


def test_the_python_face(tmp_path: Path) -> None:
    made = parts(tmp_path / "parts")
    columns_ = named("y", RowArguments(probs="p_*"))
    wanted = score(Y, classes=NAMES)
    for paths in (made, str(tmp_path / "parts"), tmp_path / "parts", [str(path) for path in made]):
        same(written.Ran(0, state_of(paths, columns_, {}).finalize().to_json(), "").json(), wanted)
    only = state_of(made[0], columns_, {"rows": True}, FileOptions(format="csv"))
    assert only.finalize().n == 100
