"""The call of the linear loss as its operators take it: the record, and the head without padding and ignored rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.spec import Scores, Target
from crossent.torch.base.dequantized import classes_of
from crossent.torch.base.operator_call import OperatorCall, operator_call
from crossent.torch.base.values import (
    PredictionResults,
    RowResults,
    loss_dtype,
    new_record,
    partial_view,
    without_autocast,
)
from crossent.torch.call.layout import LayerOperands, logits_of
from crossent.torch.operators.rows import RowCall, row_stats
from crossent.torch.ranks.collectives import share
from crossent.torch.ranks.gathered import gather_rows
from crossent.torch.ranks.records import ClassRange
from crossent.torch.ranks.shards import Ranks, held
from crossent.torch.sources.driver import TiledRows, check_targets
from crossent.torch.sources.linear import LinearSource
from crossent.torch.sources.source import Wanted


class LinearGradients(NamedTuple):
    """Gradients of the differentiable operands of a linear loss; None where no gradient is wanted."""

    input: Tensor | None = None
    linear_weight: Tensor | None = None
    linear_bias: Tensor | None = None
    prob: Tensor | None = None
    linear_adapter: Tensor | None = None

    def __add__(self, other: Any) -> LinearGradients:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the sum of both, where either may lack an operand."""
        pairs = zip(self, other, strict=True)
        return LinearGradients(*(a if b is None else b if a is None else a + b for a, b in pairs))

    def filled(self, like: Tensor) -> list[Tensor]:
        """Return a tensor for each, because operators return no None: an empty one where there is none."""
        return [like.new_empty((0,)) if g is None else g for g in self]


@operator_call
class LinearCall(OperatorCall):
    """A linear layer, input (N, D), weight (V · P, D) and bias (V · P,), with its target, scores and ranks.

    Classes beyond the last one (`target.num_classes`) are padding; P is the number of positions. With an adapter (V ·
    P, r) the input has D + r features, and the last r of them meet the adapter.
    """

    input: Tensor
    linear_weight: Tensor
    linear_bias: Tensor | None
    positions: int
    target: Target
    scores: Scores
    ranks: Ranks
    linear_adapter: Tensor | None = None

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        """Operands that may get a gradient, in the order of `LinearGradients`."""
        prob: Any = self.target.prob
        return self.input, self.linear_weight, self.linear_bias, prob, self.linear_adapter

    def with_operands(self, operands: Sequence[Any]) -> LinearCall:
        """Return the call with other operands."""
        x, weight, bias, prob, adapter = operands
        target = dataclasses.replace(self.target, prob=prob)
        return dataclasses.replace(
            self, input=x, linear_weight=weight, linear_bias=bias, target=target, linear_adapter=adapter
        )

    @property
    def features(self) -> Tensor:
        """Rows of the loss: the input, or the rows gathered from all ranks."""
        return self.input if self.ranks.gathered is None else self.ranks.gathered

    @property
    def columns(self) -> int:
        """Number of classes that are stored, padding included."""
        return self.linear_weight.shape[0] // max(1, self.positions)

    @property
    def classes(self) -> int:
        """Number of classes at hand."""
        return held(self.columns, self.target.first_class, self.target.num_classes)

    @property
    def class_range(self) -> ClassRange:
        """Which classes these are."""
        return ClassRange(self.target.first_class, self.classes, self.target.num_classes or self.classes)

    def new_results(self, rows: int | None = None) -> RowResults:
        """Return memory for the results of so many rows of the input, or of all, as of rows without a target."""
        number = (self.features.shape[0] if rows is None else rows) * self.positions
        loss, record = new_record(number, self.input)
        _, _ = loss.zero_(), record.zero_()
        _ = record[1].fill_(1.0)
        return RowResults(loss, torch.zeros_like(loss), torch.zeros_like(loss), record)

    def new_predictions(self, *, wanted: bool) -> PredictionResults:
        """Return memory for results of predictions of all rows if they are wanted, as of rows without a target."""
        number = self.features.shape[0] * self.positions if wanted else 0
        squares, record = new_record(number, self.input)
        _, _ = squares.zero_(), record.zero_()
        _ = record[1].fill_(1.0)
        predicted = torch.full_like(squares, -1, dtype=torch.int64)
        return PredictionResults(squares, record, predicted, torch.full_like(squares, -torch.inf, dtype=torch.float64))

    def unpadded(self) -> LinearCall:
        """Return the call without padding."""
        here, positions = self.classes, self.positions
        if self.columns == here:
            return self
        bias, adapter, target = self.linear_bias, self.linear_adapter, self.target
        prob: Any = target.prob
        if prob is not None and target.index is None:
            target = dataclasses.replace(target, prob=prob[:, :here])
        return dataclasses.replace(
            self,
            linear_weight=classes_of(self.linear_weight, slice(0, here * positions)),
            linear_bias=None if bias is None else bias[: here * positions],
            linear_adapter=None if adapter is None else adapter[: here * positions],
            target=target,
        )

    def padded(self, found: LinearGradients) -> LinearGradients:
        """Return gradients in the shapes of the operands: cut where rows were gathered, zero in the padding."""
        pad = torch.nn.functional.pad
        g_input, g_weight, g_bias, g_prob, g_adapter = found
        if g_input is not None:
            g_input = g_input[: self.input.shape[0]]
        padding = self.columns - self.classes
        if padding:
            stored = padding * self.positions
            g_weight, g_adapter = (None if g is None else pad(g, (0, 0, 0, stored)) for g in (g_weight, g_adapter))
            g_bias = None if g_bias is None else pad(g_bias, (0, stored))
            if g_prob is not None and self.target.index is None:
                g_prob = pad(g_prob, (0, 0) * (g_prob.ndim - 2) + (0, padding))
        return LinearGradients(g_input, g_weight, g_bias, g_prob, g_adapter)

    def products(self, number: int, wanted: Wanted = Wanted()) -> int:  # noqa: B008  a constant
        """Return the floating-point operations of so many products of the logits, 2 N (D + r) V each, and of gradients.

        Rows that are packed out are not multiplied.
        """
        rows, index = self.features.shape[0], self.target.index
        if self.target.kind == "index" and type(index) is Tensor and index.is_cpu:
            has_target = index.long() != self.target.ignore_index
            rows = int(has_target.view(-1, self.positions).any(1).sum())
        D, whole = self.linear_weight.shape[1], self.input.shape[1]
        features = (number + wanted.input + wanted.prob) * whole
        features += wanted.linear_weight * D + wanted.linear_adapter * (whole - D)
        return 2 * rows * features * self.classes * self.positions

    def packed(self) -> PackedRows:
        """Return the rows that have a target, as a task for the chunk driver.

        On a GPU all rows stay, because counting them would wait for the device. Rows without a target have the gradient
        0 for any values, and no product multiplies their values by it (`driver.rows_with_gradient`).
        """
        call, positions = self.unpadded(), self.positions
        index: Any = self.target.index
        target = call.target if index is None else dataclasses.replace(call.target, index=index.long())
        source = LinearSource(
            self.features, call.linear_weight, call.linear_bias, positions, None, self.ranks, call.linear_adapter
        )
        task = TiledRows(source, target, self.scores, self.ranks)
        check_targets(task, source.input)
        if target.kind != "index" or not source.input.is_cpu:
            return PackedRows(task, None)
        index = target.index
        has_target = index != target.ignore_index
        valid = has_target.view(-1, positions).any(1) if positions else has_target.new_ones(source.size)
        if valid.all():
            return PackedRows(task, None)
        rows = valid.nonzero().squeeze(1)
        index = index.view(-1, positions)[rows].view(-1)
        source, target = dataclasses.replace(source, rows=rows), dataclasses.replace(target, index=index)
        each = torch.arange(positions, device=rows.device)
        places = rows if positions == 1 else (rows[:, None] * positions + each).view(-1)
        task = dataclasses.replace(task, scores=task.scores_at(places))
        return PackedRows(dataclasses.replace(task, source=source, target=target), places)


