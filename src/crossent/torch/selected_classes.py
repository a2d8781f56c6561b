"""Log-probabilities of several classes a row: the calls of the operators, of logits and of a linear layer."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from crossent.kernels.checks import as_int64
from crossent.spec import NO_CLASS
from crossent.torch.base.transforms import wants_plain_operations
from crossent.torch.base.values import INTEGER, PredictionResults, is_dtensor, loss_dtype
from crossent.torch.call.arguments import Arguments, CheckedRows, Closing, check_same_call, checked
from crossent.torch.call.checks import check_companion, ignore_index_of
from crossent.torch.call.layout import LogitsLayout, layout_of
from crossent.torch.call.results import Stats, predicted_of
from crossent.torch.call.targets import TargetKind, TargetRows
from crossent.torch.linear import checked_layer
from crossent.torch.operators.linear_selected import LinearSelectedCall, linear_selected
from crossent.torch.operators.prediction import prediction
from crossent.torch.operators.rows import RowCall
from crossent.torch.operators.selected import SelectedCall, SelectedResults, selected_stats
from crossent.torch.ranks.shards import NO_SHARDS
from crossent.torch.sources.linear import costs_of
from crossent.torch.sources.plan import default_chunk_bytes


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SelectedClasses(TargetKind):
    """K classes for each row, (…, K). To the kernels rows of them have no target: the first class stands in."""

    classes: Tensor
    ignore_index: int
    single: bool = False
    class_axis: ClassVar[bool] = False

    @staticmethod
    def of(classes: Any, rows: torch.Size, device: torch.device, ignore_index: Any, beside: str) -> SelectedClasses:
        """Return the classes of a call; raise if they do not fit the rows."""
        if type(ignore_index) is not int or abs(ignore_index) >= 2**63:
            ignore_index = ignore_index_of(ignore_index)
        if not isinstance(classes, Tensor):
            raise TypeError(f"classes must be a tensor, got {type(classes).__name__}; use torch.as_tensor first")
        single = classes.ndim == len(rows)
        if classes.shape[: len(rows)] != rows or classes.ndim > len(rows) + 1:
            text = ", ".join(map(str, rows))
            raise ValueError(
                f"classes of shape {tuple(classes.shape)} do not fit rows of shape {tuple(rows)}: one class per row "
                f"has shape ({text}), K classes per row ({text + ', ' if text else ''}K)"
                + ("; the classes of logits are on their last axis" if beside == "logits" else "")
            )
        if not is_dtensor(classes):
            check_companion("classes", classes, device)
        if classes.dtype not in INTEGER:
            raise TypeError(f"classes must have an integer dtype, got {classes.dtype}; use classes.long()")
        return SelectedClasses(classes, ignore_index, single)

    def flat(self, rows: torch.Size) -> SelectedClasses:
        """Return them for one axis of rows."""
        if len(rows) <= 1:
            return self
        return dataclasses.replace(self, classes=self.classes.reshape(rows.numel(), *self.classes.shape[len(rows) :]))

    def rows(self, layout: LogitsLayout) -> TargetRows:
        """Return the class that stands in for the target of each row."""
        return TargetRows(torch.zeros(layout.rows.numel(), dtype=torch.int64, device=layout.device), None)

    def matrix(self, layout: LogitsLayout) -> Tensor:
        """Return the classes as (N, K) int64, with `NO_CLASS` for entries that are left out."""
        classes = self.classes.reshape(layout.rows.numel(), self.classes.shape[-1])
        unsigned = classes.dtype == torch.uint64
        signed = as_int64(classes, self.ignore_index) if unsigned else classes.long()
        return signed.masked_fill(signed == self.ignore_index, NO_CLASS)


def rows_arguments(operands: Any, given: SelectedClasses, scores: Any, sharding: Any) -> Arguments:
    """Return the arguments of the loss of each row, with its statistics."""
    target: Any = given.classes if given.single else given
    ignore_index = given.ignore_index if given.single else None
    closing = Closing("none", None, 0.0)
    return Arguments(operands, target, None, ignore_index, 0.0, scores, closing, True, sharding, NO_SHARDS)


def selected_of_logits(arguments: Arguments) -> Stats:
    """Return the statistics of rows of logits (N, V) or (V), whose target are `SelectedClasses`."""
    logits = arguments.operands
    given: Any = arguments.target
    if logits.ndim == 1:
        logits, given = logits.unsqueeze(0), dataclasses.replace(given, classes=given.classes.unsqueeze(0))
    layout = layout_of(logits, shard=bool(arguments.shards.ranks.groups))
    rows = checked(arguments._replace(operands=logits, target=given), layout)
    _check_same_call(rows, given, logits)
    call = RowCall(logits, rows.target, rows.scores, rows.ranks.groups, recorded=True)
    classes = given.matrix(layout)
    found = selected_stats(SelectedCall(call, classes))
    return _stats_of_selected(found, prediction(call, found.record), classes)


def selected_of_layer(arguments: Arguments, chunk_bytes: int | None) -> Stats:
    """Return the statistics of the rows of a layer on this rank, in the shape of the rows."""
    call, rows = checked_layer(arguments)
    given: Any = arguments.target
    wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments.operands)
    costs = costs_of(call.input, call.linear_weight)
    if chunk_bytes is None:
        chunk_bytes = default_chunk_bytes(costs) if rows.ranks.alone else costs.device.chunk_bytes
    _check_same_call(rows, given, call.input, chunk_bytes=chunk_bytes)
    size = rows.layout.shape.numel() * loss_dtype(call.input.dtype).itemsize
    keep = wanted and size <= chunk_bytes and not wants_plain_operations()
    classes = given.matrix(rows.layout)
    found = linear_selected(LinearSelectedCall(call, classes, keep, chunk_bytes))
    return reshaped(_stats_of_selected(found.selected, found.prediction, classes), rows.layout.rows)


def selected_of_dtensor(arguments: Arguments, localized: Any, *chunk_bytes: int | None) -> Stats:
    """Return the statistics of DTensors: results of this rank's rows, as DTensors."""
    local = localized(arguments)
    if chunk_bytes:
        stats = selected_of_layer(local.arguments, *chunk_bytes)
    else:
        logits, given = local.arguments.operands, local.arguments.target
        logits = logits.movedim(min(1, logits.ndim - 1), -1)
        rows = logits.shape[:-1]
        flat = local.arguments._replace(operands=logits.reshape(-1, logits.shape[-1]), target=given.flat(rows))
        stats = reshaped(selected_of_logits(flat), rows)
    return local.finish((stats.lse, stats))[1]


def _check_same_call(rows: CheckedRows, given: SelectedClasses, like: Tensor, **facts: Any) -> None:
    if not rows.ranks.alone:
        each = {"the dtype": str(like.dtype), "classes for each row": given.classes.shape[-1], **facts}
        check_same_call(rows, **each)


def _stats_of_selected(found: SelectedResults, of_predictions: PredictionResults, classes: Tensor) -> Stats:
    lse, entropy, logprob, z, record = found
    best = ((z >= of_predictions.peak[:, None]) & (classes != NO_CLASS)).any(1)
    return Stats(
        lse=lse,
        logprob=logprob,
        entropy=entropy,
        confidence=record[1].reciprocal().to(lse.dtype),
        correct=best,
        log_sum_squares=of_predictions.log_sum_squares,
        predicted=predicted_of(lse, of_predictions),
    )


def reshaped(stats: Stats, rows: torch.Size) -> Stats:
    """Return statistics of rows in one axis in the shape of the rows."""
    if len(rows) == 1:
        return stats
    fields = {field.name: getattr(stats, field.name) for field in dataclasses.fields(stats)}
    return Stats(**{name: x.reshape((*rows, *x.shape[1:])) if x.ndim else x for name, x in fields.items()})
