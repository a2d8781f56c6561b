"""Results of the commands: reports, thresholds, and mistakes of ours."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossent
from crossent.scoring.state import ScoreState
from tests.scoring.cli.runs import NATS, THREE, P, Y
from tests.scoring.written import run, saved


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
        f"a bug in crossent {crossent.__version__}, not in your data: {kind.__name__}: a bug; run it again" in ran.err
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
        assert (ran.code, ran.err.strip()) == (2, f"crossent: cannot write to {pipe}: it is not a regular file")


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


def test_a_report_goes_onto_no_array_that_lies_beside_the_one_that_is_read(tmp_path: Path, capsys: Any) -> None:
    for name, array in {"p": P, "y": Y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    before = (tmp_path / "y.npy").read_bytes()
    (tmp_path / "link.html").symlink_to("y.npy")
    for target in ("y.npy", "./p.npy", "link.html"):
        ran = run(capsys, "score", tmp_path / "p.npy", "--label", "y", "--probs", "p", "--html", tmp_path / target)
        assert (ran.code, ran.out) == (2, "")
        assert "it is the input " in ran.err or "it is an input file" in ran.err
    assert (tmp_path / "y.npy").read_bytes() == before
