"""`python -m benchmarks.regenerate`: suites in order, not twice, and stopped where they take too long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import regenerate
from benchmarks.common import machine, pages
from benchmarks.common.records import read, write
from benchmarks.proof import TABLES
from benchmarks.regenerate import Step
from tests.docs.results import DRAWN

ABOUT = {
    "date": "2026-11-02T10:00Z",
    "commit": "0123456789ab",
    "machine": {"platform": "Linux-6.1", "cpu": "a processor", "vendor": "AMD", "isa": "avx2", "cores": 2},
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for results and ledger, on a machine that is always the same."""
    monkeypatch.setattr(pages, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(regenerate, "LEDGER", tmp_path / "build" / "ledger.json")
    monkeypatch.setattr(machine, "describe", lambda: ABOUT)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    return tmp_path


def writes(path: Path, suite: str, *, log: Path, minutes: float = 1) -> Step:
    """A step that writes a result, and its name into a log."""
    file = path / "results" / f"2026-11-02-linux-amd-avx2-2-cores-{suite}.jsonl"
    record = json.dumps({"suite": suite, "run": ABOUT})
    code = (
        f"import pathlib as p; f = p.Path({str(file)!r}); f.parent.mkdir(exist_ok=True);"
        f" _ = f.write_text({record!r}); print({suite!r}, file=open({str(log)!r}, 'a'))"
    )
    return Step(suite, ("-c", code), minutes)


def test_every_suite_of_a_page_that_runs_on_a_cpu_has_a_step_and_timed_ones_come_first():
    shown = {table.suite for table in TABLES.values()} | DRAWN.keys()
    assert {step.suite for step in regenerate.STEPS} == shown - {"gpu", "prove"}
    quiet = [step.quiet for step in regenerate.STEPS]
    assert quiet == sorted(quiet, reverse=True)
    assert sum(step.minutes for step in regenerate.STEPS if step.quiet) <= 45


def test_suites_run_in_order_and_not_twice(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    log = here / "log"
    steps = [writes(here, name, log=log) for name in ("logits", "linear")]
    monkeypatch.setattr(regenerate, "STEPS", (steps[0], Step("rows", ("-c", "raise SystemExit(3)"), 5), steps[1]))
    with pytest.raises(SystemExit, match="not complete: rows; the same command goes on with them"):
        regenerate.main([])
    out, said = capsys.readouterr()
    assert "left: 7 quiet minutes on two cores, then 0 that need no quiet" in out
    assert "[2 of 3] rows: about 5 minutes, 6 for all that is left" in said
    assert "rows: not complete after 0.0 minutes: exit status 3" in said
    assert log.read_text(encoding="utf-8").split() == ["logits", "linear"]

    monkeypatch.setattr(regenerate, "STEPS", (*steps, writes(here, "rows", log=log)))
    regenerate.main([])
    assert log.read_text(encoding="utf-8").split() == ["logits", "linear", "rows"]
    assert "logits        done" in capsys.readouterr().out

    monkeypatch.setattr(machine, "describe", lambda: ABOUT | {"commit": "ba9876543210"})
    regenerate.main(["--only", "rows"])
    assert log.read_text(encoding="utf-8").split() == ["logits", "linear", "rows", "rows"]


def test_a_suite_is_stopped_at_its_limit(here: Path, monkeypatch: pytest.MonkeyPatch):
    slow = Step("logits", ("-c", "import time; time.sleep(60)"), 1 / 480)
    monkeypatch.setattr(regenerate, "STEPS", (slow,))
    assert slow.limit == pytest.approx(0.5)
    with pytest.raises(SystemExit, match="not complete: logits"):
        regenerate.main([])
    assert not regenerate.complete(ABOUT, slow)


def test_a_plan_measures_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(regenerate, "run", lambda *_: pytest.fail("it was measured"))
    regenerate.main(["--plan"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*(step.suite for step in regenerate.STEPS), "left:"]


@pytest.mark.parametrize("commit", [None, "0123456789ab-dirty"])
def test_what_has_no_commit_is_not_measured(here: Path, monkeypatch: pytest.MonkeyPatch, commit: str | None):
    monkeypatch.setattr(machine, "describe", lambda: ABOUT | {"commit": commit})
    with pytest.raises(SystemExit, match="commit your changes"):
        regenerate.main([])


@pytest.mark.parametrize(
    ("key", "value"), [("commit", "ba9876543210"), ("machine", ABOUT["machine"] | {"cores": 4}), ("versions", {})]
)
def test_results_are_gone_on_with_only_on_the_same_commit_and_machine(here: Path, key: str, value: Any):
    path = pages.path_of(ABOUT, "logits")
    write(path, [{"run": ABOUT}])
    assert pages.begun(ABOUT | {"date": "2026-11-03T10:00Z"}, "logits") == path
    assert pages.begun(ABOUT, "linear") is None
    write(path, [{"run": ABOUT | {key: value}}])
    assert pages.begun(ABOUT, "logits") is None


def test_older_results_of_the_same_class_are_superseded(here: Path):
    wide = ABOUT["machine"] | {"isa": "avx512"}
    runs = [ABOUT, ABOUT | {"date": "2026-11-05T10:00Z"}, ABOUT | {"date": "2026-11-01T10:00Z", "machine": wide}]
    for about in runs:
        write(pages.path_of(about, "logits"), [{"run": about}])
    write(pages.path_of(ABOUT, "linear"), [{"run": ABOUT}])
    assert pages.superseded() == [pages.path_of(ABOUT, "logits")]
    assert read(pages.superseded()) == [{"run": ABOUT}]
