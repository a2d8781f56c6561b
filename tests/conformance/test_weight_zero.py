"""A row whose target has no mass costs nothing and has no gradient on any backend, whatever the row holds."""

from __future__ import annotations

import numpy as np
import pytest

from crossent.kernels.backend import Cotangents, LossScale, RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import FIELDS

N, V = 6, 70
HELD = {
    "nan": np.full(V, np.nan),
    "one nan": np.where(np.arange(V) == 3, np.nan, 0.0),
    "all -inf": np.full(V, -np.inf),
    "inf": np.where(np.arange(V) == 5, np.inf, 0.0),
    "both": np.where(np.arange(V) == 5, np.inf, -np.inf),
}
GONE, KEPT = 4, [0, 1, 2, 3, 5]


def targets(rng):
    """Targets of which row 4 has no mass: a class of weight 0, padding, and probabilities of 0."""
    index = rng.integers(0, V - 1, N)
    index[GONE] = V - 1
    weight = rng.random(V) + 0.5
    weight[-1] = 0.0
    picks, prob = rng.integers(0, V, (N, 3)), rng.random((N, 3))
    picks[GONE], prob[GONE] = (-1, 2, 10**6), 0.0
    prob[0, 1], picks[0, 1] = 0.0, -100
    dense = rng.random((N, V))
    dense[GONE] = 0.0
    return {
        "class weight": Target(index, weight=weight.astype(np.float32), ignore_index=-100),
        "top-k": Target(picks, prob.astype(np.float32)),
        "dense": Target(prob=dense.astype(np.float32)),
    }


def without(target):
    """The same target without row 4."""
    index, prob = (None if x is None else x[KEPT].copy() for x in (target.index, target.prob))
    return Target(index, prob, target.weight, ignore_index=target.ignore_index)


def results(backend, z, target, scores):
    n = len(z)
    record, outputs = np.full((len(FIELDS), n), np.nan), [np.full(n, np.nan, np.float32) for _ in range(3)]
    grads = [np.full_like(z, np.nan) for _ in range(2)]
    backend.row_stats(z, target, scores, record, RowOutputs(*outputs))
    g = np.linspace(-1, 2, N).astype(np.float32)[KEPT if n < N else slice(None)].copy()
    backend.row_grad(z, target, scores, record, Cotangents(g, None, None), grads[0])
    again = np.full_like(record, np.nan)
    backend.row_fused(z, target, scores, LossScale(g, None), again, grads[1], RowOutputs(outputs[0], None, None))
    return outputs[0], grads


@pytest.mark.parametrize("scores", [Scores(), Scores(0.7, 5.0)], ids=["plain", "softcap"])
@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("kind", ["class weight", "top-k", "dense"])
@pytest.mark.parametrize("columns", [V, 20])
def test_a_target_without_mass_removes_its_row(columns, kind, held, scores, backend):
    rng = np.random.default_rng(0)
    target = targets(rng)[kind]
    if columns < V:  # rows side by side
        keep = np.arange(V) >= V - columns
        first = V - columns
        target = {
            "class weight": lambda: Target(
                np.maximum(target.index - first, 0), weight=target.weight[keep].copy(), ignore_index=-100
            ),
            "top-k": lambda: Target(np.where(target.prob > 0, target.index % columns, target.index), target.prob),
            "dense": lambda: Target(prob=target.prob[:, keep].copy()),
        }[kind]()
    z = rng.normal(0, 3, (N, columns)).astype(np.float32)
    z[GONE] = HELD[held][:columns]
    loss, grads = results(backend, z, target, scores)
    want, wanted = results(backend, z[KEPT].copy(), without(target), scores)
    assert loss[GONE] == 0
    np.testing.assert_array_equal(loss[KEPT], want)
    for grad, other in zip(grads, wanted, strict=True):
        assert not grad[GONE].any()
        np.testing.assert_array_equal(grad[KEPT], other)


def test_what_has_mass_is_still_nan(backend):
    rng = np.random.default_rng(1)
    for kind, target in targets(rng).items():
        z = rng.normal(0, 3, (N, V)).astype(np.float32)
        z[1] = np.nan
        loss, grads = results(backend, z, target, Scores())
        assert np.isnan(loss[1]), kind
        assert all(np.isnan(grad[1]).all() for grad in grads), kind
        assert np.isfinite(np.delete(loss, 1)).all()
