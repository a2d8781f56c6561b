"""The pictures of a report against SciPy, NumPy and the score itself."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.figure import Figure
from scipy.stats import binomtest

from crossent.scoring.parts import Bar
from crossent.scoring.show import pictures, report
from tests.scoring.show import made
from tests.scoring.show.pages import score, text_of


def heights(text: str) -> list[float]:
    """The heights of the bars in the picture of the losses."""
    found = []
    for path in re.findall(r'<g id="losses-bar\d+">\s*<path d="([^"]*)"', text):
        y = [float(pair.split()[1]) for pair in re.findall(r"[ML] ([-\d.]+ [-\d.]+)", path)]
        found.append(max(y) - min(y))
    return found


class TestPictures:
    @given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0.5, 0.999))
    def test_wilsons_interval_is_scipys(self, n: int, part: float, level: float) -> None:
        k = round(part * n)
        expected = binomtest(k, n).proportion_ci(level, method="wilson")
        np.testing.assert_allclose(pictures.wilson(k / n, n, level), expected, rtol=1e-10, atol=1e-12)

    def test_points_lie_where_the_bins_say(self) -> None:
        drawn = re.search(r'<g id="reliability-bins">.*?</g>\s*</g>', text_of("ten"), re.DOTALL)
        assert drawn
        points = np.array(
            [[float(x) for x in pair] for pair in re.findall(r'<use [^>]*x="([-\d.]+)" y="([-\d.]+)"', drawn.group())]
        )
        bins = [part for part in score("ten").reliability if part.n]
        told = np.array([[part.predicted, part.observed] for part in bins])
        assert points.shape == told.shape
        for axis in range(2):
            fitted = np.polyval(np.polyfit(told[:, axis], points[:, axis], 1), told[:, axis])
            assert np.abs(fitted - points[:, axis]).max() <= 1e-6  # six decimal places are written

    def test_plot_draws_the_same_on_axes_of_its_own_or_on_those_given(self) -> None:
        bins = [part for part in score("binary").reliability if part.n]
        given = Figure().add_subplot()
        assert pictures.plot(score("binary"), given) is given
        for axes in (given, pictures.plot(score("binary"))):
            (points,) = [line for line in axes.lines if line.get_gid() == "bins"]
            assert points.get_xydata().tolist() == [[part.predicted, part.observed] for part in bins]
        pyplot.close("all")

    @pytest.mark.parametrize("apart", [0, 7])
    def test_bars_are_as_high_as_octaves_are_full(self, apart: int) -> None:
        cost = np.random.default_rng(3).lognormal(-2, 2, 3000)
        octaves = np.floor(np.log2(cost))
        counts, _ = np.histogram(octaves, np.arange(octaves.min(), octaves.max() + 2))
        expected = [*counts, apart] if apart else [*counts]
        bars = (*made.bars_of(cost), *([Bar(math.inf, math.inf, float(apart))] if apart else []))
        assert [bar.weight for bar in pictures.grouped(bars)] == expected
        drawn = np.array(heights(report.render(replace(score("ten"), histogram=bars), title="")))
        # six decimal places are written of either end of each bar
        np.testing.assert_allclose(
            drawn / drawn.sum() * sum(expected), expected, atol=2e-6 * len(drawn) / drawn.sum() * 3000
        )

    @given(st.lists(st.floats(1e-12, 700), min_size=1))
    def test_bars_are_few_equally_wide_and_hold_every_row(self, cost: list[float]) -> None:
        bars = pictures.grouped(made.bars_of(np.array(cost)))
        inner = [bar for bar in bars if bar.low > 0]
        assert sum(bar.weight for bar in bars) == len(cost)
        assert len(inner) <= 41  # one more where the widest bars do not start with the first octave
        assert len({bar.high / bar.low for bar in inner}) <= 1
        assert all(left.high == right.low for left, right in pairwise(inner))

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
    def test_quantiles_are_numpys_but_for_the_width_of_a_bar(self, part: float) -> None:
        cost = np.random.default_rng(0).exponential(size=5000)
        found = pictures.quantile(made.bars_of(cost), part)
        assert abs(math.log(found / np.quantile(cost, part, method="inverted_cdf"))) <= math.log(1.25)

    def test_quantile_at_the_ends(self) -> None:
        assert pictures.quantile(score("infinite").histogram, 0.9999) == math.inf
        assert pictures.quantile(score("perfect").histogram, 0.5) == 0

    def test_dots_lie_where_the_losses_are(self) -> None:
        s = score("ten")
        parts = sorted(s.per_class, key=lambda part: -part.loss)
        axis = pictures.Axis.over(parts, s.loss)
        drawn = [float(x) for x in re.findall(r'<circle cx="([\d.]+)%"', text_of("ten"))][: len(parts)]
        np.testing.assert_allclose(
            np.array(drawn) / 100 * axis.top, [part.loss for part in parts], atol=5e-5 * axis.top
        )

    @given(st.floats(1e-9, 1e4))
    def test_axis_has_a_few_numbers_in_order(self, loss: float) -> None:
        axis = pictures.Axis.over([], loss)
        ticks = [float(x) for x in re.findall(r">([\d.e+-]+)</text>", axis.ticks())]
        assert 2 <= len(ticks) <= 5
        assert ticks == sorted(set(ticks))
        assert ticks[-1] <= axis.top
