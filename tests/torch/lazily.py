"""A fused head beside one left alone, what is asked of both, and a watch on what torch makes meanwhile."""

from __future__ import annotations

import copy
import dataclasses
import operator
import types
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import crossent.torch as F
from crossent.torch.sources import linear
from tests.torch import plain

B, S, D, V = 2, 7, 5, 11  # more logits than weights, so that the largest memory tells
LOGITS = B * (S - 1) * V
REFUSED = (RuntimeError, NotImplementedError, TypeError)


def pair(dtype=torch.float64, bias=True, shape=(B, S, D), classes=V):
    """A fused head and one left alone, each with an input of its own."""
    twin = nn.Linear(D, classes, bias=bias, dtype=dtype)
    head = F.fuse_lm_head(copy.deepcopy(twin))
    x = 2 * torch.randn(shape, dtype=dtype)
    return (head, x.clone().requires_grad_()), (twin, x.clone().requires_grad_())


def memory_for_logits(monkeypatch, number):
    """Give losses memory for so many float32 logits on a CPU where the caller asks for none: all that fit may exist."""
    monkeypatch.setattr(linear, "CPU", dataclasses.replace(linear.CPU, chunk_bytes=4 * number))


def others(dtype=torch.float64, shape=(B, S), classes=V):
    """What logits meet: labels, numbers in a tensor, a row, other logits, probabilities. The same with every call."""
    g = torch.Generator().manual_seed(3)

    def leaf(*size):
        return (torch.rand(size, generator=g, dtype=torch.float64) + 0.5).to(dtype).requires_grad_()

    y = torch.randint(classes, shape, generator=g)
    ignored = torch.where(torch.rand(shape, generator=g) < 0.4, -100, y)
    real, t, row = leaf(*shape, classes), leaf(), leaf(classes)
    p = real.detach().softmax(-1).requires_grad_()
    return types.SimpleNamespace(y=y, ignored=ignored, t=t, row=row, real=real, p=p, w=row.detach())


def outcome(use, head, x, a):
    """The value, and the gradients of everything that has one (zeros where it has none)."""
    out = use(head(x), a)
    if not isinstance(out, Tensor) or not out.requires_grad:
        return out, None
    g = plain.cotangent_like(out).to(out.dtype)
    inputs = [x, *head.parameters(), a.t, a.row, a.real, a.p]
    return out, torch.autograd.grad((out * g).sum(), inputs, allow_unused=True, materialize_grads=True)


def same(use, dtype=torch.float64, bias=True, shape=(B, S, D)):
    (fused, alone), a = pair(dtype, bias, shape), others(dtype, shape[:-1])
    want, wants = outcome(use, *alone, a)
    got, grads = outcome(use, *fused, a)
    assert got.dtype == want.dtype
    assert got.requires_grad == want.requires_grad
    if not want.is_floating_point():
        assert torch.equal(got, want)
        return
    floor = plain.FLOOR[want.dtype]
    plain.agree("value", got, want, None, floor)
    for k, (g, w) in enumerate(zip(grads or (), wants or (), strict=True)):
        plain.agree(f"gradient {k}", g, w, None, floor)


def same_or_raises(use):
    """What cannot be had from lazy logits may be refused; wrong numbers may not come."""
    (fused, _), a = pair(), others()
    try:
        _ = outcome(use, *fused, a)
    except REFUSED:
        return
    same(use)


def expressions(text):
    """Of z, the logits, and a, the others; separated by semicolons."""
    return [part.strip() for part in text.replace("\n", ";").split(";") if part.strip()]


def selective_log_softmax(z, index):
    """What trainers of reinforcement learning do to logits in full precision."""
    index = index.unsqueeze(-1) if index.ndim < z.ndim else index
    selected = torch.gather(z, dim=-1, index=index)
    return selected - torch.stack([torch.logsumexp(rows, dim=-1) for rows in z]).unsqueeze(-1)


def by_rows(z, index):
    """What they do in half precision: a loop over sequences."""
    index = index.unsqueeze(-1) if index.ndim < z.ndim else index
    pairs = zip(z, index, strict=True)
    return torch.stack([nnf.log_softmax(rows, dim=-1).gather(dim=-1, index=labels) for rows, labels in pairs])


NAMES = {
    "torch": torch, "nn": nn, "nnf": nnf, "F": F, "operator": operator,
    "selective_log_softmax": selective_log_softmax, "by_rows": by_rows,
}  # fmt: skip


def value(text, z, a=None):
    return eval(text, NAMES | {"z": z, "a": a})


class Largest(TorchDispatchMode):
    """The number of elements of the largest memory that an operator hands out: what holds no memory counts for none."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and type(x) in {Tensor, torch.nn.Parameter} and x.device.type != "meta":
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


def is_lazy(z):
    """Whether a loss of these logits can be had without them."""
    with Largest() as seen:
        _ = nnf.cross_entropy(z.view(-1, V), torch.zeros(z.shape[:-1].numel(), dtype=torch.long))
    return seen.elements < LOGITS
