"""The arguments of a softmax loss: bound once at the front door, checked once, and passed whole from there on."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent import closing as closings
from crossent.closing import Reduction
from crossent.kernels.backend import LossScale
from crossent.numbers import real, switch, whole
from crossent.spec import Scores, Target
from crossent.torch.base.values import RowResults, loss_dtype
from crossent.torch.call.checks import (
    check_companion,
    check_constant,
    check_number_type,
    check_numbers,
    check_weight,
    ignore_index_of,
    in_kernel_dtype,
)
from crossent.torch.call.closings import RowFunction, RowView, checked_function, closed
from crossent.torch.call.layout import LayerOperands, LogitsLayout
from crossent.torch.call.targets import TargetKind, target_rows
from crossent.torch.ranks.agreement import check_agreement
from crossent.torch.ranks.collectives import sum_over
from crossent.torch.ranks.shards import NO_RANKS, NO_SHARDS, Ranks, Shards, shards_of


class Sharding(NamedTuple):
    """Shard arguments of a call."""

    process_group: Any = None
    first_class: int | None = None
    num_classes: int | None = None


NOT_SHARDED = Sharding()


class Closing(NamedTuple):
    """How row losses become the result: reduction, sample weights (N,), strength of the z-loss.

    With a caller's closing, its losses are reduced in place of the row losses.
    """

    reduction: Reduction
    sample_weight: Tensor | None
    z_loss: float
    function: RowFunction | None = None


class Arguments(NamedTuple):
    """The arguments of a softmax loss, as the caller passed them."""

    operands: Any
    """The logits, or the `LayerOperands` that make them."""
    target: Tensor | TargetKind
    weight: Tensor | None
    ignore_index: int | None
    """None if the caller passed none."""
    label_smoothing: float
    scores: Scores
    """With temperatures of rows as the caller passed them; `CheckedRows.scores` has them in the form of the kernels."""
    closing: Closing
    return_stats: bool
    sharding: Sharding
    shards: Shards
    """Positions of the local columns among all classes: `NO_SHARDS` until determined."""

    def bound(self) -> Arguments:
        """Return the arguments with all numbers as ints and floats.

        Raises
        ------
        TypeError
            If an argument is not a number, or not a bool.
        """
        ignore_index, closing = self.ignore_index, self.closing
        smoothing, stats = self.label_smoothing, self.return_stats
        usual = type(smoothing) is type(closing.z_loss) is float and type(stats) is bool
        if usual and (ignore_index is None or (type(ignore_index) is int and abs(ignore_index) < 2**63)):
            return self
        return self._replace(
            ignore_index=None if ignore_index is None else ignore_index_of(ignore_index),
            label_smoothing=real("label_smoothing", smoothing),
            closing=closing._replace(z_loss=real("z_loss", closing.z_loss)),
            return_stats=switch("return_stats", stats),
        )

    def sharded(self) -> Arguments:
        """Return the arguments with the shards that the caller described."""
        if self.sharding is NOT_SHARDED:
            return self
        stored, axis = self.operands, 0
        if isinstance(stored, LayerOperands):
            stored = stored.linear_weight
        elif isinstance(stored, Tensor):
            axis = min(1, stored.ndim - 1)
        columns = stored.shape[axis] if isinstance(stored, Tensor) and stored.ndim else 0
        return self._replace(shards=shards_of(*self.sharding, columns))

    def sharded_beside(self) -> Arguments:
        """Return the same for a call with a second head, which may have padding where the first one has none."""
        arguments, number = self.sharded(), self.sharding.num_classes
        if arguments.shards is not NO_SHARDS or number is None:
            return arguments
        return arguments._replace(shards=Shards(NO_RANKS, 0, number))


class RowCounts(NamedTuple):
    """Weight of each row in a mean, and which rows have a target; None means 1, or True, for all rows."""

    weight: Tensor | None
    valid: Tensor | None


class RowClosing(NamedTuple):
    """A closing, and the target whose classes weigh the rows in a mean."""

    closing: Closing
    target: Target
    class_weight: Tensor | None
    """Weights of all classes; `target` has the weights of the classes at hand."""
    row_groups: tuple[str, ...] = ()
    """Groups of ranks that have other rows of the call."""

    def counts(self, dtype: torch.dtype) -> RowCounts:
        """Return the weight of each row in a mean: the weight of its class, and 0 for an ignored row."""
        if self.target.kind != "index":
            return RowCounts(None, None)
        index: Any = self.target.index
        index = index.long()
        valid = row_weight = index != self.target.ignore_index
        if self.class_weight is not None:
            of_class = self.class_weight.to(dtype)[index.clamp(0, self.class_weight.shape[0] - 1)]
            row_weight = torch.where(valid, of_class, 0.0)
        return RowCounts(row_weight, valid)

    def scale(self, results: RowResults) -> LossScale:
        """Return the derivatives of `reduced` by each row's loss and by the square of its lse, in float64."""
        samples, z_loss = self.closing.sample_weight, self.closing.z_loss
        s = torch.ones_like(results.loss, dtype=torch.float64) if samples is None else samples.double()

        def share(counted: Tensor | None) -> Tensor:
            if self.closing.reduction == "sum":
                return s
            whole = (s if counted is None else s * counted).sum()
            return torch.where(s == 0, 0.0, s / whole)  # a row of weight 0 has no part in 0 / 0 either

        counts = self.counts(torch.float64)
        return LossScale(share(counts.weight), z_loss * share(counts.valid) if z_loss != 0.0 else None)

    def removed(self, dtype: torch.dtype) -> Tensor | None:
        """Return which rows a closing does not see: ignored rows, and rows of weight 0; None if there are none."""
        samples, valid = self.closing.sample_weight, self.counts(dtype).valid
        if samples is None or samples.requires_grad:
            return None if valid is None else ~valid
        return samples == 0 if valid is None else (samples == 0) | ~valid

    def reduced(self, loss: Tensor, lse: Tensor) -> Tensor:
        """Return the loss of the call: row losses reduced with their sample weights, and the z-loss."""
        reduction, samples, z_loss, _ = self.closing
        counts = self.counts(loss.dtype) if reduction != "none" else RowCounts(None, None)
        if samples is not None:
            loss, lse = (self._without_removed(x, samples) for x in (loss, lse))
        result = self._reduce(loss, counts.weight)
        return result if z_loss == 0.0 else result + self._reduce(closings.z_loss(lse, z_loss), counts.valid)

    def closed(self, view: RowView, loss: Tensor | None = None) -> Tensor:
        """Return the loss of the call from its row results: `reduced`, after the caller's closing.

        Without a closing the row losses are `loss`, by default the losses of their target.
        """
        function, samples = self.closing.function, self.closing.sample_weight
        if function is not None:
            # a row of weight 0 has no gradient, even if the closing returns NaN, but its weight may have one
            still = samples == 0 if samples is not None and samples.requires_grad else None
            loss = closed(function, view, self.removed(view.results.loss.dtype), still)
        return self.reduced(view.results.loss if loss is None else loss, view.results.lse)

    @staticmethod
    def _without_removed(x: Tensor, samples: Tensor) -> Tensor:
        """Return row results with rows of weight 0 cleared; only a weight that is learned still sees its loss."""
        return closings.without_removed(x, samples) if samples.requires_grad else torch.where(samples == 0, 0.0, x)

    def _reduce(self, loss: Tensor, row_weight: Tensor | None) -> Tensor:
        reduction, samples = self.closing.reduction, self.closing.sample_weight
        if reduction == "none" or not self.row_groups:
            return closings.reduce(loss, reduction, sample_weight=samples, row_weight=row_weight)
        counted = torch.ones_like(loss) if row_weight is None else row_weight.to(loss.dtype)
        sums = (closings.reduce(x, "sum", sample_weight=samples) for x in (loss, counted))
        whole = sum_over(torch.stack(tuple(sums)), self.row_groups)
        return whole[0] if reduction == "sum" else whole[0] / whole[1]


