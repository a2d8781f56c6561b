"""The pictures hold a mark for each part of the score."""

from __future__ import annotations

import math

import pytest

from crossent.scoring.parts import Bar
from crossent.scoring.show import lm_pictures
from tests.scoring.show.lm_made import MADE


def test_a_bar_for_each_range_of_losses():
    drawn = lm_pictures.losses(MADE["plain"]())
    assert drawn.startswith('<svg class="plot" role="img"')
    assert drawn.count('id="token-losses-bar') >= 5
    assert "mean" in drawn


def test_zero_and_infinity_are_bars_of_their_own():
    drawn = lm_pictures.losses(MADE["infinite"]())
    assert "∞" in drawn


def test_places_are_points_on_a_line():
    score = MADE["plain"]()
    drawn = lm_pictures.positions(score.positions)
    assert 'id="positions-positions"' in drawn
    for part in score.positions[:2]:
        assert f"{part.first} to {part.last}" in drawn


@pytest.mark.parametrize("mean", [1.5, math.nan])
def test_documents_are_bars(mean):
    drawn = lm_pictures.documents([Bar(0.0, 1.0, 2.0), Bar(1.0, 2.0, 3.0)], mean)
    assert drawn.count('id="document-losses-bar') == 2
    assert ("mean" in drawn) is math.isfinite(mean)
