"""What ranks send each other: sums as autograd sees them, and gradients that add up while the next are computed.

Groups are known by their names, as in torch's own compiled collectives, because an operator takes no group. All ranks
of a group make the same calls in the same order, so whatever decides on them must be the same on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from crossent.torch.base.register import register

if TYPE_CHECKING:
    from crossent.torch.ranks.shards import Shards

# named anew in torch 2.13
_ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
_REDUCE_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)


def group_of(name: str) -> Any:
    """Return the process group of this name."""
    return dist.distributed_c10d._resolve_process_group(name)  # pyright: ignore


def add_up(tensors: Sequence[Tensor | None], groups: Sequence[str]) -> None:
    """Replace tensors by their sums over the groups."""
    for x in tensors:
        for name in groups if x is not None else ():
            dist.all_reduce(x, group=group_of(name))


# Sums, as autograd sees them ---------------------------------------------------------------------------------------


def _reduced(x: Tensor, how: str, groups: Sequence[str]) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    operation = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}[how]
    for name in groups:
        dist.all_reduce(x, operation, group=group_of(name))
    return x


def _reduced_fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_reduced(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, how, ctx.groups = inputs
    if how != "sum":
        ctx.mark_non_differentiable(output)


def _reduced_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return share(g, ctx.groups), None, None


_reduce = register(
    "all_reduced(Tensor x, str how, str[] groups) -> Tensor", _reduced, _reduced_fake, _save_reduced, _reduced_backward
)


def sum_over(x: Tensor, groups: Sequence[str]) -> Tensor:
    """Return the sum of x over all ranks, as one number that all have: its gradient is each rank's own."""
    return _reduce(x, "sum", list(groups)) if groups else x


def extreme_over(x: Tensor, how: str, groups: Sequence[str]) -> Tensor:
    """Return the "max" or "min" of x over all ranks, a constant."""
    return _reduce(x.detach(), how, list(groups)) if groups else x.detach()


def log_sum_exp(s: Tensor, groups: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """Return the largest s over axis 1 and the ranks of the groups, a constant, and log Σ e^(s − that)."""
    peak = s.detach().amax(1) if s.shape[1] else s.detach().sum(1) - torch.inf
    peak = extreme_over(peak, "max", groups)
    peak = torch.where(torch.isneginf(peak), 0.0, peak)
    return peak, sum_over((s - peak.unsqueeze(1)).exp().sum(1), groups).log()


def share(x: Any, groups: Sequence[str]) -> Any:
    """Return x, which all ranks have and each uses for something of its own: its gradient is the sum of theirs."""
    return _Share.apply(x, tuple(groups)) if groups and x is not None else x


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: tuple[str, ...]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.groups = groups
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum_over(g, ctx.groups), None


# Rows that each rank brings ----------------------------------------------------------------------------------------


def gather_rows(rows: Tensor, shards: Shards) -> Tensor:
    """Return `gathered` from each rank's rows; the gradient of these is this rank's share of the sum over the ranks."""
    gathered: Any = shards.gathered
    found: Any = _Gather.apply(rows, shards.groups[-1], (gathered.shape[0], shards.each))
    return found if shards.order is None else torch.empty_like(found).index_copy(0, shards.order, found)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, name: str, shape: tuple[int, int]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.name, ctx.shape, ctx.own = name, shape, rows.shape[0]
        total, each = shape
        group = group_of(name)
        padded = torch.nn.functional.pad(rows, (0, 0, 0, each - rows.shape[0])) if rows.shape[0] < each else rows
        out = rows.new_empty((each * dist.get_world_size(group), rows.shape[1]))
        _ALL_GATHER(out, padded.contiguous(), group=group)
        return out[:total].clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Scatter.apply(g, ctx.name, (*ctx.shape, ctx.own)), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, name: str, shape: tuple[int, int, int]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.name, ctx.shape = name, shape
        total, each, own = shape
        padding = each * dist.get_world_size(group_of(name)) - total
        sums = torch.nn.functional.pad(sums, (0, 0, 0, padding))
        out = sums.new_empty((each, sums.shape[1]))
        _REDUCE_SCATTER(out, sums, group=group_of(name))
        return out[:own]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Gather.apply(g, ctx.name, ctx.shape[:2]), None, None


class InputGradient:
    """The gradient of rows that each rank has a part of: the parts are added up while others are still computed."""

    def __init__(self, input: Tensor, dtype: torch.dtype, shards: Shards) -> None:
        self._groups, self._each, self._order = shards.groups, shards.each, shards.order
        rows = shards.each * dist.get_world_size(group_of(shards.groups[-1])) if shards.each else input.shape[0]
        self._whole = input.new_zeros((rows, input.shape[1]), dtype=dtype)
        self._share: Tensor | None = None
        self._work: list[Any] = []
        self.part = self._whole[: input.shape[0]]
        """This rank's part, to be written."""

    def finished(self, i: int, j: int, *, last: bool = True) -> None:
        """Begin to add up rows [i, j), complete with their last tile; all at once if each rank wants a share."""
        if not last or not self._groups:
            return
        if self._each:
            if j == self.part.shape[0]:  # else some are packed, and have to be moved first
                self._scatter()
            return
        for name in self._groups[:-1]:
            dist.all_reduce(self._whole[i:j], group=group_of(name))
        self._work.append(dist.all_reduce(self._whole[i:j], group=group_of(self._groups[-1]), async_op=True))

    def _scatter(self) -> None:
        self._share = self._whole.new_empty((self._each, self._whole.shape[1]))
        if self._order is not None:
            self._whole[: len(self._order)] = self.part[self._order]
        for name in self._groups[:-1]:
            dist.all_reduce(self._whole, group=group_of(name))
        self._work.append(_REDUCE_SCATTER(self._share, self._whole, group=group_of(self._groups[-1]), async_op=True))

    def sum(self, arrange: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the sums of all rows, or this rank's share of them and padding; `arrange` unpacks them in place."""
        if self._each and self._share is None:
            _ = arrange(self.part)
            self._scatter()
        while self._work:
            self._work.pop().wait()
        return arrange(self.part) if self._share is None else self._share