class CheckedRows(NamedTuple):
    """Rows of a call after all checks: target, scores and closing as the kernels take them, and the ranks."""

    layout: LogitsLayout
    target: Target
    class_weight: Tensor | None
    """Weights of all classes; `target` has the weights of the classes at hand."""
    scores: Scores
    closing: Closing
    ranks: Ranks
    return_stats: bool


def row_closing(rows: CheckedRows) -> RowClosing:
    """Return the closing and the target of the rows. No property: torch 2.10 compiles none of a NamedTuple."""
    return RowClosing(rows.closing, rows.target, rows.class_weight, rows.ranks.row_groups)


_AS_THEY_ARE = Scores()


def scores_of(temperature: float | Tensor, softcap: float | None) -> Scores:
    """Return the scores of a call; raise if temperature or softcap is out of range.

    A tensor with axes has a temperature for each row, and is checked together with these.
    """
    if type(temperature) is float and temperature == 1.0 and softcap is None:
        return _AS_THEY_ARE
    cap = None if softcap is None else real("softcap", softcap)
    if isinstance(temperature, Tensor) and temperature.ndim > 0:
        return Scores(1.0, cap, temperature)
    return Scores(real("temperature", temperature), cap)


def sharding_of(process_group: Any, first_class: int | None, num_classes: int | None) -> Sharding:
    """Return the shard arguments of a call, `NOT_SHARDED` if there are none."""
    if process_group is None and first_class is None and num_classes is None:
        return NOT_SHARDED
    numbers = (("first_class", first_class), ("num_classes", num_classes))
    return Sharding(process_group, *(None if value is None else whole(name, value) for name, value in numbers))


