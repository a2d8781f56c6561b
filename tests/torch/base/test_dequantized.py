"""A weight that is made a range of classes at a time, as a tensor: slices, copies, other operations, and misuse."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch.test_dequantized import made, quantised

# The object


def test_it_is_a_tensor_without_memory():
    w = torch.randn(7, 3)
    weight = made(w)
    assert isinstance(weight, torch.Tensor)
    assert isinstance(weight, F.Dequantized)
    assert weight.shape == (7, 3)
    assert (weight.ndim, len(weight), weight.numel(), weight.dtype) == (2, 7, 21, torch.float32)
    assert weight.device == torch.device("cpu")
    assert not weight.requires_grad
    assert "Dequantized" in repr(weight)
    assert torch.equal(weight.dequantize(), w)
    assert type(weight.dequantize()) is torch.Tensor
    whole = made(w.bfloat16(), torch.float32).dequantize()
    assert whole.dtype == torch.bfloat16


def test_slices_of_classes():
    w = torch.randn(17, 3)
    weight = made(w)
    for part in (
        slice(None), slice(3, 9), slice(0, 0), slice(16, 17), slice(-4, None), slice(None, -3), slice(5, 100),
        slice(9, 3),
    ):  # fmt: skip
        assert isinstance(weight[part], F.Dequantized)
        assert weight[part].shape == w[part].shape
        assert torch.equal(weight[part].dequantize(), w[part])
    assert torch.equal(weight[2:14][3:9][1:4].dequantize(), w[2:14][3:9][1:4])
    x, y = torch.randn(4, 3), torch.arange(4)
    torch.testing.assert_close(
        F.linear_cross_entropy(x, weight[4:12], y), nnf.cross_entropy(x @ w[4:12].T, y), rtol=1e-6, atol=1e-6
    )


def test_anything_else_has_all_of_the_numbers():
    w = torch.randn(7, 3)
    weight, x = made(w), torch.randn(4, 3, requires_grad=True)
    for f in (
        lambda t: x @ t.T, lambda t: nnf.linear(x, t), lambda t: t.sum(), lambda t: t * 2, lambda t: t[::2],
        lambda t: t[3], lambda t: t[:, 1:], lambda t: t[torch.tensor([1, 5])], lambda t: t.norm(dim=1),
        lambda t: torch.cat([t, t]), lambda t: t.double() @ x.double().T, lambda t: nnf.embedding(torch.arange(3), t),
        lambda t: t.clone() + 1, lambda t: t.contiguous().view(-1) + 0, lambda t: t.bfloat16() + 0,
    ):  # fmt: skip
        got, want = f(weight), f(w)
        assert type(got) is torch.Tensor
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(nnf.linear(x, weight).sum(), x), torch.autograd.grad((x @ w.T).sum(), x)
    )


def test_copies():
    w = torch.randn(7, 3)
    weight = made(w)
    for other in (copy.deepcopy(weight), copy.copy(weight), weight.detach(), weight.to(torch.float32)):
        assert torch.equal(other.dequantize(), w)
    with pytest.raises((TypeError, AttributeError, RuntimeError, pickle.PicklingError)):
        _ = pickle.dumps(weight)


def test_it_takes_no_gradient():
    weight = made(torch.randn(7, 3))
    try:
        _ = weight.requires_grad_()
    except (RuntimeError, TypeError):
        return
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises((RuntimeError, TypeError, ValueError), match=r"Dequantized|gradient"):
        F.linear_cross_entropy(x, weight, torch.arange(4)).backward()


# Errors

BAD = {
    "too few rows": (ValueError, lambda w: lambda b, e: w[b : e - 1], ["(22, 6)", "(23, 6)"]),
    "all rows": (ValueError, lambda w: lambda b, e: torch.cat([w, w]), ["(46, 6)", "(23, 6)"]),
    "other features": (ValueError, lambda w: lambda b, e: w[b:e, :5], ["(23, 5)", "(23, 6)"]),
    "transposed": (ValueError, lambda w: lambda b, e: w[b:e].T, ["(6, 23)", "(23, 6)"]),
    "flat": (ValueError, lambda w: lambda b, e: w[b:e].flatten(), ["(138,)", "(23, 6)"]),
    "a list": (TypeError, lambda w: lambda b, e: w[b:e].tolist(), ["list", "tensor"]),
    "nothing": (TypeError, lambda w: lambda b, e: None, ["None", "tensor"]),
    "codes": (TypeError, lambda w: lambda b, e: w[b:e].to(torch.int8), ["int8", "float"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_function_that_returns_something_else(name):
    error, function, words = BAD[name]
    w, x = torch.randn(23, 6), torch.randn(4, 6)
    weight = F.Dequantized(function(w), (23, 6), torch.float32)
    for call in (
        weight.dequantize,
        lambda: F.linear_cross_entropy(x, weight, torch.arange(4)),
        lambda: F.linear_cross_entropy(x.clone().requires_grad_(), weight, torch.arange(4), reduction="none"),
        lambda: F.linear_logprobs(x, weight, torch.arange(8).view(4, 2)),
        lambda: F.linear_divergence(x, w, x, weight),
        lambda: F.linear_cross_entropy(x, F.LowRank(weight, torch.randn(2, 6), torch.randn(23, 2)), torch.arange(4)),
    ):
        with pytest.raises(error) as caught:
            _ = call()
        for word in ("0", "23", *words):
            assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"


def test_an_error_of_the_function_is_the_callers():
    def broken(begin, end):
        raise KeyError("no such block")

    x = torch.randn(4, 6, requires_grad=True)
    with pytest.raises(KeyError, match="no such block"):
        _ = F.linear_cross_entropy(x, F.Dequantized(broken, (23, 6), torch.float32), torch.arange(4))


def test_arguments_that_are_no_weight():
    def rows(begin, end):
        return torch.zeros(end - begin, 6)

    for args in (
        (3, (23, 6), torch.float32), (rows, (23,), torch.float32), (rows, (23, 6, 2), torch.float32),
        (rows, (-1, 6), torch.float32), (rows, (23, 6), torch.int8), (rows, (23, 6), "float32"),
        (rows, 23, torch.float32), (rows, (23, 6.0), torch.float32), (None, (23, 6), torch.float32),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            _ = F.Dequantized(*args)


def test_operands_that_do_not_fit():
    weight, _ = quantised()
    x = torch.randn(4, 6)
    for error, text, call in (
        (TypeError, "linear_weight.*bfloat16|bfloat16.*linear_weight|float32", lambda: F.linear_cross_entropy(
            x.bfloat16(), weight, torch.arange(4))),
        (ValueError, "linear_weight", lambda: F.linear_cross_entropy(x[:, :5], weight, torch.arange(4))),
        (ValueError, "linear_bias", lambda: F.linear_cross_entropy(
            x, weight, torch.arange(4), linear_bias=torch.zeros(6))),
        (IndexError, "class 23", lambda: F.linear_cross_entropy(x, weight, torch.arange(4) + 20)),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            _ = call()
