"""The losses in plain torch operations, and how close a result has to come to them.

The truth is the plain loss in float64. A result may be off by twice what a rival of the same dtype is off (torch's own
loss, or the plain one where torch has no such option), plus a floor for the rounding of the result itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crossent.torch import TopK

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FLOOR = {torch.float64: 1e-10, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 2e-3}


def last(x: Tensor) -> Tensor:
    """With the class axis last."""
    return x if x.ndim <= 1 else x.movedim(1, -1)


def scores_of(input: Tensor, temperature: Any, softcap: float | None) -> Tensor:  # noqa: A002
    by_row = isinstance(temperature, Tensor) and temperature.ndim > 0
    z = last(input) / (temperature.unsqueeze(-1) if by_row else temperature)
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def base_of(target: Any, like: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The base of the target measure, class axis last, and which rows count."""
    C = like.shape[-1]
    if isinstance(target, TopK):
        index, prob = last(target.index).long(), last(target.prob).to(like.dtype)
        hot = torch.nn.functional.one_hot(index, C).to(like.dtype)
        return (hot * prob.unsqueeze(-1)).sum(-2), torch.ones(like.shape[:-1], dtype=torch.bool)
    if target.shape == like.movedim(-1, 1).shape if like.ndim > 1 else target.shape == like.shape:
        return last(target).to(like.dtype), torch.ones(like.shape[:-1], dtype=torch.bool)
    valid = target != ignore_index
    return torch.nn.functional.one_hot(torch.where(valid, target, 0).long(), C).to(like.dtype), valid


def nothing_times(q: Tensor, x: Tensor) -> Tensor:
    """The product q x with 0 · ∞ = 0, also in its derivative."""
    return q * torch.where(q == 0, 0.0, x) if not q.requires_grad else q * x


def rows(
    input: Tensor,  # noqa: A002
    target: Any,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: Any = 1.0,
    softcap: float | None = None,
) -> dict[str, Tensor]:
    """Loss and statistics of each row; an ignored row has zeros."""
    s = scores_of(input, temperature, softcap)
    base, valid = base_of(target, s, ignore_index)
    s = torch.where(valid.unsqueeze(-1), s, 0.0)
    C = s.shape[-1]
    w = torch.ones(C, dtype=s.dtype) if weight is None else weight.to(s.dtype)
    logp = s.log_softmax(-1)
    p = logp.exp()
    label = base.detach().argmax(-1, keepdim=True)
    out = {
        "loss": -nothing_times(w * ((1 - label_smoothing) * base + label_smoothing / C), logp).sum(-1),
        "lse": s.logsumexp(-1),
        "logprob": nothing_times(base, logp).sum(-1),
        "entropy": -(p * torch.where(torch.isneginf(logp), 0.0, logp)).sum(-1),
        "confidence": p.max(-1).values,
        "correct": s.gather(-1, label).squeeze(-1) >= s.max(-1).values,
        "log_sum_squares": (2 * logp).logsumexp(-1),
        "predicted": s.argmax(-1),
        "weight": (base.detach() * w).sum(-1)
        if target_is_hard(target, input)
        else torch.ones(valid.shape, dtype=s.dtype),
    }
    out = {k: torch.where(valid, v, torch.full((), -(k == "predicted"), dtype=v.dtype)) for k, v in out.items()}
    out["valid"] = valid.to(s.dtype)
    return out


def target_is_hard(target: Any, input: Tensor) -> bool:  # noqa: A002
    return not isinstance(target, TopK) and target.shape != input.shape


def cross_entropy(
    input: Tensor,  # noqa: A002
    target: Any,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    temperature: Any = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    sample_weight: Tensor | None = None,
    return_stats: bool = False,
) -> Any:
    """The mean is Σ s l / Σ s w_y for classes, Σ s l / Σ s for probabilities, z-terms average over valid rows."""
    r = rows(input, target, weight, ignore_index, label_smoothing, temperature, softcap)
    s = torch.ones_like(r["loss"]) if sample_weight is None else sample_weight.to(r["loss"].dtype)
    main, penalty = s * r["loss"], s * z_loss * r["lse"] ** 2
    if reduction == "none":
        loss = main + penalty
    elif reduction == "sum":
        loss = (main + penalty).sum()
    else:
        loss = main.sum() / (s * r["weight"]).sum()
        if z_loss:
            loss = loss + penalty.sum() / (s * r["valid"]).sum()
    return (loss, r) if return_stats else loss


