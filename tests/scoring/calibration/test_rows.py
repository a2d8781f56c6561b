"""Rows of a fit: pieces, folds, and what becomes of every kind of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from crossent.scoring.calibration import rows as module
from crossent.scoring.calibration.rows import Rows, Sample, fold_of, logits_of, pieces
from crossent.scoring.input.arguments import RowArguments, ScoreOptions
from crossent.scoring.input.batch import Batch, batch
from tests.scoring.calibration.drawn import drawn


def made(label: Any, **given: Any) -> Batch:
    options = ScoreOptions(ignore=(9,))
    return batch(label, RowArguments(**given), options)


@pytest.mark.parametrize("kind", ["logits", "logprobs", "probs"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logits_of_every_kind(kind: str, dtype: Any) -> None:
    q = softmax(drawn(50, 4).logits, axis=1)
    stored = (q if kind == "probs" else np.log(q)).astype(dtype)
    found = logits_of(made(np.zeros(50, int), **{kind: stored}), slice(None))
    wide = stored.astype(np.float64)
    with np.errstate(divide="ignore"):  # of halves that are 0
        np.testing.assert_allclose(found, np.log(wide) if kind == "probs" else wide, rtol=1e-15)
    assert found.dtype == (np.float32 if dtype != np.float64 and kind != "probs" else np.float64)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("kind", ["logits", "logprobs", "probs"])
def test_one_number_is_the_second_of_two_classes(kind: str) -> None:
    q = np.array([0.0, 1e-300, 0.25, 0.5, 0.75, 1.0])
    with np.errstate(divide="ignore"):
        stored = {"probs": q, "logprobs": np.log(q), "logits": np.log(q) - np.log1p(-q)}[kind]
    found = softmax(logits_of(made(np.zeros(6, int), **{kind: stored}), slice(None)), axis=1)
    np.testing.assert_allclose(found, np.stack([1.0 - q, q], axis=1), rtol=1e-13, atol=1e-300)


def test_tensors_and_bfloat16() -> None:
    import torch

    z = torch.randn(20, 3, dtype=torch.bfloat16)
    found = logits_of(made(np.zeros(20, int), logits=z), slice(5, 15))
    np.testing.assert_array_equal(found, z[5:15].float().numpy())


def test_rows_that_do_not_count_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 9)
    z, y, w = drawn(20, 3)
    y, w = y.copy(), w.copy()
    y[4], w[7] = 9, 0.0
    found = list(pieces(made(y, logits=z, weight=w), 100))
    assert len(found) == 7
    kept = np.delete(np.arange(20), [4, 7])
    np.testing.assert_array_equal(np.concatenate([piece.number for piece in found]), 100 + kept)
    np.testing.assert_array_equal(np.concatenate([piece.logits for piece in found]), z[kept])


def test_folds_are_even_and_know_no_period() -> None:
    for folds in (2, 3, 5, 10):
        fold = fold_of(np.arange(1000), folds)
        assert np.ptp(np.bincount(fold, minlength=folds)) <= 4
        for period in (2, 3, 5, 7, 10):
            some = np.bincount(fold[::period], minlength=folds)
            assert np.ptp(some) <= 0.1 * len(fold[::period]) + 4


def test_rows_of_a_cluster_share_a_fold_and_batches_change_nothing() -> None:
    z, y, _ = drawn(60, 3)
    cluster = np.repeat(np.arange(12), 5)
    whole = made(y, logits=z, cluster=cluster)
    parts = [made(y[k : k + 7], logits=z[k : k + 7], cluster=cluster[k : k + 7]) for k in range(0, 60, 7)]
    for batches in ([whole], parts):
        rest = Rows(lambda batches=batches: batches).without(2, 4)
        numbers = np.concatenate([piece.number for piece in rest])
        np.testing.assert_array_equal(numbers, np.flatnonzero(fold_of(cluster, 4) != 2))
        for each in set(cluster.tolist()):
            assert np.isin(np.flatnonzero(cluster == each), numbers).sum() in (0, 5)


def test_a_sample_does_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 100)
    z, y, _ = drawn(1000, 3)
    whole = made(y, logits=z)
    found = []
    for size in (30, 300, 3000):
        monkeypatch.setattr(module, "PIECE", size)
        sample = Sample()
        for piece in pieces(whole):
            sample.add(piece)
        found.append(sample.whole()[0].number.tolist())
    assert found[0] == found[1] == found[2]
    assert 33 <= len(found[0]) <= 67
