"""Misuse: what is wrong, where, and what to do instead, in the words of the error; and nothing is written to."""

from __future__ import annotations

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import crossent.torch as F
from crossent.torch import TopK

Z = torch.arange(20.0).view(4, 5) / 7
Y = torch.tensor([0, 1, 2, 3])
P = torch.full((4, 5), 0.2)


def with_(tensor, at, value):
    copy = tensor.clone()
    copy[at] = value
    return copy


# error, words that the message must hold, function, arguments, options
MISUSE = {
    "class too large": (IndexError, ["class 5", "row 2", "5 classes", "ignore_index"], (Z, with_(Y, 2, 5)), {}),
    "class negative": (IndexError, ["class -1", "row 0", "ignore_index"], (Z, with_(Y, 0, -1)), {}),
    "class far away": (IndexError, ["class 70000000", "row 3"], (Z, with_(Y, 3, 70_000_000)), {}),
    "ignored class is another": (IndexError, ["class -100", "row 1"], (Z, with_(Y, 1, -100)), {"ignore_index": -1}),
    "class of a pixel": (IndexError, ["class 9", "row 3"], (Z.view(2, 5, 2), torch.tensor([[0, 1], [2, 9]])), {}),
    "picked class": (
        IndexError,
        ["class 5", "row 1"],
        (Z, TopK(with_(torch.zeros(4, 2).long(), (1, 1), 5), P[:, :2])),
        {},
    ),
    "negative probability": (ValueError, ["-0.5", "row 1", "column 3", "exp"], (Z, with_(P, (1, 3), -0.5)), {}),
    "NaN probability": (ValueError, ["nan", "row 0", "column 4"], (Z, with_(P, (0, 4), torch.nan)), {}),
    "infinite probability": (ValueError, ["inf", "row 2", "column 0"], (Z, with_(P, (2, 0), torch.inf)), {}),
    "log-probabilities": (ValueError, ["-1.6", "exp"], (Z, P.log()), {}),
    "negative picked probability": (
        ValueError,
        ["-1.0", "row 3"],
        (Z, TopK(torch.zeros(4, 1).long(), with_(P[:, :1], 3, -1))),
        {},
    ),
    "float classes": (TypeError, ["integer", "float32", "target.long()"], (Z, Y.float()), {}),
    "bool classes": (TypeError, ["integer", "bool"], (Z, Y > 1), {}),
    "complex classes": (TypeError, ["integer", "complex64"], (Z, Y.to(torch.complex64)), {}),
    "integer one-hot": (TypeError, ["floating", "int64", "target.float()"], (Z, torch.eye(5)[:4].long()), {}),
    "bool one-hot": (TypeError, ["floating", "bool"], (Z, torch.eye(5)[:4].bool()), {}),
    "too few classes": (ValueError, ["(3,)", "(4, 5)", "(4,)"], (Z, Y[:3]), {}),
    "classes in a column": (ValueError, ["(4, 1)", "(4, 5)"], (Z, Y[:, None]), {}),
    "classes last": (ValueError, ["(2, 5)", "(2, 3, 5)"], (torch.zeros(2, 3, 5), torch.zeros(2, 3).long()), {}),
    "probabilities of other classes": (ValueError, ["(4, 6)", "(4, 5)"], (Z, torch.rand(4, 6)), {}),
    "a number": (ValueError, ["class axis"], (torch.tensor(1.0), torch.tensor(0)), {}),
    "no classes": (ValueError, ["(4, 0)", "no classes"], (torch.zeros(4, 0), Y), {}),
    "integer logits": (TypeError, ["int64", "float"], (Z.long(), Y), {}),
    "complex logits": (TypeError, ["complex64"], (Z.to(torch.complex64), Y), {}),
    "bool logits": (TypeError, ["bool"], (Z > 0, Y), {}),
    "a list": (TypeError, ["tensor", "list"], (Z.tolist(), Y), {}),
    "a list of classes": (TypeError, ["tensor", "list"], (Z, Y.tolist()), {}),
    "ignored probabilities": (
        ValueError,
        ["ignore_index", "probabilities", "sample_weight"],
        (Z, P),
        {"ignore_index": 1},
    ),
    "ignored picks": (ValueError, ["ignore_index"], (Z, TopK(Y[:, None], P[:, :1])), {"ignore_index": 0}),
    "short weight": (ValueError, ["weight", "5", "(4,)"], (Z, Y), {"weight": torch.ones(4)}),
    "weight of rows": (ValueError, ["weight", "(4, 5)"], (Z, Y), {"weight": torch.ones(4, 5)}),
    "complex weight": (TypeError, ["weight", "complex64"], (Z, Y), {"weight": torch.ones(5) + 0j}),
    "learnt weight": (
        ValueError,
        ["weight", "gradient", "detach"],
        (Z, Y),
        {"weight": torch.ones(5, requires_grad=True)},
    ),
    "weight that is a list": (TypeError, ["weight", "list"], (Z, Y), {"weight": [1.0] * 5}),
    "negative smoothing": (ValueError, ["label_smoothing", "-0.1"], (Z, Y), {"label_smoothing": -0.1}),
    "too much smoothing": (ValueError, ["label_smoothing", "1.5"], (Z, Y), {"label_smoothing": 1.5}),
    "NaN smoothing": (ValueError, ["label_smoothing"], (Z, Y), {"label_smoothing": float("nan")}),
    "reduction": (ValueError, ["'average'", "mean", "sum", "none"], (Z, Y), {"reduction": "average"}),
    "zero temperature": (ValueError, ["temperature", "positive"], (Z, Y), {"temperature": 0.0}),
    "negative temperature": (ValueError, ["temperature", "-1"], (Z, Y), {"temperature": -1.0}),
    "infinite temperature": (ValueError, ["temperature", "finite"], (Z, Y), {"temperature": float("inf")}),
    "NaN temperature": (ValueError, ["temperature"], (Z, Y), {"temperature": float("nan")}),
    "temperature of classes": (ValueError, ["temperature", "(5,)", "(4,)"], (Z, Y), {"temperature": torch.ones(5)}),
    "temperatures in a column": (
        ValueError,
        ["temperature", "(4, 1)", "(4,)"],
        (Z, Y),
        {"temperature": torch.ones(4, 1)},
    ),
    "bool temperatures": (TypeError, ["temperature", "bool"], (Z, Y), {"temperature": torch.ones(4).bool()}),
    "complex temperatures": (TypeError, ["temperature", "complex64"], (Z, Y), {"temperature": torch.ones(4) + 0j}),
    "a zero among temperatures": (
        ValueError,
        ["temperature", "0.0", "row 2", "1e-15"],
        (Z, Y),
        {"temperature": with_(torch.ones(4), 2, 0)},
    ),
    "a NaN among temperatures": (
        ValueError,
        ["temperature", "nan", "row 0"],
        (Z, Y),
        {"temperature": with_(torch.ones(4), 0, torch.nan)},
    ),
    "too warm a row": (
        ValueError,
        ["temperature", "1e+16", "row 3"],
        (Z, Y),
        {"temperature": with_(torch.ones(4).double(), 3, 1e16)},
    ),
    "learnt temperatures": (
        ValueError,
        ["temperature", "gradient", "detach"],
        (Z, Y),
        {"temperature": torch.ones(4, requires_grad=True)},
    ),
    "learnt temperature": (
        (TypeError, ValueError),
        ["temperature"],
        (Z, Y),
        {"temperature": torch.ones((), requires_grad=True)},
    ),
    "learnt softcap": ((TypeError, ValueError), ["softcap"], (Z, Y), {"softcap": torch.ones((), requires_grad=True)}),
    "learnt smoothing": (
        (TypeError, ValueError),
        ["label_smoothing"],
        (Z, Y),
        {"label_smoothing": torch.full((), 0.1, requires_grad=True)},
    ),
    "zero softcap": (ValueError, ["softcap", "None"], (Z, Y), {"softcap": 0.0}),
    "negative softcap": (ValueError, ["softcap"], (Z, Y), {"softcap": -30.0}),
    "negative z-loss": (ValueError, ["z_loss", "-0.1"], (Z, Y), {"z_loss": -0.1}),
    "NaN z-loss": (ValueError, ["z_loss"], (Z, Y), {"z_loss": float("nan")}),
    "sample weight of classes": (
        ValueError,
        ["sample_weight", "(5,)", "(4,)"],
        (Z, Y),
        {"sample_weight": torch.ones(5)},
    ),
    "sample weight in a column": (ValueError, ["sample_weight", "(4, 1)"], (Z, Y), {"sample_weight": torch.ones(4, 1)}),
    "complex sample weight": (
        (TypeError, ValueError),
        ["sample_weight", "complex64"],
        (Z, Y),
        {"sample_weight": torch.ones(4) + 0j},
    ),
    "sample weight as a number": (TypeError, ["sample_weight"], (Z, Y), {"sample_weight": 2.0}),
    "picks without a batch": (ValueError, ["TopK", "(4, K)"], (Z, TopK(Y, P[:, 0])), {}),
    "picks of other rows": (ValueError, ["TopK", "(4, K)"], (Z, TopK(Y[:3, None], P[:3, :1])), {}),
    "more picks than probabilities": (
        ValueError,
        ["TopK", "(4, 2)", "(4, 1)"],
        (Z, TopK(torch.zeros(4, 2).long(), P[:, :1])),
        {},
    ),
    "float picks": (TypeError, ["TopK.index", "float32"], (Z, TopK(P[:, :2], P[:, :2])), {}),
    "integer picked probabilities": (TypeError, ["TopK.prob", "int64"], (Z, TopK(Y[:, None], Y[:, None])), {}),
}


