"""Misuse of linear_cross_entropy: what is wrong, where, and what to do instead, in the words of the error."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import linear

X, W, B = torch.arange(12.0).view(4, 3) / 7, torch.arange(15.0).view(5, 3) / 9, torch.arange(5.0)
Y, P = torch.tensor([0, 1, 2, 3]), torch.full((4, 5), 0.2)
K = torch.arange(30.0).view(5, 2, 3) / 9
ours = linear.by_position(F.linear_cross_entropy)


def with_(tensor, at, value):
    copy = tensor.clone()
    copy[at] = value
    return copy


# error, words that the message must hold, arguments (input, linear_weight, target, linear_bias, sample_weight), options
MISUSE = {
    "class too large": (IndexError, ["class 5", "row 2", "5 classes", "ignore_index"], (X, W, with_(Y, 2, 5)), {}),
    "class negative": (IndexError, ["class -1", "row 0", "ignore_index"], (X, W, with_(Y, 0, -1)), {}),
    "class far away": (IndexError, ["class 70000000", "row 3"], (X, W, with_(Y, 3, 70_000_000)), {}),
    "ignored class is another": (IndexError, ["class -100", "row 1"], (X, W, with_(Y, 1, -100)), {"ignore_index": -1}),
    "class of a token": (
        IndexError,
        ["class 9", "row 3"],
        (X.view(2, 2, 3), W, torch.tensor([[0, 1], [2, 9]])),
        {},
    ),
    "class after an ignored row": (
        IndexError,
        ["class 9", "row 3"],
        (X, W, torch.tensor([0, -100, -100, 9])),
        {},
    ),
    "picked class": (
        IndexError,
        ["class 5", "row 1"],
        (X, W, TopK(with_(torch.zeros(4, 2).long(), (1, 1), 5), P[:, :2])),
        {},
    ),
    "negative probability": (ValueError, ["-0.5", "row 1", "column 3"], (X, W, with_(P, (1, 3), -0.5)), {}),
    "NaN probability": (ValueError, ["nan", "row 0", "column 4"], (X, W, with_(P, (0, 4), torch.nan)), {}),
    "infinite probability": (ValueError, ["inf", "row 2", "column 0"], (X, W, with_(P, (2, 0), torch.inf)), {}),
    "negative picked probability": (
        ValueError,
        ["-1.0", "row 3"],
        (X, W, TopK(torch.zeros(4, 1).long(), with_(P[:, :1], 3, -1))),
        {},
    ),
    "float classes": (TypeError, ["integer", "float32", "target.long()"], (X, W, Y.float()), {}),
    "bool classes": (TypeError, ["integer", "bool"], (X, W, Y > 1), {}),
    "integer one-hot": (TypeError, ["floating", "int64"], (X, W, torch.eye(5)[:4].long()), {}),
    "too few classes": (ValueError, ["(3,)", "(4,)", "(4, 5)"], (X, W, Y[:3]), {}),
    "classes in a column": (ValueError, ["(4, 1)"], (X, W, Y[:, None]), {}),
    "probabilities of other classes": (ValueError, ["(4, 6)", "(4, 5)"], (X, W, torch.rand(4, 6)), {}),
    "no dimensions of the weight": (ValueError, ["(4,)", "(4, 2)"], (X, K, Y), {}),
    "probabilities with classes last": (ValueError, ["(4, 2, 5)", "(4, 5, 2)"], (X, K, torch.rand(4, 2, 5)), {}),
    "a number": (ValueError, ["input"], (torch.tensor(1.0), W, torch.tensor(0)), {}),
    "a vector of weights": (ValueError, ["linear_weight", "(3,)"], (X, W[0], Y), {}),
    "other features": (ValueError, ["linear_weight", "(5, 3)", "(4, 2)"], (X[:, :2], W, Y), {}),
    "transposed weight": (ValueError, ["linear_weight", "(3, 5)"], (X, W.T, Y), {}),
    "dimensions without a batch": (ValueError, ["batch"], (X[0], K, torch.tensor([1, 2])), {}),
    "no classes": (ValueError, ["class", "(0, 3)"], (X, W[:0], Y), {}),
    "bias of another length": (ValueError, ["linear_bias", "(4,)", "(5,)"], (X, W, Y, B[:4]), {}),
    "bias without dimensions": (ValueError, ["linear_bias", "(5,)", "(5, 2)"], (X, K, torch.zeros(4, 2).long(), B), {}),
    "bias of another dtype": (TypeError, ["linear_bias", "float64", "float32"], (X, W, Y, B.double()), {}),
    "weight of another dtype": (TypeError, ["linear_weight", "bfloat16", "float32"], (X, W.bfloat16(), Y), {}),
    "integer input": (TypeError, ["int64", "float"], (X.long(), W, Y), {}),
    "complex input": (TypeError, ["complex64"], (X.to(torch.complex64), W.to(torch.complex64), Y), {}),
    "a list": (TypeError, ["tensor", "list"], (X.tolist(), W, Y), {}),
    "a list of weights": (TypeError, ["linear_weight", "tensor", "list"], (X, W.tolist(), Y), {}),
    "a list of classes": (TypeError, ["tensor", "list"], (X, W, Y.tolist()), {}),
    "a list for a bias": (TypeError, ["linear_bias", "tensor", "list"], (X, W, Y, B.tolist()), {}),
    "ignored probabilities": (ValueError, ["ignore_index", "probabilities"], (X, W, P), {"ignore_index": 1}),
    "ignored probabilities, as by default": (ValueError, ["ignore_index"], (X, W, P), {"ignore_index": -100}),
    "ignored picks": (ValueError, ["ignore_index"], (X, W, TopK(Y[:, None], P[:, :1])), {"ignore_index": 0}),
    "short weight": (ValueError, ["weight", "5", "(4,)"], (X, W, Y), {"weight": torch.ones(4)}),
    "learnt weight": (
        ValueError,
        ["weight", "gradient", "detach"],
        (X, W, Y),
        {"weight": torch.ones(5, requires_grad=True)},
    ),
    "complex weight": (TypeError, ["weight", "complex64"], (X, W, Y), {"weight": torch.ones(5) + 0j}),
    "too much smoothing": (ValueError, ["label_smoothing", "1.5"], (X, W, Y), {"label_smoothing": 1.5}),
    "reduction": (ValueError, ["'average'", "mean", "sum", "none"], (X, W, Y), {"reduction": "average"}),
    "zero temperature": (ValueError, ["temperature", "positive"], (X, W, Y), {"temperature": 0.0}),
    "temperature of classes": (ValueError, ["temperature", "(5,)", "(4,)"], (X, W, Y), {"temperature": torch.ones(5)}),
    "temperatures in a column": (
        ValueError,
        ["temperature", "(4, 1)", "(4,)"],
        (X, W, Y),
        {"temperature": torch.ones(4, 1)},
    ),
    "bool temperatures": (TypeError, ["temperature", "bool"], (X, W, Y), {"temperature": torch.ones(4).bool()}),
    "complex temperatures": (TypeError, ["temperature", "complex64"], (X, W, Y), {"temperature": torch.ones(4) + 0j}),
    "a zero among temperatures": (
        ValueError,
        ["temperature", "0.0", "row 2", "1e-15"],
        (X, W, Y),
        {"temperature": with_(torch.ones(4), 2, 0)},
    ),
    "a NaN among temperatures": (
        ValueError,
        ["temperature", "nan", "row 0"],
        (X, W, Y),
        {"temperature": with_(torch.ones(4), 0, torch.nan)},
    ),
    "too warm a row": (
        ValueError,
        ["temperature", "1e+16", "row 3"],
        (X, W, Y),
        {"temperature": with_(torch.ones(4).double(), 3, 1e16)},
    ),
    "learnt temperatures": (
        ValueError,
        ["temperature", "gradient", "detach"],
        (X, W, Y),
        {"temperature": torch.ones(4, requires_grad=True)},
    ),
    "learnt temperature": (
        (TypeError, ValueError),
        ["temperature"],
        (X, W, Y),
        {"temperature": torch.ones((), requires_grad=True)},
    ),
    "zero softcap": (ValueError, ["softcap", "None"], (X, W, Y), {"softcap": 0.0}),
    "negative z-loss": (ValueError, ["z_loss", "-0.1"], (X, W, Y), {"z_loss": -0.1}),
    "sample weight of classes": (ValueError, ["sample_weight", "(5,)", "(4,)"], (X, W, Y, None, torch.ones(5)), {}),
    "complex sample weight": (TypeError, ["sample_weight", "complex64"], (X, W, Y, None, torch.ones(4) + 0j), {}),
    "picks of other rows": (ValueError, ["TopK"], (X, W, TopK(Y[:3, None], P[:3, :1])), {}),
    "more picks than probabilities": (
        ValueError,
        ["TopK", "(4, 2)", "(4, 1)"],
        (X, W, TopK(torch.zeros(4, 2).long(), P[:, :1])),
        {},
    ),
    "float picks": (TypeError, ["TopK.index", "float32"], (X, W, TopK(P[:, :2], P[:, :2])), {}),
    "no bytes": (ValueError, ["chunk_bytes", "0", "positive"], (X, W, Y), {"chunk_bytes": 0}),
    "negative bytes": (ValueError, ["chunk_bytes", "-1"], (X, W, Y), {"chunk_bytes": -1}),
    "a fraction of bytes": ((TypeError, ValueError), ["chunk_bytes", "0.5"], (X, W, Y), {"chunk_bytes": 0.5}),
}


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name, learning):
    error, words, args, options = MISUSE[name]
    if learning:
        args = [x.detach().requires_grad_() if x is X or x is W else x for x in args]
    given = linear.tensors(*args, *options.values())
    before = [x.clone() for x in given]
    with pytest.raises(error) as caught:
        _ = ours(*args, **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"
    for a, b in zip(given, before, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_an_error_leaves_no_trace():
    x = X.clone().requires_grad_()
    for _ in range(3):
        with pytest.raises(IndexError):
            _ = ours(x, W, with_(Y, 2, 5))
        assert torch.isfinite(ours(x, W, Y))
    assert x.grad is None


def test_an_error_in_a_late_chunk_is_found():
    x, w, y = torch.randn(50, 3), torch.randn(70, 3), torch.randint(70, (50,))
    y[49] = 70
    for chunk_bytes in (1, 600, 2**40):
        with pytest.raises(IndexError, match=r"class 70 .*row 49"):
            _ = ours(x, w, y, chunk_bytes=chunk_bytes)
    p = torch.rand(50, 70)
    p[49, 69] = -0.5
    for chunk_bytes in (1, 600, 2**40):
        with pytest.raises(ValueError, match=r"-0.5 .*row 49, column 69"):
            _ = ours(x, w, p, chunk_bytes=chunk_bytes)


def test_devices_without_a_backend():
    with FakeTensorMode():
        x, w, y = (
            torch.empty(4, 3, device="cuda"),
            torch.empty(5, 3, device="cuda"),
            torch.zeros(4, device="cuda").long(),
        )
        with pytest.raises(NotImplementedError, match="cuda") as caught:
            _ = ours(x, w, y)
        assert "cpu()" in str(caught.value)


def test_tensors_on_different_devices():
    with FakeTensorMode():
        names = ("linear_weight", "target", "linear_bias", "sample_weight")
        for at, name in enumerate(names, 1):
            where = ["cuda" if k == at else "cpu" for k in range(5)]
            x, w, b, s = (torch.empty(n, device=where[k]) for k, n in ((0, (4, 3)), (1, (5, 3)), (3, 5), (4, 4)))
            y = torch.zeros(4, dtype=torch.long, device=where[2])
            with pytest.raises(ValueError, match=f"{name} is on cuda"):
                _ = ours(x, w, y, b, s)