def checked(arguments: Arguments, layout: LogitsLayout) -> CheckedRows:
    """Return the rows of a call.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the logits, with the argument and what to do.
    """
    ignore_index = -100 if arguments.ignore_index is None else arguments.ignore_index
    shards, closing = arguments.shards, arguments.closing
    found = target_rows(arguments.target, layout, ignore_index)
    check_options(arguments, layout, shards.num_classes or layout.classes)
    weight = in_kernel_dtype(arguments.weight, layout.dtype)
    if closing.sample_weight is not None:
        closing = closing._replace(sample_weight=sample_weight_of(closing.sample_weight, layout))
    if closing.function is not None:
        closing = closing._replace(function=checked_function(closing.function, layout))
    first = shards.first_class if shards.num_classes is None else min(shards.first_class, shards.num_classes)
    target = Target(
        found.index, found.prob, shards.local(weight, layout.classes), arguments.label_smoothing, ignore_index,
        first_class=first,  # beyond the last class there is only padding
        num_classes=shards.num_classes,
    )  # fmt: skip
    scores = row_scores(arguments.scores, layout)
    return CheckedRows(layout, target, weight, scores, closing, shards.ranks, arguments.return_stats)


def check_options(arguments: Arguments, layout: LogitsLayout, classes: int) -> None:
    """Raise unless smoothing, z-loss and the weights of so many classes are in their ranges and fit the logits."""
    check_numbers(arguments.label_smoothing, arguments.closing.z_loss)
    if arguments.weight is not None:
        check_companion("weight", arguments.weight, layout.device)
        check_weight(arguments.weight, classes)


def sample_weight_of(sample_weight: Tensor, layout: LogitsLayout) -> Tensor:
    """Return the sample weights as a vector of the dtype of losses; raise unless they fit the rows."""
    check_companion("sample_weight", sample_weight, layout.device)
    check_number_type("sample_weight", sample_weight)
    shape = layout.rows
    if sample_weight.shape != shape:
        raise ValueError(
            f"sample_weight of shape {tuple(sample_weight.shape)} does not match the rows, shape {tuple(shape)}"
        )
    return sample_weight.reshape(-1).to(loss_dtype(layout.dtype))


def row_scores(scores: Scores, layout: LogitsLayout, name: str = "temperature") -> Scores:
    """Return the scores with temperatures of rows as a vector of float64; raise unless these fit the rows."""
    own: Any = scores.row_temperature
    if own is None:
        return scores
    check_companion(name, own, layout.device)
    check_constant(name, own)
    if own.dtype == torch.bool:
        raise TypeError(f"{name} must be a number, or a tensor of numbers, got torch.bool; use {name}.float()")
    if own.shape != layout.rows:
        raise ValueError(
            f"{name} must be a number, or a tensor of the shape of the rows {tuple(layout.rows)}, "
            f"got shape {tuple(own.shape)}"
        )
    return dataclasses.replace(scores, row_temperature=own.reshape(-1).to(torch.float64))


def check_same_call(rows: CheckedRows, **facts: Any) -> None:
    """Raise on every rank if the ranks do not make the same call; only while debugging.

    `facts` must be the same too.
    """
    target, closing, weight, scores = rows.target, rows.closing, rows.class_weight, rows.scores
    call = {
        "num_classes": target.num_classes,
        "reduction": closing.reduction,
        "the kind of target": target.kind,
        "weight": None if weight is None else list(weight.shape),
        "label_smoothing": target.smoothing,
        "ignore_index": target.ignore_index,
        "temperature": scores.temperature,
        "a temperature for each row": scores.row_temperature is not None,
        "softcap": scores.softcap,
        "sample_weight": closing.sample_weight is not None,
        "z_loss": closing.z_loss,
        "closing": closing.function is not None,
        "return_stats": rows.return_stats,
        **facts,
    }
    check_agreement(rows.ranks, rows.layout.rows.numel(), call)