def tensors(*values):
    for x in values:
        if isinstance(x, torch.Tensor):
            yield x
        elif isinstance(x, TopK):
            yield x.index
            yield x.prob


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_of_cross_entropy(name):
    error, words, args, options = MISUSE[name]
    given = list(tensors(*args, *options.values()))
    before = [x.clone() for x in given]
    with pytest.raises(error) as caught:
        _ = F.cross_entropy(*args, **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"
    for a, b in zip(given, before, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


X, T = torch.rand(3, 4), torch.rand(3, 4)
BINARY_MISUSE = {
    "other shape": (ValueError, ["(3,)", "(3, 4)"], (X, T[:, 0]), {}),
    "a column": (ValueError, ["(3, 1)", "(3, 4)", "expand"], (X, T[:, :1]), {}),
    "weight that does not broadcast": (ValueError, ["weight", "(3,)", "(3, 4)"], (X, T), {"weight": torch.ones(3)}),
    "weight that broadcasts the input": (ValueError, ["weight", "(2, 3, 4)"], (X, T), {"weight": torch.ones(2, 3, 4)}),
    "learnt weight": (ValueError, ["weight", "detach"], (X, T), {"weight": torch.ones(4, requires_grad=True)}),
    "integer input": (TypeError, ["int64"], (X.long(), T), {}),
    "complex input": (TypeError, ["complex64"], (X.to(torch.complex64), T), {}),
    "complex target": (TypeError, ["target", "complex64"], (X, T.to(torch.complex64)), {}),
    "reduction": (ValueError, ["'Mean'"], (X, T), {"reduction": "Mean"}),
    "a list": (TypeError, ["list"], (X.tolist(), T), {}),
    "a list of targets": (TypeError, ["list"], (X, T.tolist()), {}),
}


@pytest.mark.parametrize("function", [F.binary_cross_entropy_with_logits, F.binary_cross_entropy])
@pytest.mark.parametrize("name", BINARY_MISUSE)
def test_misuse_of_the_binary_losses(name, function):
    error, words, args, options = BINARY_MISUSE[name]
    with pytest.raises(error) as caught:
        function(*args, **options)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"


def test_misuse_of_pos_weight():
    for wrong, error in (
        (torch.ones(3), ValueError),
        (torch.ones(4, requires_grad=True), ValueError),
        ([2.0] * 4, TypeError),
    ):
        with pytest.raises(error, match="pos_weight"):
            _ = F.binary_cross_entropy_with_logits(X, T, pos_weight=wrong)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_given_for_probabilities(value, reduction):
    with pytest.raises(ValueError, match=re.escape("(1, 2)")) as caught:
        _ = F.binary_cross_entropy(with_(X, (1, 2), value), T, reduction=reduction)
    assert "binary_cross_entropy_with_logits" in str(caught.value)


def test_devices_without_a_backend():
    with FakeTensorMode():
        z, y = torch.empty(4, 5, device="cuda"), torch.zeros(4, dtype=torch.long, device="cuda")
        for call in (
            lambda: F.cross_entropy(z, y),
            lambda: F.binary_cross_entropy_with_logits(z, z),
            lambda: F.binary_cross_entropy(z, z),
        ):
            with pytest.raises(NotImplementedError, match="cuda") as caught:
                _ = call()
            assert "input.cpu()" in str(caught.value)


def test_tensors_on_different_devices():
    with FakeTensorMode():
        z, y = torch.empty(4, 5), torch.zeros(4, dtype=torch.long, device="cuda")
        with pytest.raises(ValueError, match="target is on cuda") as caught:
            _ = F.cross_entropy(z, y)
        assert "target.to(input.device)" in str(caught.value)
        for name in ("weight", "sample_weight"):
            size = 5 if name == "weight" else 4
            with pytest.raises(ValueError, match=f"^{name} is on cuda"):
                F.cross_entropy(z, y.cpu(), **{name: torch.ones(size, device="cuda")})
        with pytest.raises(ValueError, match="pos_weight is on cuda"):
            _ = F.binary_cross_entropy_with_logits(z, z, pos_weight=torch.ones(5, device="cuda"))


def test_an_error_leaves_no_trace():
    z = Z.clone().requires_grad_()
    for _ in range(3):
        with pytest.raises(IndexError):
            _ = F.cross_entropy(z, with_(Y, 2, 5))
        assert torch.isfinite(F.cross_entropy(z, Y))
    assert z.grad is None


def test_arguments_are_never_written_to():
    z = torch.randn(6, 5, 3, requires_grad=True)
    y = torch.randint(5, (6, 3))
    y[0] = -100
    p = torch.rand(6, 5, 3, requires_grad=True)
    top = TopK(torch.randint(5, (6, 2, 3)), torch.rand(6, 2, 3, requires_grad=True))
    weight, sample = torch.rand(5), torch.rand(6, 3)
    kept = [z, y, p, top.index, top.prob, weight, sample]
    before = [x.detach().clone() for x in kept]
    for target in (y, p, top):
        for reduction in ("mean", "none"):
            options = {"reduction": reduction, "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 3.0}
            loss, stats = F.cross_entropy(z, target, weight, sample_weight=sample, return_stats=True, **options)
            g = torch.randn_like(loss)
            copy = g.clone()
            torch.autograd.backward([loss, stats.entropy], [g, torch.ones_like(stats.entropy)])
            assert torch.equal(g, copy)
            with torch.no_grad():
                _ = F.cross_entropy(z, target, weight, reduction=reduction)
    for a, b in zip(kept, before, strict=True):
        assert torch.equal(a, b)
