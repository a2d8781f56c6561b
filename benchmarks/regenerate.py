"""Measure everything that docs/proof.md shows, on one commit: `python -m benchmarks.regenerate`.

Suites run one after the other, each in a process of its own, with its rounds and its limit. A suite that this machine
has measured at this commit is not run again, and one that was stopped goes on with the next case. The suites that time
something come first and need a quiet machine; the last one counts, and needs none. Commit the results when all are
complete: at another commit everything is measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import pages

LEDGER = pages.ROOT / "build" / "regenerate.json"
"""Which suites are complete, by commit, and how many seconds each took."""


@dataclass(frozen=True, slots=True)
class Step:
    """A suite, the arguments of Python that measure it, and the minutes that it should take on two cores."""

    suite: str
    arguments: tuple[str, ...]
    minutes: float
    quiet: bool = True
    """Whether the numbers depend on what else the machine does."""

    @property
    def limit(self) -> float:
        """Seconds after which the suite is stopped."""
        return 240 * self.minutes


def suite(name: str, minutes: float, rounds: int, seconds: float) -> Step:
    """Return the step of a suite of `python -m benchmarks`, with its most rounds and the seconds of a case."""
    how = ("--rounds", str(rounds), "--seconds", str(seconds))
    return Step(name, ("-m", "benchmarks", "--suite", name, *how, "--resume"), minutes)


STEPS = (
    suite("logits", 6, 9, 6),
    suite("everyday", 6.5, 9, 4),
    suite("growth", 1, 9, 4),
    suite("divergence", 2.5, 5, 12),
    suite("linear", 10.5, 5, 25),
    suite("scaling", 5, 5, 6),
    suite("rows", 3, 5, 15),
    suite("distillation", 4, 5, 15),
    Step("score", ("-m", "benchmarks.score", "--rounds", "3"), 3.5),
    Step("grpo", ("-m", "benchmarks.grpo"), 3),
    Step("coverage", ("-m", "benchmarks.coverage"), 45, quiet=False),
)
"""The suites of the page, in their order."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for; the exit status is 1 where a suite is not complete."""
    from benchmarks.common import machine

    parser = argparse.ArgumentParser(prog="python -m benchmarks.regenerate", description=__doc__)
    names = [step.suite for step in STEPS]
    _ = parser.add_argument("--only", nargs="+", choices=names, metavar="SUITE", help="only these suites")
    _ = parser.add_argument("--plan", action="store_true", help="print the steps and what is done, and measure nothing")
    options = parser.parse_args(arguments)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread that spins takes a core from the contender that comes next
    steps = [step for step in STEPS if options.only is None or step.suite in options.only]
    about = machine.describe()
    commit = about["commit"]
    if not options.plan and (commit is None or commit.endswith("-dirty")):
        sys.exit("results are those of a commit: commit your changes of src, cpp and benchmarks first")
    done = {step.suite for step in steps if complete(about, step)}
    print(plan(steps, done))
    if options.plan:
        return
    failed = run(about, [step for step in steps if step.suite not in done])
    if older := pages.superseded():
        print("\nno page shows these older results; `git rm` them:", *(f"  {path.name}" for path in older), sep="\n")
    if failed:
        sys.exit(f"not complete: {', '.join(failed)}; the same command goes on with them")


def plan(steps: list[Step], done: set[str]) -> str:
    """Return the steps with their minutes, and the minutes that are left."""
    lines = [
        f"{step.suite:13} {'done' if step.suite in done else f'{step.minutes:3.0f} minutes'}"
        + ("" if step.quiet else ", on a machine that may be busy")
        for step in steps
    ]
    left = [step for step in steps if step.suite not in done]
    quiet, busy = (sum(step.minutes for step in left if step.quiet is of) for of in (True, False))
    return "\n".join([*lines, f"left: {quiet:.0f} quiet minutes on two cores, then {busy:.0f} that need no quiet"])


def run(about: dict[str, Any], steps: list[Step], say: Callable[[str], None] | None = None) -> list[str]:
    """Measure the suites, and return the names of those that are not complete."""
    say = say or (lambda text: print(text, file=sys.stderr, flush=True))
    left, failed = sum(step.minutes for step in steps), list[str]()
    for k, step in enumerate(steps, 1):
        say(f"\n[{k} of {len(steps)}] {step.suite}: about {step.minutes:.0f} minutes, {left:.0f} for all that is left")
        begun = time.monotonic()
        reason = measure(step)
        seconds = time.monotonic() - begun
        left -= step.minutes
        if reason is None:
            enter(about, step, seconds)
            say(f"{step.suite}: {seconds / 60:.1f} minutes")
        else:
            failed.append(step.suite)
            say(f"{step.suite}: not complete after {seconds / 60:.1f} minutes: {reason}")
    return failed


def measure(step: Step) -> str | None:
    """Run a suite; return None, or why it is not complete."""
    command = [sys.executable, *step.arguments]
    process = subprocess.Popen(command, cwd=pages.ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait(timeout=step.limit)
    except subprocess.TimeoutExpired:
        return f"stopped at its limit, {step.limit / 60:.0f} minutes"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            _ = process.wait()
    return None if code == 0 else f"exit status {code}"


def complete(about: dict[str, Any], step: Step) -> bool:
    """Whether the ledger has the suite at this commit, and the results are there."""
    return step.suite in _ledger().get(str(about["commit"]), {}) and pages.begun(about, step.suite) is not None


def enter(about: dict[str, Any], step: Step, seconds: float) -> None:
    """Write into the ledger that a suite is complete."""
    found = _ledger()
    found.setdefault(str(about["commit"]), {})[step.suite] = round(seconds)
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    _ = LEDGER.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _ledger() -> dict[str, dict[str, float]]:
    return json.loads(LEDGER.read_text(encoding="utf-8")) if LEDGER.exists() else {}


if __name__ == "__main__":
    main()
