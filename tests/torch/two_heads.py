"""Operands of a student's and of a teacher's head, their logits in plain torch operations, and how close a call comes.

The truth is the product in float64, and then the statistics of tests.torch.teaching.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import crossent.torch as F
from tests.torch import plain, teaching

NAMES = ("input", "teacher_input", "linear_weight", "linear_bias", "teacher_weight", "teacher_bias")
"""Operands in the order in which teaching.check takes leaves: those of its first two have the dtypes of the heads."""
STUDENT, TEACHER = ("input", "linear_weight", "linear_bias"), ("teacher_input", "teacher_weight", "teacher_bias")
Given = dict[str, Tensor]


def draw(
    rows: tuple[int, ...],
    V: int,
    positions: tuple[int, ...] = (),
    *,
    dtype: torch.dtype = torch.float64,
    teacher_dtype: torch.dtype | None = None,
    bias: bool = True,
    widths: tuple[int, int] = (5, 3),
    spread: float = 2.0,
) -> Given:
    """Operands of both heads, all leaves that want a gradient."""
    found: Given = {}
    dtypes = dtype, teacher_dtype or dtype
    for names, D, of in zip((STUDENT, TEACHER), widths, dtypes, strict=True):
        shapes = (*rows, D), (V, *positions, D), (V, *positions)
        parts = (
            torch.randn(shapes[0]),
            spread / math.sqrt(D) * torch.randn(shapes[1]),
            torch.randn(shapes[2]),
        )
        found |= {name: x.to(of).requires_grad_() for name, x in zip(names, parts, strict=True)}
    return {name: found[name] for name in NAMES if bias or not name.endswith("bias")}


def doubled(given: Given) -> Given:
    """The same numbers in float64."""
    return {name: x.detach().double().requires_grad_() for name, x in given.items()}


def copied(given: Given, *, frozen: Sequence[str] = ()) -> Given:
    """The same operands, as other leaves."""
    return {name: x.detach().clone().requires_grad_(name not in frozen) for name, x in given.items()}


def head(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Logits of a head, the classes on the last axis."""
    z = torch.tensordot(x, weight, dims=([-1], [-1]))
    z = z if bias is None else z + bias
    return z.movedim(x.ndim - 1, -1)


def logits(given: Given) -> tuple[Tensor, Tensor]:
    """Logits of the student and of the teacher."""
    student, teacher = ([given[name] for name in names if name in given] for names in (STUDENT, TEACHER))
    return head(*student), head(*teacher)


def ours(given: Given, **options: Any) -> Any:
    """The divergence of two heads."""
    operands = [given.get(name) for name in ("input", "linear_weight", "teacher_input", "teacher_weight")]
    biases = {name: given[name] for name in ("linear_bias", "teacher_bias") if name in given}
    return F.linear_divergence(*operands, **biases, **options)


def stats(given: Given, **options: Any) -> Any:
    """The statistics of a call."""
    return ours(given, return_stats=True, **options)[1]


def eager(given: Given, **options: Any) -> Any:
    """The divergence of logits that are made first: the slow twin."""
    return F.divergence(*logits(given), **options)


def truth(exact: Given, **options: Any) -> dict[str, Tensor]:
    """All statistics, from operands in float64."""
    options = {k: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for k, x in options.items()}
    return teaching.statistics(*logits(exact), **options)


def reduced(each: Tensor, reduction: str, sample_weight: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
    """The loss of a call from the losses of its rows; where `valid` is false rows are ignored."""
    s = torch.ones_like(each) if sample_weight is None else sample_weight.double()
    s = s if valid is None else torch.where(valid, s, 0.0)
    each = s * each
    return {"none": each, "sum": each.sum(), "mean": each.sum() / s.sum()}[reduction]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits and of what is made of them."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def bar(*dtypes: torch.dtype) -> float:
    """How far a number may be off that is made of operands of these dtypes, relative to all numbers beside it."""
    return max(teaching.BAR[dtype] for dtype in dtypes)


def compare(got: Tensor, want: Tensor, given: Given, exact: Given, beside: float = 0.0) -> None:
    """Hold a loss, and the gradients for a random cotangent of all operands that want one, against the truth.

    `beside` is what gradients may be off by beyond their bar, in the same unit.
    """
    heads = [wide(given[name].dtype) for name in NAMES[:2] if name in given]
    assert got.dtype == heads[0]
    error = plain.off(got, want)
    assert error <= bar(*heads), f"the loss is off by {error:.2g}"
    names = [name for name, x in given.items() if x.requires_grad]
    g = plain.cotangent_like(want)
    kept: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    grads = torch.autograd.grad(got, [given[name] for name in names], g.to(got.dtype), **kept)
    wants = torch.autograd.grad(want, [exact[name] for name in names], g, **kept)
    for name, a, b in zip(names, grads, wants, strict=True):
        assert a.dtype == given[name].dtype, name
        error = plain.off(a, b)
        assert error <= bar(a.dtype, *heads) + beside, f"the gradient of {name} is off by {error:.2g}"


def gradients(loss: Tensor, given: Given, **how: Any) -> dict[str, Tensor]:
    """Gradients of all operands that want one, by name."""
    names = [name for name, x in given.items() if x.requires_grad]
    found = torch.autograd.grad(loss, [given[name] for name in names], **how)
    return dict(zip(names, found, strict=True))
