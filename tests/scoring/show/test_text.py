"""A score as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

import pytest

import crossent
from tests.scoring.results import SCORES


@pytest.mark.parametrize("name", SCORES)
def test_texts(name):
    result = SCORES[name]()
    text = repr(result)
    assert str(result) == text
    for line in text.splitlines():
        assert line == line.rstrip()
    assert result._repr_html_().lstrip().startswith("<")
    assert "\n" not in "".join(result.warnings)


def test_names_are_escaped_in_html():
    names = ["<u>", "&amp"]
    result = crossent.score(names, probs=[0.5, 0.2], classes=names, by=["<script>", "b"], id=["<img>", "'"])
    page = result._repr_html_()
    assert not any(name in page for name in ("<u>", "<script>", "<img>", "&amp<"))
    assert "&lt;script&gt;" in page
