"""Heads with low-rank adapters: operands drawn for a shape, the loss of the whole weight, and how close a call comes.

The truth is the plain loss of W + Σ scale · B A in float64. An adapter with an input of its own is a head of more
features: [x, x2] · [W, scale · B A]ᵀ. The rival has the weight in parts too, and rounds what `LowRank` says is rounded:
u = scale · x2 · Aᵀ to the dtype of A, and then to that of the head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import linear, plain
from tests.torch.linear import Shape

HALVES = (torch.bfloat16, torch.float16)
NAMES = ("input", "linear_weight", "prob", "linear_bias", "sample_weight")


class Part(NamedTuple):
    """An adapter of a rank; with a width it has an input of its own with so many features, those of the head for 0."""

    rank: int
    scale: float
    width: int | None = None


ADAPTERS = {  # no scale whose square is itself, and none that two adapters share
    "one": (Part(2, 1.7),),
    "own input": (Part(3, 0.4, 0),),
    "own features": (Part(2, -1.3, 2),),
    "two": (Part(1, 0.6), Part(3, -2.0)),
    "three, one of its own": (Part(2, 1.5), Part(1, 0.7, 0), Part(2, -0.6, 3)),
}


class Adapter(NamedTuple):
    """The operands of one."""

    a: Any
    b: Any
    own: Any


def adapters_of(parts: tuple[Any, ...]) -> Iterator[Adapter]:
    """Operands by position, three for each adapter."""
    return (Adapter(*parts[k : k + 3]) for k in range(0, len(parts), 3))


# A call of ours, of the truth and of the rival: everything that may have a gradient by position


def weight_of(weight: Any, parts: tuple[Any, ...], scales: tuple[float, ...]) -> Any:
    """What is passed as the weight of a layer."""
    for each, scale in zip(adapters_of(parts), scales, strict=True):
        weight = F.LowRank(weight, each.a, each.b, scale, input=each.own)
    return weight


def ours(
    x: Tensor, w: Any, t: Any, b: Any = None, s: Any = None, *parts: Any, scales: tuple[float, ...], **options: Any
) -> Any:
    """The loss with adapters."""
    return F.linear_cross_entropy(x, weight_of(w, parts, scales), t, linear_bias=b, sample_weight=s, **options)


def whole(x: Tensor, w: Tensor, parts: tuple[Any, ...], scales: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Input and weight of one layer that is the head and all adapters; those of the head's input are in its weight."""
    inputs, weights = [x], [w]
    for each, scale in zip(adapters_of(parts), scales, strict=True):
        product = scale * (each.b @ each.a)
        if each.own is None:
            weights[0] = weights[0] + product
        else:
            inputs.append(each.own)
            weights.append(product)
    return torch.cat(inputs, -1), torch.cat(weights, -1)


def exact(
    x: Tensor, w: Tensor, t: Any, b: Any = None, s: Any = None, *parts: Any, scales: tuple[float, ...], **options: Any
) -> Any:
    """The plain loss of the whole weight."""
    return linear.linear_cross_entropy(*whole(x, w, parts, scales), t, b, s, **options)


def rival(
    x: Tensor, w: Tensor, t: Any, b: Any = None, s: Any = None, *parts: Any, scales: tuple[float, ...],
    factors: list[Any] | None = None, products: list[Tensor] | None = None, twice: bool = False, **options: Any,
) -> Any:  # fmt: skip
    """The plain loss of two products in float32, of numbers that are rounded where those of `LowRank` are.

    Each u goes to `products` and is multiplied by its factor; it is rounded `twice` where the scale comes later.
    """
    inputs, weights = [x], [w]
    for k, (each, scale) in enumerate(zip(adapters_of(parts), scales, strict=True)):
        own, wide = x if each.own is None else each.own, torch.float32 if each.a.dtype in HALVES else each.a.dtype
        u = nnf.linear(own.to(each.a.dtype).to(wide), each.a.to(wide))
        u = scale * (u.to(each.a.dtype).to(wide) if twice else u)
        u = u.to(each.a.dtype).to(x.dtype)
        if products is not None:
            products.append(u if u.requires_grad else u.requires_grad_())
        inputs.append(u if factors is None else u * factors[k])
        weights.append(each.b.to(x.dtype))
    wide_options = {k: v for k, v in options.items() if k != "chunk_bytes"}
    inputs = [u.float() if x.dtype in HALVES else u for u in inputs]
    weights = [u.float() if x.dtype in HALVES else u for u in weights]
    call = linear.in_float32(linear.linear_cross_entropy)
    rounded = {"rounded": True} if x.dtype == torch.bfloat16 else {}
    b = b.float() if b is not None and x.dtype in HALVES else b
    return call(torch.cat(inputs, -1), torch.cat(weights, -1), t, b, s, **rounded, **wide_options)


