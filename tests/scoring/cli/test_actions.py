"""Scores of files in every format and of every kind of columns, against `crossent.score` on the same numbers."""

from __future__ import annotations

import decimal
import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import crossent
from crossent.errors import Argument
from crossent.scoring.cli.actions import as_option
from crossent.scoring.state import ScoreState
from tests.scoring.cli.runs import ANIMALS, MORE, NAMES, NATS, THREE, P, Y, score, scored, table
from tests.scoring.written import LISTS, SCALARS, columns, lists, predictions, run, same, saved


class TestSpelling:
    """Hints name options of the command, which can be pasted into a shell."""

    @pytest.mark.parametrize(
        ("name", "value", "option"),
        [
            ("ignore", 5, "--ignore 5"),
            ("ignore", -100, "--ignore -100"),
            ("ignore", math.nan, "--ignore nan"),
            ("ignore", None, "--ignore nan"),
            ("ignore", True, "--ignore True"),
            ("ignore", [math.nan, "no one"], "--ignore nan --ignore 'no one'"),
            ("ignore", "it's $HOME", "--ignore 'it'\"'\"'s $HOME'"),
            ("ignore", "", "--ignore ''"),
            ("ignore", [], "--ignore"),
            ("normalize", True, "--normalize"),
            ("classes", ["a", "b"], "--classes a,b"),
            ("classes", ["a b", "c"], "--classes 'a b,c'"),
            ("zero", 1e-6, "--zero 1e-6"),
            ("max_loss", 0.5, "--max-loss 0.5"),
            ("id", ..., "--id"),
        ],
    )
    def test_of_arguments(self, name: str, value: Any, option: str) -> None:
        assert as_option(Argument(name, value)) == option
        words = shlex.split(option)
        assert words[0] == f"--{name.replace('_', '-')}"
        if isinstance(value, str):
            assert words[1:] == [value]

    @pytest.mark.parametrize("label", ["by=3", "ignore=float('nan')", "normalize=True", "a, b", "id= "])
    def test_labels_that_look_like_arguments_come_through_untouched(
        self, label: str, tmp_path: Path, capsys: Any
    ) -> None:
        path = saved(tmp_path / "a.parquet", {**columns(Y[:3], P[:3]), "y": ["0", "0", label]})
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*")
        hint = f"use --ignore {shlex.quote(label)} to skip such rows, or --classes to name the columns"
        assert ran.err == (
            f"crossent: {path}: label {label!r} (row 2, 1 row in total) is not one of the 3 classes ['0', '1', '2']; "
            f"{hint}\n"
        )
        pasted = shlex.split(hint)[1:3]
        assert scored(path, capsys, *pasted)["n"] == 2

    def test_of_warnings_in_text_and_report(self, tmp_path: Path, capsys: Any) -> None:
        path, report = saved(tmp_path / "a.csv", {"y": [1, 0], "p": [0.0, 0.5]}), tmp_path / "a.html"
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--html", report)
        warnings = "; ".join(scored(path, capsys, probs="p")["warnings"])
        for said in (ran.out, report.read_text("utf-8"), warnings):
            assert "pass --zero 1e-6, say," in said
            assert "zero=" not in said


