"""Rows that each rank brings to a head whose classes are shared: gathered for the forward, their gradients summed back.

Under sequence parallelism every rank of a group has rows of its own and a shard of the classes. The forward gathers all
rows; the backward adds up the parts of their gradient while the next part is still computed, and scatters the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from crossent.torch.ranks.collectives import group_of
from crossent.torch.ranks.shards import Ranks

# renamed in torch 2.13
_ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
_REDUCE_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)


class _Rows(NamedTuple):
    """How many rows all ranks have together, how many each brings (the last ones padded), and how many this one."""

    total: int
    each: int
    own: int


def gather_rows(rows: Tensor, ranks: Ranks) -> Tensor:
    """Return `ranks.gathered` from each rank's rows, so that gradients flow back.

    The gradient of a rank's rows is its share of the sum over the ranks.
    """
    gathered: Any = ranks.gathered
    found: Any = _Gather.apply(rows, ranks.groups[-1], _Rows(gathered.shape[0], ranks.each, rows.shape[0]))
    return found if ranks.order is None else torch.empty_like(found).index_copy(0, ranks.order, found)


class _Gather(torch.autograd.Function):
    """Each rank's rows become all rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, name: str, count: _Rows) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.name, ctx.count = name, count
        group, missing = group_of(name), count.each - count.own
        padded = torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows
        out = rows.new_empty((count.each * dist.get_world_size(group), rows.shape[1]))
        _ALL_GATHER(out, padded.contiguous(), group=group)
        return out[: count.total].clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Scatter.apply(g, ctx.name, ctx.count), None, None


class _Scatter(torch.autograd.Function):
    """The sum over ranks of an array of all rows becomes each rank's rows of it."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, name: str, count: _Rows) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.name, ctx.count = name, count
        padding = count.each * dist.get_world_size(group_of(name)) - count.total
        sums = torch.nn.functional.pad(sums, (0, 0, 0, padding))
        out = sums.new_empty((count.each, sums.shape[1]))
        _REDUCE_SCATTER(out, sums, group=group_of(name))
        return out[: count.own]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Gather.apply(g, ctx.name, ctx.count), None, None


class InputGradient:
    """The gradient of rows to which every rank adds a part; sums begin while later rows are still computed.

    Without groups it is this rank's own gradient, and nothing is sent.
    """

    def __init__(self, input: Tensor, dtype: torch.dtype, ranks: Ranks) -> None:
        self._ranks = ranks
        rows = ranks.each * dist.get_world_size(group_of(ranks.groups[-1])) if ranks.each else input.shape[0]
        self._whole = input.new_zeros((rows, input.shape[1]), dtype=dtype)
        self._share: Tensor | None = None
        self._work: list[Any] = []
        self.part = self._whole[: input.shape[0]]
        """This rank's part, to be written."""

    def finished(self, row_begin: int, row_end: int) -> None:
        """Begin to add up rows that are complete; all of them after the last if each rank needs a share."""
        groups = self._ranks.groups
        if not groups:
            return
        if self._ranks.each:
            if row_end == self.part.shape[0]:  # else some are packed, and have to be moved first
                self._scatter()
            return
        rows = self._whole[row_begin:row_end]
        for name in groups[:-1]:
            dist.all_reduce(rows, group=group_of(name))
        self._work.append(dist.all_reduce(rows, group=group_of(groups[-1]), async_op=True))

    def _scatter(self) -> None:
        groups, order = self._ranks.groups, self._ranks.order
        self._share = self._whole.new_empty((self._ranks.each, self._whole.shape[1]))
        if order is not None:
            self._whole[: len(order)] = self.part[order]
        for name in groups[:-1]:
            dist.all_reduce(self._whole, group=group_of(name))
        self._work.append(_REDUCE_SCATTER(self._share, self._whole, group=group_of(groups[-1]), async_op=True))

    def sum(self, unpack: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the sums of all rows, or this rank's share of them and padding; `unpack` spreads packed rows."""
        if self._ranks.each and self._share is None:
            _ = unpack(self.part)
            self._scatter()
        while self._work:
            self._work.pop().wait()
        return unpack(self.part) if self._share is None else self._share
