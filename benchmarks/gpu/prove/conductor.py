"""Runs the stages one after the other, each in processes of its own, and ends those that take too long.

A stage is asked to stop between two of its items when its seconds are over; what does not stop is killed a little
later. The processes of the next stage are started beside it, so that their imports cost nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import pages
from benchmarks.common.records import Record
from benchmarks.gpu.prove.stages import Stage

GRACE = 5.0
"""Seconds that the last item of a stage may take beyond its limit, before its process is killed."""


def command(stage: Stage, options: Sequence[str]) -> list[str]:
    """Return what starts a process of a stage."""
    return [sys.executable, "-m", "benchmarks.gpu.prove.child", stage.name, *options]


class Process:
    """A process of a stage, and the lines that it has written."""

    def __init__(self, line: list[str], environment: dict[str, str], lines: queue.Queue[Any]) -> None:
        self._process = subprocess.Popen(
            line, env=environment, cwd=pages.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, encoding="utf-8", start_new_session=True,
        )  # fmt: skip
        self._lines = lines
        self.item: str | None = None
        """What it is at."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put((self, line))
        self._lines.put((self, None))

    def go(self, seconds: float) -> None:
        """Let it begin, with so many seconds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and its status says why
            _ = self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it and all that it has started, if it runs."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(self._process.pid, signal.SIGKILL)
        _ = self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def status(self) -> int:
        """Wait for its end, and return its exit status."""
        return self._process.wait()


class Running:
    """A stage whose processes have been started."""

    def __init__(self, stage: Stage, options: Sequence[str], environment: dict[str, str]) -> None:
        self.stage = stage
        self._lines: queue.Queue[Any] = queue.Queue()
        self._processes: list[Process] = []
        for share in range(stage.processes):
            own = [f"--share={share}", f"--shares={stage.processes}", *options]
            self._processes.append(Process(command(stage, own), environment, self._lines))

    def run(self, seconds: float, emit: Callable[[Record], None]) -> None:
        """Let it work for so many seconds, and pass its records on."""
        end = time.monotonic() + seconds + GRACE
        for process in self._processes:
            process.go(seconds)
        going = list(self._processes)
        while going:
            try:
                process, line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if line is None:
                going.remove(process)
                self._ended(process, emit)
            else:
                self._take(process, line, emit)
        for process in going:
            process.kill()
            why = f"killed {GRACE:.0f} s after the stage's limit of {self.stage.seconds:.0f} s"
            emit({"stage": self.stage.name, "case": process.item or "all", "status": "failed", "reason": why})

    def _take(self, process: Process, line: str, emit: Callable[[Record], None]) -> None:
        record = json.loads(line)
        if record["status"] == "begun":
            process.item = record["case"]
        else:
            emit(record)

    def _ended(self, process: Process, emit: Callable[[Record], None]) -> None:
        status = process.status()
        if status:
            why = f"its process was ended by signal {-status}" if status < 0 else f"its process ended with {status}"
            emit({"stage": self.stage.name, "case": process.item or "all", "status": "failed", "reason": why})

    def stop(self) -> None:
        """End it, whether it has begun or not."""
        for process in self._processes:
            process.kill()


def conduct(
    stages: Sequence[Stage], options: Sequence[str], environment: dict[str, str], emit: Callable[[Record], None]
) -> None:
    """Run the stages, each until the sum of the limits up to its own has passed."""
    end, following = time.monotonic(), [*stages[1:], None]
    running: Running | None = Running(stages[0], options, environment)
    try:
        for stage, after in zip(stages, following, strict=True):
            assert running is not None
            current, running = running, None if after is None else Running(after, options, environment)
            end += stage.seconds
            begin = time.monotonic()
            try:
                current.run(end - begin, emit)
            finally:
                current.stop()
            emit(
                {
                    "stage": stage.name,
                    "case": "stage",
                    "status": "ok",
                    "stage_seconds": round(time.monotonic() - begin, 1),
                }
            )
    finally:
        if running is not None:
            running.stop()
