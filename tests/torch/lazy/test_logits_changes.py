"""What may happen between the head and the reading of its logits."""

from __future__ import annotations

import pytest
import torch

import crossent.torch as F
from crossent.torch.lazy import fusing
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


# Crossent's own loss of lazy logits

SCALED = {
    "as they are": lambda z: z,
    "divided": lambda z: z / 3,
    "capped": lambda z: torch.tanh(z / 3) * 3,
    "capped and divided": lambda z: torch.tanh(z / 3) * 3 / 2,
}
OPTIONS = {
    "temperature": {"temperature": 1.7},
    "softcap": {"softcap": 2.0, "temperature": 0.5},
    "z-loss": {"z_loss": 0.1, "label_smoothing": 0.1},
    "statistics": {"reduction": "none", "return_stats": True},
}


@pytest.mark.parametrize("scale", SCALED.values(), ids=SCALED)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_crossents_own_loss_takes_lazy_logits(scale, options, monkeypatch):
    results, calls = [], []
    linear = fusing.loss_of_layer
    monkeypatch.setattr(fusing, "loss_of_layer", lambda *a, **k: calls.append(1) or linear(*a, **k))
    for head, x in pair():
        y = torch.arange(x.shape[0] * x.shape[1]) % head.out_features
        found = F.cross_entropy(scale(head(x)).view(-1, head.out_features), y, **options)
        if options.get("return_stats"):
            found = found[0].square().sum() + found[1].entropy.sum() + found[1].lse.mean()
        found.backward()
        results.append([found.detach(), x.grad, head.weight.grad])
    torch.testing.assert_close(*results)
    a_cap_of_a_cap = "capped" in next(k for k, v in SCALED.items() if v is scale) and "softcap" in options
    assert len(calls) == (0 if a_cap_of_a_cap else 1)
