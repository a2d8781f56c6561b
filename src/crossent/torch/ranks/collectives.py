"""Messages between ranks: sums as autograd sees them, and gradients that add up while the next are computed.

Groups are known by their names, as in torch's own compiled collectives, because an operator takes no group. All ranks
of a group make the same calls in the same order, so every value that decides on them must be the same on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from crossent.torch.base.operator_call import OperatorCall, operator_call
from crossent.torch.base.register import Backward, Forward, Gradients, Wants, register


def group_of(name: str) -> Any:
    """Return the process group of this name."""
    return dist.distributed_c10d._resolve_process_group(name)  # pyright: ignore


def add_up(tensors: Sequence[Tensor | None], groups: Sequence[str]) -> None:
    """Replace tensors by their sums over the groups."""
    for x in tensors:
        for name in groups if x is not None else ():
            dist.all_reduce(x, group=group_of(name))


def least_over(number: int, like: Tensor, groups: Sequence[str]) -> int:
    """Return the least of the numbers that the ranks of the groups have; on a GPU this waits for the device."""
    if not groups:
        return number
    least = like.new_full((1,), number, dtype=torch.int64)
    for name in groups:
        dist.all_reduce(least, dist.ReduceOp.MIN, group=group_of(name))
    return int(least)


# Sums, as autograd sees them ---------------------------------------------------------------------------------------


@operator_call
class ReduceCall(OperatorCall):
    """A tensor that every rank of the groups has one of, and how they become one: "sum", "max" or "min"."""

    x: Tensor
    how: str
    groups: tuple[str, ...]


def _all_reduced(call: ReduceCall) -> Tensor:
    x = call.x.clone(memory_format=torch.contiguous_format)
    operation = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}[call.how]
    for name in call.groups:
        dist.all_reduce(x, operation, group=group_of(name))
    return x


def _all_reduced_fake(call: ReduceCall) -> Tensor:
    return torch.empty_like(call.x, memory_format=torch.contiguous_format)


def _save_all_reduced(ctx: Any, call: ReduceCall, output: Tensor) -> None:
    ctx.groups = call.groups
    if call.how != "sum":
        ctx.mark_non_differentiable(output)


def _all_reduced_backward(ctx: Any, wants: Wants, g: Tensor) -> Gradients:
    return {"x": share(g, ctx.groups)}


class _Reduce(torch.autograd.Function):
    """The same for function transforms and forward mode: all ranks must be in the same ones."""

    @staticmethod
    def forward(x: Tensor, how: str, groups: tuple[str, ...]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _all_reduced(ReduceCall(x, how, groups))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, how, groups = inputs
        _save_all_reduced(ctx, ReduceCall(x, how, groups), output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return share(g, ctx.groups), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, how: str, groups: tuple[str, ...]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Reduce.apply(x, how, groups), in_dims[0]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum_over(tangent, ctx.groups)


def _all_reduced_plain(call: ReduceCall) -> Tensor:
    return _Reduce.apply(call.x, call.how, call.groups)  # pyright: ignore[reportReturnType]


_all_reduce = register(
    "all_reduced",
    ReduceCall,
    Tensor,
    Forward(_all_reduced, _all_reduced_fake, _all_reduced_plain),
    Backward(_save_all_reduced, _all_reduced_backward),
)


def sum_over(x: Tensor, groups: Sequence[str]) -> Tensor:
    """Return the sum of x over all ranks, as one number that all have: its gradient is each rank's own."""
    return _all_reduce(ReduceCall(x, "sum", tuple(groups))) if groups else x


def extreme_over(x: Tensor, how: str, groups: Sequence[str]) -> Tensor:
    """Return the "max" or "min" of x over all ranks, a constant."""
    return _all_reduce(ReduceCall(x.detach(), how, tuple(groups))) if groups else x.detach()


class LogTotal(NamedTuple):
    """The normaliser of each row in two parts: its peak, a constant, and log Σ e^(s − peak)."""

    peak: Tensor
    log_total: Tensor

    @property
    def lse(self) -> Tensor:
        """Log of the normaliser."""
        return self.peak + self.log_total


def log_sum_exp(s: Tensor, groups: Sequence[str] = ()) -> LogTotal:
    """Return the normaliser of scores over axis 1 and over the ranks of the groups."""
    peak = s.detach().amax(1) if s.shape[1] else s.detach().sum(1) - torch.inf
    peak = extreme_over(peak, "max", groups)
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    return LogTotal(peak, sum_over((s - peak.unsqueeze(1)).exp().sum(1), groups).log())


def share(x: Any, groups: Sequence[str]) -> Any:
    """Return x, which all ranks have and each uses for something of its own: its gradient is the sum of theirs."""
    return _Share.apply(x, tuple(groups)) if groups and x is not None else x


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, groups: tuple[str, ...]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, ctx.groups = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum_over(g, ctx.groups), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, groups: tuple[str, ...]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Share.apply(x, groups), in_dims[0]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tangent.view_as(tangent)
