"""The command line as a shell sees it: exit codes, one line on standard error, and what `doctor` finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossent
from crossent import cli, demo, doctor, kernels, reference
from crossent.kernels import cpu

_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def find_spec(name, package=None):
    return None if name.partition(".")[0] in ABSENT else real(name, package)

import importlib.util
ABSENT = set(sys.argv.pop(1).split(","))
real, importlib.util.find_spec = importlib.util.find_spec, find_spec
sys.meta_path.insert(0, Absent())
from crossent.cli import main
main()
"""


def run_without(modules: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh Python that does not have the modules."""
    command = [sys.executable, "-W", "error", "-c", _WITHOUT, modules, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


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

    def test_a_mistake_of_ours_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(demo, "run", broken)
        with pytest.raises(ZeroDivisionError):
            _ = cli.run(["demo", "--out", str(tmp_path)])


def test_demo_hands_its_options_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, dict[str, int]]] = []
    monkeypatch.setattr(demo, "run", lambda out, **options: calls.append((out, options)))
    assert cli.run(["demo", "--out", str(tmp_path), "--seed", "3", "--epochs", "4"]) == 0
    assert cli.run(["demo"]) == 0
    assert calls == [(tmp_path, {"seed": 3, "epochs": 4}), (Path("demo-output"), {"seed": 0, "epochs": 60})]


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["crossent", "--colour"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2


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


class TestDoctor:
    def test_finds_what_is_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        import torch

        before = cpu.isa()
        assert cli.run(["doctor"]) == 0
        out = capsys.readouterr().out
        for word in (crossent.__version__, np.__version__, torch.__version__, before, *kernels.names()):
            assert word in out
        checks = [line.split()[1:3] for line in out.splitlines() if line.startswith("  check ")]
        assert checks == [[name, "right:"] for name in (*cpu.available_isas(), "torch", "bfloat16")]
        assert cpu.isa() == before

    def test_gives_the_reason_for_each_unused_backend(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(kernels, "names", lambda: ("cpu", "abacus"))
        monkeypatch.setattr(kernels, "why_not", lambda name: "no beads" if name == "abacus" else None)
        assert doctor.examine()
        lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        assert ["abacus", "no beads"] in lines
        assert ["cpu", "can be used"] in lines

    def test_works_without_torch_and_the_rest(self) -> None:
        done = run_without("torch,sklearn,matplotlib,scipy,pyarrow", "doctor")
        assert (done.returncode, done.stderr) == (0, "")
        assert "not done: No module named 'torch'" in done.stdout
        assert done.stdout.count(" right: ") == len(cpu.available_isas())

    def test_needs_only_numpy_as_a_module(self) -> None:
        command = [sys.executable, "-X", "importtime", "-W", "error", "-c", "import crossent.doctor"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "numpy" in loaded
        assert not loaded & {"torch", "typer", "rich", "sklearn", "matplotlib", "scipy", "pyarrow"}

    @pytest.mark.parametrize("fault", ["scale", "nan"])
    def test_sees_a_core_that_is_wrong(
        self, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        right = reference.row_grad

        def wrong(*arguments: Any) -> Any:
            grad = right(*arguments)
            if fault == "scale":
                return grad * (1 + 1e-4)
            grad[3, 5] = np.nan
            return grad

        monkeypatch.setattr(reference, "row_grad", wrong)
        assert cli.run(["doctor"]) == 1
        assert "WRONG" in capsys.readouterr().out

    def test_sees_a_front_end_that_is_wrong(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import torch

        import crossent.torch

        def wrong(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return logits.logsumexp(1).sum()

        monkeypatch.setattr(crossent.torch, "cross_entropy", wrong)
        assert cli.run(["doctor"]) == 1
        assert "WRONG" in capsys.readouterr().out

    def test_without_a_core(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(kernels, "why_not", lambda _: "the C++ core is not built")
        assert cli.run(["doctor"]) == 1
        assert "not done: the C++ core is not built" in capsys.readouterr().out
