"""Losses as functions of the tensors that they are differentiable by, ours beside torch's or the plain formula.

Tests of function transforms and of tracers go through all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain, teaching

N, V, D = 4, 5, 3


class Case(NamedTuple):
    """A loss and its rival, and the shapes of what they are differentiable by."""

    ours: Callable[..., Tensor]
    rival: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    ranges: tuple[str, ...]
    """What each input holds: "real" numbers, or a "share" between 0 and 1."""

    def inputs(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """Random inputs."""
        draws = {"real": torch.randn, "share": torch.rand}
        return tuple(draws[r](s, dtype=dtype) for s, r in zip(self.shapes, self.ranges, strict=True))


CASES: dict[str, Case] = {}
INDEX = torch.tensor([2, -100, 0, 4])
SQUARE, WARM = INDEX.reshape(2, 2), torch.linspace(0.5, 2.0, N)
TOP = torch.tensor([[0, 3], [1, 1], [4, 2], [2, 0]])
CLASS_WEIGHT = torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5], dtype=torch.float64)


def case(name: str, *shapes: tuple[int, ...], share: tuple[int, ...] = ()) -> Callable[..., Any]:
    """Register `f(home, *inputs)` as the case of this name; homes have the functions of `crossent.torch`."""
    ranges = tuple("share" if k in share else "real" for k in range(len(shapes)))

    def register(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        CASES[name] = Case(lambda *x: f(F, *x), lambda *x: f(Rival, *x), shapes, ranges)
        return f

    return register


class Rival:
    """torch's own functions where torch has the options, else the plain formulas."""

    @staticmethod
    def cross_entropy(z: Tensor, target: Any, weight: Tensor | None = None, **options: Any) -> Any:
        ours = {"temperature", "softcap", "z_loss", "sample_weight", "return_stats"} & set(options)
        home: Any = plain if ours or isinstance(target, TopK) else nnf
        return home.cross_entropy(z, target, weight, **options)

    @staticmethod
    def linear_cross_entropy(
        x: Tensor, w: Tensor, target: Any, *, linear_bias: Tensor | None = None, chunk_bytes: int = 0, **options: Any
    ) -> Any:
        logits = nnf.linear(x, w, linear_bias)
        return Rival.cross_entropy(logits, target, **options)

    binary_cross_entropy = staticmethod(nnf.binary_cross_entropy)
    binary_cross_entropy_with_logits = staticmethod(nnf.binary_cross_entropy_with_logits)


for _reduction in ("mean", "sum", "none"):

    @case(f"index {_reduction}", (N, V))
    def _index(home: Any, z: Tensor, reduction: str = _reduction) -> Tensor:
        weight = CLASS_WEIGHT.to(z.dtype)
        return home.cross_entropy(z, INDEX, weight, reduction=reduction, label_smoothing=0.1)

    @case(f"binary logits {_reduction}", (N, V), (N, V), share=(1,))
    def _binary_logits(home: Any, x: Tensor, t: Tensor, reduction: str = _reduction) -> Tensor:
        w = CLASS_WEIGHT.to(x.dtype)
        return home.binary_cross_entropy_with_logits(x, t, w, reduction=reduction, pos_weight=w + 1)

    @case(f"binary {_reduction}", (N, V), (N, V), share=(0, 1))
    def _binary(home: Any, x: Tensor, t: Tensor, reduction: str = _reduction) -> Tensor:
        return home.binary_cross_entropy(x, t, CLASS_WEIGHT.to(x.dtype), reduction=reduction)

    @case(f"linear {_reduction}", (N, D), (V, D), (V,))
    def _linear(home: Any, x: Tensor, w: Tensor, b: Tensor, reduction: str = _reduction) -> Tensor:
        return home.linear_cross_entropy(x, w, INDEX, linear_bias=b, reduction=reduction, chunk_bytes=256)


@case("plain", (N, V))
def _plain(home: Any, z: Tensor) -> Tensor:
    return home.cross_entropy(z, INDEX)


@case("one row", (V,))
def _one_row(home: Any, z: Tensor) -> Tensor:
    return home.cross_entropy(z, INDEX[3])


@case("dense", (N, V), (N, V), share=(1,))
def _dense(home: Any, z: Tensor, p: Tensor) -> Tensor:
    return home.cross_entropy(z, p, CLASS_WEIGHT.to(z.dtype), label_smoothing=0.1)


@case("pixels", (2, V, 2), (2, V, 2), share=(1,))
def _pixels(home: Any, z: Tensor, p: Tensor) -> Tensor:
    return home.cross_entropy(z, p, reduction="sum") + home.cross_entropy(z, INDEX.reshape(2, 2))


