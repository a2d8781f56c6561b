"""Losses of lazy logits: which are a linear cross-entropy of the layer, and with which scores."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from crossent.spec import Scores
from crossent.torch.lazy import fusing
from crossent.torch.lazy.deferred import combined
from crossent.torch.lazy.logits import LazyLogits
from tests.torch.lazily import V, others, pair


@pytest.fixture
def fused(monkeypatch):
    """The arguments of every loss that was fused."""
    calls, linear = [], fusing.loss_of_layer
    monkeypatch.setattr(fusing, "loss_of_layer", lambda *a, **k: calls.append(a[0]) or linear(*a, **k))
    return calls


# Crossent's own loss

SCALED = {
    "as they are": lambda z: z,
    "divided": lambda z: z / 3,
    "capped": lambda z: torch.tanh(z / 3) * 3,
    "capped and divided": lambda z: torch.tanh(z / 3) * 3 / 2,
}
OPTIONS = {
    "temperature": {"temperature": 1.7},
    "softcap": {"softcap": 2.0, "temperature": 0.5},
    "temperatures": {"temperature": "of each row"},
    "z-loss": {"z_loss": 0.1, "label_smoothing": 0.1},
    "statistics": {"reduction": "none", "return_stats": True},
}


@pytest.mark.parametrize("scale", SCALED.values(), ids=SCALED)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_crossents_own_loss_takes_lazy_logits(scale, options, fused):
    results = []
    for head, x in pair():
        y = torch.arange(x.shape[0] * x.shape[1]) % head.out_features
        if options.get("temperature") == "of each row":
            options = options | {"temperature": torch.linspace(0.5, 2.0, len(y))}
        found = F.cross_entropy(scale(head(x)).view(-1, head.out_features), y, **options)
        if options.get("return_stats"):
            found = found[0].square().sum() + found[1].entropy.sum() + found[1].lse.mean()
        found.backward()
        results.append([found.detach(), x.grad, head.weight.grad])
    torch.testing.assert_close(*results)
    capped = "capped" in next(k for k, v in SCALED.items() if v is scale)
    beyond = capped and ("softcap" in options or isinstance(options.get("temperature"), torch.Tensor))
    assert len(fused) == (0 if beyond else 1)  # a cap of a cap, and a cap for each row, are no scores


@pytest.mark.parametrize("scale", SCALED.values(), ids=SCALED)
@pytest.mark.parametrize("K", [None, 1, 3])
def test_log_probabilities_of_lazy_logits_make_none(scale, K):
    results = []
    for head, x in pair():
        classes = torch.arange(x.shape[0] * x.shape[1]).view(x.shape[:2]) % head.out_features
        if K is not None:
            classes = torch.stack([(classes + k) % head.out_features for k in range(K)], -1)
        z = scale(head(x))
        found = F.logprobs(z, classes, temperature=0.7)
        total = found.logprob.square().sum() + found.entropy.sum() + (found.lse * found.log_sum_squares).sum()
        total.backward()
        results.append([total.detach(), found.predicted, found.correct, x.grad, head.weight.grad])
        assert not isinstance(z, LazyLogits) or not z.was_read()
    torch.testing.assert_close(*results)


# Which losses are fused


USES = {
    "of torch": lambda z, a: nnf.cross_entropy(z.view(-1, V), a.y.view(-1)),
    "one row": lambda z, a: nnf.cross_entropy(z[0, 0], a.y[0, 0]),
    "scaled": lambda z, a: nnf.cross_entropy((z / 2).float().view(-1, V), a.y.view(-1)),
    "probabilities": lambda z, a: nnf.cross_entropy(z.view(-1, V), a.p.detach().view(-1, V)),
    "everything of torch": lambda z, a: nnf.cross_entropy(
        z[0], a.ignored[0], a.w, label_smoothing=0.1, reduction="sum"
    ),
    "a class that is ignored": lambda z, a: nnf.cross_entropy(z[0], a.y[0], ignore_index=int(a.y[0, 0])),
    "a module": lambda z, a: F.CrossEntropyLoss(softcap=2.0)(z[0], a.y[0]),
    "a target of lazy logits": lambda z, a: nnf.cross_entropy(z[0], z[1].softmax(-1)),
}
NOT_FUSED = {
    "classes in the middle": lambda z, a: nnf.cross_entropy(z.mT, a.y),
    "more axes": lambda z, a: nnf.cross_entropy(z, a.y[:, :1].expand(2, V) % 7),
    "negative scale": lambda z, a: nnf.cross_entropy(-0.5 * z[0], a.y[0]),
    "a wider dtype": lambda z, a: nnf.cross_entropy(z[0].double(), a.y[0]),
    "read before": lambda z, a: (z.sum(), nnf.cross_entropy(z[0], a.y[0]))[1],
}


@pytest.mark.parametrize("name", USES | NOT_FUSED)
def test_which_losses_are_fused(name, fused):
    (head, x), (twin, u) = pair(torch.float32)
    a, use = others(torch.float32), (USES | NOT_FUSED)[name]
    got, want = use(head(x), a), use(twin(u), a)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, u))
    assert len(fused) == (name in USES)


def test_lazy_logits_are_not_a_target(fused):
    (head, x), (twin, u) = pair()
    z, want = head(x), twin(u)
    got = nnf.cross_entropy(z[0], z[1].square() / 2)  # probabilities, in a way
    torch.testing.assert_close(got, nnf.cross_entropy(want[0], want[1].square() / 2))
    assert nnf.cross_entropy(z[0], z[1]).isfinite()
    assert fused == []


def test_a_fused_loss_has_the_layer_s_operands_and_the_scores_of_all_steps(fused):
    (head, x), _ = pair()
    a = others()
    _ = F.cross_entropy(torch.tanh(head(x)[0] / 3) * 3, a.y[0], temperature=2.0, ignore_index=4)
    (arguments,) = fused
    operands = arguments.operands
    assert torch.equal(operands.input, x[0])
    assert operands.linear_weight.data_ptr() == head.weight.data_ptr()
    assert operands.linear_bias.data_ptr() == head.bias.data_ptr()
    assert arguments.scores == Scores(2.0, 1.5)
    assert arguments.ignore_index == 4


@pytest.mark.parametrize("option", [{}, {"ignore_index": -100}, {"ignore_index": -7}])
def test_an_ignored_class_that_there_is_not_is_none_beside_probabilities(option, fused):
    (head, x), (twin, u) = pair()
    p = others().p.detach()[0]
    torch.testing.assert_close(nnf.cross_entropy(head(x)[0], p, **option), nnf.cross_entropy(twin(u)[0], p, **option))
    (arguments,) = fused
    assert arguments.ignore_index is None


# Scores of scores


def phi(z, scores):
    z = z / scores.temperature
    return z if scores.softcap is None else scores.softcap * torch.tanh(z / scores.softcap)


CAPS = (None, 2.0)


@pytest.mark.parametrize("outer", [Scores(t, cap) for t in (1.0, 0.6, 3.0) for cap in CAPS], ids=str)
@pytest.mark.parametrize("inner", [Scores(t, cap) for t in (1.0, 1.7) for cap in CAPS], ids=str)
def test_scores_of_scores_are_scores(inner, outer):
    z = torch.linspace(-5, 5, 31, dtype=torch.float64)
    found = combined(inner, outer)
    if inner.softcap is not None and outer.softcap is not None:
        assert found is None
    else:
        torch.testing.assert_close(phi(z, found), phi(phi(z, inner), outer), rtol=1e-13, atol=1e-13)
    assert combined(None, outer) is None


def test_steps_multiply_the_temperature_of_each_row():
    own = torch.tensor([1, 2, 3])
    found = combined(Scores(0.7), Scores(1.0, 5.0, own))
    assert (found.temperature, found.softcap) == (1.0, 5.0)
    assert torch.equal(found.row_temperature, own.double() * 0.7)
    given = Scores(1.0, None, own)
    assert combined(Scores(), given) is given
    assert combined(Scores(1.0, 5.0), given) is None


# After a loss


def test_operands_that_changed_before_the_loss_are_noticed():
    (head, x), _ = pair()
    z = head(x)
    with torch.no_grad():
        _ = head.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in"):
        _ = nnf.cross_entropy(z[0], others().y[0])
