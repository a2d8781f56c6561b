"""The pictures of the demonstration."""

from __future__ import annotations

import re

import numpy as np

from crossent.demo import numbers, pictures, train
from tests.page import Page


class TestPictures:
    def test_pixels_draw_every_level_once(self) -> None:
        image = np.random.default_rng(0).integers(0, 17, (8, 8)) / 16
        found = np.zeros((8, 8))
        for tag, attributes in Page(pictures.pixels(image, "x", 'a "4" & more')).elements:
            if tag == "path":
                for column, row in re.findall(r"M(\d) (\d)h1v1h-1z", attributes["d"]):
                    assert found[int(row), int(column)] == 0
                    found[int(row), int(column)] = float(attributes["fill-opacity"])
        np.testing.assert_array_equal(found, image)

    def test_spread_keeps_order_and_gap(self) -> None:
        rng = np.random.default_rng(1)
        for _ in range(50):
            heights = rng.random(5)
            placed = np.array(pictures.spread(heights.tolist(), 0.1))
            assert np.all(-np.diff(np.sort(placed)[::-1]) >= 0.1 - 1e-12)
            np.testing.assert_array_equal(np.argsort(placed), np.argsort(heights))
            assert placed.max() == heights.max()

    def test_spread_leaves_alone_what_is_apart(self) -> None:
        assert pictures.spread([0.1, 0.9, 0.5], 0.2) == [0.1, 0.9, 0.5]


def test_same_results_give_the_same_page(fit: train.Fit) -> None:
    summary = numbers.summarise(fit)
    assert pictures.penalty_curve(fit, summary) == pictures.penalty_curve(fit, summary)
