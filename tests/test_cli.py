"""The command line as a shell sees it: exit codes and one line on standard error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import crossent
from crossent import cli, demo
from tests.absent import run_without


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text.rstrip("\n")


class TestHelp:
    @pytest.mark.parametrize("arguments", [[], ["--help"]])
    def test_names_the_commands(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(arguments) == 0
        out, err = capsys.readouterr()
        assert err == ""
        for word in ("demo", "doctor", "--version", "--help"):
            assert word in out

    def test_of_demo_names_its_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["demo", "--help"]) == 0
        out = capsys.readouterr().out
        for word in ("--out", "--seed", "--epochs", "demo-output"):
            assert word in out

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["--version"]) == 0
        assert capsys.readouterr().out == f"crossent {crossent.__version__}\n"


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["--colour"], "--colour"),
            (["demos"], "demos"),
            (["demo", "--epochs", "0"], "epochs"),
            (["demo", "--epochs", "many"], "epochs"),
            (["demo", "--seed", "-1"], "seed"),
            (["demo", "extra"], "extra"),
            (["demo", "--seed", "-1"], "(see crossent demo --help)"),
            (["demos"], "(see crossent --help)"),
        ],
    )
    def test_bad_usage(self, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert one_line(err).startswith("crossent: ")
        assert word in err

    @pytest.mark.parametrize("inside", [False, True])
    def test_a_file_in_the_way(self, inside: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        blocked = tmp_path / "file"
        _ = blocked.write_text("mine")
        assert cli.run(["demo", "--out", str(blocked / "deeper" if inside else blocked)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert str(blocked) in one_line(err)
        assert "--out" in err
        assert blocked.read_text() == "mine"

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device", "report.html")

        monkeypatch.setattr(demo, "run", full)
        assert cli.run(["demo", "--out", str(tmp_path)]) == 2
        assert one_line(capsys.readouterr().err) == "crossent: cannot write to report.html: No space left on device"

    @pytest.mark.parametrize(
        ("absent", "named"),
        [
            ("sklearn", "demo needs scikit-learn, which is"),
            ("torch,matplotlib", "demo needs torch and matplotlib, which are"),
            ("typer", "the command line needs typer, which is"),
            ("rich", "the command line needs rich, which is"),
        ],
    )
    def test_a_missing_package(self, absent: str, named: str, tmp_path: Path) -> None:
        done = run_without(absent, "demo", "--out", str(tmp_path / "never"))
        assert done.returncode == 2
        assert done.stdout == ""
        assert one_line(done.stderr) == f"crossent: {named} not installed: pip install 'crossent[demo]'"
        assert not (tmp_path / "never").exists()

    def test_a_core_that_is_not_built_is_no_fault(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from crossent.kernels import cpu

        path = tmp_path / "a.csv"
        _ = path.write_text("y,p_0,p_1\n0,0.5,0.5\n")
        monkeypatch.setattr(cpu, "_core", None)
        monkeypatch.setattr(cpu, "_missing", "the C++ core is not built (no module); run `pip install .`")
        assert cli.run(["score", str(path), "--label", "y", "--probs", "p_*"]) == 2
        said = one_line(capsys.readouterr().err)
        assert said == "crossent: the C++ core is not built (no module); run `pip install .`"

    def test_a_mistake_of_ours_is_one_line_too(self, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("x" * 10_000 + "\n\x1b[2J")

        monkeypatch.setattr(demo, "run", broken)
        assert cli.run(["demo", "--out", str(tmp_path)]) == 3
        said = one_line(capsys.readouterr().err)
        assert said.startswith(f"crossent: this is a bug in crossent {crossent.__version__}, not in your data: Zero")
        assert len(said) < 600
        assert cli.run(["--debug", "demo", "--out", str(tmp_path)]) == 3
        assert "in broken" in capsys.readouterr().err

    def test_an_interrupt_is_silent(self, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "run", interrupted)
        assert cli.run(["demo", "--out", str(tmp_path)]) == 130
        assert capsys.readouterr() == ("", "")

    @pytest.mark.slow
    @pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["--version"]])
    def test_nobody_reads_the_output(self, arguments: list[str]) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "crossent", *arguments], stdout=writing, stderr=subprocess.PIPE, check=False
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")


def test_demo_hands_its_options_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, dict[str, int]]] = []
    monkeypatch.setattr(demo, "run", lambda out, **options: calls.append((out, options)))
    assert cli.run(["demo", "--out", str(tmp_path), "--seed", "3", "--epochs", "4"]) == 0
    assert cli.run(["demo"]) == 0
    assert calls == [(tmp_path, {"seed": 3, "epochs": 4}), (Path("demo-output"), {"seed": 0, "epochs": 60})]


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["crossent", "--colour"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # an interrupt ends the tests as before
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2


@pytest.mark.slow
def test_the_whole_demo_on_a_terminal_that_lacks_our_characters(tmp_path: Path) -> None:
    code = "from crossent.cli import main; main()"
    command = [sys.executable, "-W", "error", "-c", code, "demo", "--epochs", "1", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?log L / N" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.csv",
        "predictions_breast_cancer.csv",
        "report.html",
    ]
