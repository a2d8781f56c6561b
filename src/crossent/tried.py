"""The versions that crossent was tried with, read from `tried.json`, and what a version in use is beside them.

`make test-versions` and `make core-test-aarch64` write the file, each what it ran, with its date and commit.
"""

from __future__ import annotations

import json
import platform
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

FILE = Path(__file__).with_name("tried.json")


class Run(TypedDict):
    """One environment that passed the smoke suite: its system, and the version of each package in it."""

    date: str
    commit: str
    system: str
    versions: dict[str, str]


class CoreRun(TypedDict):
    """One system that the core's own tests passed on: by themselves, without Python."""

    date: str
    commit: str
    system: str
    result: str


class Tried(NamedTuple):
    """Whole environments that were tried, and systems that only the core was tried on."""

    runs: list[Run]
    core: list[CoreRun]


@cache
def read() -> Tried:
    """Return the environments and systems that were tried."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return Tried(cast("list[Run]", found["runs"]), cast("list[CoreRun]", found["core"]))


def release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version. Later ones are repairs, which count as tried."""
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]
    first, second = (*numbers, 0, 0)[:2]
    return first, second


def verdict(name: str, version: str) -> str:
    """Return a remark on the version of a package or of Python, empty if it was tried."""
    tried = sorted({run["versions"][name] for run in read().runs if name in run["versions"]}, key=_order)
    if not tried:
        return ""
    if release(version) > release(tried[-1]):
        return f": newer than the newest that was tried ({tried[-1]})"
    if release(version) < release(tried[0]):
        return f": older than the oldest that was tried ({tried[0]})"
    return ""


def system() -> str:
    """Return the operating system and the processor's architecture, each by one name everywhere."""
    machine = platform.machine()
    return f"{platform.system()} {({'AMD64': 'x86_64', 'arm64': 'aarch64'}).get(machine, machine)}"


def system_verdict(name: str) -> str:
    """Return a remark on a system, empty if whole environments were tried on it."""
    if any(run["system"] == name for run in read().runs):
        return ""
    results = [run["result"] for run in read().core if run["system"] == name]
    return f": only the core was tried there ({results[0]})" if results else ": never tried there"


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]
