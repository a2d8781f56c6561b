"""Tensors of every sort in each argument of each loss: as torch takes them, or refused by the name of the argument."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch.masked import masked_tensor

import crossent.torch as F
from tests.torch import plain

N, V, D = 4, 5, 3
Z, Y, P = torch.randn(N, V), torch.arange(N), torch.randn(N, V).softmax(1)
X, W, B = torch.randn(N, D), torch.randn(V, D), torch.randn(V)
CLASSES, ROWS, ELEMENTS = torch.rand(V), torch.rand(N), torch.rand(N, V)

# The calls of each loss with one argument left open, by its name, and a value for it that fits.
CALLS = {
    "input": (lambda x: F.cross_entropy(x, Y), Z),
    "target": (lambda x: F.cross_entropy(Z, x), Y),
    "target of probabilities": (lambda x: F.cross_entropy(Z, x), P),
    "TopK.index": (lambda x: F.cross_entropy(Z, F.TopK(x, P[:, :1])), Y[:, None]),
    "TopK.prob": (lambda x: F.cross_entropy(Z, F.TopK(Y[:, None], x)), P[:, :1]),
    "weight": (lambda x: F.cross_entropy(Z, Y, x), CLASSES),
    "sample_weight": (lambda x: F.cross_entropy(Z, Y, sample_weight=x), ROWS),
    "input of the layer": (lambda x: F.linear_cross_entropy(x, W, Y), X),
    "linear_weight": (lambda x: F.linear_cross_entropy(X, x, Y), W),
    "linear_bias": (lambda x: F.linear_cross_entropy(X, W, Y, linear_bias=x), B),
    "target of the layer": (lambda x: F.linear_cross_entropy(X, W, x), Y),
    "weight of the layer": (lambda x: F.linear_cross_entropy(X, W, Y, weight=x), CLASSES),
    "sample_weight of the layer": (lambda x: F.linear_cross_entropy(X, W, Y, sample_weight=x), ROWS),
    "input of sigmoids": (lambda x: F.binary_cross_entropy_with_logits(x, P), Z),
    "target of sigmoids": (lambda x: F.binary_cross_entropy_with_logits(Z, x), P),
    "weight of sigmoids": (lambda x: F.binary_cross_entropy_with_logits(Z, P, x), ELEMENTS),
    "pos_weight": (lambda x: F.binary_cross_entropy_with_logits(Z, P, pos_weight=x), ELEMENTS),
    "input of probabilities": (lambda x: F.binary_cross_entropy(x, P), P),
    "target beside probabilities": (lambda x: F.binary_cross_entropy(P, x), P),
    "weight beside probabilities": (lambda x: F.binary_cross_entropy(P, P, x), ELEMENTS),
}
LAYOUTS = {
    "sparse_coo": lambda x: x.to_sparse(),
    "sparse_csr": lambda x: x.to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "jagged": lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
    "MaskedTensor": lambda x: masked_tensor(x, torch.ones_like(x, dtype=torch.bool)),
}


def exists(layout: str, value: torch.Tensor) -> bool:
    """Whether torch has a tensor of these numbers in a layout: of too few axes or another dtype it has none."""
    axes, real = value.ndim, value.dtype.is_floating_point
    return {"sparse_coo": True, "sparse_csr": axes == 2, "mkldnn": real, "jagged": axes > 1}.get(layout, axes > 0)


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name, (_, x) in CALLS.items() for layout in LAYOUTS if exists(layout, x)]
)
@pytest.mark.filterwarnings("ignore")
def test_other_layouts_are_refused_by_name(name, layout):
    call, value = CALLS[name]
    made = LAYOUTS[layout](value)
    with pytest.raises(TypeError, match=rf"^{name.partition(' ')[0]} is a \S+( tensor, and must be strided)?; use "):
        _ = call(made)


class Subclass(torch.Tensor):
    """A subclass without ideas of its own."""


class Watching(torch.Tensor):
    """A subclass that sees every function, as torchvision's tensors do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


def _negated(x):
    return torch.complex(torch.zeros_like(x), -x).conj().imag if x.is_floating_point() else x


SORTS = {
    "a subclass": lambda x: x.as_subclass(Subclass),
    "a watching subclass": lambda x: x.as_subclass(Watching),
    "a parameter": lambda x: torch.nn.Parameter(x, requires_grad=False),
    "lazily negated": _negated,
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "inside a larger one": lambda x: torch.nn.functional.pad(x, (1, 1))[..., 1:-1],
    "expanded": lambda x: x[:1].expand(x.shape),
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim == 2 else x,
}


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("name", CALLS)
def test_tensors_of_every_sort_have_the_loss_of_their_numbers(name, sort):
    call, value = CALLS[name]
    made = SORTS[sort](value.clone())
    want = call(made.detach().as_subclass(torch.Tensor).resolve_neg().contiguous())
    torch.testing.assert_close(call(made).as_subclass(torch.Tensor), want, rtol=4e-7, atol=0)


# Weights

WEIGHTS = [
    "weight",
    "sample_weight",
    "weight of the layer",
    "sample_weight of the layer",
    "weight of sigmoids",
    "pos_weight",
    "weight beside probabilities",
]
COUNTS = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]


