"""A score as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pytest

import crossent
from crossent.scoring.parts import Bar
from crossent.scoring.show import text
from tests.scoring.results import SCORES, scored


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


def test_units_of_losses_are_converted_everywhere():
    """Every loss of the text in bits is that in nats divided by log 2."""
    result = scored()
    in_nats, in_bits = text.text(result), text.text(result, in_bits=True)
    for value in (result.loss, result.baseline, result.entropy):
        assert f"{value:.3f}" in in_nats
        assert f"{value / math.log(2):.3f}" in in_bits
    assert "nats" not in in_bits
    assert "bits" in in_nats


@pytest.mark.parametrize("parts", [12, 13])
def test_of_many_values_those_with_the_largest_losses_are_listed(parts):
    draw = np.random.default_rng(0)
    by, p = np.repeat(np.arange(parts), 20), draw.uniform(0.1, 0.9, 20 * parts)
    result = crossent.score((draw.random(len(p)) < p).astype(int), probs=p, by={"group": by})
    (table,) = [table for table in text.tables(result) if table.title.startswith("by group")]
    listed = [int(row[0]) for row in table.rows[1:]]
    costliest = sorted(range(parts), key=lambda k: -result.by["group"][k].loss)[:12]
    assert listed == (list(range(12)) if parts == 12 else costliest)


def test_columns_are_aligned_and_long_cells_are_cut():
    lines = text.aligned([("name", "x"), ("a", "10"), ("b" * 100, "7")])
    assert [line[-2:] for line in lines] == [" x", "10", " 7"]
    assert len({len(line) for line in lines}) == 1
    assert lines[2].startswith("b" * 59 + "…")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.nan, None),
        (-math.inf, "-inf"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        ((1, [2.0, True]), [1, [2.0, True]]),
        ({3: "x"}, {"3": "x"}),
        (Bar(0.0, math.inf, 2.0), {"low": 0.0, "high": "inf", "weight": 2.0}),
        (datetime.date(2026, 1, 2), "2026-01-02"),
    ],
)
def test_json_values(value, wanted):
    found = text.json_value(value)
    assert found == wanted
    assert type(found) is type(wanted)
