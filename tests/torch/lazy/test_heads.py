"""The layers of a fused head: which class each gets, and which it had."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import crossent.torch as F
from crossent.torch.lazy import heads
from crossent.torch.lazy.heads import LazyAdapter, LazyLinear, base_of, fuse_layers, fused_class, unfused_class
from crossent.torch.lazy.logits import LazyLogits

D, R, V = 8, 2, 23


class Adapter(nn.Module):
    """As PEFT's layers: a layer below, and the layers of each adapter by its name."""

    def __init__(self, below):
        super().__init__()
        self.base_layer = below
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.join("first")

    def join(self, name):
        self.lora_A[name], self.lora_B[name] = nn.Linear(D, R, bias=False), nn.Linear(R, V, bias=False)

    def forward(self, x):
        result = self.base_layer(x)
        for name, up in self.lora_B.items():
            result = result + up(self.lora_A[name](x))
        return result


def test_each_layer_gets_its_class():
    head = Adapter(nn.Linear(D, V))
    assert base_of(head) is head.base_layer
    fuse_layers(head)
    assert type(head.base_layer) is LazyLinear
    assert type(head.lora_B["first"]) is LazyAdapter
    assert type(head.lora_A["first"]) is nn.Linear
    assert type(head(torch.zeros(3, D))) is LazyLogits
    assert type(F.unfuse_lm_head(head).lora_B["first"]) is nn.Linear


def test_an_adapter_that_joins_later_is_fused():
    model = nn.ModuleDict({"head": F.fuse_lm_head(nn.Linear(D, V))})
    model["head"] = Adapter(model["head"])
    assert type(model["head"].lora_B["first"]) is LazyAdapter
    model["head"].join("second")
    assert type(model["head"].lora_B["second"]) is LazyAdapter
    assert type(model["head"].lora_A["second"]) is nn.Linear
    assert type(nn.ModuleDict({"a": nn.Linear(R, V), "b": nn.Linear(R, V)})["b"]) is nn.Linear


def test_classes_of_layers_and_back():
    assert fused_class(nn.Linear) is LazyLinear
    assert fused_class(nn.Linear, adapter=True) is LazyAdapter
    assert fused_class(nn.Bilinear) is None
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(D, V))
    own = type(parametrized)
    lazy = fused_class(own)
    assert lazy is not None
    assert issubclass(lazy, LazyLinear)
    assert fused_class(own) is lazy
    assert unfused_class(lazy).__bases__ == (nn.Linear,)
    for kind in (LazyLinear, LazyAdapter):
        assert unfused_class(kind) is nn.Linear


def test_a_parametrized_head():
    _ = torch.manual_seed(0)
    twin = nn.utils.parametrizations.weight_norm(nn.Linear(D, V))
    model, x, y = F.fuse_lm_head(copy.deepcopy(twin)), torch.randn(5, D), torch.arange(5)
    for head in (model, twin):
        nn.functional.cross_entropy(head(x), y).backward()
    assert type(model(x)) is LazyLogits
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert type(F.unfuse_lm_head(model)(x)) is torch.Tensor
    torch.testing.assert_close(model(x), twin(x))


def test_a_file_and_a_copy_prepare_for_lazy_logits(monkeypatch):
    called = []
    monkeypatch.setattr(heads, "prepare", lambda: called.append(1))
    head = LazyLinear(D, V)
    _ = copy.deepcopy(head), pickle.loads(pickle.dumps(head))
    assert len(called) == 2


@pytest.mark.parametrize("name", ["qconfig"])
def test_a_fused_head_is_not_quantised_behind_its_back(name):
    with pytest.raises(RuntimeError, match="unfuse_lm_head"):
        setattr(LazyLinear(D, V), name, object())
