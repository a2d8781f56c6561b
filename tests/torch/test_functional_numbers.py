"""Options as numbers of every sort: a loss takes NumPy's, fractions and tensors of one number as it takes Python's."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

import crossent.torch as F
from tests.torch import plain

Z = torch.randn(6, 5)
Y = torch.tensor([0, 1, 2, 3, 4, 2])
X, W = torch.randn(6, 4), torch.randn(5, 4)


def fused(target, **options):
    """torch's own function on the logits of a fused head."""
    head = torch.nn.Linear(4, 5, bias=False)
    head.weight.data = W
    return torch.nn.functional.cross_entropy(F.fuse_lm_head(head)(X), target, **options)


LOSSES = {
    "logits": lambda **options: F.cross_entropy(Z, Y, **options),
    "linear": lambda **options: F.linear_cross_entropy(X, W, Y, **options),
    "module": lambda **options: F.CrossEntropyLoss(**options)(Z, Y),
    "linear module": lambda **options: _seeded(options)(X, Y),
    "fused": lambda **options: fused(Y, **options),
}
REALS = [
    np.float32,
    np.float64,
    np.array,
    torch.tensor,
    Fraction,
    Decimal,
    lambda x: torch.nn.Parameter(torch.tensor(x), False),
]
WHOLES = [
    np.int64,
    np.int8,
    np.array,
    torch.tensor,
    lambda x: torch.tensor(x, dtype=torch.int16),
    lambda x: torch.tensor([x]),
]


def _seeded(options):
    with torch.random.fork_rng():
        _ = torch.manual_seed(0)
        return F.LinearCrossEntropyLoss(4, 5, **options)


@pytest.mark.parametrize("loss", LOSSES)
def test_whole_numbers_of_every_sort(loss):
    names = {"logits": ["num_classes"], "linear": ["chunk_bytes", "num_classes"], "linear module": ["chunk_bytes"]}
    for name in ["ignore_index", *names.get(loss, [])]:
        value = {"ignore_index": 2, "chunk_bytes": 64, "num_classes": 5}[name]
        want = LOSSES[loss](**{name: value})
        for kind in WHOLES:
            assert torch.equal(LOSSES[loss](**{name: kind(value)}), want)


@pytest.mark.parametrize("loss", LOSSES)
def test_real_numbers_of_every_sort(loss):
    for name in ("label_smoothing", *(() if loss == "fused" else ("temperature", "softcap", "z_loss"))):
        want = LOSSES[loss](**{name: 0.25})
        for kind in REALS:
            assert torch.equal(LOSSES[loss](**{name: kind(0.25)}), want)


def test_numbers_that_torch_takes_give_torch_s_loss():
    for name, values in {
        "ignore_index": [2, np.int64(2), torch.tensor(2), torch.tensor([2]), np.array(2)],
        "label_smoothing": [0.1, np.float32(0.1), np.float64(0.1), torch.tensor(0.1), 0, 1, np.int64(1)],
    }.items():
        for value in values:
            want = torch.nn.functional.cross_entropy(Z, Y, **{name: value})
            plain.agree("loss", F.cross_entropy(Z, Y, **{name: value}), want.double(), None, 4e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values"),
    {
        "ignore_index": [torch.tensor(2), torch.tensor(3)],
        "temperature": [torch.tensor(0.5), torch.tensor(2.0)],
        "label_smoothing": [np.float64(0.1), np.float64(0.3)],
    }.items(),
)
@pytest.mark.parametrize("loss", ["logits", "linear"])
def test_compiled_numbers_in_tensors_are_not_constants(name, values, loss):
    torch._dynamo.reset()
    compiled = torch.compile(lambda value: LOSSES[loss](**{name: value}), backend="eager")
    for value in (*values, *values):
        torch.testing.assert_close(compiled(value), LOSSES[loss](**{name: value}))


CHANGING = {
    "temperature": [1.0, 0.5, 0.7, 2.0, 3.0],
    "softcap": [30.0, 20.0, 25.0, 5.0],
    "label_smoothing": [0.0, 0.1, 0.2, 1.0],
    "z_loss": [0.0, 1e-4, 1e-3, 0.1],
}


def step(loss, operands, options):
    """A loss of the operands with a target of its own for each class, and their gradients."""
    leaves = [x.clone().requires_grad_() for x in operands]
    value = loss(leaves, **options)
    return value.detach(), *torch.autograd.grad(value.sum(), leaves)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize(("function", "operands"), [(F.cross_entropy, [Z]), (F.linear_cross_entropy, [X, W])])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_numbers_that_change_take_one_program(name, function, operands, reduction):
    programs = []

    def counting(graph, inputs):
        programs.append(graph)
        return aot_eager(graph, inputs)

    def loss(leaves, **options):
        return function(*leaves, Y, reduction=reduction, **options)

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=counting, fullgraph=True)
    for value in CHANGING[name]:
        for got, want in zip(step(compiled, operands, {name: value}), step(loss, operands, {name: value}), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    assert len(programs) == 2  # one for the first value, which may be constant, and one for all others
    with pytest.raises(ValueError, match=f"{name} must be "):  # where the graph may break: torch compiles no errors
        _ = torch.compile(loss, backend=counting)([*operands], **{name: -1.0})


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_compiled_numbers_that_change_together():
    torch._dynamo.reset()

    def loss(leaves, t):
        return F.linear_cross_entropy(*leaves, Y, temperature=t, softcap=30 * t, label_smoothing=t / 4, z_loss=t / 100)

    compiled = torch.compile(loss, fullgraph=True)
    for t in (0.5, 0.7, 1.0, 2.0, 0.5):
        for got, want in zip(step(compiled, [X, W], {"t": t}), step(loss, [X, W], {"t": t}), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("wrong", ["2", None, 2j, [2], torch.tensor([2, 2]), 10**400, float("nan")], ids=str)
def test_what_is_no_number_is_refused_by_name(loss, wrong):
    names = ["label_smoothing"]
    if loss != "fused":
        names += ["temperature", "z_loss"] + ["softcap"] * (wrong is not None)
    if wrong is not None:
        names += ["ignore_index"] + ["chunk_bytes"] * ("linear" in loss)
    for name in names:
        with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
            _ = LOSSES[loss](**{name: wrong})


def test_integers_beyond_64_bits_are_refused_by_name():
    for loss in LOSSES.values():
        for beyond in (2**63, -(2**63) - 1, np.uint64(2**64 - 1)):
            with pytest.raises(ValueError, match="ignore_index must be a number of 64 bits"):
                _ = loss(ignore_index=beyond)


def test_a_class_may_be_ignored_at_the_edge_of_64_bits():
    for edge in (2**63 - 1, -(2**63)):
        target = Y.index_fill(0, torch.tensor([1]), edge)
        want = torch.nn.functional.cross_entropy(Z, target, ignore_index=edge)
        plain.agree("loss", F.cross_entropy(Z, target, ignore_index=edge), want.double(), None, 4e-7)
