"""Binary cross-entropy element by element as Triton kernels; formulas are those of cpp/binary.h.

A weight of 0 removes: the element, or its positive term, counts nothing whatever the operands hold.
"""

# No `from __future__ import annotations`: Triton reads the annotation "i64" as the type of an argument.

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

_UP = tl.constexpr(2.0**64)  # brings denormal numbers, which the logarithm takes for 0, among the normal ones
_LOG_UP = tl.constexpr(64 * 0.6931471805599453)
_SMALLEST = tl.constexpr(1.2e-38)


class Grid(NamedTuple):
    """An array of two axes, of the shape of all others: element (i, j) is data[i · row + j · col]."""

    data: Any
    row: int
    col: int


@triton.jit
def _load(x, i, j, valid, T: tl.constexpr):
    return tl.load(x.data + i * x.row + j * x.col, mask=valid, other=0.0).to(T)


@triton.jit
def _log(p):
    tiny = p < _SMALLEST
    log = libdevice.log(tl.where(tiny, p * _UP, p))
    return tl.where(tiny, log - _LOG_UP, log)


@triton.jit
def _loss(x, t, pos_weight, LOGITS: tl.constexpr):
    if LOGITS:
        tail = libdevice.log1p(libdevice.exp(-tl.abs(x)))
        positive, negative = tl.where(x < 0, -x, 0.0) + tail, tl.where(x > 0, x, 0.0) + tail
    else:
        outside = (x < 0) | (x > 1)
        x = tl.where(outside, float("nan"), x)
        positive, negative = -_log(x), -libdevice.log1p(-x)
    positive = tl.where(pos_weight * t == 0, 0.0, pos_weight * t * positive)
    loss = positive + tl.where(t == 1, 0.0, (1.0 - t) * negative)
    return tl.where((t >= 0) & (t <= 1), loss, float("nan"))


@triton.jit
def _slope(x, t, pos_weight, LOGITS: tl.constexpr):
    if LOGITS:
        small = libdevice.exp(-tl.abs(x))
        large = 1.0 / (1.0 + small)
        right, left = tl.where(x > 0, large, small * large), tl.where(x > 0, small * large, large)
        positive, negative = pos_weight * t * left, (1.0 - t) * right
    else:
        x = tl.where((x < 0) | (x > 1), float("nan"), x)
        positive, negative = pos_weight * t / x, (1.0 - t) / (1.0 - x)
    slope = tl.where(t == 1, 0.0, negative) - tl.where(pos_weight * t == 0, 0.0, positive)
    return tl.where((t >= 0) & (t <= 1), slope, float("nan"))


@triton.jit
def _places(size, columns, B: tl.constexpr, FLAT: tl.constexpr):
    """Return positions, which of them exist, and their rows and columns; if FLAT there is one row."""
    k = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    if FLAT:
        return k, k < size, k * 0, k
    else:
        return k, k < size, k // columns, k % columns


@triton.jit
def _operands(x, t, weight, pos_weight, i, j, valid, T: tl.constexpr, B: tl.constexpr, WEIGHTED: tl.constexpr):
    """Return the four operands; weights are 1 if there are none."""
    x, t = _load(x, i, j, valid, T), _load(t, i, j, valid, T)
    w, r = tl.full([B], 1.0, T), tl.full([B], 1.0, T)
    if WEIGHTED:
        w, r = _load(weight, i, j, valid, T), _load(pos_weight, i, j, valid, T)
    return x, t, w, r


@triton.jit(do_not_specialize=["columns"])
def binary_loss(
    x, t, weight, pos_weight, out, sums, size, columns: "i64",
    T: tl.constexpr, B: tl.constexpr, FLAT: tl.constexpr,
    LOGITS: tl.constexpr, WEIGHTED: tl.constexpr, STORED: tl.constexpr,
):  # fmt: skip
    """Write the loss of each element if STORED, and the sum of each program's elements."""
    k, valid, i, j = _places(size, columns, B, FLAT)
    x, t, w, r = _operands(x, t, weight, pos_weight, i, j, valid, T, B, WEIGHTED)
    loss = tl.where(w == 0, 0.0, w * _loss(x, t, r, LOGITS))
    if STORED:
        tl.store(out + k, loss, mask=valid)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(valid, loss, 0.0)))


@triton.jit(do_not_specialize=["columns"])
def binary_grad(
    x, t, weight, pos_weight, cotangent, out, size, columns: "i64",
    T: tl.constexpr, B: tl.constexpr, FLAT: tl.constexpr, LOGITS: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Write the derivative of each element's loss with respect to the input, times its cotangent."""
    k, valid, i, j = _places(size, columns, B, FLAT)
    g = _load(cotangent, i, j, valid, T)
    x, t, w, r = _operands(x, t, weight, pos_weight, i, j, valid, T, B, WEIGHTED)
    factor = w * g
    tl.store(out + k, tl.where(factor == 0, 0.0, factor * _slope(x, t, r, LOGITS)), mask=valid)
