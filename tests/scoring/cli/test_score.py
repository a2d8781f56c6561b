"""`crossent score` against the function of the same name, on the same numbers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossent
from tests.scoring.cli.runs import MORE, NAMES, NATS, THREE, P, Y, score, scored, table
from tests.scoring.written import columns, fresh, run, same, saved


class TestOptions:
    @pytest.mark.parametrize("option", ["--id", "--on"])
    @pytest.mark.parametrize("end", ["csv", "parquet", "jsonl"])
    def test_all_columns_at_once(self, end: str, option: str, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / f"a.{end}", {**columns(Y, P), **MORE})
        by = ("--by", "lang", "--by", "split")
        found = scored(path, capsys, "--weight", "w", "--cluster", "doc", option, "name", *by)
        wanted = crossent.score(
            Y,
            probs=P,
            classes=NAMES,
            weight=MORE["w"],
            cluster=MORE["doc"],
            by={"lang": MORE["lang"], "split": MORE["split"]},
            id=MORE["name"],
        )
        same(found, wanted.to_dict())
        assert found["clusters"] == len(set(MORE["doc"]))
        assert list(found["by"]) == ["lang", "split"]
        assert found["worst"][0]["id"].startswith("row-")

    @pytest.mark.parametrize(
        ("given", "options"),
        [
            (["--ci", "0.8"], {"ci": 0.8}),
            (["--worst", "0"], {"worst": 0}),
            (["--worst", "3"], {"worst": 3}),
            (["--zero", "0.01"], {"zero": 0.01}),
            (["--zero", "inf"], {}),
            (["--ignore", "2"], {"ignore": "2"}),
            (["--ignore", "2", "--ignore", "0"], {"ignore": ["0", "2"]}),
            (["--classes", "2,1,0"], {"classes": ("2", "1", "0")}),
        ],
    )
    def test_means_the_argument(self, given: Any, options: Any, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", columns(Y, P))
        same(scored(path, capsys, *given), score([str(label) for label in Y], **{"classes": NAMES, **options}))

    @pytest.mark.parametrize("end", ["csv", "jsonl", "parquet", "npz"])
    def test_ignore_in_every_format(self, end: str, tmp_path: Path, capsys: Any) -> None:
        labels = np.where(np.arange(len(Y)) % 5, Y, -100)
        wanted = crossent.score(labels, probs=P, ignore=-100, classes=[0, 1, 2]).to_dict()
        for y in (labels, labels.astype(float)):
            found = scored(saved(tmp_path / f"a.{end}", columns(y, P)), capsys, "--ignore", "-100")
            assert found["n"] == wanted["n"] == len(Y) - len(Y) // 5
            assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-13)

    @pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
    def test_missing_labels_can_be_ignored(self, end: str, tmp_path: Path, capsys: Any) -> None:
        labels = [None if k % 5 == 0 else str(value) for k, value in enumerate(Y)]
        path = saved(tmp_path / f"a.{end}", columns(np.array(labels, dtype=object), P))
        assert scored(path, capsys, "--ignore", "nan")["n"] == len(Y) - len(Y) // 5

    def test_normalize(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", columns(Y, 3 * P))
        same(
            scored(path, capsys, "--normalize"), crossent.score(Y, probs=3 * P, classes=NAMES, normalize=True).to_dict()
        )

    def test_an_infinite_loss_is_strict_json(self, tmp_path: Path, capsys: Any) -> None:
        p = P.copy()
        p[7] = np.eye(3)[(Y[7] + 1) % 3]
        found = scored(saved(tmp_path / "a.csv", columns(Y, p)), capsys)
        assert found["loss"] == "inf"
        assert found["worst"][0]["id"] == 7

    def test_bits_are_bits_everywhere(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", THREE)
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", "--bits")
        assert (ran.code, ran.err) == (0, "")
        assert f"{NATS / math.log(2):.3f}" in ran.out
        assert "nats" not in ran.out

    def test_the_table_says_what_the_json_says(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", {**columns(Y, P), **MORE})
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", "--by", "lang", "--id", "name")
        assert (ran.code, ran.err) == (0, "")
        found = scored(path, capsys, "--by", "lang", "--id", "name")
        for wanted in (f"{found['loss']:.3f}", f"{found['ci'][0]:.3f}", f"{len(Y)} rows", "by lang", "de"):
            assert wanted in ran.out
        assert found["worst"][0]["id"] in ran.out
        assert "\x1b" not in ran.out

    def test_html(self, tmp_path: Path, capsys: Any) -> None:
        path, report = saved(tmp_path / "a.csv", columns(Y, P)), tmp_path / "deep.html"
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", "--html", report, "--json")
        assert (ran.code, ran.err) == (0, f"wrote {report}\n")
        same(ran.json(), score(Y, classes=NAMES))
        page = report.read_text("utf-8")
        assert page.lstrip().lower().startswith("<!doctype html")
        assert "<svg" in page
        assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?!#|data:)[^\"'#\s>]+|url\((?!['\"]?(?:#|data:))", page)
        assert not re.findall(r"<script|<link|@import", page)


IMPOSSIBLE = {"y": [1, 0, 1, 0], "p": [0.5, 0.25, 0.0, 0.5]}


def test_json_in_bits(tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path, **THREE)
    nats, bits = (scored(path, capsys, *more) for more in ((), ("--bits",)))
    assert (nats["unit"], bits["unit"]) == ("nats", "bits")
    for name in ("loss", "baseline", "entropy"):
        assert bits[name] == pytest.approx(nats[name] / math.log(2), rel=1e-15)
    assert bits["loss"] == pytest.approx(NATS / math.log(2), rel=1e-14)


@pytest.mark.parametrize("face", ["text", "json", "html"])
def test_an_infinite_loss_says_what_else_there_is(face: str, tmp_path: Path, capsys: Any) -> None:
    """The other rows, and floors, each as `--zero` gives it; the hint names the option on every face."""
    path = table(tmp_path, **IMPOSSIBLE)
    page = tmp_path / "a.html"
    more = {"text": (), "json": ("--json",), "html": ("--html", page)}[face]
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p", *more)
    out = page.read_text(encoding="utf-8") if face == "html" else ran.out
    assert "--zero 1e-6" in out
    assert "zero=" not in out.replace('"zero"', "")
    floors = (1e-3, 1e-6, 1e-9, 1e-15)
    losses = [-math.log(0.5 * 0.75 * 0.5 * floor) / 4 for floor in floors]
    others = -math.log(0.5 * 0.75 * 0.5) / 3
    if face == "json":
        found = ran.json()["finite"]
        assert found["n"] == 3
        assert found["loss"] == pytest.approx(others, rel=1e-14)
        assert [floor["zero"] for floor in found["floors"]] == list(floors)
        assert [floor["loss"] for floor in found["floors"]] == pytest.approx(losses, rel=1e-14)
    else:
        assert "other 3 rows" in out
        for loss in (others, *losses):
            assert f"{loss:.3f}" in out
    for floor, loss in zip(floors, losses, strict=True):
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--json", "--zero", floor)
        assert ran.json()["loss"] == pytest.approx(loss, rel=1e-14)


@pytest.mark.slow
def test_a_process_of_its_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.csv", THREE)
    arguments = ("score", path, "--label", "y", "--probs", "p_*", "--max-loss")
    good, missed = fresh(*arguments, 1, "--json"), fresh(*arguments, 0.1)
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["loss"] == pytest.approx(NATS, rel=1e-13)
    assert (missed.returncode, missed.stderr.count("\n")) == (1, 1)
    assert "3 rows" in missed.stdout
