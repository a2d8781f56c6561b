"""Files as the tools of others write them are read to the right loss, or refused in one line that says what to pass.

files_of_tools/make.py made the files, with the tools themselves where they install; mpmath computed the losses.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.scoring.written import run

HERE = Path(__file__).parent / "files_of_tools"
CASES: dict[str, dict[str, Any]] = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
READ = [name for name, case in CASES.items() if "loss" in case]
REFUSED = [name for name, case in CASES.items() if "refused" in case]


@pytest.fixture(autouse=True)
def _among_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE / "files")
    monkeypatch.setenv("COLUMNS", "400")


def test_there_are_sixty_files_of_thirty_tools() -> None:
    assert len({case["file"] for case in CASES.values()}) >= 60
    assert len({case["tool"] for case in CASES.values()}) >= 30
    assert set(READ).isdisjoint(REFUSED)
    assert len(READ) + len(REFUSED) == len(CASES)


@pytest.mark.parametrize("name", READ)
def test_the_loss_is_that_of_mpmath(name: str, capsys: Any) -> None:
    case = CASES[name]
    ran = run(capsys, "score", case["file"], *case["options"], "--json")
    assert ran.code == 0, ran.err
    made = ran.json()
    assert made["loss"] == pytest.approx(case["loss"], rel=1e-12, abs=0)
    assert made["n"] == case["rows"]
    if said := case.get("said"):
        (line,) = [line for line in ran.err.splitlines() if line.startswith("read as ")]
        assert said.lower() in line.lower()


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_line_that_says_what_to_do(name: str, capsys: Any) -> None:
    case = CASES[name]
    ran = run(capsys, "score", case["file"], *case["options"], "--json")
    assert (ran.code, ran.out) == (2, ""), ran
    (line,) = ran.err.strip().splitlines()
    assert re.search(case["refused"], line, re.IGNORECASE)
