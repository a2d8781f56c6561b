"""One sweep: the sum or mean of a divergence is its statistics and a closing; its backward scales what was found."""

from __future__ import annotations

import itertools

import pytest
import torch

from crossent.torch.call.closings import RowFunction
from crossent.torch.operators.linear_pair import LinearPairStatsCall, linear_pair_stats
from crossent.torch.operators.linear_pair_call import PairWants
from crossent.torch.operators.linear_pair_loss import LinearPairLossCall, closed_pair_loss, linear_pair_loss
from tests.torch.operators.test_linear_pair import IGNORED, gradients
from tests.torch.operators.test_linear_pair_call import N, call_of

FROZEN = PairWants(input=True, linear_weight=True)
LEARNS = FROZEN._replace(teacher_input=True, teacher_weight=True)
DIVERGENCES = ("kl", "reverse_kl", "js")


def in_two_steps(call, of_rows):
    """The same loss by the statistics of the rows, and the closing of all of them."""
    found = linear_pair_stats(LinearPairStatsCall(call.pair, False))
    return call.closing.reduced(of_rows(found), found.lse), found


def close(found, want):
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("wants", [FROZEN, LEARNS], ids=["frozen", "learns"])
def test_one_sweep_is_two_steps(wants, divergence):
    for mean, weighted, chunk_bytes in itertools.product((False, True), (False, True), (2**20, 300, 1)):
        pair, leaves = call_of(index=IGNORED, chunk_bytes=chunk_bytes, predicts=True)
        leaves = leaves if wants is LEARNS else leaves[:2]
        s = torch.rand(N, dtype=torch.float64) if weighted else None
        call = LinearPairLossCall(pair, divergence, s, mean, wants)
        found = linear_pair_loss(call)
        want, rows = in_two_steps(call, lambda x: getattr(x, divergence))
        g = torch.tensor(0.7, dtype=torch.float64)
        close([found.reduced], [want])
        close(*(torch.autograd.grad(x, leaves, g, retain_graph=True) for x in (found.reduced, want)))
        close(gradients(found, leaves), gradients(rows, leaves))  # of the statistics
        assert torch.equal(found.predicted, linear_pair_stats(LinearPairStatsCall(pair, False)).predicted)


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    pair, leaves = call_of()
    loss = linear_pair_loss(LinearPairLossCall(pair, "js", None, True, LEARNS)).reduced
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    close(torch.autograd.grad(3 * loss, leaves), [3 * g for g in first])
    with pytest.raises(RuntimeError, match="retain_graph"):
        _ = torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_derivatives_of_the_gradient(divergence):
    seconds = []
    pair, leaves = call_of(index=IGNORED)
    call = LinearPairLossCall(pair, divergence, None, True, LEARNS)
    for loss in (linear_pair_loss(call).reduced, in_two_steps(call, lambda x: getattr(x, divergence))[0]):
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    close(*seconds)


class _View:
    """What a closing sees of rows, without targets of other kinds."""

    def __init__(self, target, results, again):
        self.target, self.results, self.ranks = target, results, None

    def of_teacher(self, name):
        return getattr(self.results, name)

    valid = loss = None


def mixed(rows, factor):
    return factor * rows.kl + rows.js.square() - rows.entropy * rows.teacher_entropy + rows.lse


@pytest.mark.parametrize("wants", [FROZEN, LEARNS], ids=["frozen", "learns"])
def test_a_closing_in_the_sweep(wants):
    for mean, chunk_bytes in itertools.product((False, True), (2**20, 300)):
        pair, leaves = call_of(index=IGNORED, chunk_bytes=chunk_bytes)
        if wants is FROZEN:
            for x in leaves[2:]:
                _ = x.requires_grad_(False)
        leaves = [x for x in leaves if x.requires_grad]
        factor = torch.rand(N, dtype=torch.float64)
        call = LinearPairLossCall(pair, "js", None, mean, wants)
        found = closed_pair_loss(call, RowFunction(mixed, (factor,)), _View)

        def by_hand(x, factor=factor):
            valid = IGNORED != -100
            return torch.where(valid, mixed(x, factor), 0.0)

        want, rows = in_two_steps(call, by_hand)
        close([found.reduced], [want])
        close(*(torch.autograd.grad(x, leaves, retain_graph=True) for x in (found.reduced, want)))
        close(gradients(found, leaves, ("kl", "lse")), gradients(rows, leaves, ("kl", "lse")))


def test_a_closing_with_a_tensor_that_learns_needs_two_sweeps():
    pair, _ = call_of()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    call = LinearPairLossCall(pair, "kl", None, True, FROZEN)
    assert closed_pair_loss(call, RowFunction(lambda rows: scale * rows.kl), _View) is None