def binary_cross_entropy_with_logits(
    x: Tensor, t: Tensor, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    t = t.to(x.dtype)
    log1p = torch.log1p(torch.exp(-x.abs()))
    loss = (1 if pos_weight is None else pos_weight) * t * (log1p + (-x).relu()) + (1 - t) * (log1p + x.relu())
    loss = loss if weight is None else weight * loss
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


# How close


def off(got: Tensor, exact: Tensor) -> float:
    """Norm of the error relative to the norm of the truth; NaN, infinities and zeros must match."""
    got, exact = got.detach().double(), exact.detach().double()
    if got.shape != exact.shape:
        return math.inf
    odd = ~torch.isfinite(exact)
    if not torch.equal(got[odd].nan_to_num(1e9), exact[odd].nan_to_num(1e9)) or not torch.isfinite(got[~odd]).all():
        return math.inf
    error, size = (got[~odd] - exact[~odd]).norm().item(), exact[~odd].norm().item()
    return error if size == 0 else error / size


def agree(name: str, got: Tensor, exact: Tensor, rival: Tensor | None, floor: float) -> None:
    """The bar: at most twice the rival's error, plus the floor."""
    limit = floor + (0.0 if rival is None else 2 * min(off(rival, exact), 1.0))
    error = off(got, exact)
    assert error <= limit, f"{name} is off by {error:.3g}, allowed are {limit:.3g}"


def cast(x: Any, dtype: torch.dtype) -> Any:
    """A leaf of another dtype; integers and everything else as they are."""
    if isinstance(x, TopK):
        return TopK(x.index, cast(x.prob, dtype))
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return x.detach().to(dtype).requires_grad_(x.requires_grad)


def leaves(*values: Any) -> list[Tensor]:
    found = []
    for x in values:
        x = x.prob if isinstance(x, TopK) else x  # noqa: PLW2901
        if isinstance(x, Tensor) and x.requires_grad:
            found.append(x)
    return found


def cotangent_like(x: Tensor, seed: int = 0) -> Tensor:
    """Random, and the same number in every dtype."""
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return g.bfloat16().half().double()


def run(
    function: Any, dtype: torch.dtype, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients, for random cotangents, of a call with everything in this dtype."""
    args = tuple(cast(x, dtype) for x in args)
    kwargs = {k: cast(v, dtype) for k, v in kwargs.items()}
    out = function(*args, **kwargs)
    inputs = leaves(*args)
    if not inputs or not out.requires_grad:
        return out, []
    return out, list(torch.autograd.grad(out, inputs, cotangent_like(out).to(out.dtype)))


def compare(
    ours: Any, rival: Any, exact: Any, dtype: torch.dtype, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Hold a call against `exact` in float64, on the numbers of this dtype, with a rival in this dtype."""
    args = tuple(cast(x, dtype) for x in args)  # the numbers are the rounded ones, for everybody
    kwargs = {k: cast(v, dtype) for k, v in kwargs.items()}
    got, grads = run(ours, dtype, args, kwargs)
    want, wants = run(exact, torch.float64, args, kwargs)
    other, others = (None, [None] * len(wants)) if rival is None else run(rival, dtype, args, kwargs)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    agree("loss", got, want, other, FLOOR[got.dtype])
    for k, (g, w, o, x) in enumerate(zip(grads, wants, others, leaves(*args), strict=True)):
        assert g.dtype == x.dtype
        agree(f"gradient of argument {k}", g, w, o, FLOOR[dtype])


# Arguments, drawn for a shape


def classes_of(shape):
    return shape[0] if len(shape) == 1 else shape[1]


def rows_of(shape):
    return () if len(shape) == 1 else (shape[0], *shape[2:])


def logits_of(shape, spread=1.0):
    return (spread * torch.randn(shape, dtype=torch.float64)).requires_grad_()


def index_of(shape, ignore=None):
    target = torch.randint(classes_of(shape), rows_of(shape))
    if ignore is not None:
        target = torch.where(torch.rand(rows_of(shape)) < 0.3, ignore, target)
    return target


def probs_of(shape, *, requires_grad=False):
    p = torch.rand(shape, dtype=torch.float64)
    p[torch.rand(shape) < 0.2] = 0
    return p.requires_grad_(requires_grad)


def topk_of(shape, K=3, *, requires_grad=False):
    axis = 0 if len(shape) == 1 else 1
    inner = [*shape[:axis], K, *shape[axis + 1 :]]
    return TopK(
        torch.randint(classes_of(shape), inner), torch.rand(inner, dtype=torch.float64).requires_grad_(requires_grad)
    )
