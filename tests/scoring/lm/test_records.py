"""Records of a log, with their places: lines, arrays, one value over lines, events of a stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossent.scoring.lm import LogError
from crossent.scoring.lm.records import _of_archive, records  # pyright: ignore[reportPrivateUsage]


def found(tmp_path, text):
    path = tmp_path / "log"
    _ = path.write_text(text, encoding="utf-8")
    return [(record.where, record.value) for record in records(path)]


def test_lines_arrays_and_one_value(tmp_path):
    assert found(tmp_path, '{"a": 1}\n\n{"a": 2}\n') == [("line 1", {"a": 1}), ("line 3", {"a": 2})]
    assert found(tmp_path, '[{"a": 1}, {"a": 2}]') == [("line 1, entry 1", {"a": 1}), ("line 1, entry 2", {"a": 2})]
    assert found(tmp_path, json.dumps({"a": [1, 2]}, indent=1)) == [("line 1", {"a": [1, 2]})]
    assert found(tmp_path, "\ufeff" + '{"a": 1}') == [("line 1", {"a": 1})]


def test_events_are_what_their_data_are(tmp_path):
    text = ': hello\nevent: x\nid: 7\nretry: 10\ndata: {"a": 1}\n\ndata:{"a": 2}\n\ndata: [DONE]\n'
    assert [value for _, value in found(tmp_path, text)] == [{"a": 1}, {"a": 2}]


def test_a_stream_without_data_is_empty(tmp_path):
    with pytest.raises(LogError, match="is empty"):
        _ = found(tmp_path, "event: x\n\ndata: [DONE]\n")


def test_the_part_that_is_done_is_told(tmp_path):
    path = tmp_path / "log"
    _ = path.write_text('{"a": 1}\n' * 1000)
    parts: list[float] = []
    assert len(list(records(path, parts.append))) == 1000
    assert parts[-1] == 1.0


def test_an_archive_needs_a_file() -> None:
    with pytest.raises(LogError, match="cannot be read from standard input; pass the file"):
        _ = list(_of_archive(Path("-"), None))
