"""crossent::selected_stats and crossent::selected_grad: their contracts, their numbers, and cotangents of any kind."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from crossent.spec import NO_CLASS, Scores, Target
from crossent.torch.operators.rows import RowCall
from crossent.torch.operators.selected import SelectedCall, SelectedGradCall, selected_grad, selected_stats
from tests.torch import logq, plain

N, V, K = 6, 40, 3


def call(dtype=torch.float64, scores=Scores(0.7, 4.0), *, requires_grad=True):  # noqa: B008
    z = (2 * torch.randn(N, V)).to(dtype).requires_grad_(requires_grad)
    classes = torch.randint(V, (N, K))
    classes[1, 0] = classes[2, 1] = NO_CLASS
    classes[3] = 5
    return SelectedCall(RowCall(z, Target(torch.zeros(N).long()), scores, recorded=True), classes)


def cotangents(like):
    return [plain.cotangent_like(x, k).to(x.dtype) for k, x in enumerate(like)]


@pytest.mark.parametrize("scores", [Scores(), Scores(0.7), Scores(1.3, 4.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_results_and_gradient_are_those_of_the_truth(scores, dtype):
    own = call(dtype, scores)
    exact = own.rows.logits.detach().double().requires_grad_()
    want = logq.statistics(exact, own.classes, scores.temperature, scores.softcap, NO_CLASS)
    lse, entropy, logprob, z, record = selected_stats(own)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for got, name in ((lse, "lse"), (entropy, "entropy"), (logprob, "logprob")):
        assert plain.off(got, want[name]) <= logq.BAR[wide]
    assert z.dtype == record.dtype == torch.float64
    there = own.classes != NO_CLASS
    assert torch.equal(z[there], exact.detach().gather(1, own.classes.clamp(min=0))[there])
    g = cotangents((lse, entropy, logprob))
    gradient = selected_grad(SelectedGradCall(own, record, *g))
    (exactly,) = torch.autograd.grad(
        [want[name] for name in ("lse", "entropy", "logprob")], exact, [x.double() for x in g]
    )
    assert gradient.dtype == dtype
    assert plain.off(gradient, exactly) <= logq.BAR[dtype]


@pytest.mark.parametrize("left_out", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_cotangents_that_are_not_there_are_zero(left_out):
    own = call()
    lse, entropy, logprob, _, record = selected_stats(own)
    g = [None if k in left_out else x for k, x in enumerate(cotangents((lse, entropy, logprob)))]
    zeros = [torch.zeros_like(like) if x is None else x for x, like in zip(g, (lse, entropy, logprob), strict=True)]
    torch.testing.assert_close(
        selected_grad(SelectedGradCall(own, record, *g)), selected_grad(SelectedGradCall(own, record, *zeros))
    )


def test_a_row_without_a_cotangent_has_no_gradient_whatever_it_holds():
    own = call(torch.float32, Scores())
    with torch.no_grad():
        own.rows.logits[2] = torch.nan
    lse, entropy, logprob, _, record = selected_stats(own)
    g = [x.index_fill(0, torch.tensor([2]), 0.0) for x in cotangents((lse, entropy, logprob))]
    gradient = selected_grad(SelectedGradCall(own, record, *g))
    assert (gradient[2] == 0).all()
    assert gradient[[0, 1, 3, 4, 5]].isfinite().all()


def test_cotangents_that_cancel_in_a_row_still_move_its_classes():
    own = call()
    own.classes[0] = torch.tensor([1, 2, 3])
    *_, record = selected_stats(own)
    g = torch.zeros(N, K, dtype=torch.float64)
    g[0, :2] = torch.tensor([1.0, -1.0])
    gradient = selected_grad(SelectedGradCall(own, record, None, None, g))
    assert gradient[0].nonzero().squeeze(1).tolist() == [1, 2]
    assert (gradient[1:] == 0).all()


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_operators_keep_their_contracts():
    own = call(torch.float32)
    _ = torch.library.opcheck(torch.ops.crossent.selected_stats.default, tuple(own.flatten()))
    lse, entropy, logprob, _, record = selected_stats(own)
    plainly = dataclasses.replace(own, rows=dataclasses.replace(own.rows, logits=own.rows.logits.detach()))
    grad = SelectedGradCall(plainly, record, *(g.detach() for g in cotangents((lse, entropy, logprob))))
    _ = torch.library.opcheck(torch.ops.crossent.selected_grad.default, tuple(grad.flatten()))
