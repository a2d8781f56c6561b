"""The predictions that are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pyarrow import parquet

from benchmarks.score.cases import CASES, PART, ArrayCase, FileCase


def test_probabilities_of_many_classes_sum_to_one_and_labels_are_often_the_likely_class():
    labels, probabilities = ArrayCase(2000, 10).make()
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    right = (labels == probabilities.argmax(axis=1)).mean()
    assert abs(right - 0.55) < 4 * 0.5 / 2000**0.5  # half of them, and a tenth of the others


def test_labels_of_two_classes_are_as_frequent_as_their_probabilities_say():
    labels, probabilities = ArrayCase(4000, 2).make()
    assert probabilities.shape == labels.shape
    assert abs((labels - probabilities).mean()) < 4 * (1 / 6 / 4000) ** 0.5  # the variance of a label is p (1 − p)


def test_a_stream_has_all_rows_in_parts():
    case = next(case for case in CASES if case.streamed)
    part = (np.zeros(PART), np.zeros(PART))
    assert sum(len(labels) for labels, _ in case.stream([part])) == case.rows


def test_a_file_has_its_rows_in_groups(tmp_path: Path):
    case = FileCase(700, 5, 300)
    case.write(tmp_path / "file")
    found = parquet.ParquetFile(tmp_path / "file")
    assert [found.metadata.row_group(k).num_rows for k in range(found.num_row_groups)] == [300, 300, 100]
    assert found.schema_arrow.names == ["label", *(f"p_{k}" for k in range(5))]
