"""Sums of the lazy outputs of two layers: the layer of the first with an adapter, and its gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import crossent.torch as F
from crossent.torch.lazy.heads import LazyAdapter, set_class
from crossent.torch.lazy.logits import LazyLogits
from crossent.torch.lazy.sums import sum_of_layers
from tests.torch.lazily import Largest

N, D, R, V = 9, 16, 3, 41
Y = torch.arange(N) * 4


class Adapted(nn.Module):
    """A head with any number of adapters, in the order of the ranks; as PEFT writes their sum."""

    def __init__(self, ranks=(R,), bias=True, dtype=torch.float64, other=torch.float64):
        super().__init__()
        self.head = nn.Linear(D, V, bias=bias, dtype=dtype)
        self.down = nn.ModuleList(nn.Linear(D, r, bias=False, dtype=other) for r in ranks)
        self.up = nn.ModuleList(nn.Linear(r, V, bias=r == 2, dtype=other) for r in ranks)

    def forward(self, x, factor=0.7):
        result = self.head(x)
        for down, up in zip(self.down, self.up, strict=True):
            result = result + up(down(x.to(down.weight.dtype))) * factor
        return result


def fused(model):
    made = copy.deepcopy(model)
    _ = F.fuse_lm_head(made.head)
    for up in made.up:
        set_class(up, LazyAdapter)
    return made


def gradients(model, x, loss):
    model.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    value = loss(model(x))
    value.backward()
    return value, x.grad, [p.grad for p in model.parameters()]


LOSSES = {
    "the mean": lambda z: nn.functional.cross_entropy(z, Y),
    "each row": lambda z: nn.functional.cross_entropy(z, Y, reduction="none").square().sum(),
    "of log-probabilities": lambda z: z.log_softmax(-1).gather(-1, Y[:, None]).sum(),
    "after a softcap": lambda z: nn.functional.cross_entropy(torch.tanh(z / 5) * 5, Y),
    "smoothed": lambda z: nn.functional.cross_entropy(z * 0.5, Y, label_smoothing=0.1),
    "smoothed log-probabilities": lambda z: z.log_softmax(-1).gather(-1, Y[:, None]).sum() + z.log_softmax(-1).sum(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("ranks", [(R,), (2,), (R, 2, 1)], ids=str)
def test_losses_and_gradients_are_those_of_the_numbers(ranks, loss):
    _ = torch.manual_seed(0)
    twin, x = Adapted(ranks), torch.randn(N, D, dtype=torch.float64)
    model = fused(twin)
    got, want = gradients(model, x, loss), gradients(twin, x, loss)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    assert type(model(x)) is LazyLogits
    torch.testing.assert_close(model(x) + 0, twin(x))


def test_no_logits_are_made():
    _ = torch.manual_seed(0)
    model, x = fused(Adapted()), torch.randn(N, D, dtype=torch.float64)
    x = x.requires_grad_()
    _ = model.head.requires_grad_(False)  # else the gradient of its weight is larger
    with Largest() as seen:
        nn.functional.cross_entropy(model(x), Y).backward()
    assert seen.elements < N * V


def test_an_adapter_of_another_dtype_takes_that_of_the_head():
    _ = torch.manual_seed(0)
    twin, x = Adapted(dtype=torch.bfloat16, other=torch.float32), torch.randn(N, D, dtype=torch.bfloat16)
    model = fused(twin)
    logits = model(x)
    assert type(logits) is LazyLogits
    assert logits.dtype == twin(x).dtype == torch.float32
    exact = copy.deepcopy(twin).double()
    torch.testing.assert_close(nn.functional.cross_entropy(logits, Y).double(),
                               nn.functional.cross_entropy(exact(x.double()), Y), rtol=1e-2, atol=0)  # fmt: skip


def test_what_is_no_adapter_takes_the_numbers():
    _ = torch.manual_seed(0)
    x, heads = torch.randn(N, D), [F.fuse_lm_head(nn.Linear(D, V)) for _ in range(2)]
    a, b = (head(x) for head in heads)
    assert sum_of_layers(a, b) is NotImplemented  # a second head is no adapter: its columns would be copied
    narrow = F.fuse_lm_head(nn.Linear(R, V))(torch.randn(N, R))
    assert type(sum_of_layers(a, narrow)) is LazyLogits
    for changed in (narrow.tanh(), narrow[:3], narrow.log_softmax(-1)):
        assert sum_of_layers(a, changed) is NotImplemented
    read = F.fuse_lm_head(nn.Linear(R, V))(torch.randn(N, R))
    _ = read.sum()
    assert sum_of_layers(a, read) is NotImplemented
    torch.testing.assert_close(a + b, heads[0](x) + 0 + (heads[1](x) + 0))
