"""`crossent score` and `crossent compare` against the functions of the same names, on the same numbers."""

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
        assert (ran.code, ran.err) == (0, f"{report}\n")
        same(ran.json(), score(Y, classes=NAMES))
        page = report.read_text("utf-8")
        assert page.lstrip().lower().startswith("<!doctype html")
        assert "<svg" in page
        assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?!#|data:)[^\"'#\s>]+|url\((?!['\"]?(?:#|data:))", page)
        assert not re.findall(r"<script|<link|@import", page)


class TestCompare:
    @pytest.mark.slow
    @pytest.mark.parametrize("option", ["--id", "--on"])
    @pytest.mark.parametrize("ends", [("csv", "parquet"), ("jsonl", "arrow"), ("npz", "tsv")])
    def test_shuffled_rows_are_paired_by_id(self, ends: Any, option: str, tmp_path: Path, capsys: Any) -> None:
        order = np.random.default_rng(9).permutation(len(Y))
        flat = (P + 0.2) / 1.6
        new = saved(tmp_path / f"new.{ends[0]}", {**columns(Y, P), "name": MORE["name"]})
        old = saved(tmp_path / f"old.{ends[1]}", {**columns(Y[order], flat[order]), "name": MORE["name"][order]})
        ran = run(capsys, "compare", new, old, "--label", "y", "--probs", "p_*", option, "name", "--json")
        assert (ran.code, ran.err) == (0, "")
        a = crossent.score(Y, probs=P, id=MORE["name"], classes=NAMES)
        b = crossent.score(Y, probs=flat, id=MORE["name"], classes=NAMES)
        wanted = crossent.compare(a, b).to_dict()
        found = ran.json()
        same(found, wanted)
        assert found["loss_a"] == pytest.approx(a.loss, rel=1e-13)

    def test_rows_in_order(self, tmp_path: Path, capsys: Any) -> None:
        flat = (P + 0.2) / 1.6
        a, b = saved(tmp_path / "a.csv", columns(Y, P)), saved(tmp_path / "b.csv", columns(Y, flat))
        ran = run(capsys, "compare", a, b, "--label", "y", "--probs", "p_*", "--json", "--ci", "0.9", "--worst", "3")
        assert (ran.code, ran.err) == (0, "")
        wanted = crossent.compare(*(crossent.score(Y, probs=p, classes=NAMES, ci=0.9, worst=3) for p in (P, flat)))
        same(ran.json(), wanted.to_dict())

    def test_refuses_what_is_not_paired(self, tmp_path: Path, capsys: Any) -> None:
        made = {**columns(Y, P), "name": MORE["name"]}
        a = saved(tmp_path / "a.csv", made)
        b = saved(tmp_path / "b.csv", {name: column[:-1] for name, column in made.items()})
        c = saved(tmp_path / "c.csv", {**made, "y": (Y + 1) % 3})
        for files, options in (((a, b), ()), ((a, b), ("--on", "name")), ((a, c), ()), ((b, c), ("--on", "name"))):
            ran = run(capsys, "compare", *files, "--label", "y", "--probs", "p_*", *options)
            assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
            assert ran.err.startswith("crossent: ")
            assert ("pass --id to pair them" in ran.err) == (options == ())


class TestLanguageModels:
    def test_exit_codes(self, tmp_path: Path, capsys: Any) -> None:
        log = tmp_path / "log.jsonl"
        _ = log.write_text(json.dumps({"tokens": ["A", "b"], "logprobs": [-1.0, -2.0]}) + "\n")
        assert run(capsys, "lm", log, "--max-loss", "1.51").code == 0
        missed = run(capsys, "lm", log, "--max-loss", "1.49", "--json")
        assert (missed.code, missed.err.count("\n")) == (1, 1)
        assert missed.json()["loss"] == 1.5
        for arguments in ([tmp_path / "none.jsonl"], [tmp_path], [log, "--format", "nope"], [log, "--ci", "7"]):
            ran = run(capsys, "lm", *arguments)
            assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)


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
