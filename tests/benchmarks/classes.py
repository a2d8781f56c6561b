"""Results of another class of processors, beside those that are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.common import pages
from benchmarks.common.records import read, write

OTHER = "AMD, AVX2"


def two_classes(folder: Path, monkeypatch: pytest.MonkeyPatch, without: str = "") -> None:
    """Let pages read a copy of the results, and beside each the same results of the other class, but for one case."""
    results = folder / "results"
    results.mkdir()
    for path in pages.RESULTS.glob("*.jsonl"):
        _ = shutil.copy(path, results)
        records = [record for record in read([path]) if record.get("case") != without]
        machine = {"cpu": "AMD EPYC", "vendor": "AMD", "isa": "avx2", "widest": "avx2", "amx": False}
        for record in records:
            record["run"]["machine"] |= machine
        write(results / path.name.replace("linux-", "linux-amd-"), records)
    monkeypatch.setattr(pages, "RESULTS", results)
