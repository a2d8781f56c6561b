"""What calls are timed on: a GPU, by its events and its allocator; or, in a dry run, the host, whose times mean little.

Both have a `device`, the bytes of its `memory` if they are known, `seconds` and `peak` of a call, and a description.
"""

from __future__ import annotations

import datetime
import gc
import platform
import re
import subprocess
import time
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


class Gpu:
    """The current CUDA device. Times are those between two events on its stream."""

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