def rivals(args: tuple[Any, ...], options: dict[str, Any]) -> list[Any]:
    """The rival; and where u is rounded to a half, what it may be by luck too: rounded twice, and up and down a bit.

    A sum over rows can hide all rounding of one rival. So two more are as wrong as they can be, in either direction.
    """
    dtypes = {args[0].dtype, *(each.a.dtype for each in adapters_of(args[5:]))}
    if not dtypes & set(HALVES):
        return [rival]
    unit, products = max(torch.finfo(d).eps for d in dtypes) / 2, list[Tensor]()
    found = rival(*args, **options, products=products)
    loss = found[0] if isinstance(found, tuple) else found
    slopes = torch.autograd.grad(loss.sum(), products)
    worst = [(g * u).sign().float() * unit for g, u in zip(slopes, products, strict=True)]

    def pushed(by: float) -> Any:
        return lambda *a, **o: rival(*a, **o, factors=[1 + by * w for w in worst])

    return [rival, lambda *a, **o: rival(*a, **o, twice=True), pushed(1.0), pushed(-1.0)]


# How close


def cast(args: tuple[Any, ...], dtype: torch.dtype, of_adapters: torch.dtype | None = None) -> tuple[Any, ...]:
    """Leaves of a dtype, those of adapters of another one."""
    return tuple(plain.cast(x, dtype if k < len(NAMES) else of_adapters or dtype) for k, x in enumerate(args))


def doubled(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same numbers in float64."""
    return cast(args, torch.float64)


def outcome(function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Value, and gradients for random cotangents."""
    out, leaves = function(*args, **options), plain.leaves(*args)
    if not leaves:
        return out, []
    return out, list(torch.autograd.grad(out, leaves, plain.cotangent_like(out).to(out.dtype)))


def agree(name: str, got: Tensor, exact: Tensor, others: Any, floor: float) -> None:
    """The bar: at most twice the error of the worst rival, plus the floor."""
    plain.agree(name, got, exact, max(others, key=lambda x: plain.off(x, exact)), floor)


def check(function: Any, args: tuple[Any, ...], options: dict[str, Any], low: tuple[Any, ...] | None = None) -> None:
    """Hold value and gradients of a call against the truth, beside rivals (of other operands than the call's)."""
    wide = {k: plain.cast(v, torch.float64) for k, v in options.items() if k != "chunk_bytes"}
    got, grads = outcome(function, args, options)
    want, wants = outcome(exact, doubled(args), wide)
    low = args if low is None else low
    others = [outcome(f, cast_alike(low), options) for f in rivals(cast_alike(low), options)]
    assert got.dtype == (torch.float64 if args[0].dtype == torch.float64 else torch.float32)
    agree("loss", got, want, [x for x, _ in others], plain.FLOOR[got.dtype])
    dtypes = {x.dtype for x in linear.tensors(*low) if x.is_floating_point()}
    floor = max(plain.FLOOR[d] for d in dtypes)  # what has been in the narrowest is as exact as that
    for name, g, w, near, x in zip(
        names_of(args), grads, wants, zip(*(x for _, x in others), strict=True), plain.leaves(*args), strict=True
    ):
        assert g.dtype == x.dtype, name
        agree(f"the gradient of {name}", g, w, near, floor)


def cast_alike(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Other leaves with the same numbers."""
    return tuple(x if not isinstance(x, Tensor) else x.detach().clone().requires_grad_(x.requires_grad)
                 if not isinstance(x, TopK) else x for x in args)  # fmt: skip


def compare(
    dtype: torch.dtype, args: tuple[Any, ...], options: dict[str, Any], of_adapters: torch.dtype | None = None
) -> None:
    """Hold value and gradients of a call with operands of a dtype against the truth."""
    check(ours, cast(args, dtype, of_adapters), {k: plain.cast(v, dtype) for k, v in options.items()})


def names_of(args: tuple[Any, ...]) -> list[str]:
    """What the leaves among the arguments are called."""
    adapters = [f"{name} {k}" for k in range(len(args)) for name in Adapter._fields]
    held = [x.prob if isinstance(x, TopK) else x for x in args]
    return [n for n, x in zip([*NAMES, *adapters], held, strict=False) if isinstance(x, Tensor) and x.requires_grad]


# Arguments, drawn for a shape


def draw(
    shape: Shape,
    kind: str = "index",
    option: str = "nothing",
    *,
    adapters: str = "one",
    bias: bool = False,
    spread: float = 1.0,
    frozen: tuple[str, ...] = (),
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What tests.torch.linear draws, and the operands of adapters behind; the options have their scales."""
    spread /= math.sqrt(1 + len(ADAPTERS[adapters]))  # logits as large as without adapters
    args, options = linear.draw(shape, kind, option, bias=bias, spread=spread, frozen=frozen)
    parts: list[Any] = []
    for part in ADAPTERS[adapters]:
        width = part.width or shape.D
        a = torch.randn(part.rank, width, dtype=torch.float64) / math.sqrt(width)
        b = torch.randn(shape.C, *shape.out, part.rank, dtype=torch.float64)
        b *= spread / abs(part.scale) / math.sqrt(part.rank)
        own = None if part.width is None else torch.randn(*shape.lead, width, dtype=torch.float64)
        found = (a, b, own)
        parts += [
            x if x is None else x.requires_grad_(name not in frozen)
            for name, x in zip(Adapter._fields, found, strict=True)
        ]
    return (*args, *parts), options | {"scales": tuple(part.scale for part in ADAPTERS[adapters])}


def turns(*choices: Any) -> Iterator[tuple[Any, ...]]:
    """One of each without end, in cycles whose lengths share no factor with each other where the choices' do not."""
    return zip(*map(itertools.cycle, choices), strict=True)
