"""The loss of a linear layer in plain torch operations, calls drawn for a shape, and how close a call has to come.

The truth is the plain loss in float64, on the numbers of the dtype. The rival is the plain loss in float32 on the same
numbers: the products of half-precision operands are to be float32, and only the final gradients are rounded. Beneath
bfloat16 the gradient of the logits is rounded too, as it is on processors that multiply bfloat16 matrices.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from crossent.torch import TopK
from tests.torch import plain


@dataclasses.dataclass(frozen=True)
class Shape:
    """Batch dimensions, dimensions of the classes beyond the first, classes and features."""

    lead: tuple[int, ...]
    out: tuple[int, ...]
    C: int
    D: int

    @property
    def rows(self) -> tuple[int, ...]:
        return (*self.lead, *self.out)

    def soft(self, K: int) -> tuple[int, ...]:
        return (*self.lead, K, *self.out)

    def __str__(self) -> str:
        return f"{self.lead} {self.out} C={self.C} D={self.D}"


VECTOR, ROWS, PIXELS = Shape((), (), 7, 3), Shape((5,), (), 7, 3), Shape((4,), (3,), 6, 2)
TOKENS, BOTH = Shape((2, 3), (), 5, 4), Shape((2, 3), (2, 2), 4, 3)
WIDE, LONG, DEEP = Shape((3,), (), 700, 8), Shape((150,), (), 13, 5), Shape((9,), (), 33, 130)
SHAPES = (VECTOR, ROWS, PIXELS, TOKENS, BOTH, WIDE, LONG, DEEP)
KINDS = ("index", "ignored", "dense", "topk")
WITH = {  # every option alone and all together; C and N stand for a number for each class and each row
    "nothing": {},
    "weight": {"weight": "C"},
    "smoothing": {"label_smoothing": 0.2},
    "temperature": {"temperature": 0.6},
    "temperatures": {"temperature": "N"},
    "softcap": {"softcap": 4.0},
    "z-loss": {"z_loss": 1e-2},
    "sample weight": {"sample_weight": "N"},
    "everything": {
        "weight": "C",
        "label_smoothing": 0.2,
        "temperature": 1.7,
        "softcap": 3.0,
        "z_loss": 1e-2,
        "sample_weight": "N",
    },
}


def linear_cross_entropy(
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    target: Any,
    linear_bias: Tensor | None = None,
    sample_weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    chunk_bytes: int | None = None,
    rounded: bool = False,
    **options: Any,
) -> Any:
    """The product and then the plain loss; everything that may have a gradient by position."""
    C, D = linear_weight.shape[0], linear_weight.shape[-1]
    lead, out = input.shape[:-1], linear_weight.shape[1:-1]
    z = nnf.linear(
        input.reshape(-1, D), linear_weight.reshape(-1, D), None if linear_bias is None else linear_bias.reshape(-1)
    ).reshape(-1, C, *out)

    if rounded and z.requires_grad:
        _ = z.register_hook(lambda g: g.bfloat16().to(g.dtype))

    def rows(x: Tensor) -> Tensor:
        return x.reshape(len(z), *x.shape[len(lead) :])

    if isinstance(temperature := options.get("temperature"), Tensor):
        options["temperature"] = rows(temperature)
    target = TopK(rows(target.index), rows(target.prob)) if isinstance(target, TopK) else rows(target)
    result = plain.cross_entropy(
        z,
        target,
        ignore_index=-100 if ignore_index is None else ignore_index,
        sample_weight=None if sample_weight is None else rows(sample_weight),
        **options,
    )
    loss, stats = result if isinstance(result, tuple) else (result, {})
    loss = loss.reshape((*lead, *out)) if loss.ndim else loss
    stats = {k: v.reshape((*lead, *out)) for k, v in stats.items()}
    return (loss, stats) if stats else loss


def by_position(function: Any) -> Any:
    """The function with everything that may have a gradient by position, as the plain one has it."""

    def call(x: Tensor, w: Tensor, t: Any, b: Tensor | None = None, s: Tensor | None = None, **options: Any) -> Any:
        return function(x, w, t, linear_bias=b, sample_weight=s, **options)

    return call


def in_float32(function: Any) -> Any:
    """The plain function on operands of half precision, computed in float32 and rounded where it has to be."""

    def widen(x: Any) -> Any:
        if isinstance(x, TopK):
            return TopK(x.index, widen(x.prob))
        half = isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
        return x.float() if half else x

    def call(*args: Any, **options: Any) -> Any:
        rounded = {"rounded": True} if args[0].dtype == torch.bfloat16 else {}
        return function(*map(widen, args), **{k: widen(v) for k, v in options.items()}, **rounded)

    return call


def compare(function: Any, dtype: torch.dtype, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Hold value and gradients of a call against the plain loss."""
    rival = in_float32(linear_cross_entropy)
    plain.compare(by_position(function), rival, linear_cross_entropy, dtype, args, options)


# Arguments, drawn for a shape


def draw(
    shape: Shape,
    kind: str,
    option: str = "nothing",
    *,
    bias: bool = False,
    spread: float = 1.0,
    frozen: tuple[str, ...] = (),
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Input, linear weight, target, bias and sample weight, all in float64 and differentiable; and the options."""

    def leaf(name: str, x: Tensor) -> Tensor:
        return x.requires_grad_(name not in frozen)

    x = leaf("input", torch.randn(*shape.lead, shape.D, dtype=torch.float64))
    scale = spread / math.sqrt(shape.D)
    w = leaf("linear_weight", scale * torch.randn(shape.C, *shape.out, shape.D, dtype=torch.float64))
    b = leaf("linear_bias", torch.randn(shape.C, *shape.out, dtype=torch.float64)) if bias else None
    options = dict(WITH[option])
    s = leaf("sample_weight", torch.rand(shape.rows, dtype=torch.float64)) if "sample_weight" in options else None
    _ = options.pop("sample_weight", None)
    if options.get("temperature") == "N":
        options["temperature"] = torch.rand(shape.rows, dtype=torch.float64) + 0.5
    if "weight" in options:
        options["weight"] = torch.rand(shape.C, dtype=torch.float64) + 0.1
    return (x, w, target_of(shape, kind, differentiable="prob" not in frozen), b, s), options


def target_of(shape: Shape, kind: str, *, differentiable: bool = True) -> Any:
    """A target of a kind; not all rows are ignored, as a mean over one or none has no derivative by its weight."""
    if kind == "dense":
        prob = torch.rand(shape.soft(shape.C), dtype=torch.float64)
        prob[torch.rand(prob.shape) < 0.2] = 0.0
        return prob.requires_grad_(differentiable)
    if kind == "topk":
        prob = torch.rand(shape.soft(3), dtype=torch.float64)
        return TopK(torch.randint(shape.C, prob.shape), prob.requires_grad_(differentiable))
    y = torch.randint(shape.C, shape.rows)
    if kind == "ignored" and shape.rows:
        y = torch.where(torch.rand(shape.rows) < 0.3, -100, y)
        y.view(-1)[:2] = 0
        y.view(-1)[-1] = -100
    return y


def tensors(*values: Any) -> list[Tensor]:
    """All tensors among arguments."""
    found = []
    for x in values:
        found += [x.index, x.prob] if isinstance(x, TopK) else [x] if isinstance(x, Tensor) else []
    return found
