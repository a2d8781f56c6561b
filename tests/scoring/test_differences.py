"""Differences by slice beside comparisons of the rows of each slice alone, and their distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

import crossent
from crossent.scoring.differences import BARS, Differences
from tests.scoring.exact import near
from tests.scoring.pairs import pair


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
def test_a_slice_is_a_comparison_of_its_rows(weighted: bool, clustered: bool) -> None:
    y, p, q = pair()
    rng = np.random.default_rng(0)
    more = {"weight": rng.gamma(1.0, size=300)} if weighted else {}
    more |= {"cluster": rng.integers(0, 40, size=300)} if clustered else {}
    lang = rng.choice(["de", "en", "fr"], size=300)
    found = crossent.compare(crossent.score(y, probs=p, by={"lang": lang}, **more), crossent.score(y, probs=q, **more))
    assert [part.value for part in found.by["lang"]] == ["de", "en", "fr"]
    for groups, parts in ((lang, found.by["lang"]), (y, found.per_class)):
        for part in parts:
            here = groups == part.value
            some = {name: values[here] for name, values in more.items()}
            a, b = (crossent.score(y[here], probs=m[here], classes=range(3), **some) for m in (p, q))
            wanted = crossent.compare(a, b)
            near((part.difference, part.se, part.loss_a, part.loss_b), (wanted.difference, wanted.se, a.loss, b.loss))
            near(part.ci, wanted.ci, 1e-9)
            near(part.p_value, wanted.p_value, 1e-6)
            assert part.p_adjusted == min(1.0, len(parts) * part.p_value)
            assert part.n == here.sum()


def test_an_infinite_difference_stays_in_its_slice() -> None:
    a = crossent.score([1, 1, 0, 0], probs=[0.0, 0.5, 0.5, 0.25], by={"g": ["x", "x", "y", "y"]})
    b = crossent.score([1, 1, 0, 0], probs=[0.5, 0.5, 0.5, 0.5])
    found = {part.value: part for part in crossent.compare(a, b).by["g"]}
    assert (found["x"].difference, found["x"].ci) == (math.inf, (math.inf, math.inf))
    near(found["y"].difference, (math.log(0.5) - math.log(0.75)) / 2)


def test_bars_hold_every_row() -> None:
    rng = np.random.default_rng(0)
    d, w = rng.standard_t(1.5, size=1000), rng.random(1000)
    bars = Differences(d, w, None, d, 0 * d).histogram()
    assert len(bars) == BARS
    near(sum(bar.weight for bar in bars), w.sum())
    assert (bars[0].low, bars[-1].high) == (d.min(), d.max())
    for bar in bars[1:-1]:
        near(bar.weight, w[(d >= bar.low) & (d < bar.high)].sum())
        near(bar.high - bar.low, bars[1].high - bars[1].low, 1e-9)
    near(bars[BARS // 2].low, 0.0)


def test_rows_without_a_difference() -> None:
    same = crossent.score([1, 0], probs=[0.5, 0.25])
    bars = crossent.compare(same, same).histogram
    assert sum(bar.weight for bar in bars) == 2
