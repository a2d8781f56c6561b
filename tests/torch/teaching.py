"""Divergences of two heads in plain torch operations, and how close a call has to come to them.

The truth is log_softmax, kl_div and logaddexp of plain scores in float64. An output, and each gradient, is held by the
norm of its error relative to that of the truth.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from crossent.torch import DivergenceStats
from crossent.torch.sources.products import operand_dtype
from tests.torch import plain
from tests.torch.logq import strided

SMOOTH = ("lse", "teacher_lse", "entropy", "teacher_entropy", "kl", "reverse_kl", "js", "logprob")
KINDS = {"forward": "kl", "reverse": "reverse_kl", "js": "js"}
BAR = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
SCORES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.7},
    {"temperature": 2.0, "teacher_temperature": 0.6, "softcap": 3.0},
    {"softcap": 4.0, "teacher_softcap": 2.5, "teacher_temperature": 1.5},
)


def log_softmax(z: Tensor, temperature: Any = 1.0, softcap: float | None = None) -> Tensor:
    """Log-probabilities and log-normalisers of logits."""
    own = temperature[..., None] if isinstance(temperature, Tensor) and temperature.ndim else temperature
    s = z / own
    return s if softcap is None else softcap * torch.tanh(s / softcap)


def statistics(
    z: Tensor,
    t: Tensor,
    *,
    temperature: Any = 1.0,
    softcap: float | None = None,
    teacher_temperature: Any = None,
    teacher_softcap: float | None = None,
    beta: float = 0.5,
    target: Tensor | None = None,
    ignore_index: int = -100,
) -> dict[str, Any]:
    """All statistics of a student and a teacher whose classes are on the last axis; ignored rows are zero."""
    valid = torch.ones(z.shape[:-1], dtype=torch.bool) if target is None else target != ignore_index
    z, t = (torch.where(valid[..., None], x, 0.0) for x in (z, t))
    s = log_softmax(z, temperature, softcap)
    u = log_softmax(t, temperature if teacher_temperature is None else teacher_temperature, teacher_softcap)
    logq, logp = s.log_softmax(-1), u.log_softmax(-1)
    mixture = torch.logaddexp(logp + math.log(beta), logq + math.log1p(-beta))

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return kl_div(b, a, reduction="none", log_target=True).sum(-1)

    found: dict[str, Any] = {
        "lse": s.logsumexp(-1),
        "teacher_lse": u.logsumexp(-1),
        "entropy": -(logq.exp() * logq).sum(-1),
        "teacher_entropy": -(logp.exp() * logp).sum(-1),
        "kl": kl(logp, logq),
        "reverse_kl": kl(logq, logp),
        "js": beta * kl(logp, mixture) + (1 - beta) * kl(logq, mixture),
        "agreement": s.argmax(-1) == u.argmax(-1),
    }
    if target is not None:
        picked = torch.where(valid, target, 0).long()
        found["logprob"] = logq.gather(-1, picked[..., None])[..., 0]
    return {name: torch.where(valid, x, torch.zeros((), dtype=x.dtype)) for name, x in found.items()}


def of_topk(z: Tensor, index: Tensor, prob: Tensor, tail: str, beta: float, **scores: Any) -> dict[str, Tensor]:
    """Divergences from probabilities that are spread over all classes; classes of probability 0 are left out."""
    V = z.shape[-1]
    full = torch.zeros(*z.shape[:-1], V + 1, dtype=torch.float64)
    full = full.scatter_add(-1, torch.where(prob == 0, V, index).long(), prob)[..., :V]
    q = log_softmax(z, **scores).softmax(-1)
    chosen = torch.zeros_like(full).scatter_add(-1, torch.where(prob == 0, 0, index).long(), (prob != 0).double()) > 0
    if tail == "bucket":
        rest_p = 1 - full.sum(-1, keepdim=True)
        rest_q = torch.where(chosen, 0.0, q).sum(-1, keepdim=True)
        full, q = torch.cat((full, rest_p), -1), torch.cat((q, rest_q), -1)
        chosen = torch.cat((chosen, torch.ones_like(rest_p, dtype=torch.bool)), -1)

    def term(a: Tensor, b: Tensor) -> Tensor:
        a, b = torch.where(chosen, a, 1.0), torch.where(chosen, b, 1.0)
        log = torch.where(a == 0, 0.0, a.clamp(min=1e-300).log()) - b.log()
        return torch.where(a == 0, b, a * log + b - a).sum(-1)

    mixture = beta * full + (1 - beta) * q
    return {
        "kl": term(full, q),
        "reverse_kl": term(q, full),
        "js": beta * term(full, mixture) + (1 - beta) * term(q, mixture),
        "teacher_entropy": -torch.where(full > 0, full * full.clamp(min=1e-300).log(), 0.0).sum(-1),
    }


def as_dict(stats: Any) -> dict[str, Any]:
    """The fields of statistics by name, without those that are not there."""
    if isinstance(stats, dict):
        return stats
    found = {name: getattr(stats, name) for name in DivergenceStats.__dataclass_fields__}
    return {name: x for name, x in found.items() if x is not None}


def cotangents(stats: Any, names: tuple[str, ...], kind: str = "random") -> dict[str, Tensor]:
    """A cotangent of each output of these names: random, a strided view, or one number expanded."""
    found: dict[str, Tensor] = {}
    for name in names:
        x = as_dict(stats)[name]
        g = plain.cotangent_like(x, SMOOTH.index(name)).to(x.dtype).contiguous()
        found[name] = g.flatten()[0].expand(x.shape) if kind == "expanded" else strided(g) if kind == "strided" else g
    return found


def gradients(stats: Any, leaves: list[Tensor], names: tuple[str, ...], kind: str = "random") -> list[Tensor]:
    """Gradients for `cotangents` of the outputs of these names."""
    return pulled_back(stats, leaves, cotangents(stats, names, kind))


def pulled_back(stats: Any, leaves: list[Tensor], of: dict[str, Tensor]) -> list[Tensor]:
    """Gradients for cotangents by name."""
    outputs = [as_dict(stats)[name] for name in of]
    return list(torch.autograd.grad(outputs, leaves, list(of.values()), retain_graph=True, materialize_grads=True))


def off_by_units(want: dict[str, Tensor], exact: Tensor, of: dict[str, Tensor]) -> float:
    """How far off a gradient may be, relative to itself, where gradients of logits are bfloat16 when multiplied.

    `linear_cross_entropy` says so of processors with matrix units. The share of each row then is off by at most 2⁻⁸ of
    itself. Shares of several rows may cancel, and their errors do not.
    """
    shares, whole = torch.zeros_like(exact), torch.zeros_like(exact)
    rows = next(iter(of.values())).numel()
    for row in range(rows):
        one = {name: (torch.arange(rows) == row).view(g.shape) * g for name, g in of.items()}
        (share,) = pulled_back(want, [exact], one)
        shares, whole = shares + share.abs(), whole + share
    return (2**-8 * shares.norm() / whole.norm()).item()


def check(got: Any, leaves: list[Tensor], want: dict[str, Tensor], exacts: list[Tensor]) -> None:
    """Hold all outputs against the truth, and gradients for cotangents of each output and of all at once."""
    found = as_dict(got)
    names = tuple(name for name in SMOOTH if name in found)
    wide = [torch.float64 if x.dtype == torch.float64 else torch.float32 for x in leaves]
    for name in names:
        dtype = wide[name.startswith("teacher")]
        assert found[name].dtype == dtype, name
        assert found[name].shape == want[name].shape, name
        assert plain.off(found[name], want[name]) <= BAR[max(wide, key=BAR.__getitem__)], name
    assert torch.equal(found["agreement"], want["agreement"])
    for some, kind in itertools.product([*((name,) for name in names), names], ("random", "strided", "expanded")):
        pairs = zip(gradients(got, leaves, some, kind), gradients(want, exacts, some, kind), strict=True)
        for leaf, exact, (g, w) in zip(leaves, exacts, pairs, strict=True):
            assert g.dtype == leaf.dtype
            bar = BAR[max([leaf.dtype, *wide], key=BAR.__getitem__)]
            error = plain.off(g, w)
            if error > bar and leaf.dtype == torch.bfloat16 == operand_dtype(torch.bfloat16):
                bar += off_by_units(want, exact, cotangents(want, some, kind))
            assert error <= bar, f"{some} with {kind} cotangents, {leaf.dtype}: off by {error:.2g}"


def summed(stats: Any) -> Tensor:
    """All differentiable statistics, weighed differently."""
    found = as_dict(stats)
    return sum((k * found[name]).sum() for k, name in enumerate(SMOOTH, 1) if name in found)  # pyright: ignore
