"""The first table of each page in docs/migrate shows only lines that also stand in the blocks of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks

PAGES = sorted((ROOT / "docs" / "migrate").glob("*.md"))


def lines_of_the_table(text: str) -> list[str]:
    """Return the code in the rows of the first table of a page."""
    found = re.search(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found
    return re.findall(r"`([^`]+)`", found[1])


def absent(text: str) -> list[str]:
    """Return the lines of the first table that no block of the page has."""
    code = "\n".join(block.text for block in blocks(text))
    return [line for line in lines_of_the_table(text) if line not in code]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_of_the_first_table_stand_in_the_blocks(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(lines_of_the_table(text)) > 10
    assert absent(text) == []


def test_a_line_that_no_block_has_is_found() -> None:
    assert absent("| old | new |\n|---|---|\n| `f(x)` | `g(x)` |\n\n```python\nf(x)\n```\n") == ["g(x)"]
