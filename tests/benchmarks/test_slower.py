"""The table of what is slower than a rival holds every measured ratio below 1, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import slower
from benchmarks.common import pages
from benchmarks.suites import SUITES


def test_every_suite_with_rivals_takes_part():
    assert slower.SUITES.keys() == SUITES.keys()


def test_every_ratio_below_one_is_there_and_no_other():
    ratios = [
        ratio
        for suite in SUITES
        for records in pages.by_processor(suite).values()
        for record in records
        for rival, ratio in record.get("speedup_over", {}).items()
        if record["measure"] == "both" and not rival.startswith("crossent")
    ]
    lines = slower.table().splitlines()[2:]
    assert len(lines) == sum(ratio < 1 for ratio in ratios)
    assert all(float(line.split("|")[5]) <= 1 for line in lines)


def test_without_results_it_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    assert slower.table().splitlines()[2:] == ["| none |  |  |  |  |  |"]
