"""What is recorded of scoring a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from benchmarks.score import file, files
from benchmarks.score.cases import FileCase, draw


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> FileCase:
    monkeypatch.setattr(files, "run_module", lambda _, name, path: file.measured(name, path))  # here, without a child
    return FileCase(400, 5, 400)


def test_a_file_is_read_and_scored_and_its_loss_is_right(case: FileCase):
    record = files.measure(case, 2)
    assert json.loads(json.dumps(record)) == record
    assert {name: len(times) for name, times in record["seconds"].items()} == {"read": 2, "score": 2}
    labels, probabilities = draw(np.random.default_rng(5), 400, 5)
    wide = probabilities.astype(float)
    exact = log_loss(labels, wide / wide.sum(axis=1, keepdims=True), labels=range(5))
    assert record["loss"] == pytest.approx(exact, rel=1e-5)


def test_reading_a_file_counts_its_rows(tmp_path: Path):
    FileCase(70, 3, 50).write(tmp_path / "some.parquet")
    assert file.read(str(tmp_path / "some.parquet")) == 70