@pytest.mark.parametrize("kind", [ValueError, TypeError, ZeroDivisionError])
def test_a_mistake_of_ours_is_no_mistake_of_the_data(
    kind: type[Exception], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `InputError`s speak of the data; anything else says that the fault is ours, and can be seen whole."""

    def broken(_: Any) -> None:
        raise kind("a bug")

    monkeypatch.setattr(ScoreState, "finalize", broken)
    call = ("score", saved(tmp_path / "a.csv", THREE), "--label", "y", "--probs", "p_*")
    ran = run(capsys, *call)
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
    assert (
        f"a fault of crossent {crossent.__version__}, not of your data: {kind.__name__}: a bug; run it again" in ran.err
    )
    for shown in (("--debug", *call), (*call, "--debug")):
        ran = run(capsys, *shown)
        assert (ran.code, ran.out) == (3, "")
        assert ran.err.startswith("Traceback (most recent call last)")
        assert ran.err.splitlines()[-1].endswith("please report the lines above")


class TestReport:
    """The report is written whole or not at all, and never over what is read."""

    CALL = ("--label", "y", "--probs", "p_*", "--html")

    @pytest.mark.parametrize("spelling", ["same", "dots", "link", "hard link", "relative"])
    def test_never_onto_the_input(self, spelling: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
        path, other = saved(tmp_path / "a.csv", THREE), tmp_path / "other.html"
        before = path.read_bytes()
        monkeypatch.chdir(tmp_path)
        if spelling == "link":
            other.symlink_to(path)
        elif spelling == "hard link":
            other.hardlink_to(path)
        else:
            other = {"same": path, "dots": tmp_path / "." / "a.csv", "relative": Path("a.csv")}[spelling]
        ran = run(capsys, "score", path, *self.CALL, other)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert f"cannot write to {other}: it is " in ran.err
        assert path.read_bytes() == before

    def test_what_was_there_stays_if_anything_fails(self, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
        path, report = saved(tmp_path / "a.csv", THREE), tmp_path / "a.html"
        report.write_text("the report of yesterday")
        for failure, code in ((OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)):

            def fails(_: Any, failure: BaseException = failure) -> None:
                raise failure

            monkeypatch.setattr("crossent.outputs.os.fsync", fails)
            ran = run(capsys, "score", path, *self.CALL, report)
            assert ran.code == code
            assert report.read_text() == "the report of yesterday"
            assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.html"]
            if code == 2:
                assert ran.err.strip() == f"crossent: cannot write to {report}: No space left on device"
            else:
                assert ran.err == ""

    def test_a_link_stays_one(self, tmp_path: Path, capsys: Any) -> None:
        path, report, link = saved(tmp_path / "a.csv", THREE), tmp_path / "old.html", tmp_path / "latest.html"
        report.write_text("")
        report.chmod(0o600)
        link.symlink_to(report)
        assert run(capsys, "score", path, *self.CALL, link).code == 0
        assert link.is_symlink()
        assert report.read_text("utf-8").startswith("<!DOCTYPE html>")
        assert report.stat().st_mode & 0o777 == 0o600

    def test_only_a_regular_file(self, tmp_path: Path, capsys: Any) -> None:
        path, pipe = saved(tmp_path / "a.csv", THREE), tmp_path / "pipe"
        os.mkfifo(pipe)
        ran = run(capsys, "score", path, *self.CALL, pipe)
        assert (ran.code, ran.err.strip()) == (2, f"crossent: cannot write to {pipe}: it is no regular file")


class TestFormats:
    @pytest.mark.parametrize("name", SCALARS)
    def test_a_column_for_each_class(self, name: str, tmp_path: Path, capsys: Any) -> None:
        same(scored(saved(tmp_path / name, columns(Y, P)), capsys), score(Y, classes=NAMES))

    @pytest.mark.parametrize("name", LISTS)
    def test_a_column_of_lists(self, name: str, tmp_path: Path, capsys: Any) -> None:
        same(scored(saved(tmp_path / name, lists(Y, P)), capsys, probs="p"), score(Y))

    def test_npy(self, tmp_path: Path, capsys: Any) -> None:
        for name, value in {"y": Y, "p": P, "w": MORE["w"]}.items():
            np.save(tmp_path / f"{name}.npy", value)
        same(scored(tmp_path / "p.npy", capsys, "--weight", "w", probs="p"), score(Y, weight=MORE["w"]))

    def test_logits_and_log_probabilities(self, tmp_path: Path, capsys: Any) -> None:
        for option, numbers in {"logits": 3 * np.log(P) + 1, "logprobs": np.log(P)}.items():
            path = saved(tmp_path / "a.csv", columns(Y, numbers, stem="z_"))
            ran = run(capsys, "score", path, "--label", "y", f"--{option}", "z_*", "--json")
            assert (ran.code, ran.err) == (0, "")
            same(ran.json(), crossent.score(Y, **{option: numbers}, classes=NAMES).to_dict())

    def test_of_many_batches(self, tmp_path: Path, capsys: Any) -> None:
        y, p = predictions(150_000, 2, seed=3)
        wanted = crossent.score(y, probs=p[:, 1]).to_dict()
        for end in ("parquet", "csv"):
            path = saved(tmp_path / f"a.{end}", {"y": y, "p": p[:, 1]})
            same(scored(path, capsys, probs="p"), wanted)


class TestColumns:
    @pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.decimal128(20, 12)])
    def test_of_kinds_of_numbers(self, kind: Any, tmp_path: Path, capsys: Any) -> None:
        if pa.types.is_decimal(kind):
            cells = [[decimal.Decimal(f"{value:.12f}") for value in row] for row in P.T]
            stored = np.array(cells, dtype=np.float64).T
        else:
            stored = P.astype(kind.to_pandas_dtype())
            cells = list(stored.T)
        made = {f"p_{k}": pa.array(cell, kind) for k, cell in enumerate(cells)}
        wanted = crossent.score(Y, probs=stored, classes=NAMES).to_dict()
        same(scored(table(tmp_path, y=Y, **made), capsys), wanted)

    def test_of_whole_numbers(self, tmp_path: Path, capsys: Any) -> None:
        hard = np.eye(3, dtype=np.int64)[Y]
        found = scored(table(tmp_path, **columns(Y, hard)), capsys)
        same(found, crossent.score(Y, probs=hard, classes=NAMES).to_dict())
        assert found["loss"] == 0

    @pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
    @pytest.mark.parametrize("number", [pa.float32(), pa.float64()])
    def test_of_kinds_of_lists(self, kind: str, number: Any, tmp_path: Path, capsys: Any) -> None:
        stored = P.astype(number.to_pandas_dtype())
        types = {"list": pa.list_(number), "large_list": pa.large_list(number), "fixed": pa.list_(number, 3)}
        path = table(tmp_path, y=Y, p=pa.array(stored.tolist(), types[kind]))
        same(scored(path, capsys, probs="p"), crossent.score(Y, probs=stored).to_dict())

    @pytest.mark.parametrize("kind", ["string", "dictionary", "large_string", "string_view"])
    def test_labels_are_the_names_of_columns(self, kind: str, tmp_path: Path, capsys: Any) -> None:
        labels = pa.array(ANIMALS[Y].tolist())
        if kind == "dictionary":
            labels = labels.dictionary_encode()
        elif kind != "string":
            labels = labels.cast(getattr(pa, kind)())
        made = {**columns(Y, P, ANIMALS), "y": labels}
        wanted = crossent.score(ANIMALS[Y], probs=P, classes=ANIMALS.tolist()).to_dict()
        same(scored(table(tmp_path, **made), capsys), wanted)

    def test_columns_may_stand_in_any_order(self, tmp_path: Path, capsys: Any) -> None:
        order = [2, 0, 1]
        made = columns(ANIMALS[Y], P[:, order], ANIMALS[order])
        found = scored(saved(tmp_path / "a.csv", dict(reversed(made.items()))), capsys)
        wanted = score(ANIMALS[Y], classes=ANIMALS.tolist())
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-13)
        assert found["accuracy"] == wanted["accuracy"]

    @pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
    def test_labels_that_are_words_for_numbers(self, end: str, tmp_path: Path, capsys: Any) -> None:
        for labels in ([f"{value}.0" for value in Y], [str(value) for value in Y], Y.astype(float)):
            path = saved(tmp_path / f"a.{end}", columns(np.asarray(labels), P))
            assert scored(path, capsys)["loss"] == score(Y, classes=NAMES)["loss"]

    @pytest.mark.parametrize("end", ["csv", "jsonl", "parquet", "npz"])
    def test_labels_that_are_true_or_false(self, end: str, tmp_path: Path, capsys: Any) -> None:
        made = {"y": Y > 0, "p": 1 - P[:, 0]}
        found = scored(saved(tmp_path / f"a.{end}", made), capsys, probs="p")
        wanted = crossent.score((Y > 0).astype(int), probs=1 - P[:, 0]).to_dict()
        for key in ("loss", "ci", "skill", "accuracy", "calibration"):
            same(found[key], wanted[key], key)

    @pytest.mark.parametrize("end", ["csv", "parquet"])
    def test_one_column_of_the_positive_class(self, end: str, tmp_path: Path, capsys: Any) -> None:
        words = np.array(["neg", "pos"])[(Y > 0).astype(int)]
        path = saved(tmp_path / f"a.{end}", {"y": words, "chance": 1 - P[:, 0]})
        found = scored(path, capsys, "--classes", "neg,pos", probs="chance")
        same(found, crossent.score(words, probs=1 - P[:, 0], classes=["neg", "pos"]).to_dict())

    def test_csv_as_spreadsheets_write_it(self, tmp_path: Path, capsys: Any) -> None:
        plain = saved(tmp_path / "a.csv", {**columns(Y, P), "name": MORE["name"]})
        head, _, rest = plain.read_text().partition("\n")
        quoted = ",".join(f'"{name}"' for name in head.split(",")) + "\n" + rest
        wanted = scored(plain, capsys)
        for text in (quoted, head + "\n" + rest.rstrip("\n")):
            for data in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode()):
                _ = plain.write_bytes(data)
                assert scored(plain, capsys) == wanted


class TestThresholds:
    @pytest.mark.parametrize(
        ("options", "code"),
        [
            (["--max-loss", NATS + 1e-9], 0),
            (["--max-loss", NATS - 1e-9], 1),
            (["--max-loss", NATS / math.log(2) - 1e-9, "--bits"], 1),
            (["--max-loss", NATS / math.log(2) + 1e-9, "--bits"], 0),
            (["--min-skill", 0.3714], 0),
            (["--min-skill", 0.3716], 1),  # 1 − 0.69049112 / log 3 = 0.37148
            (["--min-skill", 0.9, "--max-loss", 0.1], 1),
        ],
    )
    @pytest.mark.parametrize("form", [[], ["--json"]])
    def test_of_a_score(self, options: Any, code: int, form: Any, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", THREE)
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", *form, *options)
        assert ran.code == code
        loss = "0.9961681" if "--bits" in options else "0.6904911240102"
        assert (loss if form else "3 rows") in ran.out
        if code:
            assert ran.err.startswith("crossent: ")
            assert ran.err.count("\n") == 1
            assert all(option in ran.err for option in options if str(option) in ("--max-loss", "--min-skill"))
        else:
            assert ran.err == ""

    def test_of_a_skill_that_does_not_exist(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", {"y": [1, 1], "p": [0.5, 0.75]})
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--min-skill", "0.1")
        assert ran.code == 1
        assert "skill" in ran.err

    def test_of_a_comparison(self, tmp_path: Path, capsys: Any) -> None:
        new, old = saved(tmp_path / "new.csv", THREE), saved(tmp_path / "old.csv", {**THREE, "p_1": [0.7, 0.2, 0.1]})
        worse = saved(tmp_path / "worse.csv", {**THREE, "p_0": [0.5, 0.6, 0.6], "p_1": [0.4, 0.2, 0.1]})
        rise = math.log(0.7 / 0.4) / 3
        for files, limit, code in (
            ((new, old), 0, 0),
            ((worse, old), rise - 1e-9, 1),
            ((worse, old), rise + 1e-9, 0),
            ((old, worse), 0, 0),
        ):
            ran = run(capsys, "compare", *files, "--label", "y", "--probs", "p_*", "--max-regression", limit)
            assert ran.code == code
            assert ran.out
            assert ran.err.count("\n") == code
            assert ("--max-regression" in ran.err) == bool(code)


def test_fields_of_an_npy_are_columns(tmp_path: Path, capsys: Any) -> None:
    path, table = tmp_path / "table.npy", np.zeros(len(Y), [("y", np.int8), ("p", np.float32, (3,))])
    table["y"], table["p"] = Y, P
    np.save(path, table)
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--json")
    same(json.loads(ran.out), crossent.score(Y, probs=table["p"]).to_dict())


def test_a_report_goes_onto_no_array_that_lies_beside_the_one_that_is_read(tmp_path: Path, capsys: Any) -> None:
    for name, array in {"p": P, "y": Y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    before = (tmp_path / "y.npy").read_bytes()
    (tmp_path / "link.html").symlink_to("y.npy")
    for target in ("y.npy", "./p.npy", "link.html"):
        ran = run(capsys, "score", tmp_path / "p.npy", "--label", "y", "--probs", "p", "--html", tmp_path / target)
        assert (ran.code, ran.out) == (2, "")
        assert "which is read" in ran.err or "the file that is read" in ran.err
    assert (tmp_path / "y.npy").read_bytes() == before
