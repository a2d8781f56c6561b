"""`crossent doctor`: what it finds, and that it sees what is wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import crossent
from crossent import cli, doctor, kernels, reference
from crossent.kernels import cpu
from tests.absent import run_without


def break_rows(monkeypatch: pytest.MonkeyPatch, kernel: str, broken: Any) -> None:
    """Make a kernel of the core write 0.25 as the result of the rows of its first argument that are `broken`."""
    right = getattr(cpu, kernel)

    def wrong(values: Any, *arguments: Any, **options: Any) -> None:
        right(values, *arguments, **options)
        if not isinstance(values, np.ndarray):
            return
        rows = [broken(row) for row in values]
        if kernel == "row_grad":
            arguments[-1][rows] = 0.25
        elif kernel == "row_stats":
            arguments[2][:, rows] = 0.25
        else:
            arguments[1][:, rows] = 0.25

    monkeypatch.setattr(cpu, kernel, wrong)


class TestDoctor:
    def test_finds_what_is_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        import torch

        before = cpu.isa()
        assert cli.run(["doctor"]) == 0
        out = capsys.readouterr().out
        for word in (crossent.__version__, np.__version__, torch.__version__, before, *kernels.names()):
            assert word in out
        checks = [line.split()[1:3] for line in out.splitlines() if line.startswith("  check ")]
        assert checks == [[name, "correct:"] for name in (*cpu.available_isas(), "torch", "bfloat16")]
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
        assert done.stdout.count(" correct: ") == len(cpu.available_isas())

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

    @pytest.mark.parametrize("kernel", ["row_stats", "row_grad", "row_summary"])
    @pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan], ids=str)
    def test_sees_a_core_that_is_wrong_about_a_row_of_one_value(
        self, kernel: str, value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert doctor.check_core().right
        break_rows(
            monkeypatch, kernel, lambda row: bool(np.isnan(row).any() if np.isnan(value) else (row == value).any())
        )
        assert cli.run(["doctor"]) == 1
        out = capsys.readouterr().out
        assert out.count("WRONG") >= len(cpu.available_isas())
        assert f"{value}".replace("nan", "NaN") in out

    def test_sees_a_core_whose_peak_starts_at_the_lowest_finite_number(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        right = cpu.row_stats

        def clang(logits: Any, target: Any, scores: Any, record: Any, *outputs: Any) -> None:
            right(logits, target, scores, record, *outputs)
            if isinstance(logits, np.ndarray):
                nothing = np.isneginf(logits).all(axis=1)
                record[:, nothing] = np.array([np.finfo(logits.dtype).min, 0.0, 0.0, 1.0, 0.0])[:, None]

        monkeypatch.setattr(cpu, "row_stats", clang)
        assert cli.run(["doctor"]) == 1
        assert "wrong results of a row of nothing but -inf\n" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "row", "change"),
        [
            ("a confident row", 5, 1e-7),
            ("a row of denormal numbers", 6, np.nan),
            ("a row of large numbers", 7, np.inf),
        ],
    )
    def test_sees_a_core_that_is_wrong_about_extreme_numbers(
        self, name: str, row: int, change: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        right = cpu.row_stats

        def wrong(logits: Any, target: Any, scores: Any, record: Any, *outputs: Any) -> None:
            right(logits, target, scores, record, *outputs)
            if len(logits) > 5:
                record[1, row] += change

        monkeypatch.setattr(cpu, "row_stats", wrong)
        assert cli.run(["doctor"]) == 1
        assert f"wrong results of {name}\n" in capsys.readouterr().out

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
