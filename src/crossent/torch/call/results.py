"""From the rows of a softmax loss to what the caller asked for: the reduced loss, and `Stats`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import _reduction as _legacy

from crossent import closing
from crossent.closing import Reduction
from crossent.spec import Scores
from crossent.torch.call.checks import Rows, check_number, most_probable_of_topk
from crossent.torch.ranks import collectives as _collectives
from crossent.torch.ranks import shards as _parallel

RowStats = tuple[Tensor, Tensor, Tensor, Tensor]
"""Loss, lse and entropy of each row, and the record."""

Closing = tuple[Reduction, Tensor | None, float]
"""Reduction, sample weight (N,) and strength of the z-loss."""


class Options(NamedTuple):
    """What the operators are told of the target, the scores and the shards, in their order; a softcap of 0 is none.

    The weight that operators take is that of the classes at hand; for closings it is that of all classes.
    """

    weight: Tensor | None
    smoothing: float
    ignore_index: int
    temperature: float
    softcap: float
    first_class: int = 0
    num_classes: int = 0
    groups: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Stats:
    """What the softmax of each row says, in nats; zero (and False) in ignored rows.

    Shapes are those of the loss with reduction="none". `lse`, `logprob` and `entropy` are differentiable.

    Attributes
    ----------
    lse
        Log of the normaliser, log Σ e^s.
    logprob
        Log-probability of the target class; for soft targets its expectation Σ base · log p. Neither class weight nor
        smoothing enter.
    entropy
        Entropy of the softmax, −Σ p log p.
    confidence
        Probability of the most probable class.
    correct
        Whether no class has a higher score than the target's (than the most probable one of a soft target).
    """

    lse: Tensor
    logprob: Tensor
    entropy: Tensor
    confidence: Tensor
    correct: Tensor


def reduction_of(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> Reduction:
    """Return the reduction, which torch's deprecated pair overrides; raise ValueError if it is none of the three."""
    if size_average is not None or reduce is not None:
        reduction = _legacy.legacy_get_string(size_average, reduce)
    closing.check_reduction(reduction)
    return reduction  # pyright: ignore[reportReturnType]


def phi_of(temperature: float, softcap: float | None) -> tuple[float, float]:
    """Return temperature and softcap as the operators take them; raise if they are out of range."""
    check_number("temperature", temperature)
    check_number("softcap", softcap)
    scores = Scores(temperature, softcap)
    return scores.temperature, scores.softcap or 0.0


def counts(index: Tensor | None, prob: Tensor | None, options: Options, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return what each row counts for in a mean, and which rows have a target; None is 1 for all."""
    if index is None or prob is not None:
        return None, None
    index = index.long()
    valid = row_weight = index != options.ignore_index
    if options.weight is not None:
        of_class = options.weight.to(dtype)[index.clamp(0, options.weight.shape[0] - 1)]
        row_weight = torch.where(valid, of_class, 0.0)
    return row_weight, valid


def shares(rows: Rows, how: Closing, options: Options, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the derivatives of `reduced` with respect to each row's loss and to the square of its lse, in float64."""
    mode, samples, z_loss = how
    one = like.new_ones(rows.logits.rows.numel(), dtype=torch.float64)
    given = one if samples is None else samples.double()

    def share(counted: Tensor | None) -> Tensor:
        return given if mode == "sum" else given / (given if counted is None else given * counted).sum()

    row_weight, valid = counts(rows.index, rows.prob, options, torch.float64)
    return share(row_weight), z_loss * share(valid) if z_loss != 0.0 else None


def reduced(rows: Rows, options: Options, how: Closing, stats: RowStats, row_groups: Sequence[str] = ()) -> Tensor:
    """Return the loss of the call from its row losses: reduction, sample weights and z-loss.

    The groups are those whose ranks have other rows of the call.
    """
    mode, _, z_loss = how
    loss, lse = stats[:2]
    row_weight, valid = counts(rows.index, rows.prob, options, loss.dtype)
    result = _reduce(loss, how, row_weight, row_groups)
    if z_loss != 0.0:
        result = result + _reduce(closing.z_loss(lse, z_loss), how, valid, row_groups)
    return result.reshape(rows.logits.rows) if mode == "none" else result


def _reduce(loss: Tensor, how: Closing, row_weight: Any, row_groups: Sequence[str]) -> Tensor:
    mode, samples, _ = how
    if mode == "none" or not row_groups:
        return closing.reduce(loss, mode, sample_weight=samples, row_weight=row_weight)
    one = torch.ones_like(loss)
    counted = one if row_weight is None else row_weight.to(loss.dtype)
    sums = (closing.reduce(x, "sum", sample_weight=samples) for x in (loss, counted))
    whole = _collectives.sum_over(torch.stack(tuple(sums)), row_groups)
    return whole[0] if mode == "sum" else whole[0] / whole[1]


def described(rows: Rows, options: Options, stats: RowStats, again: Callable[..., RowStats]) -> Stats:
    """Return the Stats of the rows; `again` gives the row statistics of the same logits for another target."""
    loss, lse, entropy, record = stats
    ignore, phi = options.ignore_index, options[3:]
    plain, plain_record = loss, record
    if options.weight is not None or options.smoothing != 0.0:
        plain, _, _, plain_record = again(rows.index, rows.prob, None, 0.0, ignore, *phi)
    confidence = record[1].reciprocal().to(loss.dtype)
    if rows.index is None or rows.prob is not None:
        with torch.no_grad():
            plain_record = again(_most_probable(rows, options), None, None, 0.0, ignore, *phi)[3]
    else:
        confidence = torch.where(rows.index.long() != ignore, confidence, 0.0)
    correct = (plain_record[2] >= 0) & (plain_record[3] > 0)
    parts = (lse, -plain, entropy, confidence, correct)
    return Stats(*(part.reshape(rows.logits.rows) for part in parts))


def _most_probable(rows: Rows, options: Options) -> Tensor:
    """Return the most probable class of each row of a soft target."""
    prob: Any = rows.prob
    if rows.index is not None:
        return most_probable_of_topk(rows.index.long(), prob)
    first, classes = options.first_class, options.num_classes or prob.shape[1]
    return _parallel.most_probable(
        prob[:, : _parallel.held(prob.shape[1], first, classes)], (first, classes), options.groups
    )
