"""What a head with low-rank adapters costs: no logits of all rows, no second weight, and products of rank r beside."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import crossent.torch as F
from tests.torch.lazily import Largest
from tests.torch.test_linear_products import peak_of

N, V, D, R = 96, 240, 64, 3
"""Rows, classes, features and rank: logits and weight are the two largest tensors that there could be."""
PRODUCT = 2 * N * V * D
"""Operations of the head's logits."""


@pytest.fixture
def kernels_in_sight(monkeypatch):
    """Run kernels without the dispatcher, so that counters see what they make."""
    for name, module in list(sys.modules.items()):
        if name.startswith("crossent.torch.") and hasattr(module, "is_watched"):
            monkeypatch.setattr(module, "is_watched", lambda: False)


def operands(dtype=torch.float32, of_adapters=None, *, shape=(N, V, D, R), learns=False, own=False):
    n, v, d, r = shape
    x = torch.randn(n, d).to(dtype).requires_grad_()
    w = (torch.randn(v, d) / d**0.5).to(dtype).requires_grad_(learns)
    a, b = (torch.randn(k).to(of_adapters or dtype).requires_grad_() for k in ((r, d), (v, r)))
    return x, w, a, b, (nnf.dropout(x, 0.3) if own else None)


def a_step(x, w, a, b, own, number=1, **options):
    weight = w
    for _ in range(number):
        weight = F.LowRank(weight, a, b, 0.7, input=own)
    y = torch.arange(len(x)) % len(b)
    loss = F.linear_cross_entropy(x, weight, y, **options)
    loss.sum().backward(retain_graph=own is not None)


PLAIN = (Tensor, torch.nn.Parameter)
"""Types of tensors with memory of their own."""


class LargestMade(Largest):
    """Without operands that were there before, which operators hand out as views."""

    def __init__(self, *operands):
        super().__init__()
        self.there = {x.untyped_storage().data_ptr() for x in operands if type(x) in PLAIN}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if type(x) in PLAIN and x.device.type != "meta":
                memory = x.untyped_storage()
                if memory.data_ptr() not in self.there:
                    self.elements = max(self.elements, memory.nbytes() // x.element_size())
        return out


def largest(step, *operands):
    with LargestMade(*operands) as seen:
        step()
    return seen.elements


STEPS = {
    "loss": {},
    "rows": {"reduction": "none"},
    "softcap and smoothing": {"softcap": 3.0, "label_smoothing": 0.1},
    "closing": {"closing": lambda rows: rows.loss + rows.entropy},
}


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(
    "dtypes", [(torch.float32, None), (torch.bfloat16, None), (torch.bfloat16, torch.float32)], ids=str
)
def test_no_operator_hands_out_logits_or_a_weight(dtypes, options, watched, request):
    if not watched:
        request.getfixturevalue("kernels_in_sight")
    assert N * V > V * D > max(N * D, V * R, 4 * N * R)
    for chunk_bytes, own, number in itertools.product((4 * V * 8, 4 * V * 30), (False, True), (1, 2)):
        given = operands(*dtypes, own=own)
        bound = V * D if chunk_bytes < 4 * V * 30 else N * V
        got = largest(lambda given=given, k=number, c=chunk_bytes: a_step(*given, k, chunk_bytes=c, **options), *given)
        assert got < bound


def test_no_operator_hands_out_logits_of_statistics_and_divergences():
    x, w, a, b, _ = operands()
    weight, y = F.LowRank(w, a, b, 0.7), torch.arange(N) % V
    how = {"chunk_bytes": 4 * V * 8}

    def statistics():
        found = F.linear_logprobs(x, weight, y, **how)
        (found.logprob + found.entropy).sum().backward()

    def several():
        F.linear_logprobs(x, weight, torch.stack([y, y.flip(0)], 1), **how).logprob.sum().backward()

    def divergence():
        F.linear_divergence(x, weight, x.detach(), w, **how).backward()

    def from_an_adapter():
        F.linear_divergence(x, w, x.detach(), F.LowRank(w, a.detach(), b.detach()), **how).backward()

    for step in (statistics, several, divergence, from_an_adapter):
        assert largest(step, x, w, a, b) < V * D, step.__name__


def test_evaluation_makes_neither():
    x, w, a, b, _ = operands()
    with torch.no_grad():
        for options in ({}, {"reduction": "none"}, {"return_stats": True}):
            y = torch.arange(N) % V
            step = lambda o=options, y=y: F.linear_cross_entropy(  # noqa: E731
                x, F.LowRank(w, a, b), y, chunk_bytes=4 * V * 8, **o
            )
            assert largest(step, x, w, a, b) < V * D


def test_the_whole_weight_is_what_the_bound_sees():
    x, w, a, b, _ = operands()

    def eager():
        nnf.cross_entropy(x @ (w + b @ a).T, torch.arange(N) % V).backward()

    assert largest(eager, x, w, a, b) >= N * V


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtypes", [(torch.float32, None), (torch.bfloat16, torch.float32)], ids=str)
def test_memory_that_torch_allocates(dtypes, reduction):
    n, v, d, r = shape = (1024, 60_000, 256, 8)
    given, chunk = operands(*dtypes, shape=shape), 2**23
    got = peak_of(lambda: a_step(*given, chunk_bytes=chunk, reduction=reduction))
    gradients = 4 * (n * d + v * r + r * d)
    # tiles of logits, of their gradient and of a weight in float32; gradients once, and once more in float32
    assert got <= 4 * chunk + 3 * gradients
    assert got < 4 * v * d < 4 * n * v


# Products


def counted(step):
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("learns", "head"), [(False, 2), (True, 3)], ids=["the weight is frozen", "the weight learns"])
def test_products_are_those_of_the_head_and_of_rank_r(learns, head, number):
    """With all logits in one chunk: logits, gradient of the input, and that of the weight only if it is wanted."""
    given = operands(learns=learns)
    of_rank = 2 * N * R * (D + V)  # u, and its product with B
    got = counted(lambda: a_step(*given, number, chunk_bytes=2**26))
    assert head * PRODUCT < got <= head * PRODUCT + 3 * number * of_rank
