"""The largest logit of each row and its class, from tiles of the row: what is predicted.

Scores do not fall where logits rise, so the class of the largest logit is a most probable one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crossent.torch.base.backends import backend
from crossent.torch.base.values import loss_dtype
from crossent.torch.ranks.collectives import extreme_over

_BIASED_LOGITS = 2**24  # that are added to their bias at a time, on a device that adds it as it reads them


class Peaks(NamedTuple):
    """The largest logit of each row, (N,) float64, and the first class that has it, (N,) int64."""

    value: Tensor
    at: Tensor

    def update(self, rows: slice, tile: Peaks, first: int) -> None:
        """Take in the peaks of further classes of some rows in place; the classes begin with `first`."""
        value, at = self.value[rows], self.at[rows]
        larger = tile.value > value
        _ = value.copy_(torch.where(larger, tile.value, value))
        _ = at.copy_(torch.where(larger, tile.at + first, at))

    def over(self, groups: Sequence[str]) -> Peaks:
        """Return the peaks over the classes of all ranks, by a MAX of the values and a MIN of the classes."""
        if not groups:
            return self
        value = extreme_over(self.value, "max", groups)
        nowhere = torch.iinfo(torch.int64).max
        return Peaks(value, extreme_over(self.at.masked_fill(self.value != value, nowhere), "min", groups))


def no_peaks(rows: int, first: int, like: Tensor) -> Peaks:
    """Return the peaks of so many rows before any logit is read: −inf at the first class."""
    value = like.new_full((rows,), -torch.inf, dtype=torch.float64)
    return Peaks(value, torch.full_like(value, first, dtype=torch.int64))


def peaks_of(logits: Tensor, bias: Tensor | None = None) -> Peaks:
    """Return the peaks of logits (N, V) or (outer, V, inner), whose bias (V,) is added to them if it is there.

    NaN is not a logit; the peak of a row with one depends on the device, and its normaliser is NaN.
    """
    logits = logits.detach()
    outer, classes = logits.shape[:2]
    if classes == 0 or logits.numel() == 0:
        return no_peaks(outer * logits.shape[2:].numel(), 0, logits)
    if bias is not None:
        parts = logits.split(max(1, _BIASED_LOGITS // classes))
        wide = bias.to(loss_dtype(logits.dtype))
        found = [_largest(part + wide) for part in parts]
        return Peaks(*(torch.cat(x) for x in zip(*found, strict=True)))
    row_peaks = getattr(backend(logits), "row_peaks", None)
    if row_peaks is None or logits.ndim == 3:
        return _largest(logits)
    value, at = logits.new_empty((1, outer), dtype=torch.float64), logits.new_empty((outer,), dtype=torch.int64)
    row_peaks(logits, value, at)
    return Peaks(value[0], at)


def _largest(logits: Tensor) -> Peaks:
    value, at = logits.max(1)
    return Peaks(value.reshape(-1).double(), at.reshape(-1))
