"""What is printed of a score's costs."""

from __future__ import annotations

from benchmarks.score import report


def test_a_line_of_arrays_has_speeds_ratios_and_memory():
    record = {
        "kind": "arrays", "case": "1e4 × 2", "rows": 10_000, "bytes": 40_000,
        "median_seconds": {"crossent": 0.001}, "times_crossent": {"read": 0.5, "scikit-learn": 30.0},
        "seconds": {"scikit-learn": [0.02, 0.05]}, "extra_bytes": {"crossent": 1_500_000, "scikit-learn": -1},
    }  # fmt: skip
    (row,) = report.arrays([record]).splitlines()[2:]
    assert row == "| 1e4 × 2 | 1.00 ms | 10.0 | 0.04 | 2.00 | 30.0 | 20.0 to 50.0 | 1.50 | – | 0.00 |"


def test_a_line_of_a_file_has_speeds_and_peaks():
    times = {"read": 0.5, "score": 2.0}
    record = {
        "kind": "file", "case": "Parquet", "bytes": 2_000_000_000, "median_seconds": times, "speed_of_reading": 0.25,
        "median_process_seconds": {"read": 1.0, "score": 3.0}, "peak_bytes": {"read": None, "score": 300_000_000},
    }  # fmt: skip
    (row,) = report.files([record]).splitlines()[2:]
    assert row == "| Parquet | 2.00 | 2.00 s | 25 % | 3.00 s | 300 | 500 ms | – |"
