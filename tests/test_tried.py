"""What `crossent doctor` says of versions and systems, beside those that were tried."""

from __future__ import annotations

import json
import platform
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from crossent import cli, tried
from crossent.kernels import lock
from crossent.tried import Tried

ROOT = Path(__file__).parents[1]
ABOUT = {"date": "2026-11-30", "commit": "0123456789ab"}


def environment(system: str = "Linux x86_64", **versions: str) -> tried.Run:
    return {"date": ABOUT["date"], "commit": ABOUT["commit"], "system": system, "versions": versions}


SOME = Tried(
    [
        environment(python="3.11.7", numpy="2.0.0", torch="2.10.0"),
        environment(python="3.13.0", numpy="2.10.1", torch="2.14.1"),
    ],
    [{**ABOUT, "system": "Linux aarch64", "result": "core_test passes under qemu-aarch64"}],
)


@pytest.fixture
def some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tried, "read", lambda: SOME)


@pytest.mark.usefixtures("some")
class TestVerdict:
    @pytest.mark.parametrize(
        ("name", "version", "said"),
        [
            ("torch", "2.15.0", ": newer than the newest that was tried (2.14.1)"),
            ("torch", "3.0.0", ": newer than the newest that was tried (2.14.1)"),
            ("torch", "2.16.0a0+gitabcdef0", ": newer than the newest that was tried (2.14.1)"),
            ("torch", "2.9.1", ": older than the oldest that was tried (2.10.0)"),
            ("torch", "2.10.0+cu128", ""),
            ("torch", "2.12.0", ""),
            ("torch", "2.14.9+cpu", ""),
            ("numpy", "2.11.0", ": newer than the newest that was tried (2.10.1)"),  # numbers, not texts
            ("numpy", "2.9.0", ""),
            ("python", "3.10.13", ": older than the oldest that was tried (3.11.7)"),
            ("python", "3.13.5", ""),
            ("jax", "0.7.0", ""),
        ],
    )
    def test_says_only_what_was_never_tried(self, name: str, version: str, said: str) -> None:
        assert tried.verdict(name, version) == said

    @pytest.mark.parametrize(
        ("system", "said"),
        [
            ("Linux x86_64", ""),
            ("Linux aarch64", ": only the core was tried there (core_test passes under qemu-aarch64)"),
            ("Windows x86_64", ": never tried there"),
        ],
    )
    def test_knows_systems(self, system: str, said: str) -> None:
        assert tried.system_verdict(system) == said


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "Linux x86_64"),
        ("Linux", "aarch64", "Linux aarch64"),
        ("Darwin", "arm64", "Darwin aarch64"),
        ("Windows", "AMD64", "Windows x86_64"),
    ],
)
def test_a_system_has_one_name(system: str, machine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert tried.system() == name


@pytest.mark.usefixtures("some")
class TestDoctor:
    def test_says_that_a_version_was_never_tried(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(platform, "python_version", lambda: "3.15.2")
        monkeypatch.setattr("numpy.__version__", "2.11.0")
        monkeypatch.setattr("crossent.doctor.metadata.version", lambda name: {"torch": "2.15.0"}.get(name, "1.0"))
        monkeypatch.setattr(platform, "machine", lambda: "riscv64")
        assert cli.run(["doctor"]) == 0  # a version that is new is no fault
        lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        found = dict(lines)
        assert found["torch"] == "2.15.0: newer than the newest that was tried (2.14.1)"
        assert found["numpy"] == "2.11.0: newer than the newest that was tried (2.10.1)"
        assert found["Python"].endswith(": newer than the newest that was tried (3.13.0)")
        assert found["processor"] == "riscv64: never tried there"

    def test_says_that_a_python_is_free_threaded(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.run(["doctor"]) == 0
        assert "free-threaded" not in capsys.readouterr().out
        monkeypatch.setattr(lock, "is_free_threaded", lambda: True)
        assert cli.run(["doctor"]) == 0
        assert f"free-threaded: {lock.NEVER}\n" in capsys.readouterr().out


class TestTheFile:
    def test_was_written_by_the_tools(self) -> None:
        found = tried.read()
        assert {tuple(run) for run in found.runs} == {("date", "commit", "system", "versions")}
        assert {tuple(run) for run in found.core} <= {("date", "commit", "system", "result")}
        assert not [run for run in (*found.runs, *found.core) if run["commit"].endswith("-dirty")]

    def test_has_the_lower_bound_of_every_requirement(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        needs = [
            *project["dependencies"],
            *(n for e in ("torch", "score") for n in project["optional-dependencies"][e]),
        ]
        for need in map(Requirement, needs):
            [bound] = [Version(part.version) for part in need.specifier if part.operator == ">="]
            oldest = min(
                Version(run["versions"][need.name]) for run in tried.read().runs if need.name in run["versions"]
            )
            assert oldest.release[:3] == (*bound.release, 0, 0)[:3], need

    def test_agrees_with_the_classifiers(self) -> None:
        project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        start = "Programming Language :: Python :: 3."
        said = {line.removeprefix(start) for line in project["classifiers"] if line.startswith(start)}
        assert said == {str(tried.release(run["versions"]["python"])[1]) for run in tried.read().runs}
        assert not [line for line in project["classifiers"] if "Free Threading" in line]

    def test_is_read_as_it_stands(self) -> None:
        assert tried.FILE.samefile(ROOT / "src" / "crossent" / "tried.json")
        whole = json.loads(tried.FILE.read_text(encoding="utf-8"))
        assert tried.read() == Tried(whole["runs"], whole["core"])
