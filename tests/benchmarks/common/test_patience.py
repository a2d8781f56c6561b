"""Who is left out because a step would take too long, judged by a part of its products."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common import patience


def test_the_time_of_a_part_is_that_of_the_whole_in_proportion(monkeypatch: pytest.MonkeyPatch):
    shapes = list[tuple[int, int]]()

    def products(x: torch.Tensor, w: torch.Tensor) -> float:
        shapes.append((len(x), len(w)))
        return 0.1

    monkeypatch.setattr(patience, "_products", products)
    rows, classes = 4 * patience.ROWS, 10 * patience.CLASSES
    features, weight = (torch.zeros(n, 3, dtype=torch.bfloat16) for n in (rows, classes))
    assert patience.of_products(features, weight) == pytest.approx(4 * 10 * 0.1)
    assert shapes == [(patience.ROWS, patience.CLASSES)] * 2  # the first call is not warm
    assert patience.why_not(features, weight) is None
    monkeypatch.setattr(patience, "PATIENCE", 3.0)
    assert patience.why_not(features, weight) == "its products take about 4 s"


def test_nobody_is_left_out_in_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    operands = torch.zeros(4, 3), torch.zeros(5, 3)
    assert patience.why_not(*operands) is None
    patience.check(*operands)
    with pytest.raises(patience.TooSlowError, match=r"its products take about \d+ s"):
        patience.check(*(x.bfloat16() for x in operands))
