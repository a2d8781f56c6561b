"""The part of the work that a progress bar shows grows from nothing to all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossent.errors import UsageError
from crossent.scoring.cli.lm_actions import (
    _Track,  # pyright: ignore[reportPrivateUsage]
    compare_files,
)


def test_the_part_that_is_scored_grows_to_the_whole() -> None:
    parts: list[float] = []
    track = _Track(parts.append)
    for size, end in ((10, 0.5), (30, 1.0)):
        track.begins(size, end)
    for size in (4, 6, 10, 20):
        track.scored(size)
    assert parts == sorted(parts)
    assert parts[0] == 0.2
    assert parts[1] == 0.5
    assert parts[-1] == 1.0


def test_bytes_that_are_context_do_not_make_it_wrong() -> None:
    parts: list[float] = []
    track = _Track(parts.append)
    for k in range(5):
        track.begins(10, (k + 1) / 5)
        track.scored(9)  # the first byte is context
    assert all(0.0 <= part <= 1.0 for part in parts)


def test_nothing_is_shown_without_a_terminal() -> None:
    track = _Track(None)
    track.begins(3, 1.0)
    track.scored(3)
    assert track.bytes == 3


def test_two_logs_are_compared_and_what_cannot_be_paired_is_a_usage_error(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("new.jsonl", "old.jsonl", "other.jsonl")]
    for path, name, loss in zip(paths, ("d", "d", "e"), (1.0, 1.5, 2.0), strict=True):
        lines = [json.dumps({"id": f"{name}{k}", "tokens": ["a"], "logprobs": [-loss - k]}) for k in range(3)]
        _ = path.write_text("\n".join(lines))
    found = compare_files(paths[0], paths[1], ci=0.9, worst=3)
    assert found.main is not None
    assert found.main.difference == pytest.approx(-0.5)
    with pytest.raises(UsageError, match="documents are paired by their id"):
        _ = compare_files(paths[0], paths[2], ci=0.9, worst=3)
