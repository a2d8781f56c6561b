"""Times for a logit, as sweeps have them."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.logits import everyday, growth_report


def record(N: int, V: int, crossent: float) -> dict[str, Any]:
    seconds = {"crossent": crossent, "eager": 3e-9 * N * V}
    return {"both": {"case": f"{N}×{V}", "shape": [N, V], "median_seconds": seconds}}


def test_points_of_both_sweeps_are_found_in_their_order():
    cases = {f"{case.shape}": record(*case.shape, 1e-3) for case in reversed(everyday.growth())}
    found = growth_report.sweeps(cases)
    assert [point.V for point in found.of_classes] == list(everyday.CLASSES)
    assert {point.V for point in found.of_logits} == {everyday.FEW}
    assert [point.logits for point in found.of_logits] == sorted(
        {everyday.FEW * N for N in everyday.ROWS} | {everyday.LOGITS}
    )
    assert found.of_classes[0].crossent == pytest.approx(1e6 / everyday.LOGITS)
    assert found.of_classes[0].eager == pytest.approx(3.0)


def test_a_spread_is_the_longest_time_over_the_shortest_among_many_logits():
    cases = {"a": record(1, 10, 1.0), "b": record(10**5, 10, 2e-3), "c": record(10**6, 10, 5e-3)}
    points = growth_report.sweeps(cases).of_logits
    assert growth_report.spread(points, "crossent") == pytest.approx((2e-3 / 1e6) / (5e-3 / 1e7))
    assert growth_report.spread(points, "eager") == pytest.approx(1.0)