@case("topk", (N, V), (N, 2), (N,), share=(1, 2))
def _topk(home: Any, z: Tensor, p: Tensor, s: Tensor) -> Tensor:
    return home.cross_entropy(z, TopK(TOP, p), temperature=0.7, z_loss=0.1, sample_weight=s)


@case("temperatures", (N, V), (2, V, 2))
def _temperatures(home: Any, z: Tensor, pixels: Tensor) -> Tensor:
    T = WARM.to(z.dtype)
    if home is F:
        loss = home.cross_entropy(pixels, SQUARE, temperature=T.reshape(2, 2), reduction="sum")
        return loss + home.cross_entropy(z, INDEX, temperature=T)
    return home.cross_entropy(pixels / T.reshape(2, 1, 2), SQUARE, reduction="sum") + home.cross_entropy(
        z / T[:, None], INDEX
    )


@case("statistics", (N, V), (N,), share=(1,))
def _statistics(home: Any, z: Tensor, s: Tensor) -> Tensor:
    loss, stats = home.cross_entropy(z, INDEX, softcap=2.0, z_loss=0.1, sample_weight=s, return_stats=True)
    of = functools.partial(getattr, stats) if home is F else stats.__getitem__
    parts = of("lse"), of("logprob"), of("entropy"), of("confidence").detach(), of("log_sum_squares")
    counts = of("correct").to(z.dtype).sum() + of("predicted").to(z.dtype).sum()
    return loss + sum(k * (part * s).sum() for k, part in enumerate(parts, 1)) + counts


@case("linear soft", (N, D), (V, D), (N, V), share=(2,))
def _linear_soft(home: Any, x: Tensor, w: Tensor, p: Tensor) -> Tensor:
    return home.linear_cross_entropy(x, w, p, temperature=0.7, z_loss=0.1)


@case("linear statistics", (N, D), (V, D))
def _linear_statistics(home: Any, x: Tensor, w: Tensor) -> Tensor:
    loss, stats = home.linear_cross_entropy(x, w, INDEX, softcap=3.0, return_stats=True)
    of = functools.partial(getattr, stats) if home is F else stats.__getitem__
    return loss + (of("lse") * of("entropy") * of("log_sum_squares")).sum()


@case("divergences", (N, V), (N, V))
def _divergences(home: Any, z: Tensor, t: Tensor) -> Tensor:
    scores = {"temperature": 0.7, "softcap": 3.0, "teacher_temperature": 1.5, "target": INDEX, "beta": 0.3}
    if home is F:
        parts = [F.divergence(z, t, reduction="none", return_stats=True, kind=k, **scores)[0] for k in teaching.KINDS]
    else:
        found = teaching.statistics(z, t, **scores)
        parts = [found[name] for name in teaching.KINDS.values()]
    return (parts[0] + parts[1] ** 2).sum() + parts[2].sum()


@case("linear divergences", (N, D), (V, D), (N, 2))
def _linear_divergences(home: Any, x: Tensor, w: Tensor, t: Tensor) -> Tensor:
    its, bias = w[:, :2], w[:, 2]
    scores = {"temperature": 0.7, "softcap": 3.0, "teacher_temperature": 1.5, "target": INDEX}
    if home is F:
        parts = [
            F.linear_divergence(
                x, w, t, its, linear_bias=bias, reduction=reduction, kind=kind, chunk_bytes=256, **scores
            )
            for kind, reduction in zip(teaching.KINDS, ("sum", "none", "mean"), strict=True)
        ]
    else:
        found = teaching.statistics(nnf.linear(x, w, bias), nnf.linear(t, its), **scores)
        parts = [found["kl"].sum(), found["reverse_kl"], found["js"].sum() / (INDEX != -100).sum()]
    return parts[0] + (parts[1] ** 2).sum() + parts[2]


@case("sparse teachers", (N, V), (N, 2), share=(1,))
def _sparse_teachers(home: Any, z: Tensor, p: Tensor) -> Tensor:
    p = 0.4 * p + 0.05
    if home is F:
        return F.divergence(z, TopK(TOP, p), tail="bucket", reduction="sum")
    once = (TOP[:, :1] == TOP[:, 1:]).to(p.dtype)  # the second row has one class twice
    p = torch.cat((p[:, :1] + once * p[:, 1:], p[:, 1:] * (1 - once)), 1)
    q = z.softmax(1).gather(1, TOP) * torch.cat((torch.ones_like(once), 1 - once), 1)
    parts = torch.cat((p, 1 - p.sum(1, keepdim=True)), 1), torch.cat((q, 1 - q.sum(1, keepdim=True)), 1)
    p, q = (x.masked_fill(x == 0, 1.0) for x in parts)
    return (p * (p / q).log()).sum()
