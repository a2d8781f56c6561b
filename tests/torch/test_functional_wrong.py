"""Wrong things of every sort in each argument of each public loss: an error that names an argument, or a right loss.

No call may reach the core with a type that it does not take, whose error would speak of function arguments of C++.
"""

from __future__ import annotations

import inspect
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crossent.torch as F

N, V, D = 4, 5, 3
Z, Y, P = torch.randn(N, V), torch.arange(N), torch.randn(N, V).softmax(1)
X, W = torch.randn(N, D), torch.randn(V, D)

LOSSES = {
    "cross_entropy": (F.cross_entropy, {"input": Z, "target": Y}),
    "linear_cross_entropy": (F.linear_cross_entropy, {"input": X, "linear_weight": W, "target": Y}),
    "binary_cross_entropy": (F.binary_cross_entropy, {"input": P, "target": P}),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, {"input": Z, "target": P}),
    "CrossEntropyLoss": (F.CrossEntropyLoss, {}),
    "LinearCrossEntropyLoss": (F.LinearCrossEntropyLoss, {"in_features": D, "num_classes": V}),
    "BCELoss": (F.BCELoss, {}),
    "BCEWithLogitsLoss": (F.BCEWithLogitsLoss, {}),
}
NOT_OURS = {"in_features", "num_classes", "out_features", "bias", "device", "dtype"}
"""Arguments of modules that torch's own Linear takes."""
CASES = [
    (loss, name)
    for loss, (function, _) in LOSSES.items()
    for name in inspect.signature(function).parameters
    if not (inspect.isclass(function) and name in NOT_OURS)
]
FORBIDDEN = re.compile(r"nanobind|incompatible function arguments|_core\b|NDArray|INTERNAL ASSERT")
ALLOWED = (TypeError, ValueError, IndexError, NotImplementedError)


class Claims:
    """Something that claims to be an array."""

    shape, dtype, ndim, requires_grad, device = (N,), "float32", 1, False, "cpu"

    def __array__(self, *_: Any, **__: Any) -> Any:
        return np.zeros(N)


@dataclass
class Freed:
    """A tensor whose storage will be freed just before the call: to print such a tensor crashes torch."""

    tensor: torch.Tensor

    def made(self) -> torch.Tensor:
        self.tensor.untyped_storage().resize_(0)
        return self.tensor


class Unwilling:
    """Something whose conversions fail."""

    def __float__(self) -> float:
        raise OverflowError("too much")

    def __index__(self) -> int:
        raise TypeError("no number")

    def __bool__(self) -> bool:
        raise ValueError("undecided")


DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float8_e5m2, torch.int64, torch.uint8, torch.uint64, torch.bool,
    torch.complex64,
]  # fmt: skip
SHAPES = st.sampled_from([(), (0,), (1,), (N,), (V,), (N, V), (N, D), (V, D), (N, 1), (1, N, V), (N, V, 2), (0, V)])


@st.composite
def tensors(draw: Any) -> Any:
    """A tensor of any shape, dtype and layout."""
    made = torch.randint(-2, 7, draw(SHAPES)).to(draw(st.sampled_from(DTYPES)))
    how = draw(st.sampled_from(["plain", "plain", "sparse", "csr", "mkldnn", "meta", "parameter", "freed", "expanded"]))
    try:
        match how:
            case "sparse":
                return made.to_sparse()
            case "csr":
                return made.to_sparse_csr()
            case "mkldnn":
                return made.to_mkldnn()
            case "meta":
                return made.to("meta")
            case "parameter":
                return torch.nn.Parameter(made, made.is_floating_point())
            case "freed":
                return Freed(made)
            case "expanded":
                return made[:1].expand(made.shape) if made.ndim else made
            case _:
                return made
    except (RuntimeError, IndexError):  # torch has no such tensor
        return made


ANYTHING = st.one_of(
    tensors(),
    tensors().map(lambda x: x if isinstance(x, Freed) else F.TopK(x, x)),
    st.sampled_from([
        None, True, False, np.True_, 0, 1, -1, 3.5, float("nan"), float("inf"), 10**400, 2**63, -(2**63) - 1, 2j,
        "mean", "2", b"2", "", [], [1.0], (1,), {}, {"a": 1}, set(), object, object(), Claims(), Unwilling(), Ellipsis,
        NotImplemented, lambda: 1, np.float32(0.5), np.int64(2), np.array(2), np.array([1, 2]), np.array("a"),
        np.array([None, 1], object), np.datetime64(3, "s"), np.timedelta64(3, "s"), np.ma.masked, np.zeros(N),
        torch.float32,
        torch.device("cpu"),
        torch.Size([2]), range(3), F.cross_entropy, F.TopK(None, None), F.TopK([1], [2]),
    ]),
)  # fmt: skip


def complaint(error: Exception, names: list[str]) -> str:
    """Return what is wrong with an error: it says nothing about our arguments, or speaks of the core's."""
    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, ALLOWED):  # torch's own, of memory that was freed
        return "" if re.search("storage|data is not allocated", text) else text
    said = any(word in text for word in (*names, "class ", "target probability", "features"))
    return "" if said and not FORBIDDEN.search(text) else text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("loss", "name"), CASES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_is_wrong_is_said_in_our_words(loss, name, data):
    function, usual = LOSSES[loss]
    wrong = data.draw(ANYTHING)
    wrong = wrong.made() if isinstance(wrong, Freed) else wrong
    names = [*inspect.signature(function).parameters, "TopK", "layer", "DTensor"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(**(usual | {name: wrong}))
    except (*ALLOWED, RuntimeError) as error:
        problem = complaint(error, names)
    else:
        fits = isinstance(result, (torch.Tensor, tuple, torch.nn.Module))
        problem = "" if fits else f"the loss is a {type(result).__name__}"
    assert not problem
