"""What is printed of coverage."""

from __future__ import annotations

from benchmarks.coverage import report


def record(covered: float, kind: str = "bar") -> dict:
    share = {"n": 10_000, "covered": covered, "above": 0.02, "below": 0.98 - covered}
    about = {"case": "base rate 10 %", "n": 2000, "of": "rows", "model": "calibrated", "level": 0.95, "kind": kind}
    return {**about, "skewness": 1.234, "coverage": {"crossent": share, "normal": {**share, "covered": 0.9}}}


def test_a_table_marks_what_is_more_than_two_points_off():
    text = report.bar([record(0.951), record(0.92), record(0.5, "hard")])
    first, second = text.splitlines()[2:4]
    assert "base rate 10 %, 2,000 rows" in first
    assert "95.1 ± 0.2" in first
    assert "| 2.0 | 2.9 | 90.0* | – | – |" in first
    assert "92.0* ± 0.3" in second
    assert text.endswith("1 of 2 within two points; 10,000 samples each.")


def test_each_kind_of_case_has_its_table():
    text = report.tables([record(0.951), record(0.5, "hard")])
    assert f"{report.NAMES['bar']}: 1 of 1" in text
    assert f"{report.NAMES['hard']}: 0 of 1" in text
