"""The cases of all suites together."""

from __future__ import annotations

from benchmarks import suites
from benchmarks.__main__ import SUITES


def test_every_case_has_a_name_of_its_own():
    cases = suites.cases()
    assert len({case.name for case in cases}) == len(cases)
    for suite in SUITES:
        assert any(case.quick for case in cases if case.suite == suite)


def test_every_case_belongs_to_a_suite_that_can_measure_it():
    assert {case.suite for case in suites.cases()} == set(SUITES) == suites.SUITES.keys()
    for case in suites.cases():
        about = suites.describe(case)
        assert (about["suite"], about["case"], about["rows"]) == (case.suite, case.name, case.rows)
