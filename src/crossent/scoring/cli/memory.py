"""The memory that a command may take: a limit that the system keeps, so that no file can exhaust the machine.

Readers cut their batches by bytes, so an honest file needs little. The limit is for the others: files of a few KB that
unpack to gigabytes, damaged files that claim sizes, and states that grow with millions of clusters.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from crossent.errors import UsageError, quoted

SHARE = 0.5
"""Part of the machine's memory that a command takes by default."""
LEAST = 1 << 28
"""Bytes that reading any file takes, its libraries among them."""
_STACK = 8 << 20
_THREADS = 10
"""Threads of reading beside one for each processor: pyarrow's eight for files, one that reads ahead, one that draws."""
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_CGROUPS = Path("/sys/fs/cgroup")


def bytes_of(text: str | None) -> int | None:
    """Return the bytes in a size such as 4G, 500M or 1.5GiB.

    Raises
    ------
    UsageError
        If it is not a size, or too small for any file.

    Examples
    --------
    >>> bytes_of("4G"), bytes_of("1.5 GiB"), bytes_of(None)
    (4294967296, 1610612736, None)
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE | re.ASCII)
    if found is None:
        raise UsageError(f"--max-memory must be a size such as 4G or 500M, got {quoted(text)}")
    size = int(float(found[1]) * (1 << _UNITS[found[2].lower()]))
    if size < LEAST:
        raise UsageError(f"--max-memory {text} is less than crossent and its libraries take; pass 256M or more")
    return size


def spelled(size: int) -> str:
    """Return bytes as a text that `bytes_of` reads.

    Examples
    --------
    >>> spelled(4 << 30), spelled(700 << 20)
    ('4G', '700M')
    """
    return f"{size / (1 << 30):.3g}G" if size >= 1 << 30 else f"{size >> 20}M"


def of_the_machine() -> int:
    """Return the bytes of memory that this process may have: the machine's, or those of its control groups."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers not in {"", "memory"}:
                continue
            folder, name = (_CGROUPS / "memory", "memory.limit_in_bytes") if controllers else (_CGROUPS, "memory.max")
            place = folder / group.lstrip("/")
            for each in (place, *place.parents):
                found += _number_in(each / name)
                if each == folder:
                    break
            found += _number_in(folder / name)  # in a container the group's path is that outside of it
    return min(found)


def _number_in(file: Path) -> list[int]:
    with suppress(OSError, ValueError):
        return [int(file.read_text())]
    return []  # no such file, or "max"


@contextmanager
def limited(max_memory: int | None, *files: Path | str) -> Generator[None, None, None]:
    """Let a block take as much memory as `max_memory` bytes, by default half of the machine's.

    Raises
    ------
    UsageError
        If it needs more, or a limit was passed on a system that keeps none.
    """
    if not sys.platform.startswith("linux"):
        if max_memory is not None:
            raise UsageError("--max-memory needs Linux, whose kernel keeps the limit; leave it out")
        yield
        return
    import resource

    # pyarrow's allocator reserves a gigabyte at once, which the limit would count; so it allocates only used memory
    _ = os.environ.setdefault("MIMALLOC_ARENA_EAGER_COMMIT", "0")
    most = int(of_the_machine() * SHARE) if max_memory is None else max_memory
    before = resource.getrlimit(resource.RLIMIT_DATA)
    highest = min((end for end in before if end != resource.RLIM_INFINITY), default=sys.maxsize)
    resource.setrlimit(resource.RLIMIT_DATA, (min(highest, most + _untouched()), before[1]))
    try:
        yield
    except MemoryError:
        names = " and ".join(map(str, files))
        raise UsageError(
            f"{names}: this takes more memory than --max-memory {spelled(most)} allows"
            + ("" if max_memory else " (half of this machine's memory)")
            + "; unless the file is damaged, pass more"
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _untouched() -> int:
    """Return the bytes that the process has reserved without using them, and that the threads to come will reserve.

    The kernel's limit counts reserved memory. Libraries reserve stacks and arenas for each processor, so without this
    the same limit would be smaller on a larger machine.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    reserved, used = (int(status[name].split()[0]) << 10 for name in ("VmData", "RssAnon"))
    return max(0, reserved - used) + ((os.cpu_count() or 1) + _THREADS) * _STACK
