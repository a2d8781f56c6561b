"""Pictures of comparisons: bars where the differences are, dots and whiskers where the numbers are."""

from __future__ import annotations

import math
import re

import pytest

from crossent.scoring.parts import Bar
from crossent.scoring.show.comparison_pictures import Around, distribution


def test_the_distribution_says_its_bars() -> None:
    bars = [Bar(-3.0, -1.0, 1.0), Bar(-1.0, 0.0, 5.0), Bar(0.0, 1.0, 3.0), Bar(1.0, 9.0, 1.0)]
    drawn = distribution(bars, 0.1, "nats")
    assert drawn.startswith("<svg")
    assert "−1.000 to 0.000 nats: 50.0" in drawn
    assert "difference of a row, nats" in drawn
    assert not re.search(r"#0[1-5]0[1-5]0[1-5]", drawn)  # stand-ins became colours of the page


@pytest.mark.parametrize("zero", [True, False])
def test_an_axis_holds_every_value(zero: bool) -> None:
    axis = Around.over([0.5, 0.75], [(0.25, 0.8), (0.7, math.inf)], "bits", zero=zero)
    assert axis.low < 0.25
    assert (axis.low < 0.0) == zero
    places = [axis.place(x) for x in (0.25, 0.5, 0.75, 0.8)]
    assert places == sorted(places)
    assert 0.0 < places[0] < places[-1] < 100.0
    assert axis.place(-99.0) == 0.0
    assert axis.place(99.0) == 100.0


def test_ticks_are_round_numbers_of_the_axis() -> None:
    axis = Around.over([-0.12, 0.3], [(-0.2, 0.0), (0.1, 0.5)], "nats")
    found = [
        (float(place), float(text.replace("−", "-")))
        for place, text in re.findall(r'x="([\d.]+)%"[^>]*>([−\d.]+)<', axis.ticks())
    ]
    assert len(found) >= 2
    assert 0.0 in [value for _, value in found]
    for place, value in found:
        assert place == pytest.approx(axis.place(value), abs=0.01)


def test_what_is_infinite_or_unknown_has_no_mark() -> None:
    axis = Around.over([math.inf, math.nan], [(math.inf, math.inf), (math.nan, math.nan)], "nats")
    assert "<circle" not in axis.whisker(math.inf, (math.inf, math.inf))
    assert "<line" not in axis.whisker(math.nan, (math.nan, math.nan))
    assert "<circle" in axis.whisker(0.0, (math.nan, math.nan))
