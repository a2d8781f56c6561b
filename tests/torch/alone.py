"""Rows of logits that are computed alone and in batches, with every number that comes of a row, and its bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import crossent.torch as F

KINDS = ("index", "dense", "topk")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"temperature": 0.7},
    "all": {"temperature": 1.3, "softcap": 20.0, "label_smoothing": 0.1, "z_loss": 1e-3},
}


class Rows:
    """Logits (N, V), their target, sample weights, and cotangents, some of them 0."""

    def __init__(self, N: int, V: int, dtype: torch.dtype, kind: str, name: str) -> None:
        random = torch.Generator().manual_seed(N * V)
        z = torch.randn(N, V, generator=random, dtype=torch.float64) * 3
        z[1::5, 0] += 60  # confident
        z[3::5] = z[3::5].round()  # ties at the peak
        masked = kind == "index" and name != "all"
        if masked:
            z[2::5, ::2] = -torch.inf
        self.z, self.options = z.to(dtype), dict(OPTIONS[name])
        if name == "all":
            self.options["weight"] = torch.rand(V, generator=random)
        narrow = torch.float64 if dtype == torch.float64 else torch.float32
        self.samples = torch.rand(N, generator=random).to(narrow)
        self.g = torch.randn(3, N, generator=random).to(narrow)
        for k in range(3):
            self.g[k, k :: 4 + k] = 0
        index = torch.randint(V, (N,), generator=random)
        if masked:
            index[2::5] = (index[2::5] // 2 * 2 + 1).clamp(max=(V - 2) // 2 * 2 + 1)  # of the other classes
        self.prob: Tensor | None = None
        self.index = index
        self.kind = kind
        if kind == "index":
            self.index[4::7] = -100
        elif kind == "dense":
            self.prob = torch.rand(N, V, generator=random).to(narrow) / V
            self.prob[:, ::3] = 0
        else:
            self.index = torch.stack((index, index, (index + 2) % V), 1)
            self.prob = torch.rand(N, 3, generator=random).to(narrow)

    def target(self, rows: Tensor, shape: tuple[int, ...] | None = None) -> Any:
        """The target of some rows, beside logits (N, V), or (outer, V, inner) for rows of shape (outer, inner)."""

        def placed(x: Tensor) -> Tensor:
            x = x[rows]
            return x if shape is None else x.reshape(*shape, *x.shape[1:]).movedim(-1, 1).contiguous()

        if self.kind == "dense":
            assert self.prob is not None
            return placed(self.prob)
        if self.kind == "topk":
            assert self.prob is not None
            return F.TopK(placed(self.index), placed(self.prob))
        return self.index[rows] if shape is None else self.index[rows].reshape(shape)

    def results(self, rows: Tensor, shape: tuple[int, ...] | None = None, *, offset: int = 0) -> dict[str, Tensor]:
        """What becomes of some rows in one batch, rows first; `offset` is where in memory the logits begin."""
        z, target, g = self.z[rows], self.target(rows, shape), self.g[:, rows]
        options = {**self.options, "sample_weight": self.samples[rows]}
        if shape is not None:
            z, g = z.reshape(*shape, -1).movedim(-1, 1).contiguous(), g.reshape(3, *shape)
            options["sample_weight"] = options["sample_weight"].reshape(shape)
        memory = torch.empty(offset + z.numel(), dtype=z.dtype)
        x = memory[offset:].view(z.shape).copy_(z).requires_grad_()

        def first(gradient: Tensor) -> Tensor:
            return gradient if shape is None else gradient.movedim(1, -1).reshape(len(rows), -1)

        found: dict[str, Tensor] = {}
        loss = F.cross_entropy(x, target, reduction="none", **options)
        found["loss"], found["gradient"] = loss, first(torch.autograd.grad(loss, x, g[0])[0])
        loss, stats = F.cross_entropy(x, target, reduction="none", return_stats=True, **options)
        outputs = [loss, stats.lse, stats.entropy]
        found["gradient of all"] = first(torch.autograd.grad(outputs, x, list(g))[0])
        found["loss beside statistics"] = loss
        for name in ("lse", "logprob", "entropy", "confidence", "correct", "log_sum_squares", "predicted"):
            found[name] = getattr(stats, name)
        for name, given in (("sum", {}), ("weighted sum", options)):
            few = {k: v for k, v in self.options.items() if k != "z_loss"} | given
            total = F.cross_entropy(x, target, reduction="sum", **few)
            found[f"gradient of a {name}"] = first(torch.autograd.grad(total, x)[0])
        return {name: value.detach().reshape(len(rows), -1) for name, value in found.items()}


def different(found: dict[str, Tensor], whole: dict[str, Tensor], rows: Tensor) -> list[str]:
    """Which results of some rows have other bits than those that the whole batch has for them."""
    return [name for name, value in found.items() if not torch.equal(bits(value), bits(whole[name][rows]))]


def bits(x: Tensor) -> Tensor:
    """The numbers as integers, so that −0 is not 0 and a NaN is itself."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.contiguous().view(sizes[x.element_size()])
