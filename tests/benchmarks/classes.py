"""Results of another class of processors, beside those that are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.common import pages
from benchmarks.common.records import read, write

OTHER = "A vendor, AVX2"
"""A class of which there are no results, before all others in the alphabet."""


def two_classes(folder: Path, monkeypatch: pytest.MonkeyPatch, without: str = "") -> None:
    """Let pages read a copy of the results, and beside each the same results of the other class, but for one case."""
    results = folder / "results"
    results.mkdir()
    for path in pages.RESULTS.glob("*.jsonl"):
        _ = shutil.copy(path, results)
        records = [record for record in read([path]) if record.get("case") != without]
        machine = {
            "cpu": "a processor",
            "vendor": "A vendor",
            "isa": "avx2",
            "widest": "avx2",
            "amx": False,
            "bf16": False,
        }
        for record in records:
            record["run"]["machine"] |= machine
        write(results / path.name.replace("linux-", "linux-a-vendor-"), records)
    monkeypatch.setattr(pages, "RESULTS", results)