@pytest.mark.parametrize("dtype", COUNTS, ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_may_be_counts_and_masks(name, dtype):
    call, value = CALLS[name]
    counts = (torch.arange(value.numel()).view(value.shape) % 3).to(dtype)
    assert torch.equal(call(counts), call(counts.to(torch.float32)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64], ids=str)
def test_weights_that_torch_takes_give_torch_s_loss(dtype):
    of_classes = torch.tensor([1, 2, 0, 1, 3]).to(dtype)
    plain.agree("loss", F.cross_entropy(Z, P, of_classes), nnf.cross_entropy(Z, P, of_classes).double(), None, 4e-7)
    of_elements = torch.randint(3, (N, V)).to(dtype)
    for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        ours, theirs = (getattr(home, name)(P, P, of_elements) for home in (F, nnf))
        plain.agree("loss", ours, theirs.double(), None, 4e-7)


def test_counts_keep_their_digits_beside_float64():
    count = torch.full((N,), 2**40 + 1)
    want = (F.cross_entropy(Z.double(), Y, reduction="none") * count.double()).sum()
    assert F.cross_entropy(Z.double(), Y, sample_weight=count, reduction="sum") == want


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.filterwarnings("ignore:.*quantized tensor")
def test_weights_are_real(name):
    call, value = CALLS[name]
    for wrong in (
        value + 0j,
        torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        value.to(torch.uint8).view(torch.bits8),
    ):
        with pytest.raises(TypeError, match=f"^{name.partition(' ')[0]} must be real, got {wrong.dtype}"):
            _ = call(wrong)


# Class indices of uint64


def _classes(*values):
    return torch.tensor([0, 1, *values], dtype=torch.uint64)


@pytest.mark.parametrize("wrong", [2**64 - 100, 2**64 - 1, 2**63, 2**63 - 1, 5])
@pytest.mark.parametrize("ignore_index", [-100, -1, -(2**63), 2**63 - 2])
def test_unsigned_classes_beyond_the_last_are_not_ignored(wrong, ignore_index):
    target = _classes(wrong, 2)
    for call in (
        lambda: F.cross_entropy(Z, target, ignore_index=ignore_index),
        lambda: F.cross_entropy(Z, target, ignore_index=ignore_index, z_loss=0.1, return_stats=True),
        lambda: F.linear_cross_entropy(X, W, target, ignore_index=ignore_index),
        lambda: F.cross_entropy(Z, F.TopK(target[:, None], P[:, :1])),
    ):
        with pytest.raises(IndexError, match=r"class \d+( or more)? \(row 2 of 4\) is not one of the 5 classes"):
            _ = call()


def test_the_largest_ignored_class_is_no_other():
    ignored, beyond = _classes(2**63 - 1, 2), _classes(2**63, 2)
    want = F.cross_entropy(Z, torch.tensor([0, 1, -100, 2]))
    assert torch.equal(F.cross_entropy(Z, ignored, ignore_index=2**63 - 1), want)
    with pytest.raises(IndexError, match="row 2"):
        _ = F.cross_entropy(Z, beyond, ignore_index=2**63 - 1)


# Memory


@pytest.mark.parametrize("name", CALLS)
def test_a_tensor_whose_storage_was_freed_is_refused(name):
    call, value = CALLS[name]
    value = value.clone()
    value.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"its storage was freed|out of bounds for storage|data is not allocated"):
        _ = call(value)


def test_a_view_of_nothing_is_refused_too():
    whole = torch.randn(10, V)
    part = whole[3 : 3 + N]
    whole.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"^input has elements but no memory"):
        _ = F.cross_entropy(part, Y)


@pytest.mark.parametrize("freed", [0, 1])
def test_what_was_freed_before_the_backward_is_refused(freed):
    for call in (F.cross_entropy, F.binary_cross_entropy_with_logits):
        z, target = Z.clone().requires_grad_(), Y.clone() if call is F.cross_entropy else P.clone()
        loss = call(z, target, reduction="none").sum()  # few logits have their gradient already, and read nothing
        (z, target)[freed].untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match=r"has elements but no memory: its storage was freed"):
            loss.backward()


@pytest.mark.slow
def test_compiled_losses_take_the_same_weights_and_refuse_the_same_layouts():
    torch._dynamo.reset()
    compiled = torch.compile(F.cross_entropy, fullgraph=True, backend="eager")
    count = torch.tensor([1, 2, 0, 1, 3])
    assert torch.equal(compiled(Z, Y, count), F.cross_entropy(Z, Y, count.float()))
    assert torch.equal(compiled(Z, Y, sample_weight=Y > 1), F.cross_entropy(Z, Y, sample_weight=(Y > 1).float()))
    assert torch.equal(compiled(Z, Y.to(torch.uint64)), F.cross_entropy(Z, Y))
    with pytest.raises(Exception, match="class 9223372036854775807 or more"):
        _ = compiled(Z, _classes(2**64 - 100, 2))
    with pytest.raises(Exception, match="does not support sparse Tensors"):  # torch.compile itself
        _ = compiled(Z, P.to_sparse())
