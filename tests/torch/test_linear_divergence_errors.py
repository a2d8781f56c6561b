"""Misuse of linear_divergence: what is wrong, where, and what to do instead, in the words of the error."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import crossent.torch as F
from crossent.torch import TopK
from tests.torch.test_linear_errors import with_

X, W, B = torch.arange(12.0).view(4, 3) / 7, torch.arange(15.0).view(5, 3) / 9, torch.arange(5.0)
TX, TW, TB = torch.arange(8.0).view(4, 2) / 7, torch.arange(10.0).view(5, 2) / 9, torch.arange(5.0) / 2
K, TK = torch.arange(30.0).view(5, 2, 3) / 9, torch.arange(20.0).view(5, 2, 2) / 9
Y, P = torch.tensor([0, 1, 2, 3]), torch.full((4, 5), 0.2)
TOP = TopK(torch.tensor([[0, 1]] * 4), torch.full((4, 2), 0.4))
HEADS = {"input": X, "linear_weight": W, "teacher_input": TX, "teacher_weight": TW}
GONE = {"teacher_input": TOP, "teacher_weight": None}

# error, words that the message must hold, what is another in the call
MISUSE = {
    # operands of one head
    "a number": (ValueError, ["input"], {"input": torch.tensor(1.0)}),
    "other features": (ValueError, ["linear_weight", "(5, 3)", "(4, 2)"], {"input": X[:, :2]}),
    "other features of the teacher": (ValueError, ["teacher_weight", "(5, 2)", "(4, 3)"], {"teacher_input": X}),
    "a teacher that is a number": (ValueError, ["teacher_input"], {"teacher_input": torch.tensor(1.0)}),
    "a vector of weights": (ValueError, ["linear_weight", "(3,)"], {"linear_weight": W[0]}),
    "a vector of the teacher's weights": (ValueError, ["teacher_weight", "(2,)"], {"teacher_weight": TW[0]}),
    "no classes": (ValueError, ["class"], {"linear_weight": W[:0], "teacher_weight": TW[:0]}),
    "bias of another length": (ValueError, ["linear_bias", "(4,)", "(5,)"], {"linear_bias": B[:4]}),
    "bias of another length, teacher": (ValueError, ["teacher_bias", "(4,)", "(5,)"], {"teacher_bias": TB[:4]}),
    "bias of another dtype": (TypeError, ["linear_bias", "float64", "float32"], {"linear_bias": B.double()}),
    "bias of another dtype, its": (TypeError, ["teacher_bias", "float64", "float32"], {"teacher_bias": TB.double()}),
    "weight of another dtype": (TypeError, ["linear_weight", "bfloat16", "float32"], {"linear_weight": W.bfloat16()}),
    "weight of another dtype, teacher": (
        TypeError,
        ["teacher_weight", "bfloat16", "float32"],
        {"teacher_weight": TW.bfloat16()},
    ),
    "integer input": (TypeError, ["int64", "float"], {"input": X.long()}),
    "integer input of the teacher": (
        TypeError,
        ["teacher_input", "int64", "float"],
        {"teacher_input": TX.long(), "teacher_weight": TW.long()},
    ),
    "complex operands": (
        TypeError,
        ["complex64"],
        {"input": X.to(torch.complex64), "linear_weight": W.to(torch.complex64)},
    ),
    "a list": (TypeError, ["tensor", "list"], {"input": X.tolist()}),
    "a list of weights": (TypeError, ["linear_weight", "tensor", "list"], {"linear_weight": W.tolist()}),
    "a list for a teacher": (TypeError, ["teacher_input", "list"], {"teacher_input": TX.tolist()}),
    "a list of the teacher's weights": (TypeError, ["teacher_weight", "list"], {"teacher_weight": TW.tolist()}),
    "a list for a bias": (TypeError, ["linear_bias", "tensor", "list"], {"linear_bias": B.tolist()}),
    "a list for the teacher's bias": (TypeError, ["teacher_bias", "list"], {"teacher_bias": TB.tolist()}),
    # the two heads beside each other
    "a teacher of other rows": (ValueError, ["teacher_input", "(3,)", "(4,)"], {"teacher_input": TX[:3]}),
    "a teacher of more axes": (ValueError, ["teacher_input", "(2, 2)", "(4,)"], {"teacher_input": TX.view(2, 2, 2)}),
    "a teacher of other classes": (ValueError, ["num_classes", "teacher_classes"], {"teacher_weight": TW[:4]}),
    "a teacher without a weight": ((TypeError, ValueError), ["teacher_weight"], {"teacher_weight": None}),
    "a teacher without dimensions": (ValueError, ["teacher_weight", "(4,)", "(4, 2)"], {"linear_weight": K}),
    "a student without dimensions": (ValueError, ["teacher_weight", "(4, 2)", "(4,)"], {"teacher_weight": TK}),
    "more classes than there are": (ValueError, ["num_classes", "6", "5"], {"num_classes": 6}),
    "fewer columns of the teacher": (
        ValueError,
        ["5", "4", "classes"],
        {"teacher_weight": TW[:4], "num_classes": 5},
    ),
    "a bias beside a sparse teacher": ((TypeError, ValueError), ["teacher_bias", "TopK"], GONE | {"teacher_bias": TB}),
    "a weight beside a sparse teacher": ((TypeError, ValueError), ["teacher_weight", "TopK"], {"teacher_input": TOP}),
    # options
    "kind": (ValueError, ["kind", "'kl'", "forward", "reverse", "js"], {"kind": "kl"}),
    "beta": (ValueError, ["beta", "between 0 and 1", "1.0"], {"kind": "js", "beta": 1.0}),
    "beta of another kind": (ValueError, ["beta", 'kind="js"', 'kind="forward"'], {"beta": 0.3}),
    "beta that is text": (TypeError, ["beta"], {"kind": "js", "beta": "0.5"}),
    "tail": (ValueError, ["tail", "ignore", "bucket"], {"tail": "drop"}),
    "tail beside a head": (ValueError, ["tail", "TopK"], {"tail": "bucket"}),
    "ignore_index": (ValueError, ["ignore_index", "target"], {"ignore_index": 3}),
    "temperature": (ValueError, ["temperature", "positive"], {"temperature": 0.0}),
    "temperatures of classes": (ValueError, ["temperature", "(5,)", "(4,)"], {"temperature": torch.ones(5)}),
    "a zero among temperatures": (
        ValueError,
        ["temperature", "0.0", "row 2"],
        {"temperature": with_(torch.ones(4), 2, 0)},
    ),
    "learnt temperatures": (
        ValueError,
        ["temperature", "gradient", "detach"],
        {"temperature": torch.ones(4, requires_grad=True)},
    ),
    "teacher_temperature": (ValueError, ["teacher_temperature", "1e-15", "0.0"], {"teacher_temperature": 0.0}),
    "teacher_temperatures": (ValueError, ["teacher_temperature", "(4,)"], {"teacher_temperature": torch.ones(2)}),
    "softcap": (ValueError, ["softcap", "None"], {"softcap": 0.0}),
    "teacher_softcap": (ValueError, ["teacher_softcap", "-1.0", "None"], {"teacher_softcap": -1.0}),
    "teacher_temperature of none": (ValueError, ["teacher_temperature", "TopK"], GONE | {"teacher_temperature": 2.0}),
    "teacher_softcap of none": (ValueError, ["teacher_softcap", "TopK"], GONE | {"teacher_softcap": 2.0}),
    "teacher_classes of none": (ValueError, ["teacher_classes", "TopK"], GONE | {"teacher_classes": Y}),
    "reduction": (ValueError, ["'batchmean'", "reduction"], {"reduction": "batchmean"}),
    "operands without a closing": (ValueError, ["operands", "closing"], {"operands": (torch.ones(4),)}),
    "sample_weight": (ValueError, ["sample_weight", "(5,)", "(4,)"], {"sample_weight": torch.ones(5)}),
    "first_class": (ValueError, ["first_class", "process_group"], {"first_class": 1}),
    "no bytes": (ValueError, ["chunk_bytes", "0", "positive"], {"chunk_bytes": 0}),
    "negative bytes": (ValueError, ["chunk_bytes", "-1"], {"chunk_bytes": -1}),
    "a fraction of bytes": ((TypeError, ValueError), ["chunk_bytes", "0.5"], {"chunk_bytes": 0.5}),
    # targets and classes
    "a class too large": (IndexError, ["class 5", "row 2", "5 classes"], {"target": with_(Y, 2, 5)}),
    "a target of other rows": (ValueError, ["target", "(3,)", "(4,)"], {"target": Y[:3]}),
    "float classes": (TypeError, ["integer", "float32"], {"target": Y.float()}),
    "a negative probability": (ValueError, ["-0.5", "row 1"], {"target": with_(P, (1, 3), -0.5)}),
    "a map of other length": (ValueError, ["teacher_classes", "(4,)", "5"], {"teacher_classes": torch.arange(4)}),
    "a map of floats": (TypeError, ["teacher_classes", "integer"], {"teacher_classes": torch.arange(5.0)}),
    "a map to nowhere": (IndexError, ["teacher_classes", "class 4", "[0, 4]"], {"teacher_classes": torch.arange(1, 6)}),
    "a class of the teacher too large": (
        IndexError,
        ["class 5", "row 1"],
        {"teacher_input": TopK(with_(TOP.index, (1, 1), 5), TOP.prob), "teacher_weight": None},
    ),
    "a sparse teacher of other rows": (
        ValueError,
        ["(4, K)", "(3, 2)"],
        {"teacher_input": TopK(TOP.index[:3], TOP.prob[:3]), "teacher_weight": None},
    ),
    "a sparse teacher of more than all": (
        ValueError,
        ["row 0", "add up to 1.6"],
        {"teacher_input": TopK(TOP.index, 2 * TOP.prob), "teacher_weight": None, "tail": "bucket"},
    ),
}  # fmt: skip


def call(others):
    parts = HEADS | others
    operands = [parts.pop(name) for name in HEADS]
    return F.linear_divergence(*operands, **parts)


@pytest.mark.parametrize("plan", [{}, {"chunk_bytes": 1}, {"reduction": "none"}, {"return_stats": True}], ids=str)
@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name, learning, plan):
    error, words, others = MISUSE[name]
    others = plan | others
    if name == "beta of another kind" and "return_stats" in plan:
        return  # where all divergences are seen, beta changes one
    if learning:
        own = {key: x.detach().clone().requires_grad_() for key, x in HEADS.items()}
        others = {key: x for key, x in own.items() if key not in others} | others
    with pytest.raises(error) as caught:
        _ = call(others)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"


def test_a_head_of_more_dimensions_needs_a_batch():
    with pytest.raises(ValueError, match="batch"):
        _ = call({"input": X[0], "linear_weight": K, "teacher_input": TX[0], "teacher_weight": TK})


def test_an_error_leaves_no_trace():
    x = X.clone().requires_grad_()
    for _ in range(3):
        with pytest.raises(IndexError):
            _ = call({"input": x, "target": with_(Y, 2, 5)})
        assert torch.isfinite(call({"input": x}))
    assert x.grad is None


def test_an_error_in_a_late_chunk_is_found():
    x, w, t, u, y = (
        torch.randn(50, 3),
        torch.randn(70, 3),
        torch.randn(50, 2),
        torch.randn(70, 2),
        torch.randint(70, (50,)),
    )
    y[49] = 70
    p = torch.rand(50, 70)
    p[49, 69] = -0.5
    top = TopK(torch.zeros(50, 1).long(), torch.full((50, 1), 0.5))
    top.index[49] = 70
    for chunk_bytes, reduction in itertools.product((1, 600, 2**40), ("none", "mean")):
        options = {"chunk_bytes": chunk_bytes, "reduction": reduction}
        with pytest.raises(IndexError, match=r"class 70 .*row 49"):
            _ = F.linear_divergence(x, w, t, u, target=y, **options)
        with pytest.raises(ValueError, match=r"-0.5 .*row 49, column 69"):
            _ = F.linear_divergence(x, w, t, u, target=p, **options)
        with pytest.raises(IndexError, match=r"class 70 .*row 49"):
            _ = F.linear_divergence(x, w, top, **options)


def test_devices_without_a_backend():
    with FakeTensorMode():
        operands = [torch.empty(shape, device="cuda") for shape in ((4, 3), (5, 3), (4, 2), (5, 2))]
        with pytest.raises(NotImplementedError, match="cuda"):
            _ = F.linear_divergence(*operands)


def test_tensors_on_different_devices():
    with FakeTensorMode():
        for name in (
            "linear_weight",
            "teacher_input",
            "teacher_weight",
            "linear_bias",
            "teacher_bias",
            "sample_weight",
        ):
            parts = {**HEADS, "linear_bias": B, "teacher_bias": TB, "sample_weight": torch.ones(4)}
            parts = {key: torch.empty(x.shape, device="cuda" if key == name else "cpu") for key, x in parts.items()}
            with pytest.raises(ValueError, match=f"{name} is on cuda"):
                _ = call(parts)
