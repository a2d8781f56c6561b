"""The sum or mean of a closing over the rows of a linear layer, and its gradients, in one sweep.

A closing is a Python function, which operators of torch's dispatcher cannot take; so this is an autograd.Function, only
for eager mode. Under observation, the closing is applied to the results of `linear_stats`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossent.kernels.backend import Cotangents, LossScale
from crossent.torch.base.register import is_plain, is_plain_backward
from crossent.torch.base.transforms import has_tangents, is_watched
from crossent.torch.base.values import RowResults
from crossent.torch.call.closings import RowFunction, RowView, closed, sequence_ends
from crossent.torch.operators.linear_loss import (
    LinearLoss,
    LinearLossCall,
    linear_loss_backward,
    save_linear_loss,
    sweep,
)
from crossent.torch.sources.driver import Chunk
from crossent.torch.sources.plan import Sweep
from crossent.torch.sources.source import Span, spans

_NAMES = tuple(leaf.name for leaf in LinearLossCall.leaves() if leaf.is_tensor)


class NeedsTwoSweeps(Exception):  # noqa: N818  no error: another plan is taken
    """Raised if a closing needs more than a chunk has; results of all rows do."""


class ChunkClosing:
    """A closing evaluated on chunks of rows: their losses, and the cotangents of their results."""

    def __init__(self, function: RowFunction, scale: LossScale, results: RowResults) -> None:
        self.losses = torch.zeros_like(results.loss)
        self.cotangents = Cotangents(*[torch.zeros_like(results.loss) for _ in range(3)])
        self._function, self._scale = function, scale

    def spans(self, most: int) -> list[Span]:
        """Return the rows of each chunk, at most so many; chunks end where sequences do."""
        segments = self._function.segments
        if segments is None:
            return spans(len(self.losses), most)
        found = spans_of_sequences(sequence_ends(segments), most)
        if found is None:
            raise NeedsTwoSweeps
        return found

    def __call__(self, rows: slice, chunk: Chunk) -> Cotangents:
        """Return the cotangents of a chunk's loss, lse and entropy."""
        loss_scale: Any = self._scale.loss
        squared: Any = self._scale.lse_squared
        scale = loss_scale[rows]
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in chunk.results[:3]]
            view = _ChunkView(
                chunk.target, RowResults(leaves[0], leaves[1], leaves[2], chunk.results.record), chunk.again
            )
            losses = closed(self._function.take(rows), view, scale == 0)
            if rows.start == 0 and uses_others(losses, leaves):
                raise NeedsTwoSweeps
            found: list[Any] = list(
                torch.autograd.grad(losses, leaves, scale.to(losses.dtype), allow_unused=True, materialize_grads=True)
            )
        if squared is not None:
            found[1] = found[1] + 2 * squared[rows] * chunk.results.lse
        self.losses[rows] = losses.detach()
        for all_rows, part in zip(self.cotangents, found, strict=True):
            every: Any = all_rows
            every[rows] = part
        return Cotangents(*(x[rows] for x in self.cotangents))  # pyright: ignore


class _ChunkView(RowView):
    """Rows of a chunk, whose results for another target are constants."""

    @property
    def logprob(self) -> Tensor:
        """Log-probability of the target class."""
        if self.target.weight is not None or self.target.smoothing != 0.0:
            raise NeedsTwoSweeps
        return super().logprob


def spans_of_sequences(ends: list[int] | None, most: int) -> list[Span] | None:
    """Return chunks of at most so many rows that end where sequences do, None if there are none."""
    if ends is None:
        return None
    found, begin, last = list[Span](), 0, 0
    for end in ends:
        if end - last > most:
            return None
        if end - begin > most:
            found.append(Span(begin, last))
            begin = last
        last = end
    return [*found, Span(begin, last)] if last > begin else found


def uses_others(losses: Tensor, leaves: list[Tensor]) -> bool:
    """Return whether losses have a gradient by another tensor than these."""
    seen, waiting = set[Any](), [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and all(variable is not x for x in leaves):
            return True
        waiting += [parent for parent, _ in node.next_functions]
    return False


class ClosedLoss(torch.autograd.Function):
    """The loss of a call with a closing; its arguments are both, and the tensors of the call for autograd."""

    @staticmethod
    def forward(ctx: Any, call: LinearLossCall, function: RowFunction, *_: Any) -> Any:
        """Return the results of `linear_loss`."""
        made: list[Any] = []

        def closing_of(scale: LossScale, results: RowResults, places: Tensor | None) -> ChunkClosing:
            made.append(ChunkClosing(function if places is None else function.take(places), scale, results))
            made.append(places)
            return made[0]

        # chunks that end where sequences do have no common length, as plans that keep gradients of chunks need
        found = sweep(call, closing_of, call.chunks if function.segments is None else Sweep(call.chunks.rows))
        chunks, places = made
        losses: Tensor = chunks.losses
        if places is not None:
            losses = torch.zeros_like(found.results.loss).index_copy_(0, places, losses)
        output = found.loss(call.closing.reduced(losses, found.results.lse))
        save_linear_loss(ctx, call, output, function)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        """Return the gradients of the operands, which the forward found already."""
        ctx.plain = is_plain_backward(*cotangents)
        needs = ctx.needs_input_grad[2:]
        wants = frozenset(name for name, need in zip(_NAMES, needs, strict=True) if need)
        found = linear_loss_backward(ctx, wants, *cotangents)
        return None, None, *[found.get(name) for name in _NAMES]


def closed_loss(call: LinearLossCall, function: RowFunction) -> LinearLoss | None:
    """Return the sum or mean of a closing over the rows, or None if that needs two sweeps."""
    if is_watched() or (function.segments is not None and call.head.positions != 1):
        return None
    tensors = call.tensors()
    if has_tangents(tensors) or not all(x is None or is_plain(x) for x in tensors):
        return None
    try:
        return LinearLoss(*ClosedLoss.apply(call, function, *tensors))  # pyright: ignore
    except NeedsTwoSweeps:
        return None
