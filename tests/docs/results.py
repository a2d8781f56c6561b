"""Which pictures are made of results, and results folders that lack a suite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.common import pages

DRAWN = {
    "logits": ["proof.logits"],
    "growth": ["proof.growth"],
    "linear": ["large_vocabularies.memory", "large_vocabularies.time"],
    "scaling": ["proof.time", "proof.memory", "proof.error"],
    "coverage": ["scoring.coverage"],
    "grpo": ["papers.grpo"],
}
"""Pictures that are made of results, by suite of benchmarks."""


def remove(suite: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pages read a copy of the results that lacks one suite."""
    results = folder / "results"
    results.mkdir()
    for path in pages.RESULTS.glob("*.jsonl"):
        if not path.stem.endswith(f"-{suite}"):
            _ = shutil.copy(path, results)
    monkeypatch.setattr(pages, "RESULTS", results)


def lost(suite: str, kind: str, name: str) -> str:
    """The error of a table or picture whose results are gone."""
    return f"the {kind} {name} has lost its source: benchmarks/results has no *-{suite}.jsonl"
