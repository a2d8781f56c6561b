"""The page on tools has the table of those that the code recognises, and its list of values is read."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest

import crossent
from crossent.scoring.input.tools import FORMS, LAST, TOOLS
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "guide" / "tools.md").read_text(encoding="utf-8")


def rows(head: str) -> list[tuple[str, str]]:
    """The rows of the table with this head."""
    table = PAGE.split(f"| {head} |")[1].split("\n\n")[0]
    cells = [line.strip("| ").split(" | ", 1) for line in table.splitlines()[2:]]
    return [(first, second) for first, second in cells]


def test_the_table_of_tools_is_that_of_the_code() -> None:
    assert rows("tool | columns") == [(tool.name, tool.columns) for tool in (*TOOLS, *FORMS, *LAST)]


@pytest.mark.parametrize("value", [value for value, _ in rows("value of a row | written by")])
def test_each_value_of_a_row_is_read(value: str) -> None:
    text = re.sub(r", …\]", ', {"label": "cat", "score": 0.9}]', value.strip("`"))
    row = json.loads(text)
    named = "cat" in text
    for values in (pa.array([row, row]), pa.array([text, text])):
        found = crossent.score(["dog", "dog"] if named else [1, 1], probs=values)
        assert found.loss == pytest.approx(2.302585092994046 if named else 0.10536051565782628)
