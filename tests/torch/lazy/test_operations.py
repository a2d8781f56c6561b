"""Which operations leave logits lazy: each gives what it gives of the numbers, and reads none of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossent.torch.lazy import operations  # noqa: F401  what it registers is under test
from crossent.torch.lazy.deferred import Step
from crossent.torch.lazy.logits import LAZILY, LazyLogits
from tests.torch.lazily import V, expressions, others, pair, value

LAZY = """
z * 2; 2 * z; z.mul(0.5); torch.multiply(z, 3); torch.mul(z, other=2); z / 2; z.div(3); torch.true_divide(z, 2)
z.tanh(); torch.tanh(z)
z.float(); z.double(); z.half(); z.bfloat16(); z.to(torch.float32); z.to("cpu"); z.to("cpu", torch.float32)
z.to(dtype=torch.float64); z.to(device="cpu"); z.contiguous(); z[:, :-1].contiguous(); z.view(-1, 11); z.view(14, -1)
z.view((14, 11)); z.reshape(7, 2, 11); z.reshape(-1, z.size(-1)); z.view(torch.Size([14, 11])); z.flatten(0, 1)
z.flatten(0, -2); z[0]; z[:, 1]; z[-1, 2]; z[..., :-1, :]; z[:]; z[...]; z[:, ::3]; z[a.y > 3]
z[torch.tensor([1, 0])]; z[:, torch.tensor([2, 5]), :]; z.detach(); z[0][1]; z.view(-1, 11)[3:] / 2
z * torch.tensor(2.0); z / torch.tensor(3); z * torch.tensor([0.5], dtype=torch.float64); torch.mul(z, a.t.detach())
z.float() * torch.tensor(0.3, dtype=torch.float64); z.bfloat16() / torch.tensor(0.3); -z; z.neg(); torch.neg(z)
z + a.row; z + a.w; z.add(a.w); torch.add(z, a.w); z + a.w[None, None]; z.view(-1, 11) + a.w[None]; z[0, 1] + a.w
z / 2 + a.row; (z + a.w + a.row) * 3 + a.row; z.float() + a.row; z.bfloat16() + a.w.bfloat16(); z.double() + a.w.float()
z.log_softmax(-1); torch.log_softmax(z, 2); nnf.log_softmax(z, dim=-1); nnf.log_softmax(z, dim=-1, dtype=torch.float32)
torch.log_softmax(z.float(), -1, torch.float64); -nnf.log_softmax(z + a.row, dim=-1); (z / 2).log_softmax(-1)[:, 1:] * 2
z.transpose(0, 1); z.transpose(-2, -3).contiguous(); z.swapaxes(0, 1); z.permute(1, 0, 2); z.permute((1, 0, -1))
z.cpu(); z.type_as(a.w); z.type_as(torch.zeros(1))
z.unsqueeze(0); z.unsqueeze(-2); z[:1].squeeze(0); z.squeeze(0); z.unsqueeze(1).squeeze(1)
"""
NOT_LAZY = """
z + 1; z * a.t; z * True; z * z; z / a.w; z * torch.tensor([[0.5]]); 3 / z; z - a.w; z + a.t; z + a.real; z + z;
z.add(a.w, alpha=2); z + a.w[:1]; z + a.row.expand(7, 11); z[0, 0] + a.w[None]; z + torch.arange(11); z.tanh() + a.w
z.log_softmax(0); z.log_softmax(1); nnf.log_softmax(z.flatten(), dim=0); z.log_softmax(-1).exp(); z.softmax(1)
z.div(2, rounding_mode="floor"); z.to(torch.int64); z.to(a.real); z.to(torch.float32, copy=True)
z.view(2, 77); z.view(11, 14); z.reshape(-1)
z.flatten(); z.flatten(1); z[..., 0]; z[..., :5]; z[:, :, :4]; z[None]; z[True]; z[z > 0]; z[:, [0, 2]]; z[0, 1, 2]
z.transpose(0, 2); z.transpose(1, -1); z.mT; z.permute(0, 2, 1); z.unsqueeze(-1); z.unsqueeze(3); z.squeeze(); z.clone()
z.sigmoid(); z.exp(); z.float(memory_format=torch.contiguous_format)
"""


@pytest.mark.parametrize("text", expressions(LAZY))
def test_what_stays_lazy(text):
    (head, x), (twin, u) = pair()
    a, z = others(), head(x)
    found, want = value(text, z, a), value(text, twin(u), a)
    assert type(found) is LazyLogits
    assert not z.was_read()
    assert not found.was_read()
    assert (found.shape, found.dtype, found.requires_grad) == (want.shape, want.dtype, want.requires_grad)
    assert torch.equal(found.numbers(), want)
    assert type(found.numbers()) is Tensor
    assert found.numbers() is found.numbers()


@pytest.mark.parametrize("text", expressions(NOT_LAZY))
def test_what_takes_the_numbers(text):
    (head, x), (twin, u) = pair()
    a, z = others(), head(x)
    found, want = value(text, z, a), value(text, twin(u), a)
    assert type(found) is Tensor
    assert z.was_read()
    assert torch.equal(found, want)


def test_steps_are_those_that_were_taken():
    (head, x), _ = pair()
    z = torch.tanh(head(x).float() / torch.tensor(2.0)) * 3
    assert z._deferred.steps == (Step("to", torch.float32), Step("div", 2), Step("tanh", None), Step("mul", 3))
    assert z._deferred.hidden is x
    bias = torch.randn(V, dtype=torch.float32)
    z = (head(x).float() + bias).log_softmax(-1)
    assert [step.name for step in z._deferred.steps] == ["to", "add", "log_softmax"]
    same = head(x).to(torch.float64)  # which they are
    assert same._deferred.steps == ()


def test_a_choice_of_rows_is_one_of_the_input():
    (head, x), _ = pair()
    z = head(x)[:, 1:].reshape(-1, V)[2:9:2]
    assert torch.equal(z._deferred.hidden, x[:, 1:].reshape(-1, x.shape[-1])[2:9:2])
    assert z.shape == (4, V)


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("z.view(-1, 11)", True), ("z[0]", True), ("z.detach()", True), ("z.flatten(0, 1)", True), ("z[:]", True),
        ("z / 2", False), ("z.tanh()", False), ("z.float()", False), ("z[:, 1:].contiguous()", False),
    ],
)  # fmt: skip
def test_views_share_memory_and_others_do_not(text, shared):
    (head, x), _ = pair()
    z = head(x)
    made = value(text, z)
    with torch.no_grad():
        _ = z.numbers().detach().zero_()
    assert made.was_read() == shared  # as its numbers exist in those of z
    assert bool((made.numbers() == 0).all()) == shared


def test_contiguous_logits_are_themselves():
    (head, x), _ = pair()
    z = head(x)
    assert z.contiguous() is z
    assert z.view(-1, V).contiguous().shape == (14, V)


@pytest.mark.parametrize("grad", [True, False])
def test_a_detached_one_has_no_gradient(grad):
    (head, x), _ = pair()
    with torch.set_grad_enabled(grad):
        z = head(x).detach()
    assert type(z) is LazyLogits
    assert not z.requires_grad
    assert not z.numbers().requires_grad


def test_they_are_shown_with_their_numbers_or_with_the_reason_why_not():
    (head, x), _ = pair()
    z, again = head(x), head(x)
    assert repr(z) == repr(z.numbers())
    with torch.no_grad():
        _ = head.weight.add_(1)
    assert repr(again).startswith("LazyLogits(shape=(2, 7, 11), dtype=torch.float64): these logits were never computed")


def test_the_names_of_torch_s_functions():
    for name in LAZILY:
        assert hasattr(Tensor, name) or hasattr(torch.nn.functional, name), name
