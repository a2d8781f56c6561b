"""The mean of losses: exactly rounded from float64 sums, the same bits in every order, whoever is ignored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossent.kernels.triton import finish, functions
from crossent.spec import Target
from tests.kernels.triton.calls import NAN, PLAIN, backend

each = pytest.mark.parametrize


@each("mean", [True, False])
@each("programs", [1, 1024, 2500])
def test_sums_of_programs_are_reduced_in_float64(programs, mean, rng):
    sums = torch.from_numpy(rng.uniform(0, 3, (programs, 2)))
    loss, scale = torch.empty(()), torch.empty((), dtype=torch.float64)
    finish.reduce_losses[(1,)](sums, loss, scale, programs=programs, mean=int(mean), B=functions.REDUCED)
    total, weight = sums.numpy().sum(0)
    by = 1 / weight if mean else 1.0
    np.testing.assert_allclose(scale.item(), by, rtol=programs * 2.0**-53)
    np.testing.assert_allclose(loss.item(), total * by, rtol=2.0**-23)


@each("V", [10, 300], ids=["few", "recorded"])
@each("weighted", [False, True])
def test_a_mean_counts_whom_torch_counts(V, weighted):
    rng = torch.Generator().manual_seed(0)
    logits, index = torch.randn(300, V, generator=rng), torch.randint(V, (300,), generator=rng)
    index[::7] = -100
    weight = torch.rand(V, generator=rng) if weighted else None
    target = Target(index, weight=weight, ignore_index=-100)
    few = backend.few_classes >= V
    assert few == (V == 10)
    record = None if few else torch.full((5, 300), NAN, dtype=torch.float64)
    losses = None if few else torch.full((300,), NAN)
    found = {m: backend.row_loss(logits, target, PLAIN, record, losses, mean=m) for m in (True, False)}
    z, w = logits.double(), None if weight is None else weight.double()
    for mean, reduction in ((True, "mean"), (False, "sum")):
        want = torch.nn.functional.cross_entropy(z, index, w, ignore_index=-100, reduction=reduction)
        np.testing.assert_allclose(found[mean].loss, want, rtol=1e-6)
    np.testing.assert_allclose(found[True].scale, found[True].loss / found[False].loss, rtol=1e-6)
