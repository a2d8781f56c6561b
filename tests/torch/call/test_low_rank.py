"""Misuse of LowRank: what is wrong, where, and what to do instead, in the words of the error."""

from __future__ import annotations

import math
import re

import pytest
import torch

import crossent.torch as F

X, W = torch.arange(12.0).view(4, 3) / 7, torch.arange(15.0).view(5, 3) / 9
A, B = torch.arange(6.0).view(2, 3) / 5, torch.arange(10.0).view(5, 2) / 11
Y, OWN = torch.tensor([0, 1, 2, 3]), torch.arange(8.0).view(4, 2) / 3

# error, words that the message must hold, arguments of LowRank, options of it
MISUSE = {
    "a of other features": (ValueError, ["a", "(2, 4)", "3"], (W, torch.ones(2, 4), B), {}),
    "transposed a": (ValueError, ["a", "(3, 2)"], (W, A.T, B), {}),
    "transposed b": (ValueError, ["b", "(2, 5)"], (W, A, B.T), {}),
    "a and b swapped": (ValueError, ["a", "b"], (W, B, A), {}),
    "other ranks": (ValueError, ["a", "b", "(5, 3)", "(2, 3)"], (W, A, torch.ones(5, 3)), {}),
    "b of other classes": (ValueError, ["b", "(4, 2)", "5"], (W, A, B[:4]), {}),
    "b of more classes": (ValueError, ["b", "(6, 2)", "5"], (W, A, torch.ones(6, 2)), {}),
    "a vector for a": (ValueError, ["a", "(3,)"], (W, A[0], B), {}),
    "a vector for b": (ValueError, ["b", "(5,)"], (W, A, B[:, 0]), {}),
    "a cube for a": (ValueError, ["a", "(1, 2, 3)"], (W, A[None], B), {}),
    "positions of b alone": (ValueError, ["b", "(5, 1, 2)"], (W, A, B[:, None]), {}),
    "a list for a": (TypeError, ["a", "list"], (W, A.tolist(), B), {}),
    "a list for b": (TypeError, ["b", "list"], (W, A, B.tolist()), {}),
    "None for b": (TypeError, ["b", "NoneType"], (W, A, None), {}),
    "a list for the weight": (TypeError, ["weight", "list"], (W.tolist(), A, B), {}),
    "a layer for the weight": (TypeError, ["weight", "Linear"], (torch.nn.Linear(3, 5), A, B), {}),
    "integer a": (TypeError, ["a", "int64"], (W, A.long(), B), {}),
    "integer b": (TypeError, ["b", "int64"], (W, A, B.long()), {}),
    "complex a": (TypeError, ["a", "complex64"], (W, A + 0j, B), {}),
    "infinite scale": (ValueError, ["scale", "inf"], (W, A, B, math.inf), {}),
    "scale that is no number": (ValueError, ["scale", "nan"], (W, A, B, math.nan), {}),
    "a text for the scale": ((TypeError, ValueError), ["scale"], (W, A, B, "2"), {}),
    "a tensor for the scale that learns": (
        (TypeError, ValueError), ["scale"], (W, A, B, torch.ones((), requires_grad=True)), {},
    ),
    "own input of other features": (ValueError, ["(4, 2)", "a", "(2, 3)"], (W, A, B), {"input": OWN}),
    "own input of other rows": (ValueError, ["input", "(3, 3)", "(4,)"], (W, A, B), {"input": X[:3]}),
    "own input with an axis more": (ValueError, ["input", "(1, 4, 3)"], (W, A, B), {"input": X[None]}),
    "own input that is a list": (TypeError, ["input", "list"], (W, A, B), {"input": X.tolist()}),
    "own input of integers": (TypeError, ["input", "int64"], (W, A, B), {"input": X.long()}),
}  # fmt: skip
CALLS = {
    "loss": lambda weight: F.linear_cross_entropy(X, weight, Y),
    "log-probabilities": lambda weight: F.linear_logprobs(X, weight, Y).logprob,
    "of several": lambda weight: F.linear_logprobs(X, weight, Y[:, None]).logprob,
    "student": lambda weight: F.linear_divergence(X, weight, X, W),
    "teacher": lambda weight: F.linear_divergence(X, W, X, weight),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name, call):
    """Said by LowRank or by the loss: nothing is computed."""
    error, words, args, options = MISUSE[name]
    with pytest.raises(error) as caught:
        _ = CALLS[call](F.LowRank(*args, **options))
    text = str(caught.value)
    for word in words:
        whole = rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])"
        assert re.search(whole, text), f"{word!r} is not in {text!r}"


@pytest.mark.parametrize("number", [2, 3])
def test_misuse_within_other_adapters(number):
    weight = F.LowRank(W, A, B)
    for _ in range(number):
        weight = F.LowRank(weight, A, B)
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        _ = F.linear_cross_entropy(X, F.LowRank(weight, A, B[:4]), Y)


def test_what_is_wrong_with_the_rest_is_said_as_ever():
    weight = F.LowRank(W, A, B)
    for error, text, call in (
        (IndexError, "class 5", lambda: F.linear_cross_entropy(X, weight, Y + 2)),
        (ValueError, "linear_bias", lambda: F.linear_cross_entropy(X, weight, Y, linear_bias=torch.ones(4))),
        (ValueError, "features|linear_weight", lambda: F.linear_cross_entropy(X[:, :2], weight, Y)),
        (TypeError, "bfloat16", lambda: F.linear_cross_entropy(X.bfloat16(), weight, Y)),
        (ValueError, "chunk_bytes", lambda: F.linear_cross_entropy(X, weight, Y, chunk_bytes=0)),
    ):
        with pytest.raises(error, match=text):
            _ = call()


def test_what_is_not_one_is_refused_in_every_place():
    weight = F.LowRank(W, A, B)
    for place in ("input", "linear_bias", "target", "weight", "sample_weight"):
        given = {"input": X, "linear_weight": W, "target": Y, place: weight}
        with pytest.raises((TypeError, ValueError, AttributeError), match=r"LowRank|tensor"):
            _ = F.linear_cross_entropy(**given)
    for given in ((weight, Y), (X, weight)):
        with pytest.raises((TypeError, ValueError, AttributeError), match=r"LowRank|tensor"):
            _ = F.cross_entropy(*given)


def test_tensors_on_different_devices():
    with torch.device("meta"):
        a, b = torch.empty(2, 3), torch.empty(5, 2)
    for given in ((W, a, B), (W, A, b)):
        with pytest.raises((ValueError, NotImplementedError), match="meta"):
            _ = F.linear_cross_entropy(X, F.LowRank(*given), Y)


def test_it_says_what_it_is():
    text = repr(F.LowRank(W, A, B, 2.0))
    assert "LowRank" in text
    assert len(text) < 500


def test_an_error_leaves_no_trace():
    a = A.clone().requires_grad_()
    for _ in range(3):
        with pytest.raises(IndexError):
            _ = F.linear_cross_entropy(X, F.LowRank(W, a, B), Y + 2)
        assert F.linear_cross_entropy(X, F.LowRank(W, a, B), Y).isfinite()
    assert a.grad is None


def test_a_and_b_in_the_other_order_or_turned_are_told_apart():
    weight, a, b = torch.zeros(9, 8), torch.zeros(2, 8), torch.zeros(9, 2)
    with pytest.raises(ValueError, match="pass them in the other order"):
        _ = F.LowRank(weight, b, a)
    with pytest.raises(ValueError, match=r"use a\.t\(\) and b\.t\(\)"):
        _ = F.LowRank(weight, a.t(), b.t())
