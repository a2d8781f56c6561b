"""Divergences of two heads in plain torch operations: the slow twin of `pair`, and the divergences of few classes.

Each divergence is a sum of terms x · h(y), h(y) = y + e^(−y) − 1, of probabilities x and differences y of their
logarithms. They are never negative, and 0 where the two heads are equal. All of it can be differentiated any number of
times: no derivative meets an infinity that a term does not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crossent.spec import Scores
from crossent.torch.base.values import loss_dtype
from crossent.torch.ranks.collectives import log_sum_exp, share, sum_over
from crossent.torch.sources.probabilities import scores_of

_NEAR = 0.5
_SERIES = tuple((-1.0) ** k / math.factorial(k + 2) for k in range(16))
"""Coefficients of h(y) / y²: for |y| < 0.5 the terms beyond are below 1e-18, in a second derivative below 1e-15."""


class PairSums(NamedTuple):
    """KL(p‖q), KL(q‖p), KL(p‖m) and KL(q‖m) of each row, with m = β p + (1 − β) q; the last two are None without β."""

    kl: Tensor
    reverse_kl: Tensor
    teacher_to_mixture: Tensor | None
    student_to_mixture: Tensor | None

    def js(self, beta: float) -> Tensor:
        """Return β KL(p‖m) + (1 − β) KL(q‖m), of sums with this β."""
        assert self.teacher_to_mixture is not None
        assert self.student_to_mixture is not None
        return beta * self.teacher_to_mixture + (1 - beta) * self.student_to_mixture


def log_softmax(logits: Tensor, scores: Scores, groups: Sequence[str] = ()) -> Tensor:
    """Return the log-probabilities of logits over axis 1, and over the ranks of the groups."""
    s = scores_of(logits.to(loss_dtype(logits.dtype)), scores)
    peak, log_total = log_sum_exp(s, groups)
    return (s - peak.unsqueeze(1)) - share(log_total, groups).unsqueeze(1)


def pair_sums(logp: Tensor, logq: Tensor, beta: float | None, groups: Sequence[str] = ()) -> PairSums:
    """Return the divergences of the teacher's and the student's log-probabilities over axis 1, (N,).

    A class that only the teacher excludes (−inf) costs q forward and +inf in reverse; one that only the student
    excludes, +inf and p; one that both exclude, nothing.
    """
    no_p, no_q = logp == -torch.inf, logq == -torch.inf
    either = no_p | no_q
    # without either, to which no derivative may come back through an infinity
    delta = logp.masked_fill(either, 0.0) - logq.masked_fill(either, 0.0)
    p, q = logp.exp(), logq.exp()

    def total(term: Tensor, without_p: Tensor, without_q: Tensor) -> Tensor:
        term = torch.where(no_p, without_p, torch.where(no_q, without_q, term))
        return sum_over(term.masked_fill(no_p & no_q, 0.0).sum(1).reshape(-1), groups)

    def number(x: float) -> Tensor:
        return torch.full((), x, dtype=p.dtype, device=p.device)

    never = number(torch.inf)
    # +inf, whose derivative by the student is that of −p log q all the same
    lost = p.detach().clamp(min=torch.finfo(p.dtype).tiny) * -logq.masked_fill(~no_q, 0.0)
    kl = total(_cost(p, q - p, delta), q, lost)
    reverse = total(_cost(q, p - q, -delta), never, p)
    if beta is None:
        return PairSums(kl, reverse, None, None)
    above = delta >= 0
    apart = torch.where(above, delta, -delta)  # whose derivative at 0 is 1, unlike that of abs
    fall = (apart / 2).tanh() * (1 + (-apart).exp())  # 1 − e^(−|δ|) with its digits; ONNX has no expm1
    log_part = (-torch.where(above, number(1 - beta), number(beta)) * fall).log1p()
    to_p, to_q = torch.where(above, -log_part, delta - log_part), torch.where(above, -delta - log_part, -log_part)
    return PairSums(
        kl,
        reverse,
        total(_cost(p, (1 - beta) * (q - p), to_p), (1 - beta) * q, p * _excess(-math.log(beta))),
        total(_cost(q, beta * (p - q), to_q), q * _excess(-math.log1p(-beta)), beta * p),
    )


def _excess(y: float) -> float:
    """Return h(y) of a number."""
    return y + math.expm1(-y)


def _cost(x: Tensor, gap: Tensor, y: Tensor) -> Tensor:
    """Return x · h(y), where `gap` is x · (e^(−y) − 1), which overflows nowhere."""
    near = y.abs() < _NEAR
    small = y.masked_fill(~near, 0.0)
    series = torch.full_like(small, _SERIES[-1])
    for coefficient in _SERIES[-2::-1]:
        series = series * small + coefficient
    return torch.where(near, x * small * small * series, x * y + gap)
