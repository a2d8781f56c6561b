"""The whole demonstration: what it writes, and what stops it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossent import demo
from crossent.demo import train


def test_three_files_and_their_paths_printed(finished: Any) -> None:
    assert sorted(path.name for path in finished.out.iterdir()) == sorted(path.name for path in finished.paths)
    assert all(str(path) in finished.printed for path in finished.paths)


def test_a_file_in_the_way_stops_it_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "fit", None)
    blocked = tmp_path / "file"
    _ = blocked.write_text("mine")
    with pytest.raises(FileExistsError):
        _ = demo.run(blocked, seed=0, epochs=1)
    assert blocked.read_text() == "mine"
