"""On what the benchmarks ran: the machine, the versions and the commit, but no name of a host and no path."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import processors
from crossent import __version__
from crossent.kernels import cpu

ROOT = Path(__file__).parents[2]


def describe() -> dict[str, Any]:
    """Return what every line of the results carries."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": commit(),
        "machine": {
            "cpu": processor(),
            "vendor": processors.vendor(),
            "cores": cores(),
            "isa": cpu.isa(),
            "widest": widest(),
            "threads": torch.get_num_threads(),
            "wait_policy": os.environ.get("OMP_WAIT_POLICY", "").lower(),
            "platform": platform.platform(),
            "huge_pages": huge_pages(),
            "amx": _has("amx_tile"),
            "bf16": _has("avx512_bf16"),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("numpy", "torch")},
            "crossent": __version__,
        },
    }


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the model of the processor as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def widest() -> str:
    """Return the widest instruction set that the processor has, whether or not crossent's core uses it."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "neon"
    return next((name for name in ("avx512", "avx2") if _has(name)), "baseline")


def _has(name: str) -> bool:
    """Return whether the processor has something that torch can look for."""
    return getattr(torch.cpu, f"_is_{name}_supported", lambda: False)()


def huge_pages() -> str | None:
    """Return when Linux gives huge pages: always, madvise or never."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists():
        return None
    return setting.read_text(encoding="utf-8").partition("[")[2].partition("]")[0]


def free_memory() -> int | None:
    """Return how many bytes Linux could give to this process, or None where that cannot be known."""
    info = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", info.read_text(), re.MULTILINE) if info.exists() else None
    return 1024 * int(found[1]) if found else None


def commit() -> str | None:
    """Return the commit of this checkout, marked where sources differ from it, or None outside of git."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "cpp", "CMakeLists.txt", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name}-dirty" if changed else name


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
