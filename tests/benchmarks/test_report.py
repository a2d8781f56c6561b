"""Tables of whole files of results."""

from __future__ import annotations

from benchmarks import report
from benchmarks.common import pages
from benchmarks.common.records import read


def test_every_recorded_case_of_a_suite_is_a_line_of_its_table():
    for suite in filter(pages.exists, report.LAYOUTS):
        records = read([pages.latest(suite)])
        lines = report.tables(records).splitlines()
        for case in {record["case"] for record in records}:
            assert any(line.startswith(f"{case} ") for line in lines), (suite, case)


def test_each_run_has_a_table_and_each_suite_one_legend():
    records = read([pages.latest("logits")])
    again = [{**record, "run": {**record["run"], "commit": "another"}} for record in records]
    text = report.tables(records + again)
    assert text.count(report.LAYOUTS["logits"].LEGEND) == 1
    assert "commit another" in text
