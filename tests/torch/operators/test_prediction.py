"""Results of predictions: the largest logit and its class, and record and lse of doubled scores."""

from __future__ import annotations

import pytest
import torch

from crossent.spec import Scores, Target
from crossent.torch.operators.prediction import (
    MostProbableCall,
    SquaresCall,
    SquaresGradCall,
    most_probable,
    prediction,
)
from crossent.torch.operators.rows import RowCall, row_stats
from tests.torch import plain


def rows(z, target=None, scores=Scores(0.7, 5.0)):  # noqa: B008
    number = z.shape[0] * (z.shape[2] if z.ndim == 3 else 1)
    return RowCall(z, target or Target(torch.randint(z.shape[1], (number,))), scores, recorded=True)


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (4, 700), (3, 6, 2), (2, 5000, 3)])
def test_the_largest_logit_and_its_class(dtype, shape):
    z = torch.randn(shape).to(dtype)
    value, at = most_probable(rows(z))
    want = z.movedim(1, -1).reshape(-1, shape[1])
    assert torch.equal(at, want.argmax(1))
    assert torch.equal(value, want.amax(1).double())


@pytest.mark.parametrize("kind", ["index", "ignored", "dense", "topk"])
def test_doubled_scores_are_those_of_half_the_temperature_and_twice_the_cap(kind):
    z = torch.randn(6, 50, dtype=torch.float64, requires_grad=True)
    y = torch.randint(50, (6,))
    y[2] = -100 if kind == "ignored" else 3
    target = {
        "dense": lambda: Target(prob=torch.rand(6, 50, dtype=torch.float64)),
        "topk": lambda: Target(torch.randint(50, (6, 2)), torch.rand(6, 2, dtype=torch.float64)),
    }.get(kind, lambda: Target(y, ignore_index=-100))()
    call = rows(z, target)
    found = prediction(call, row_stats(call).record)
    exact = z.detach().clone().requires_grad_()
    s, valid = plain.scores_of(exact, 0.7, 5.0), torch.arange(6) != (2 if kind == "ignored" else -1)
    doubled, want = ((2 * x).logsumexp(1) * valid for x in (s, s.log_softmax(1)))
    torch.testing.assert_close(found.log_sum_squares, want, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.squares_record[0] + found.squares_record[1].log(), doubled, rtol=1e-13, atol=1e-13)
    g = plain.cotangent_like(want)
    (got,), (expected,) = (torch.autograd.grad(a, b, g) for a, b in ((found.log_sum_squares, z), (want, exact)))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def test_scores_that_cannot_be_doubled_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="temperature must be at least 2e-15 and softcap at most 5e14, got 1e-15"):
        _ = prediction(rows(torch.randn(2, 3), scores=Scores(1e-15)), torch.zeros(5, 2, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_the_operator_keeps_its_contract():
    for shape in ((4, 9), (2, 9, 3)):
        call = MostProbableCall(torch.randn(shape), 3)
        _ = torch.library.opcheck(torch.ops.crossent.most_probable.default, tuple(call.flatten()))
        of_rows = rows(torch.randn(shape, requires_grad=True))
        squares = SquaresCall(of_rows, row_stats(of_rows).record)
        _ = torch.library.opcheck(torch.ops.crossent.log_sum_squares.default, tuple(squares.flatten()))
        record = row_stats(squares.doubled).record.detach()
        gradient = SquaresGradCall(squares, record, torch.randn(of_rows.number, requires_grad=True))
        _ = torch.library.opcheck(torch.ops.crossent.log_sum_squares_grad.default, tuple(gradient.flatten()))
