"""Adapters on a head, as weights of a loss, beside the forward of PEFT's layers."""

from __future__ import annotations

import types

import peft
import pytest
import torch
from torch import nn

from crossent.integrations import trl_adapters, trl_functions
from crossent.integrations.trl_adapters import Head, LeftOut, active, head_of, why_not
from crossent.torch import linear_logprobs
from tests.torch import plain
from tests.torch.lazily import Largest

pytestmark = pytest.mark.slow  # PEFT takes seconds to import

N, D, V, R = 64, 12, 97, 3

ADAPTERS = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "dropout": {"lora_dropout": 0.4},
    "bias": {"lora_bias": True},
}


def tuned(*, two=False, bias=True, dtype=torch.float32, **options):
    """A layer of PEFT, of a model that is nothing else."""
    given = {"r": R, "target_modules": ["0"], "init_lora_weights": False, **options}
    found = peft.get_peft_model(nn.Sequential(nn.Linear(D, V, bias=bias, dtype=dtype)), peft.LoraConfig(**given))
    if two:
        found.add_adapter("second", peft.LoraConfig(**given))
        found.base_model.set_adapter(["default", "second"])
    return found, found.base_model.model[0]


def parts(layer):
    return [x for x in layer.parameters() if x.requires_grad]


@pytest.mark.parametrize("two", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("options", ADAPTERS.values(), ids=ADAPTERS)
def test_the_head_is_that_of_pefts_forward(options, two):
    _, layer = tuned(two=two, **options)
    x, y = torch.randn(N, D, requires_grad=True), torch.randint(V, (N,))
    _ = torch.manual_seed(1)
    want = layer(x).log_softmax(1).gather(1, y[:, None])[:, 0]
    _ = torch.manual_seed(1)
    head = head_of(layer, x, layer.weight, layer.bias)
    got = linear_logprobs(x, head.weight, y, linear_bias=head.bias).logprob
    floor = plain.FLOOR[torch.float32]
    plain.agree("log_probs", got, want, None, floor)
    leaves = [x, *parts(layer)]
    assert len(leaves) == 1 + (2 + ("lora_bias" in options)) * (1 + two)
    g = plain.cotangent_like(got).float()
    for mine, its in zip(*(torch.autograd.grad((o * g).sum(), leaves) for o in (got, want)), strict=True):
        plain.agree("gradient", mine, its, None, 2 * floor)


def test_an_adapter_that_is_off_or_merged_is_in_the_weight_already():
    model, layer = tuned()
    given = torch.randn(N, D), layer.weight, layer.bias
    assert isinstance(head_of(nn.Linear(D, V), *given).weight, nn.Parameter)
    assert not isinstance(head_of(layer, *given).weight, torch.Tensor)
    with model.disable_adapter():
        assert head_of(layer, *given) == Head(*given[1:])
        assert active(layer) == []
    layer.merge()
    assert head_of(layer, *given) == Head(*given[1:])
    with model.disable_adapter(), pytest.raises(NotImplementedError, match=r"'default'.*merged and disabled at once"):
        _ = head_of(layer, *given)


REFUSED = {
    "DoraLinearVariant": lambda: tuned(use_dora=True)[1],
    "only LoRA on nn.Linear": lambda: peft.get_peft_model(
        nn.Sequential(nn.Linear(D, V)), peft.LoHaConfig(r=R, target_modules=["0"])
    ).base_model.model[0],
}  # fmt: skip


@pytest.mark.parametrize(("words", "make"), REFUSED.items())
def test_other_adapters_are_refused(words, make):
    layer = make()
    assert words in why_not(layer)
    assert isinstance(layer, LeftOut)
    with pytest.raises(NotImplementedError, match=rf"'default' is on the head.*{words}.*modules_to_save"):
        _ = head_of(layer, torch.randn(N, D), layer.weight, layer.bias)


def test_a_forward_that_was_replaced():
    _, layer = tuned()
    assert why_not(layer) is None
    layer.forward = torch.nn.functional.relu
    assert "its forward was replaced" in why_not(layer)


def test_what_trainers_are_told(monkeypatch):
    monkeypatch.setattr(trl_adapters.State, "accepted", False)
    assert not isinstance(nn.Linear(D, V), LeftOut)
    assert not trl_adapters.State.accepted
    trl_adapters.refuse_what_is_hidden()
    assert not isinstance(tuned()[1], LeftOut)
    assert trl_adapters.State.accepted
    with pytest.raises(NotImplementedError, match="leave out torch_compile"):
        trl_adapters.refuse_what_is_hidden()


def test_without_peft(monkeypatch):
    monkeypatch.setattr(trl_adapters, "sys", types.SimpleNamespace(modules={}))
    assert trl_adapters.tuner_class() is None
    given = torch.randn(N, D), torch.randn(V, D), None
    assert head_of(nn.Linear(D, V), *given) == Head(*given[1:])


# The mean of scores is computed apart


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_the_mean_of_scores(cap, bias):
    _, layer = tuned(two=True, bias=bias)
    x = torch.randn(N, D)
    z = layer(x) * 1.5
    want = ((z if cap is None else cap * torch.tanh(z / cap)) / 2.0).mean(1)
    head = head_of(layer, x, layer.weight, layer.bias)
    got = trl_functions.mean_of_scores(trl_functions.Layer.of(x, *head), trl_functions.scores_of(2.0, cap, 1.5))
    torch.testing.assert_close(got, want)
    assert not got.requires_grad


def test_no_weight_is_added_up(little_memory):
    little_memory(V)
    _, layer = tuned(bias=False)
    x, y = torch.randn(N, D), torch.randint(V, (N,))
    with Largest() as seen:
        head = head_of(layer, x, layer.weight, None)
        linear_logprobs(x, head.weight, y).logprob.sum().backward()
    assert seen.elements <= V * D < N * V
