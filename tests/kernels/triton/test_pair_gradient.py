"""Gradients of pairs: at the classes that a target names, in the place of either's logits, over several parts."""

from __future__ import annotations

import pytest
import torch

from crossent.kernels.backend import PairCotangents
from crossent.spec import Target
from tests.kernels.triton.calls import INF, NAN
from tests.kernels.triton.pair_calls import BETA, EVERY, gradient_of

each = pytest.mark.parametrize


def by_torch(z, t, p):
    """The gradient in float64 by torch's own functions, for a target measure p."""
    z, logp = z.double().requires_grad_(), t.double().log_softmax(1)
    logq = z.log_softmax(1)
    q = logq.exp()
    logm = torch.log(BETA * logp.exp() + (1 - BETA) * q)
    kl, reverse = (logp.exp() * (logp - logq)).sum(), (q * (logq - logp)).sum()
    js = BETA * (logp.exp() * (logp - logm)).sum() + (1 - BETA) * (q * (logq - logm)).sum()
    loss, entropy = -(p * logq).sum(), -(q * logq).sum()
    values = (loss, z.logsumexp(1).sum(), entropy, kl, reverse, js)
    (grad,) = torch.autograd.grad(sum(g * x for g, x in zip(EVERY, values, strict=True)), z)
    return grad


def targets(V, rows):
    """Targets by name, and their measures (rows, V)."""
    label = torch.tensor([V - 1, 0, V // 2])[:rows]
    index = torch.stack([label, label, (label + 1) % V], 1)  # the first class twice
    measure = torch.zeros(rows, V, dtype=torch.float64)
    one = measure.scatter(1, label[:, None], 1.0)
    three = measure.scatter_add(1, index, torch.full((rows, 3), 0.25, dtype=torch.float64))
    dense = torch.rand(rows, V, generator=torch.Generator().manual_seed(V)) / V
    return {
        "index": (Target(label), one),
        "smoothed": (Target(label, smoothing=0.1), 0.9 * one + 0.1 / V),
        "topk": (Target(index, torch.full((rows, 3), 0.25)), three),
        "dense": (Target(prob=dense), dense.double()),
    }


@each("kind", ["index", "smoothed", "topk", "dense"])
@each("V", [5, 300, 5003])
def test_gradients_are_those_of_torch_and_the_same_in_either_place(V, kind):
    z, t = torch.randn(2, 3, V, generator=torch.Generator().manual_seed(V))
    target, p = targets(V, 3)[kind]
    grad = gradient_of(z, t, target)
    torch.testing.assert_close(grad.double(), by_torch(z, t, p), rtol=1e-5, atol=4e-6)
    for into in (0, 1):
        both = [z.clone(), t.clone()]
        assert torch.equal(gradient_of(*both, target, into=both[into]), grad)


def test_few_rows_are_split_among_programs_that_do_not_share_a_column():
    z, t = torch.randn(2, 1, 9001, generator=torch.Generator().manual_seed(0))
    target = Target(torch.tensor([[9000, 4096, 0]]), torch.full((1, 3), 0.5))
    both = [z.clone(), t.clone()]
    assert torch.equal(gradient_of(*both, target, into=both[1]), gradient_of(z, t, target))


def test_rows_that_nobody_asks_for_have_no_gradient_and_read_nothing():
    z, t = torch.randn(2, 4, 600, generator=torch.Generator().manual_seed(1))
    target = Target(torch.tensor([3, -7, 5, -7]), ignore_index=-7)
    z[1], t[3] = NAN, INF
    grad = gradient_of(z, t, target)
    assert (grad[[1, 3]] == 0).all()
    assert grad[[0, 2]].isfinite().all()
    t[0] = NAN  # who is not asked says nothing
    assert gradient_of(z, t, target, PairCotangents(loss=1.0, lse=0.5))[0].isfinite().all()
    for given in (PairCotangents(kl=1.0), PairCotangents(js=1.0), PairCotangents(reverse_kl=1.0)):
        grad = gradient_of(z, t, target, given)
        assert grad[0].isnan().all()
        assert grad[2].isfinite().all()


def test_classes_that_cannot_be_have_no_gradient():
    z, t = torch.randn(2, 2, 40, generator=torch.Generator().manual_seed(2))
    z[:, 9] = t[:, 9] = -INF
    t[1, 3] = -INF  # only the student has it: the reverse divergence is infinite
    target = Target(torch.tensor([9, 9]))
    for given in (PairCotangents(kl=1.0), PairCotangents(js=1.0), PairCotangents(kl=1.0, js=-1.0)):
        grad = gradient_of(z, t, target, given)
        assert grad.isfinite().all()
        assert (grad[:, 9] == 0).all()
        assert grad.sum(1).abs().max() < 1e-6
    grad = gradient_of(z, t, target, PairCotangents(reverse_kl=1.0))
    assert (grad[:, 9] == 0).all()
    assert not grad[1, 3].isfinite()
