"""Kept rows: blocks joined in their order, chosen, and renumbered where states merge."""

from __future__ import annotations

import numpy as np

from crossent.scoring.sums.kept import KeptColumns, KeptRows


def block(numbers, weight=None):
    number = np.array(numbers)
    return KeptColumns(loss=number / 2, label=number % 3, weight=weight, cluster=None, id=None, number=number)


def test_blocks_are_one():
    kept = KeptRows()
    kept.add(block([0, 1], np.array([1.0, 2.0])))
    other = KeptRows()
    other.add(block([0, 1, 2], np.array([3.0, 4.0, 5.0])))
    kept.merge(other.renumbered(2))
    whole = kept.whole()
    assert whole.number.tolist() == [0, 1, 2, 3, 4]
    assert whole.weight.tolist() == [1, 2, 3, 4, 5]
    assert whole.cluster is None
    assert len(whole) == 5
    assert other.whole().number.tolist() == [0, 1, 2]  # as it was


def test_rows_are_taken_in_any_order():
    found = block([0, 1, 2, 3]).take([3, 0])
    assert found.loss.tolist() == [1.5, 0.0]
    assert found.label.tolist() == [0, 0]
    assert found.weight is None
