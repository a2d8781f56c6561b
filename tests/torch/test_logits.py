"""The loss of logits once the arguments of a call are bound, against torch's own function."""

from __future__ import annotations

import pytest
import torch

from crossent.spec import Scores
from crossent.torch.call.arguments import NOT_SHARDED, Arguments, Closing
from crossent.torch.logits import loss_of_logits
from crossent.torch.ranks.shards import NO_SHARDS


@pytest.mark.parametrize("stats", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_arguments_that_are_bound_are_a_loss(reduction, stats):
    z, y = torch.randn(5, 7, 2, dtype=torch.float64, requires_grad=True), torch.randint(7, (5, 2))
    closing = Closing(reduction, None, 0.0)
    arguments = Arguments(z, y, None, -100, 0.1, Scores(), closing, stats, NOT_SHARDED, NO_SHARDS)
    found = loss_of_logits(arguments)
    loss = found[0] if stats else found
    want = torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1, reduction=reduction)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), z)[0] for x in (loss, want)))
    if stats:
        torch.testing.assert_close(found[1].lse, z.logsumexp(1))