class PackedRows(NamedTuple):
    """The rows of a head that have a target, and their places in vectors of all rows (None: all rows have one)."""

    task: TiledRows
    places: Tensor | None

    @property
    def source(self) -> LinearSource:
        """The head."""
        source: Any = self.task.source
        return source

    def take(self, vectors: Any) -> Any:
        """Return the entries of these rows in an array whose last axis is all rows."""
        return vectors if vectors is None or self.places is None else vectors[..., self.places]

    def put(self, results: Sequence[Tensor], packed: Sequence[Tensor]) -> None:
        """Write the results of these rows into the results of all rows."""
        if self.places is not None:
            for to, part in zip(results, packed, strict=True):
                to[..., self.places] = part


def recomputed(
    call: LinearCall,
    close: Callable[[LinearCall, RowResults], Sequence[Tensor]],
    cotangents: Sequence[Tensor | None],
) -> LinearGradients:
    """Return differentiable gradients: everything once more, in differentiable operations, with all of the logits.

    `close` returns the tensors that the cotangents belong to, from a copy of the call and the results of its rows.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [partial_view(x) for x in call.operands]
        copy = call.with_operands(inputs)
        outputs = close(copy, linear_stats_plain(copy))
        pairs = [(out, g) for out, g in zip(outputs, cotangents, strict=True) if g is not None]
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        found = iter(
            torch.autograd.grad(
                [out for out, _ in pairs], wanted, [g for _, g in pairs], create_graph=again, allow_unused=True
            )
        )
        return LinearGradients(*(next(found) if x is not None and x.requires_grad else None for x in inputs))


def linear_stats_plain(call: LinearCall) -> RowResults:
    """Compute linear_stats with all logits in memory: its slow twin, differentiable any number of times."""
    return row_stats(rows_of_layer(call))


def rows_of_layer(call: LinearCall) -> RowCall:
    """Return the call of all logits of a layer, made in differentiable operations."""
    ranks, wide, call = call.ranks, loss_dtype(call.input.dtype), call.unpadded()
    layer = (share(x, ranks.row_groups) for x in (call.linear_weight, call.linear_bias, call.linear_adapter))
    weight, bias, adapter = (None if x is None else x.to(wide) for x in layer)
    if ranks.gathered is None:
        features = share(call.input, ranks.groups)
    else:
        features = share(gather_rows(call.input, ranks), ranks.groups[:-1])
    with without_autocast(features):
        logits = logits_of(LayerOperands(features.to(wide), weight, bias, adapter))  # pyright: ignore[reportArgumentType]
    positions = call.positions
    logits = logits if positions == 1 else logits.unflatten(1, (call.classes, positions))
    return RowCall(logits, call.target, call.scores, ranks.groups, recorded=True)
