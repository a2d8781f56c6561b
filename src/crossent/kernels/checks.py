"""Targets on the whole, as torch tensors: class indices as int64, and checks for backends that cannot raise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crossent.kernels.backend import BinaryKind, BinaryOperands
from crossent.spec import (
    LARGEST_SCALE,
    LAST_CLASS,
    LEAST_SCALE,
    NO_CLASS,
    Target,
    class_error,
    probability_error,
    temperature_error,
)

_AT_ONCE = 2**20


def as_int64(index: Any, ignore_index: int = NO_CLASS) -> Any:
    """Return class indices, a torch tensor, as int64.

    A uint64 beyond int64 becomes the largest int64 that is not ignored, which is not a class either: read as an int64,
    it would be negative, and 2**64 − 100 would be −100.
    """
    signed = index.long()
    if str(index.dtype) != "torch.uint64":
        return signed
    return signed.masked_fill(signed < 0, LAST_CLASS - (ignore_index == LAST_CLASS))


def check_target(target: Target, shape: tuple[int, ...]) -> None:
    """Raise for the first row whose target is not a class or not a probability; the target's arrays are torch tensors.

    `shape` is that of the logits that they are a target of, (N, V) or (outer, V, inner).

    Raises
    ------
    IndexError
        If a class index is neither `target.ignore_index` nor among the classes.
    ValueError
        If a target probability is negative, infinite or NaN.
    """
    V = shape[1] if target.num_classes is None else target.num_classes
    inner = shape[2] if len(shape) == 3 else 1
    index: Any = target.index
    prob: Any = target.prob
    if index is not None:
        index = as_int64(index)
        wrong = (index < 0) | (index >= V)
        wrong &= index != target.ignore_index if target.kind == "index" else prob != 0
        if wrong.any():
            place = wrong.nonzero()[0].tolist()
            raise class_error(int(index[tuple(place)]), place[0], index.shape[0], target, V)
    if prob is None or not prob.numel():
        return
    rows_of = 1 if index is not None else inner
    for i, j in _blocks(prob.shape[0], max(1, _AT_ONCE // max(1, prob[0].numel()))):
        low, high = prob[i:j].aminmax()
        if not (low >= 0 and high < float("inf")):
            part = prob[i:j] if prob.ndim == 2 else prob[i:j].movedim(1, 2).flatten(0, 1)
            row, column = (~((part >= 0) & (part < float("inf")))).nonzero()[0].tolist()
            raise probability_error(float(part[row, column]), i * rows_of + row, column)


def check_temperatures(row_temperature: Any, target: Target) -> None:
    """Raise for the first row whose temperature (N,), a torch tensor, is out of range; None is none.

    A row without a target may have any temperature.

    Raises
    ------
    ValueError
        If a temperature is not between 1e-15 and 1e15.
    """
    if row_temperature is None:
        return
    wrong = ~in_range(row_temperature)
    if target.kind == "index":
        wrong &= as_int64(target.index) != target.ignore_index
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise temperature_error(float(row_temperature[row]), row)


def in_range(row_temperature: Any) -> Any:
    """Return which temperatures are in the range of `spec.is_scale`."""
    return (row_temperature >= LEAST_SCALE) & (row_temperature <= LARGEST_SCALE)


def check_elements(kind: BinaryKind, operands: BinaryOperands) -> None:
    """Raise for the first element of a binary cross-entropy that counts and cannot be; operands are torch tensors.

    Raises
    ------
    ValueError
        If a target is outside [0, 1] or NaN, or so is an input of probabilities.
    """
    wrong = _outside(operands.target)
    if kind == "probabilities":
        wrong |= _outside(operands.input)
    if operands.weight is not None:
        weight: Any = operands.weight
        wrong &= weight != 0
    if wrong.any():
        raise operands.wrong_element(tuple(wrong.nonzero()[0].tolist()))


def _outside(x: Any) -> Any:
    return ~((x >= 0) & (x <= 1))


def _blocks(whole: int, part: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, whole, part):
        yield begin, min(begin + part, whole)
