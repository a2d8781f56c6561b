"""Files of records, and the numbers in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common import records


def test_what_is_written_is_read_again_and_takes_the_place_of_what_was_there(tmp_path: Path):
    file = tmp_path / "new" / "results.jsonl"
    first, second = [{"case": "é × 2", "seconds": [1.5, 2e-9]}], [{"case": "b"}, {"case": "c"}]
    records.write(file, first)
    assert records.read([file]) == first
    records.write(file, second)
    assert records.read([file, file]) == second + second
    assert [path.name for path in file.parent.iterdir()] == ["results.jsonl"]


def test_records_are_found_by_case_and_measure():
    found = [{"case": case, "measure": measure} for case in "ab" for measure in ("forward", "both")]
    assert records.by_case(found)["b"]["both"] is found[3]


def test_a_ratio_is_the_median_of_the_rounds_that_both_have():
    assert records.ratio([2.0, 9.0, 4.0, 100.0], [1.0, 3.0, 1.0]) == 3.0
    assert records.rounded(1.2345678e-7) == 1.2346e-7
    with pytest.raises(ValueError, match="median"):
        _ = records.ratio([], [1.0])
