"""The report of the fine-tuning example: figures of invented runs, as text and as a picture."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console


@pytest.fixture
def runs(lm_report: Any) -> list[Any]:
    """Two runs whose losses differ by 0.003 nats at one step, and whose second takes half the time and memory."""
    shared = {"before": 2.0, "after": 1.5, "prompt": "The with statement", "continuations": [" is", " wraps"]}
    return [
        lm_report.Run(
            fused=False, losses=[3.0, 2.5], seconds=[0.4, 0.2], tokens_per_second=100.0, peak=800_000_000, **shared
        ),
        lm_report.Run(
            fused=True, losses=[3.0, 2.503], seconds=[0.2, 0.1], tokens_per_second=200.0, peak=400_000_000, **shared
        ),
    ]


def shown(lm_report: Any, runs: list[Any]) -> str:
    printed = io.StringIO()
    lm_report.show(Console(file=printed, width=100, color_system=None), runs)
    return printed.getvalue()


def test_the_table_has_a_column_for_each_run(lm_report: Any, runs: list[Any]) -> None:
    lines = {line[:40].strip(): line[40:].split() for line in shown(lm_report, runs).splitlines()}
    assert lines["perplexity before"] == [f"{math.exp(2.0):.2f}"] * 2
    assert lines["tokens per second"] == ["100", "200"]
    assert lines["peak memory"] == ["800", "MB", "400", "MB"]


def test_the_difference_and_the_ratios_are_printed(lm_report: Any, runs: list[Any]) -> None:
    text = shown(lm_report, runs)
    assert "differ by more than 0.003 nats" in text
    assert "0.50 × the peak memory, 2.00 × the speed" in text
    assert "The with statement\n" in text
    assert text.index(" is\n") < text.index(" wraps\n")


def test_a_peak_that_was_not_measured_is_no_number(lm_report: Any, runs: list[Any]) -> None:
    text = shown(lm_report, [runs[0], dataclasses.replace(runs[1], peak=None)])
    assert "not measured" in text
    assert "× the peak memory" not in text


def test_one_run_is_compared_with_nothing(lm_report: Any, runs: list[Any]) -> None:
    text = shown(lm_report, runs[1:])
    assert "without crossent" not in text
    assert "differ" not in text


def test_losses_and_memory_are_drawn(lm_report: Any, runs: list[Any], tmp_path: Path) -> None:
    from matplotlib.image import imread

    lm_report.draw(tmp_path / "losses.png", runs)
    assert imread(tmp_path / "losses.png").shape == (540, 1350, 4)
