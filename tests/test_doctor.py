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
