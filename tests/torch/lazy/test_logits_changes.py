"""What may happen between the head and the reading of its logits."""

from __future__ import annotations

import pytest
import torch

from tests.torch.lazily import REFUSED, pair
from tests.torch.test_lm_head import loss_of_rows, models, tokens

CHANGES = {
    "weight replaced": lambda head, _: setattr(head.weight, "data", torch.ones_like(head.weight)),
    "input replaced": lambda _, x: setattr(x, "data", torch.ones_like(x)),
    "weight thawed": lambda head, _: head.weight.requires_grad_(True),  # no gradient is due
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("read", [lambda z: z.exp().mean(), loss_of_rows], ids=["read", "loss"])
def test_the_same_or_refused_after_a_change(change, read):
    results = []
    for head, x in pair():
        _ = head.weight.requires_grad_(change is not CHANGES["weight thawed"])
        z = head(x)
        change(head, x)
        try:
            out = read(z)
        except REFUSED:
            assert results == []
            return
        out.backward()
        results.append([out.detach(), x.grad, head.weight.grad])
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_model_is_an_ordinary_one():
    fused, twin = models()
    traced = torch.jit.trace(fused, (tokens(),))
    assert torch.equal(traced(tokens()), twin(tokens()))
