"""log Σ q² of each row, the probability that two draws of the prediction agree, and its gradient.

Both follow from two records of a row: the record of the scores s and of the scores 2 s, whose normaliser is Σ e^(2 s).

    log Σ q² = lse(2 s) − 2 lse(s),   d/ds_v = 2 (q_v² / Σ q² − q_v) = 2 q_v expm1(log q_v − log Σ q²)

The last form loses no digits, in a confident row nor in a uniform one, where the two terms before it are almost equal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.spec import Scores, Target
from crossent.torch.base.values import loss_dtype
from crossent.torch.sources.selected import scored

_AT_ONCE = {True: 2**18, False: 2**24}
"""So many logits are worked on at a time, in float64: on a CPU in its cache, and on other devices."""


class SquaresRecords(NamedTuple):
    """The records (5, N) float64 of scores and of doubled scores."""

    scores: Tensor
    doubled: Tensor

    def log_sum_squares(self) -> Tensor:
        """Return log Σ q² of each row in float64; the peaks cancel exactly."""
        (peak, total, *_), (peak2, total2, *_) = self.scores, self.doubled
        return (peak2 - 2 * peak) + (total2.log() - 2 * total.log())

    def at(self, rows: Any) -> SquaresRecords:
        """Return the records of some rows."""
        return SquaresRecords(self.scores[:, rows], self.doubled[:, rows])


def write_gradient(
    logits: Tensor, target: Target, scores: Scores, records: SquaresRecords, g: Tensor, to: Tensor
) -> None:
    """Write g d(log Σ q²)/dz for logits (n, v) or (n, v, P), of rows that the target does not ignore."""
    index: Any = target.index
    g = g.double() if target.kind != "index" else g.double().masked_fill(index == target.ignore_index, 0.0)
    each = max(1, logits[:1].numel())
    step = max(1, _AT_ONCE[logits.is_cpu] // each)
    positions = logits.shape[2:].numel()
    own: Any = scores.row_temperature
    for begin in range(0, logits.shape[0], step):
        part = logits[begin : begin + step]
        here = slice(begin * positions, (begin + len(part)) * positions)
        of_part = scores if own is None else Scores(1.0, scores.softcap, own[here])
        _ = to[begin : begin + step].copy_(_gradient(part, of_part, records.at(here), g[here]))


def _gradient(logits: Tensor, scores: Scores, records: SquaresRecords, g: Tensor) -> Tensor:
    """Return the gradient of rows in float64."""
    rows = logits.shape[:1] + logits.shape[2:]

    def of_rows(x: Tensor) -> Tensor:
        return x.reshape(rows).unsqueeze(1)

    (peak, total, *_) = records.scores
    s, slope = scored(logits.double(), scores)
    below = (s - of_rows(peak)).clamp_(max=0.0)  # a capped peak is rounded to float32
    logq = below - of_rows(total.log())
    found = (logq - of_rows(records.log_sum_squares())).expm1_().mul_(logq.exp_()).mul_(slope).mul_(of_rows(2 * g))
    return found.masked_fill_(of_rows(g == 0), 0.0)


def new_gradient(logits: Tensor) -> Tensor:
    """Return memory for the gradient of a tile, in the dtype of sums."""
    return torch.empty_like(logits, dtype=loss_dtype(logits.dtype), memory_format=torch.contiguous_format)
