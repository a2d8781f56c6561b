"""Pictures of curves and of confusion: as many lines and cells as there are numbers, and nothing from outside."""

from __future__ import annotations

import numpy as np
import pytest

import crossent
from crossent.scoring.show import curves
from tests.scoring.exact import made


def score(classes: int, n: int = 400) -> crossent.Score:
    y, z = made(1, n, classes)
    return crossent.score(y, logits=z)


@pytest.mark.parametrize("draw", [curves.roc, curves.precision_recall])
def test_a_line_for_each_class_and_one_that_is_marked(draw) -> None:
    for classes, lines in ((2, 1), (5, 6)):
        found = score(classes)
        picture = draw(found.ranking, found.ranking[0])
        drawn = picture.count("stroke: var(--main)") + picture.count("stroke: var(--warm)")
        assert drawn == lines
        assert f"{found.ranking[0].auc:.4f}" in picture or f"{found.ranking[0].average_precision:.4f}" in picture


def test_steps_hold_the_average_precision() -> None:
    """The area below the steps is Σ (R_j − R_j−1) P_j, which straight lines would exceed."""
    found = score(2, 60).ranking[0]
    x, y = np.transpose(curves._stepped(found.pr))
    assert np.trapezoid(y, x) == pytest.approx(found.average_precision, rel=1e-12)


def test_reliability_of_each_class() -> None:
    found = score(4)
    picture = curves.class_reliability(found.class_reliability, found.class_reliability[1])
    assert picture.count("stroke: var(--main)") == 4
    assert picture.count("stroke: var(--warm)") == 1


def test_a_cell_for_each_pair_that_occurs() -> None:
    found = score(30, 2000)
    assert found.decisions is not None
    confusion = found.decisions.confusion
    picture = curves.grid(confusion, 30)
    assert picture.count('width="1"') == np.count_nonzero(confusion.counts)
    assert picture.count("var(--main)") == np.count_nonzero(np.diag(confusion.counts))
