"""tools/versions.py: which environments are tried, and what is remembered of them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tools import versions

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def answer(version: tuple[int, int, int], *, usable: bool = True) -> dict[str, Any]:
    return {"version": version, "path": f"python{'.'.join(map(str, version))}", "usable": usable}


def test_each_release_is_tried_with_its_newest_repair() -> None:
    answers = [
        answer((3, 10, 13)), answer((3, 11, 2)), answer((3, 11, 7)), answer((3, 13, 0)), answer((3, 12, 1)),
        answer((3, 14, 0), usable=False), {"usable": False},
    ]  # fmt: skip
    found = versions.pythons(answers)
    assert list(found) == [(3, 11), (3, 12), (3, 13)]
    assert found[3, 11] == Path("python3.11.7")
    assert [(e.name, e.oldest, e.with_torch) for e in versions.environments(found)] == [
        ("oldest", True, True),
        ("between-3.12", False, False),
        ("newest", False, True),
    ]


def test_an_interpreter_speaks_for_itself() -> None:
    import sys

    said = versions.asked(Path(sys.executable))
    assert said["usable"]
    assert tuple(said["version"]) == sys.version_info[:3]
    assert versions.asked(ROOT / "Makefile") == {"usable": False}


def test_the_oldest_environment_has_the_lower_bounds() -> None:
    oldest = versions.requirements(PROJECT, oldest=True, with_torch=True)
    newest = versions.requirements(PROJECT, oldest=False, with_torch=True)
    assert [need.replace("==", ">=") for need in oldest] == newest
    assert {need.partition("==")[0] for need in oldest} >= {"numpy", "torch", "typer", "pyarrow", "narwhals"}
    assert not [need for need in versions.requirements(PROJECT, oldest=True, with_torch=False) if "torch" in need]


def test_what_passed_is_remembered_beside_what_was_tried_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tried.json"
    _ = file.write_text(json.dumps({"runs": [{"date": "old"}], "core": [{"system": "Linux aarch64"}]}))
    monkeypatch.setattr(versions, "TRIED", file)
    versions.remember("runs", [{"date": "new"}])
    assert json.loads(file.read_text()) == {"runs": [{"date": "new"}], "core": [{"system": "Linux aarch64"}]}


def test_a_command_that_fails_ends_the_run_with_its_output() -> None:
    import sys

    with pytest.raises(SystemExit, match="exit code 3\nfirst\nsecond"):
        _ = versions.run(
            sys.executable, "-c", "import sys; print('first'); sys.exit(print('second', file=sys.stderr) or 3)"
        )
