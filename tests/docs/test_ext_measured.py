"""The directives for tables: results of benchmarks with their origin, features with their evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

import crossent
from benchmarks import proof
from benchmarks.common import pages
from tests.docs.one_page import build, text_of
from tests.docs.results import lost, remove

pytestmark = pytest.mark.slow

TABLES = [(table.suite, name) for name, table in proof.TABLES.items() if table.suite not in proof.SHOWN_BEFORE]


@pytest.mark.parametrize(("suite", "name"), TABLES)
def test_the_build_says_which_table_has_lost_its_source(
    suite: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(suite, tmp_path, monkeypatch)
    warnings = build(f"# Page\n\n```{{measured}} {name}\n```\n", tmp_path, monkeypatch).warnings
    assert lost(suite, "table", name) in warnings
    assert pages.COMMANDS[suite] in warnings
    assert "index.md:3" in warnings


def test_a_table_with_its_source_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = build("# Page\n\n```{measured} linear\n```\n", tmp_path, monkeypatch)
    assert "lost" not in page.warnings
    run = pages.records("linear")[0]["run"]
    for said in (run["commit"], run["date"][:10], pages.COMMANDS["linear"], run["versions"]["torch"]):
        assert said in text_of(page.html)


def test_features_have_a_column_for_each_library_and_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = build("# Page\n\n```{features} Binary\n```\n", tmp_path, monkeypatch)
    assert page.warnings == ""
    text = text_of(page.html)
    assert f"crossent {crossent.__version__}" in text
    assert "scikit-learn 1." in text
    assert "QuACK" not in text  # it has nothing to say in this group
    assert "x = −40, t = 0 costs 4.248e−18" in text
    assert "torch 2." in text
    assert "looked at on 20" in text


def test_a_group_of_features_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = build("# Page\n\n```{features} Ternary\n```\n", tmp_path, monkeypatch).warnings
    assert "features.toml has no group 'Ternary'" in warnings
