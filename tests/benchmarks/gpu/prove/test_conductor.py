"""Stages in processes: records come as they are written, and what takes too long is ended."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.gpu.prove import conductor
from benchmarks.gpu.prove.stages import STAGES, Stage, named

PLAYED = {
    "good": "say('a', 'begun'); say('a')",
    "hangs": "say('a'); say('b', 'begun'); time.sleep(100)",
    "dies": "say('a'); say('b', 'begun'); os.kill(os.getpid(), 9)",
    "ends": "sys.exit(3)",
    "asks": "say(f'{float(seconds) > 5}')",
}
"""What the processes of a stage do in the place of a child of the proof."""
BEFORE = """
import json, os, sys, time
def say(case, status="ok"):
    print(json.dumps({"stage": sys.argv[1], "case": case, "status": status}), flush=True)
seconds = sys.stdin.readline()
"""


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch):
    """Runs stages by the names of what their processes do."""

    def command(stage: Stage, _options: Sequence[str]) -> list[str]:
        return [sys.executable, "-S", "-c", BEFORE + PLAYED[stage.name], stage.name]

    def run(*stages: Stage) -> list[tuple[str, ...]]:
        records: list[dict[str, Any]] = []
        conductor.conduct(stages, [], dict(os.environ), records.append)
        return [(r["stage"], r["case"], r["status"], *([r["reason"]] if "reason" in r else [])) for r in records]

    monkeypatch.setattr(conductor, "command", command)
    monkeypatch.setattr(conductor, "GRACE", 0.5)
    return run


def test_what_was_done_counts_when_a_stage_is_ended(play: Any) -> None:
    begin = time.monotonic()
    found = play(Stage("hangs", 0.5, ""), Stage("good", 10, ""))
    assert time.monotonic() - begin < 8
    assert found == [
        ("hangs", "a", "ok"),
        ("hangs", "b", "failed", "killed 0 s after the stage's limit of 0 s"),
        ("hangs", "stage", "ok"),
        ("good", "a", "ok"),
        ("good", "stage", "ok"),
    ]


def test_a_process_that_dies_says_where(play: Any) -> None:
    found = play(Stage("dies", 10, ""), Stage("ends", 10, ""))
    assert ("dies", "b", "failed", "its process was ended by signal 9") in found
    assert ("ends", "all", "failed", "its process ended with 3") in found


def test_a_stage_has_what_those_before_left_over(play: Any) -> None:
    assert ("asks", "True", "ok") in play(Stage("good", 9, ""), Stage("asks", 1, ""))


def test_several_processes_work_at_once(play: Any) -> None:
    assert play(Stage("good", 10, "", processes=3)).count(("good", "a", "ok")) == 3


def test_all_stages_and_the_build_fit_into_six_minutes() -> None:
    assert sum(stage.seconds for stage in STAGES) + conductor.GRACE + 40 <= 360
    assert named(None) == STAGES
    assert [stage.name for stage in named(["hot", "machine"])] == ["machine", "hot"]
