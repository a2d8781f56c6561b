"""Texts of comparisons and rankings: numbers of the results, nothing else, and names of any kind on one line."""

from __future__ import annotations

import numpy as np

import crossent
from crossent.scoring.comparison import between
from crossent.scoring.show.comparison_text import called, chance, comparison_text
from tests.scoring.pairs import pair


def scores() -> tuple[crossent.Score, crossent.Score]:
    y, p, q = pair()
    group = np.random.default_rng(0).choice(["x", "y"], len(y))
    return crossent.score(y, probs=p, by={"group": group}), crossent.score(y, probs=q)


def test_small_p_values_are_not_0() -> None:
    assert (chance(0.00009), chance(0.00012), chance(1.0)) == ("<0.0001", "0.0001", "1.0000")


def test_sides_have_names() -> None:
    a, b = scores()
    found = between(a, b, names=("new\nfile.csv", "old.csv"))
    assert called(found) == ("NEW", "OLD")
    text = comparison_text(found)
    assert text.splitlines()[0] == "NEW minus OLD: 300 rows, paired"
    assert text.splitlines()[1] == "NEW is new\\nfile.csv, OLD is old.csv"
    assert repr(crossent.compare(a, b)).splitlines()[0] == "a minus b: 300 rows, paired"


def test_slices_come_dearest_first() -> None:
    a, b = scores()
    lines = crossent.compare(b, a).to_text().splitlines()
    assert not any(line.startswith("by group") for line in lines)  # b has no groups
    found = crossent.compare(a, b)
    lines = found.to_text().splitlines()
    begin = next(k for k, line in enumerate(lines) if line.startswith("by group"))
    listed = [line.split()[0] for line in lines[begin + 2 : begin + 4]]
    assert listed == [part.value for part in sorted(found.by["group"], key=lambda part: -part.difference)]
