"""Gradients at the classes that a target names, where they are written over what the tile has there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossent import reference
from crossent.kernels.backend import Cotangents
from crossent.spec import Scores, Target
from tests.kernels.triton.calls import backend, bound, evaluate, in_numpy


@pytest.mark.parametrize("V", [5, 300, 5003])
def test_a_class_that_is_named_more_than_once_has_one_gradient(V):
    rng = torch.Generator().manual_seed(V)
    logits, g = torch.randn(3, V, generator=rng), torch.randn(3, 3, generator=rng)
    index = torch.randint(V, (3, 4), generator=rng)
    index[1], index[2, 2:] = 3, V - 1
    target = Target(index, torch.rand(3, 4, generator=rng), smoothing=0.1)
    got = evaluate(logits, target, Scores(0.7), tuple(g))
    plain = in_numpy(target)
    stats = reference.row_stats(logits.numpy(), plain, Scores(0.7))
    want = reference.row_grad(logits.numpy(), plain, Scores(0.7), stats, Cotangents(*g.numpy()))
    np.testing.assert_allclose(got["grad"], want.T, rtol=0, atol=bound(logits) * (1 + np.abs(g.numpy()).sum(0).max()))


def test_rows_without_a_cotangent_have_the_gradient_zero_whatever_they_hold():
    logits = torch.full((4, 70), float("nan"))
    logits[1] = logits[3] = 1.0
    g = np.array([0.0, 1.0, 0.0, 0.0], np.float32)
    grad = np.full((4, 70), np.nan, np.float32)
    target = Target(np.array([1, 2, 3, 4]), smoothing=0.1)
    record = reference.row_stats(logits.numpy(), target)
    stacked = np.stack([record.peak, record.total, record.target_score, record.mass, record.tilt])
    backend.row_grad(logits.numpy(), target, Scores(), stacked, Cotangents(g, None, 0 * g), grad)
    assert (grad[[0, 2, 3]] == 0).all()
    assert abs(grad[1].sum()) < 1e-6
    assert np.isfinite(grad[1]).all()
