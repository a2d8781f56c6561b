"""Kept rows: blocks joined in their order, chosen, and renumbered where states merge."""

from __future__ import annotations

import numpy as np

from crossent.scoring.sums.kept import KeptColumns, KeptRows


def block(numbers, weight=None, cluster=None, by=None):
    number = np.array(numbers)
    q = np.full(len(number), 0.5)
    return KeptColumns(number / 2, number % 3, weight, cluster, None, number, q, number % 2, q, by or {})


def test_blocks_are_one():
    kept = KeptRows()
    kept.add(block([0, 1], np.array([1.0, 2.0])))
    other = KeptRows()
    other.add(block([0, 1, 2], np.array([3.0, 4.0, 5.0])))
    kept.merge(other.renumbered(2), None, {})
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


def test_numbers_of_clusters_and_slices_are_those_of_the_state():
    kept, other = KeptRows(), KeptRows()
    kept.add(block([0], cluster=np.array([0]), by={"lang": np.array([0])}))
    other.add(block([0, 1], cluster=np.array([0, 1]), by={"lang": np.array([1, 0])}))
    kept.merge(other, np.array([3, 0]), {"lang": np.array([5, 7])})
    whole = kept.whole()
    assert whole.cluster.tolist() == [0, 3, 0]
    assert whole.by["lang"].tolist() == [0, 7, 5]
    assert whole.take([2]).by["lang"].tolist() == [5]


def test_merged_scores_keep_their_clusters_apart():
    """Each part counts its clusters from 0; the two rows here are of two clusters, as in one score of both."""
    import crossent

    parts = [crossent.score([1], probs=[q], cluster=[name], id=[name]) for q, name in ((0.5, "a"), (0.75, "b"))]
    merged = parts[0].merge(parts[1])
    whole = crossent.score([1, 1], probs=[0.25, 0.5], cluster=["a", "b"], id=["a", "b"])
    assert crossent.compare(merged, whole).clusters == 2
