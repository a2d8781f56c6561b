"""Where results lie, and how a table is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import proof
from benchmarks.common import pages
from benchmarks.common.records import write


def machine(vendor: str, isa: str, cores: int = 2) -> dict[str, Any]:
    return {"platform": "Linux-6.1-x86_64", "cpu": "a processor", "vendor": vendor, "isa": isa, "cores": cores}


def test_results_lie_in_a_file_of_their_day_and_class_of_processors_and_the_newest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    old, new = ({"date": f"2026-11-0{day}T10:00Z", "machine": machine("AMD", "avx2", 4)} for day in (1, 2))
    assert pages.path_of(new, "logits").name == "2026-11-02-linux-amd-avx2-4-cores-logits.jsonl"
    for about in (new, old):
        write(pages.path_of(about, "logits"), [{"run": about}])
    assert pages.records("logits") == [{"run": new}]
    assert not pages.exists("linear")
    with pytest.raises(pages.LostSourceError, match=r"no \*-linear.jsonl; `python -m benchmarks --suite linear`"):
        _ = pages.latest("linear")


def test_the_newest_results_of_each_class_of_processors_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    wide, amx, amd = machine("Intel", "avx512"), machine("Intel", "avx512") | {"amx": True}, machine("AMD", "avx2")
    runs = [{"date": f"2026-11-0{day}", "machine": of} for day, of in ((1, wide), (2, amx), (3, wide), (1, amd))]
    for about in runs:
        write(pages.path_of(about, "logits"), [{"run": about}])
    assert len(list(tmp_path.iterdir())) == len(runs)  # none has taken the place of another
    found = pages.by_processor("logits")
    assert {name: records[0]["run"] for name, records in found.items()} == {
        "AMD, AVX2": runs[3],
        "Intel, AVX-512": runs[2],
        "Intel, AVX-512, AMX": runs[1],
    }
    assert list(found) == sorted(found)
    with pytest.raises(pages.LostSourceError, match=r"no \*-scaling.jsonl"):
        _ = pages.by_processor("scaling")


def test_results_of_another_torch_stand_beside_those_of_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "usual_torch", lambda: "2.13.0")
    versions = {1: "2.13.0+cpu", 2: "2.15.0+cu130", 3: "2.13.1"}
    runs = {
        day: {"date": f"2026-11-0{day}", "machine": machine("AMD", "avx2"), "versions": {"torch": version}}
        for day, version in versions.items()
    }
    for about in runs.values():
        write(pages.path_of(about, "logits"), [{"run": about}])
    assert pages.path_of(runs[2], "logits").name == "2026-11-02-linux-amd-avx2-torch-2-15-2-cores-logits.jsonl"
    found = {name: records[0]["run"] for name, records in pages.by_processor("logits").items()}
    assert found == {"AMD, AVX2": runs[3], "AMD, AVX2, torch 2.15": runs[2]}
    assert pages.superseded() == [pages.path_of(runs[1], "logits")]
    assert {pages.processor_of(name) for name in found} == {"AMD, AVX2"}


def test_results_of_every_suite_are_there_but_of_those_shown_before():
    assert {suite for suite in pages.COMMANDS if pages.exists(suite)} >= set(pages.COMMANDS) - set(proof.SHOWN_BEFORE)


def test_a_table_in_markdown_has_numbers_at_the_right():
    lines = pages.markdown(["case", "time"], [["a", "1"], ["b", "2"]]).splitlines()
    assert lines == ["| case | time |", "|---|---:|", "| a | 1 |", "| b | 2 |"]
