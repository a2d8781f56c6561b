"""The grid of one class against the rest: cells that ascend and are cut at the tenths, sums of NumPy, small pickles."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from crossent.scoring.input.arguments import RowArguments, ScoreOptions
from crossent.scoring.input.batch import batch
from crossent.scoring.sums.costs import costs
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.grid import CELLS, ClassGrid, cells, pieces
from tests.scoring.exact import made, softmax


def drawn(n: int = 5000, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, z = made(seed, n, classes)
    return softmax(z), y, np.random.default_rng(seed).gamma(1.0, 1.0, n)


def test_cells_ascend_and_are_cut_at_the_tenths() -> None:
    edges = np.concatenate([np.nextafter(np.arange(1, 11) / 10, 0), np.arange(11) / 10, [1e-300, 1e-12, 1 - 1e-12]])
    q = np.sort(np.concatenate([np.random.default_rng(0).random(10_000) ** 8, edges]))
    place = cells(q)
    assert (np.diff(place) >= 0).all()
    assert place.min() >= 0
    assert place.max() < CELLS
    tenth = (q * 10).astype(int)
    for cell in np.unique(place):
        assert len(np.unique(tenth[place == cell])) == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_points_are_the_sums_of_their_cells(weighted: bool) -> None:
    q, y, w = drawn()
    grid = ClassGrid()
    for part in (slice(0, 1000), slice(1000, None)):
        grid.add(q[part], y[part], w[part] if weighted else None)
    each = w if weighted else np.ones(len(y))
    for k in range(4):
        place = cells(np.ascontiguousarray(q[:, k]))
        points = grid.points(k)
        found = np.unique(place)
        weight = np.array([each[place == cell].sum() for cell in found])
        np.testing.assert_allclose(points.weight, weight, rtol=1e-12)
        np.testing.assert_allclose(points.truth, [each[(place == c) & (y == k)].sum() for c in found], rtol=1e-12)
        mean = [np.average(q[place == cell, k], weights=each[place == cell]) for cell in found]
        np.testing.assert_allclose(points.q, mean, rtol=1e-12)


def test_parts_merge_and_survive_a_pickle() -> None:
    q, y, w = drawn()
    whole, parts = ClassGrid(), [ClassGrid(), ClassGrid(), ClassGrid()]
    whole.add(q, y, w)
    parts[0].add(q[:100], y[:100], w[:100])
    parts[1].add(q[100:], y[100:], w[100:])
    parts[2].merge(pickle.loads(pickle.dumps(parts[1])))
    parts[2].merge(parts[0])
    for k in range(4):
        for mine, theirs in zip(parts[2].points(k), whole.points(k), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-13)
    assert len(pickle.dumps(whole)) < 40_000
    assert pickle.loads(pickle.dumps(ClassGrid())).count.shape == (0, CELLS)


def test_a_pickle_with_too_many_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="a grid has at most 100 classes"):
        ClassGrid().__setstate__({"filled": np.zeros(0, np.int32), "classes": 10**9})


@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs", "weights"])
def test_pieces_are_the_probabilities_of_the_rows_that_count(kind: str) -> None:
    y, z = made(1, 30_000, 3)
    p = softmax(z)
    values = {"probs": p, "logits": z, "logprobs": np.log(p), "weights": p * 7.0}[kind]
    normalize = kind == "weights"
    weight = (np.arange(len(y)) % 3).astype(float)
    given = RowArguments(**{"probs" if normalize else kind: values}, weight=weight)
    rows_in = batch(y, given, ScoreOptions(normalize=normalize))
    rows = CountedRows.of(rows_in, 0, costs(rows_in, 0, len(y), normalize=normalize), 0, "inf")
    found = np.concatenate([piece.q for piece in pieces(rows, normalize=normalize)])
    np.testing.assert_allclose(found, p[weight > 0], rtol=1e-13, atol=1e-300)
