"""Slow twins of the kernels: the row functions in plain torch operations, differentiable any number of times.

They make temporaries as large as the logits. Double backward, function transforms, forward mode and tracers run through
them; tests hold the kernels against them. They are written for all of these: nothing depends on numbers but through
torch operations, nothing is written in place, and each operation is one that ONNX has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import BinaryOperands
from crossent.kernels.checks import check_target, check_temperatures
from crossent.spec import Scores, Target
from crossent.torch.base.transforms import look_at
from crossent.torch.base.values import RowResults, loss_dtype, without_autocast
from crossent.torch.ranks.collectives import extreme_over, log_sum_exp, share, sum_over
from crossent.torch.sources.probabilities import scores_of

# Rows are (outer, V, inner) or (N, V): the class axis is axis 1 of logits and dense probabilities.


class TargetMeasure(NamedTuple):
    """The measure p in the shape of the logits, and which rows (without the class axis) have a target."""

    p: Tensor
    valid: Tensor


class Outputs(NamedTuple):
    """Loss, lse and entropy of each row, (N,)."""

    loss: Tensor
    lse: Tensor
    entropy: Tensor


def target_measure(target: Target, like: Tensor) -> TargetMeasure:
    """Return the measure that `Target` describes, in the shape and dtype of the logits `like`."""
    V, classes = like.shape[1], target.num_classes or like.shape[1]
    rows = like.shape[:1] + like.shape[2:]
    valid = torch.ones(rows, dtype=torch.bool, device=like.device)
    if target.index is None:
        base = torch.as_tensor(target.prob).to(like.dtype)
    else:
        index = torch.as_tensor(target.index).long()
        if target.prob is None:
            index = index[:, None]
            prob = torch.ones(index.shape, dtype=like.dtype, device=like.device)
            valid = (index[:, 0] != target.ignore_index).reshape(rows)
        else:
            prob = torch.as_tensor(target.prob).to(like.dtype)
        exists, local = (index >= 0) & (index < classes), index - target.first_class
        here = (local >= 0) & (local < V)
        flat = like.new_zeros((index.shape[0], V + 1)).scatter_add(1, torch.where(here, local, V), prob)[:, :V]
        wrong = ~exists & (index != target.ignore_index if target.kind == "index" else prob != 0)
        flat = flat.masked_fill(wrong.any(1, keepdim=True), float("nan"))  # because no error can be raised here
        base = flat if like.ndim == 2 else flat.reshape(*rows, V).movedim(like.ndim - 1, 1)
    p = (1 - target.smoothing) * base + target.smoothing / max(1, classes)
    if target.weight is not None:
        weight = torch.as_tensor(target.weight).to(like.dtype)
        p = p * weight.reshape(1, V, *([1] * (like.ndim - 2)))
    return TargetMeasure(p, valid)


def row_outputs(logits: Tensor, target: Target, scores: Scores, groups: Sequence[str] = ()) -> Outputs:
    """Return loss, lse and entropy of each row, of the columns of all ranks of the groups."""
    return _outputs(_scored(logits, target, scores, groups), groups)


def row_results(logits: Tensor, target: Target, scores: Scores, groups: Sequence[str] = ()) -> RowResults:
    """Return loss, lse and entropy of each row, and the record, a constant; raise for a class that does not exist."""
    check_numbers(target, scores, logits.shape)
    with without_autocast(logits):
        scored = _scored(logits, target, scores, groups)
        return RowResults(*_outputs(scored, groups), _record(scored, groups))


class _Scored(NamedTuple):
    """Scores of the logits, the measure, and the mask of rows without weight."""

    s: Tensor
    """Zeros in rows that nothing may be read of."""
    measure: TargetMeasure
    removed: Tensor
    """Rows without mass whose scores have no normaliser."""
    raw: Tensor
    """The normalisers before these rows were replaced."""


def _scored(logits: Tensor, target: Target, scores: Scores, groups: Sequence[str]) -> _Scored:
    if target.kind == "topk":
        target = dataclasses.replace(target, prob=share(target.prob, groups))
    wide = logits.to(loss_dtype(logits.dtype))
    measure = p, valid = target_measure(target, wide)
    s = scores_of(wide.masked_fill(~valid.unsqueeze(1), 0.0), scores)
    raw = log_sum_exp(s.detach(), groups).lse
    # a target without mass costs nothing for any row, and its values must not enter derivatives
    has_mass = extreme_over((p != 0).any(1).to(s.dtype), "max", groups) > 0
    removed = ~has_mass & ~_is_finite(raw)
    return _Scored(s.masked_fill(removed.unsqueeze(1), 0.0), measure, removed, raw)


def _outputs(scored: _Scored, groups: Sequence[str]) -> Outputs:
    s, (p, valid), removed, raw = scored
    lse = log_sum_exp(s, groups).lse if groups else s.logsumexp(1)
    logq = s - share(lse, groups).unsqueeze(1)
    loss = -times(p, logq).sum(1)
    entropy = -(logq.exp() * logq.masked_fill(logq == -torch.inf, 0.0)).sum(1)
    loss, entropy = (sum_over(x, groups) for x in (loss, entropy))
    lse, entropy = torch.where(removed, raw, lse), entropy.masked_fill(removed, torch.nan)
    return Outputs(*(x.masked_fill(~valid, 0.0).reshape(-1) for x in (loss, lse, entropy)))


def _record(scored: _Scored, groups: Sequence[str]) -> Tensor:
    s, p = scored.s.detach().double(), scored.measure.p.detach().double()
    peak, log_total = log_sum_exp(s, groups)
    shifted = s - peak.unsqueeze(1)
    tilt = shifted.exp() * shifted.masked_fill(shifted == -torch.inf, 0.0)
    sums = (sum_over(x.sum(1), groups) for x in (times(p, shifted), p, tilt))
    fields = (peak, log_total.exp(), *sums)
    empty = (0.0, 1.0, 0.0, 0.0, 0.0)  # of a row without a target
    valid, unknown = scored.measure.valid, torch.where(scored.removed, torch.nan, 0.0)  # not what replaced it
    rows = [(x + unknown).masked_fill(~valid, nothing) for x, nothing in zip(fields, empty, strict=True)]
    return torch.stack([x.reshape(-1) for x in rows])


def _is_finite(x: Tensor) -> Tensor:
    return x.abs() < torch.inf


def times(share: Tensor, cost: Tensor) -> Tensor:
    """Return share · cost, where 0 times an infinite or unknown cost is 0."""
    return share * cost.masked_fill((share == 0) & ~_is_finite(cost), 0.0)


def check_numbers(target: Target, scores: Scores, shape: Sequence[int]) -> None:
    """Raise for a class that does not exist, an invalid probability and a temperature out of range.

    Numbers that cannot be looked at are not. Under `vmap` the rows are counted through all samples.
    """

    def check(index: Tensor | None, prob: Tensor | None, row_temperature: Tensor | None) -> None:
        if row_temperature is not None and (target.kind != "index" or index is not None):
            of_rows = target if index is None else dataclasses.replace(target, index=index.reshape(-1))
            check_temperatures(row_temperature.reshape(-1), of_rows)
        if index is not None and target.kind == "index":
            check_target(dataclasses.replace(target, index=index.reshape(-1)), classes)
        elif prob is not None and target.kind == "dense":
            check_target(Target(prob=prob.reshape(-1, *shape[1:])), tuple(shape))
        elif index is not None and prob is not None:
            index, prob = (x.reshape(-1, x.shape[-1]) for x in (index, prob))
            check_target(Target(index, prob), classes)

    classes = (0, target.num_classes or shape[1])
    look_at(check, target.index, target.prob, scores.row_temperature)  # pyright: ignore[reportArgumentType]


def binary_loss(kind: str, operands: BinaryOperands) -> Tensor:
    """Return the binary cross-entropy of each element, from logits or from probabilities."""
    x: Any = operands.input
    t: Any = operands.target
    weight: Any = operands.weight
    pos_weight: Any = operands.pos_weight
    dtype = loss_dtype(x.dtype)
    x, t = x.to(dtype), t.to(dtype)
    if weight is not None:  # removed values are replaced, to stay out of derivatives
        x, t = x.masked_fill(weight == 0, 0.5), t.masked_fill(weight == 0, 0.5)
    of_positive, of_negative = t if pos_weight is None else pos_weight * t, 1 - t
    if kind == "logits":
        loss = _share(of_positive, x, lambda x: _softplus(-x)) + _share(of_negative, x, _softplus)
    else:
        loss = _share(of_positive, x, lambda q: -q.log()) + _share(of_negative, x, lambda q: -(-q).log1p())
    return loss if weight is None else weight * loss


def _share(part: Tensor, x: Tensor, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """Return part · cost(x), and 0 where the part is 0 and the cost infinite or NaN."""
    removed = (part == 0) & ~_is_finite(cost(x.detach()))
    return part * cost(x.masked_fill(removed, 0.5))


def _softplus(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x, threshold=40.0)  # where e^−40 is nothing beside 40, in float64 too
