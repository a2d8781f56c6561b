"""Log-probabilities of classes in plain torch operations, and how close a call has to come to them.

The truth is log_softmax, gather and logsumexp of plain scores in float64. An output, and each gradient, is held by the
norm of its error relative to that of the truth.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from crossent.torch import Stats
from tests.torch import plain

FLOATS = ("logprob", "lse", "entropy", "log_sum_squares", "confidence")
SMOOTH = FLOATS[:-1]
BAR = {torch.float64: 1e-11, torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Norm-relative errors of gradients; outputs are float32 for narrower logits, and held as such."""
SCORES: tuple[dict[str, Any], ...] = tuple(
    {"temperature": t, "softcap": c} for t, c in itertools.product((1.0, 0.7), (None, 3.0))
)


def statistics(
    logits: Tensor, classes: Tensor, temperature: Any = 1.0, softcap: float | None = None, ignore_index: int = -100
) -> dict[str, Tensor]:
    """All statistics of logits whose classes are on the last axis; ignored rows, or entries of K, are zero."""
    rows, single = logits.shape[:-1], classes.ndim < logits.ndim
    z = logits / (temperature[..., None] if isinstance(temperature, Tensor) else temperature)
    s = z if softcap is None else softcap * torch.tanh(z / softcap)
    there = classes != ignore_index
    valid = there if single else torch.ones(rows, dtype=torch.bool)
    s = torch.where(valid[..., None], s, 0.0)
    logq = s.log_softmax(-1)
    picked = torch.where(there, classes, 0).long().reshape(*rows, -1)
    logprob = torch.where(there, logq.gather(-1, picked).reshape(classes.shape), 0.0)
    best = (torch.where(there.reshape(picked.shape), s.gather(-1, picked), -torch.inf) >= s.amax(-1, keepdim=True)).any(
        -1
    )
    q = logq.exp()
    found = {
        "lse": s.logsumexp(-1),
        "entropy": -(q * logq.masked_fill(logq == -torch.inf, 0.0)).sum(-1),
        "log_sum_squares": (2 * logq).logsumexp(-1),
        "confidence": q.amax(-1),
    }
    found = {name: torch.where(valid, x, 0.0) for name, x in found.items()}
    return found | {
        "logprob": logprob, "correct": best & valid, "predicted": torch.where(valid, s.argmax(-1), -1),
    }  # fmt: skip


def classes_of(shape: tuple[int, ...], K: int | None, ignored: int | None = None) -> Tensor:
    """Random classes for the rows of logits of a shape, some of them ignored."""
    found = torch.randint(shape[-1], shape[:-1] if K is None else (*shape[:-1], K))
    return found if ignored is None else torch.where(torch.rand(found.shape) < 0.3, ignored, found)


def as_dict(stats: Any) -> dict[str, Tensor]:
    """The fields of statistics by name."""
    return {name: getattr(stats, name) for name in Stats.__dataclass_fields__} if isinstance(stats, Stats) else stats


def strided(x: Tensor) -> Tensor:
    """The numbers of a tensor, in every other place of a longer one."""
    flat = x.new_full((2 * x.numel() + 1,), float("nan"))
    flat[: 2 * x.numel() : 2] = x.reshape(-1)
    return (
        flat[: 2 * x.numel() : 2].view(x.shape) if x.ndim < 2 else flat.as_strided(x.shape, [2 * k for k in x.stride()])
    )


def gradients(stats: Any, leaves: list[Tensor], names: tuple[str, ...] = SMOOTH, kind: str = "random") -> list[Tensor]:
    """Gradients for cotangents of the outputs of these names, which are random, strided views, or expanded numbers."""
    found, outputs, cotangents = as_dict(stats), [], []
    for name in names:
        x = found[name]
        seed = SMOOTH.index(name)
        g = plain.cotangent_like(x, seed).to(x.dtype).contiguous()
        g = g.flatten()[0].expand(x.shape) if kind == "expanded" else strided(g) if kind == "strided" else g
        outputs.append(x)
        cotangents.append(g)
    return list(torch.autograd.grad(outputs, leaves, cotangents, retain_graph=True))


def check(got: Any, leaves: list[Tensor], want: dict[str, Tensor], exacts: list[Tensor], dtype: torch.dtype) -> None:
    """Hold all outputs against the truth, and gradients for cotangents of each output and of all at once."""
    found = as_dict(got)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name in FLOATS:
        assert found[name].dtype == wide, name
        assert found[name].shape == want[name].shape, name
        assert plain.off(found[name], want[name]) <= BAR[wide], name
    for name in ("correct", "predicted"):
        assert torch.equal(found[name], want[name]), name
        assert found[name].dtype == want[name].dtype
    for names, kind in itertools.product([*((name,) for name in SMOOTH), SMOOTH], ("random", "strided", "expanded")):
        pairs = zip(gradients(got, leaves, names, kind), gradients(want, exacts, names, kind), strict=True)
        for k, (g, w) in enumerate(pairs):
            assert g.dtype == dtype
            error = plain.off(g, w)
            assert error <= BAR[dtype], f"{names} with {kind} cotangents, gradient {k}: off by {error:.2g}"
