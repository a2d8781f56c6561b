"""The limit of memory: how it is written, what it is by default, and that it is taken back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from crossent.errors import UsageError
from crossent.scoring.cli import memory
from tests.scoring.written import predictions, run, saved


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256M", 1 << 28),
        ("256MiB", 1 << 28),
        ("1g", 1 << 30),
        ("1.5 GB", 3 << 29),
        ("2T", 1 << 41),
        ("300000000", 3 * 10**8),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert memory.bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "1e9", "4X", "nan", "inf", "1G 2", "٣G", "100M", "0", "4 G B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-memory"):
        _ = memory.bytes_of(text)


def test_a_size_is_read_as_it_is_spelled() -> None:
    for size in (1 << 28, 700 << 20, 4 << 30, 3 << 29):
        assert memory.bytes_of(memory.spelled(size)) == size


def test_the_memory_of_this_machine_is_what_the_system_says() -> None:
    assert 0 < memory.of_the_machine() <= psutil.virtual_memory().total


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_less(version: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    own = Path("/proc/self/cgroup")
    groups = "0::/a/b\n" if version == 2 else "4:memory:/a/b\n3:cpuset:/\n"
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: groups if path == own else read(path, *a, **k))
    root = tmp_path / "memory" if version == 1 else tmp_path
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    (root / "a" / "b").mkdir(parents=True)
    _ = (root / "a" / "b" / name).write_text("max\n" if version == 2 else "9223372036854771712\n")
    assert memory.of_the_machine() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _ = (root / "a" / name).write_text("536870912\n")
    assert memory.of_the_machine() == 1 << 29


def test_the_limit_ends_with_the_command(tmp_path: Path, capsys: Any) -> None:
    resource = pytest.importorskip("resource", reason="limits of a process are those of Unix")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    y, p = predictions(50, 2)
    path = saved(tmp_path / "a.csv", {"y": y, "p_1": p[:, 1]})
    assert run(capsys, "score", path, "--label", "y", "--probs", "p_1", "--max-memory", "64G").code == 0
    assert run(capsys, "score", tmp_path / "none.csv", "--label", "y", "--probs", "p_1").code == 2
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is kept by Linux")
@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_what_libraries_reserve_is_not_taken_from_the_limit(end: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{end}"
    frame = pd.DataFrame({"y": [0, 1, 1] * 9, "p_0": [0.5] * 27, "p_1": [0.5] * 27, "g": ["a", "b", "c"] * 9})
    frame.to_parquet(path) if end == "parquet" else frame.to_csv(path)
    command = ["score", str(path), "--label", "y", "--probs", "p_*", "--by", "g", "--max-memory", "256M"]
    code = f"from crossent.cli import run; assert run({command}) == 0; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reserved = next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("VmData"))
    assert reserved >> 10 < 512  # pyarrow's allocator would reserve 1024 MB at once
