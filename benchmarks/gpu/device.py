"""What calls are timed on: a GPU, by its events and its allocator; or, in a dry run, the host, whose times mean little.

Both have a `device`, the bytes of its `memory` if they are known, `seconds` and `peak` of a call, marks in time,
captured calls, calls that must not wait, a profiler, and a description.
"""

from __future__ import annotations

import datetime
import gc
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.common import machine
from benchmarks.common.losses import Call
from crossent import __version__

FLUSH = 2**28
"""Bytes that are written before each call, so that no cache holds what it reads."""

HEAD_START = 8
"""How often they are written: for about a millisecond, in which the host queues the call; then the device is timed."""

PACKAGES = ("numpy", "torch", "triton", "liger-kernel", "cut-cross-entropy")


class Seconds(NamedTuple):
    """How long a call takes the device, and how long the host takes to queue it."""

    device: float
    host: float


class Captured(NamedTuple):
    """A call that was recorded once and can be replayed, and the tensors in which its results are each time."""

    replay: Callable[[], object]
    results: Any


class Gpu:
    """The current CUDA device. Times are those between two events on its stream."""

    activity = torch.profiler.ProfilerActivity.CUDA
    launched = "kernel"
    """What the profiler's trace calls the work of the device."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = torch.device(device)
        self.memory: int | None = torch.cuda.get_device_properties(self.device).total_memory
        self._flush = torch.empty(FLUSH, dtype=torch.uint8, device=self.device)

    def seconds(self, call: Call) -> Seconds:
        """Return how long a call takes the device, and how long the host takes to queue it."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        for _ in range(HEAD_START):
            _ = self._flush.zero_()
        start.record()
        before = time.perf_counter()
        result = call()
        host = time.perf_counter() - before
        end.record()
        torch.cuda.synchronize()
        del result
        return Seconds(start.elapsed_time(end) / 1e3, host)

    def peak(self, call: Call) -> int | None:
        """Return by how many bytes allocated memory rises at most during a call."""
        _ = gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before

    def mark(self) -> Any:
        """Return a mark at this place of the stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin: Any, end: Any) -> float:
        """Return the seconds between two marks that the device has passed."""
        return begin.elapsed_time(end) / 1e3

    def wait(self) -> None:
        """Wait until the device has done everything."""
        torch.cuda.synchronize()

    def captured(self, call: Callable[[], Any]) -> Captured:
        """Record a call in a CUDA graph, after calls that compile and take memory."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                _ = call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = call()
        return Captured(graph.replay, results)

    @contextmanager
    def never_waiting(self) -> Iterator[None]:
        """Make every call an error that waits for the device."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def clear(self) -> None:
        """Give memory back that nothing holds."""
        _ = gc.collect()
        torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the device."""
        about = torch.cuda.get_device_properties(self.device)
        return {
            "gpu": about.name,
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory_bytes": about.total_memory,
            "driver": driver(),
        }


class Host:
    """This machine's processor, in place of a GPU."""

    device = torch.device("cpu")
    memory: int | None = None
    activity = torch.profiler.ProfilerActivity.CPU
    launched = "cpu_op"

    def seconds(self, call: Call) -> Seconds:
        """Return how long a call takes, twice."""
        before = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - before
        del result
        return Seconds(seconds, seconds)

    def peak(self, call: Call) -> int | None:
        """Call, and return None: torch does not count the memory of processors."""
        _ = call()

    def mark(self) -> Any:
        """Return the time."""
        return time.perf_counter()

    def between(self, begin: Any, end: Any) -> float:
        """Return the seconds between two marks."""
        return end - begin

    def wait(self) -> None:
        """Do nothing: every call is done when it returns."""

    def captured(self, call: Callable[[], Any]) -> Captured:
        """Call, and call again to replay: a processor has no graphs."""
        results = call()

        def replay() -> None:
            again = call()
            with torch.no_grad():
                for kept, new in zip(results, again, strict=True):
                    _ = kept.copy_(new)

        return Captured(replay, results)

    @contextmanager
    def never_waiting(self) -> Iterator[None]:
        """Forbid nothing: there is no device to wait for."""
        yield

    def clear(self) -> None:
        """Give memory back that nothing holds."""
        _ = gc.collect()

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the device, which is no GPU."""
        return {"gpu": "none (dry run)", "capability": None, "driver": None}


Device = Gpu | Host


def describe(device: Device, commit: str | None) -> dict[str, Any]:
    """Return what every line of the results carries; the commit is asked of git unless it is given."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": commit or machine.commit(),
        "machine": {
            **device.describe(),
            "cpu": machine.processor(),
            "cores": machine.cores(),
            "platform": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "cuda": torch.version.cuda,
            "crossent": __version__,
        },
    }


def version(package: str) -> str | None:
    """Return the version of a package, or None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    """Return the version of NVIDIA's driver, or None where nobody says."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        file = Path("/proc/driver/nvidia/version")
        found = re.search(r"\d+\.\d+[.\d]*", file.read_text(encoding="utf-8")) if file.exists() else None
        return found[0] if found else None
