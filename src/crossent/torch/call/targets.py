"""Targets as callers pass them (class indices, probabilities, top-k) and in the form of the kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from crossent.kernels.checks import as_int64
from crossent.torch.base.values import INTEGER, REAL
from crossent.torch.call.checks import check_companion
from crossent.torch.call.layout import LogitsLayout


class TargetKind:
    """Base of targets that are more than one tensor. A new kind is a subclass in this module, and works in every loss.

    A kind is a frozen dataclass of tensors and numbers. `rows` turns it into class indices with probabilities.
    `class_axis` is True if its tensors have an axis where logits have the classes, as `TopK` has; else they have the
    shape of class indices.
    """

    __slots__ = ()
    class_axis: ClassVar[bool] = False

    def rows(self, layout: LogitsLayout) -> TargetRows:
        """Return the target in the form of the kernels; raise if it does not fit the logits."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its rows are")

    def tensors(self) -> list[Tensor]:
        """Return the tensors of the target."""
        values = [getattr(self, field.name) for field in dataclasses.fields(cast("Any", self))]
        return [value for value in values if isinstance(value, Tensor)]

    def map(self, function: Callable[[Tensor], Any]) -> Self:
        """Return the target with a function applied to each of its tensors."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(cast("Any", self))}
        return type(self)(**{k: function(value) if isinstance(value, Tensor) else value for k, value in values.items()})


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TopK(TargetKind):
    """A sparse target: K classes per row with their probabilities, such as the top-k of a teacher.

    Parameters
    ----------
    index
        Classes, any integer dtype, shape (N, K) (or (K,) for one row, (N, K, d1, …) beside logits (N, V, d1, …)).
        The same class may occur twice; its probabilities add.
    prob
        Their probabilities, same shape, any floating dtype. They need not sum to 1. Where one is 0 the class may be any
        number, so rows with fewer classes can be padded with −1 and 0.
    """

    index: Tensor
    prob: Tensor
    class_axis: ClassVar[bool] = True

    def rows(self, layout: LogitsLayout) -> TargetRows:
        """Return classes and probabilities as matrices (N, K)."""
        return _topk_rows(self, layout)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NoTarget(TargetKind):
    """No target: the first class, which every call has, stands in for the target of each row."""

    def rows(self, layout: LogitsLayout) -> TargetRows:
        """Return the class that stands in."""
        return TargetRows(torch.zeros(layout.rows.numel(), dtype=torch.int64, device=layout.device), None)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TargetRows:
    """A target in the form of the kernels; its kind follows from the present ones."""

    index: Tensor | None
    """Classes of each row, (N,), or (N, K) beside their probabilities."""
    prob: Tensor | None
    """Probabilities, in the shape of the logits as kernels take them, or (N, K) beside the classes."""


def target_rows(target: Tensor | TargetKind, layout: LogitsLayout, ignore_index: int) -> TargetRows:
    """Return a target in the form of the kernels; raise if shapes, dtypes or devices do not fit the logits."""
    rows = target.rows(layout) if isinstance(target, TargetKind) else _tensor_rows(target, layout, ignore_index)
    if rows.prob is not None and ignore_index >= 0:
        raise ValueError(NOT_OF_PROBABILITIES)
    return rows


NOT_OF_PROBABILITIES = "ignore_index applies to class indices, not to probabilities; use sample_weight=0 for such rows"


def is_soft(target: object, layout: LogitsLayout) -> bool:
    """Return whether a target holds probabilities."""
    return isinstance(target, TargetKind) or (isinstance(target, Tensor) and target.shape == layout.shape)


def _tensor_rows(target: Tensor, layout: LogitsLayout, ignore_index: int) -> TargetRows:
    """Return class indices, or class probabilities in the shape of the logits."""
    check_companion("target", target, layout.device)
    shape = target.shape
    if shape == layout.shape:
        if target.dtype not in REAL:
            raise TypeError(
                f"a target in the shape of the {layout.name} {tuple(shape)} holds class probabilities and must be "
                f"floating-point, got {target.dtype}; use target.float(), or class indices of shape "
                f"{tuple(layout.rows)}"
            )
        return TargetRows(None, layout.flat(target))
    if shape == layout.rows:
        if target.dtype not in INTEGER:
            raise TypeError(f"class indices must have an integer dtype, got {target.dtype}; use target.long()")
        if target.dtype == torch.uint64:
            target = as_int64(target, ignore_index)
        return TargetRows(target if target.ndim == 1 else target.reshape(-1), None)
    raise ValueError(
        f"target of shape {tuple(shape)} fits no {layout.name} of shape {tuple(layout.shape)}: class indices have "
        f"shape {tuple(layout.rows)}, class probabilities {tuple(layout.shape)}"
    )


def _topk_rows(target: TopK, layout: LogitsLayout) -> TargetRows:
    """Return classes and probabilities as matrices (N, K)."""
    index, prob = target.index, target.prob
    check_companion("TopK.index", index, layout.device)
    check_companion("TopK.prob", prob, layout.device)
    axis = layout.axis
    wanted = (*layout.shape[:axis], "K", *layout.shape[axis + 1 :])
    fits = index.ndim == len(wanted) and all(a in ("K", b) for a, b in zip(wanted, index.shape, strict=True))
    if not fits or index.shape != prob.shape:
        text = ", ".join(map(str, wanted))
        raise ValueError(
            f"TopK(index, prob) beside {'an input' if layout.name == 'input' else 'logits'} of shape "
            f"{tuple(layout.shape)} needs two tensors of shape ({text}), "
            f"got {tuple(index.shape)} and {tuple(prob.shape)}"
        )
    if index.dtype not in INTEGER:
        raise TypeError(f"TopK.index must have an integer dtype, got {index.dtype}")
    if prob.dtype not in REAL:
        raise TypeError(f"TopK.prob must be floating-point, got {prob.dtype}")
    k = index.shape[axis]
    matrices = map(layout.flat, (as_int64(index) if index.dtype == torch.uint64 else index, prob))
    return TargetRows(*(x.movedim(1, x.ndim - 1).reshape(layout.rows.numel(), k) for x in matrices))


def most_probable_of_topk(index: Tensor, prob: Tensor) -> Tensor:
    """Return the most probable of K classes of each row; a class that is picked twice counts twice."""
    index, order = index.sort(1)
    begins = index[:, 1:] != index[:, :-1]
    group = torch.nn.functional.pad(begins.long().cumsum(1), (1, 0))
    totals = torch.zeros_like(prob, dtype=torch.float64).scatter_add(1, group, prob.gather(1, order).double())
    best = totals.argmax(1, keepdim=True)
    return torch.zeros_like(index).scatter(1, group, index).gather(1, best).squeeze(1)
