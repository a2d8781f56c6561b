"""Binary cross-entropy element by element as Triton kernels; formulas are those of cpp/binary.h.

A weight of 0 removes: the element, or its positive term, counts as 0 for any operands.
"""

# No `from __future__ import annotations`: Triton reads the annotation "i64" as the type of an argument.

from typing import Any

import triton
import triton.language as tl
from triton.language.extra import libdevice

_UP = tl.constexpr(2.0**64)  # brings denormal numbers, which the logarithm takes for 0, among the normal ones
_LOG_UP = tl.constexpr(64 * 0.6931471805599453)
_SMALLEST = tl.constexpr(1.2e-38)

# Flags: which of the optional arrays are there; any array of the same type stands in for an absent one. Weights and
# cotangents have the dtype of the computation.
HAS_LOSS, HAS_WEIGHT, HAS_POS_WEIGHT = (1 << k for k in range(3))
_LOSS, _WEIGHT, _POS_WEIGHT = tl.constexpr(HAS_LOSS), tl.constexpr(HAS_WEIGHT), tl.constexpr(HAS_POS_WEIGHT)


_NUMBERS = [
    "x_row", "x_col", "t_row", "t_col", "w_row", "w_col", "r_row", "r_col", "g_row", "g_col", "size", "columns",
    "flags",
]  # fmt: skip
_ARRAYS = ["x", "t", "weight", "pos_weight", "cotangent", "out", "sums"]


def _kernel(function: Any, *, aligned: bool) -> Any:
    """Return a kernel compiled once for all numbers, and for all alignments unless its arrays are always aligned."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return triton.jit(
        function,
        do_not_specialize=[name for name in _NUMBERS if name in names],
        do_not_specialize_on_alignment=[name for name in _ARRAYS if name in names and not aligned],
    )


@triton.jit
def _load(x, row, col, i, j, valid, T: tl.constexpr, PLAIN: tl.constexpr):
    """Return elements (i, j) of an array of two axes: x[i · row + j · col], or x[j] if PLAIN."""
    if PLAIN:
        return tl.load(x + j, mask=valid, other=0.0).to(T)
    else:
        return tl.load(x + i * row + j * col, mask=valid, other=0.0).to(T)


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
def _places(size, columns, B: tl.constexpr, PLAIN: tl.constexpr):
    """Return positions, which of them exist, and their rows and columns; if PLAIN there is one row."""
    k = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    i, j = k * 0, k
    if not PLAIN and columns < size:  # a division that an array in one piece does without
        i = k // columns
        j = k - i * columns
    return k, k < size, i, j


@triton.jit
def _weight(data, row, col, i, j, valid, T: tl.constexpr, B: tl.constexpr, PLAIN: tl.constexpr):
    """Return a weight, 1 where it is not valid; if PLAIN there is none."""
    if PLAIN:
        return tl.full([B], 1.0, T)
    else:
        return tl.load(data + i * row + j * col, mask=valid, other=1.0)


@triton.jit
def _cotangent(data, row, col, i, j, valid, T: tl.constexpr, B: tl.constexpr, PLAIN: tl.constexpr):
    """Return the cotangent of each element; if PLAIN they are next to each other, or one for all."""
    if PLAIN:
        return tl.full([B], 0.0, T) + tl.load(data) if col == 0 else tl.load(data + j, mask=valid, other=0.0)
    else:
        return tl.load(data + i * row + j * col, mask=valid, other=0.0)


def binary_loss(
    x, t, weight, pos_weight, out, sums,
    x_row: "i64", x_col: "i64", t_row: "i64", t_col: "i64", w_row: "i64", w_col: "i64", r_row: "i64", r_col: "i64",
    size: "i64", columns: "i64", flags: "i32",
    T: tl.constexpr, B: tl.constexpr, PLAIN: tl.constexpr, LOGITS: tl.constexpr,
):  # fmt: skip
    """Write the loss of each element where it is wanted, and the sum of each program's elements.

    If PLAIN there are no weights, input and target are contiguous and aligned, and 16 divides their length.
    """
    if PLAIN:
        size = tl.multiple_of(size // 16 * 16, 16)
    k, valid, i, j = _places(size, columns, B, PLAIN)
    x, t = _load(x, x_row, x_col, i, j, valid, T, PLAIN), _load(t, t_row, t_col, i, j, valid, T, PLAIN)
    w = _weight(weight, w_row, w_col, i, j, valid & (flags & _WEIGHT != 0), T, B, PLAIN)
    r = _weight(pos_weight, r_row, r_col, i, j, valid & (flags & _POS_WEIGHT != 0), T, B, PLAIN)
    loss = tl.where(w == 0, 0.0, w * _loss(x, t, r, LOGITS))
    tl.store(out + k, loss, mask=valid & (flags & _LOSS != 0))
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(valid, loss, 0.0)))


def binary_grad(
    x, t, weight, pos_weight, cotangent, out,
    x_row: "i64", x_col: "i64", t_row: "i64", t_col: "i64", w_row: "i64", w_col: "i64", r_row: "i64", r_col: "i64",
    g_row: "i64", g_col: "i64", size: "i64", columns: "i64", flags: "i32",
    T: tl.constexpr, B: tl.constexpr, PLAIN: tl.constexpr, LOGITS: tl.constexpr,
):  # fmt: skip
    """Write the derivative of each element's loss with respect to the input, times its cotangent."""
    if PLAIN:
        size = tl.multiple_of(size // 16 * 16, 16)
    k, valid, i, j = _places(size, columns, B, PLAIN)
    g = _cotangent(cotangent, g_row, g_col, i, j, valid, T, B, PLAIN)
    x, t = _load(x, x_row, x_col, i, j, valid, T, PLAIN), _load(t, t_row, t_col, i, j, valid, T, PLAIN)
    w = _weight(weight, w_row, w_col, i, j, valid & (flags & _WEIGHT != 0), T, B, PLAIN)
    r = _weight(pos_weight, r_row, r_col, i, j, valid & (flags & _POS_WEIGHT != 0), T, B, PLAIN)
    factor = w * g
    value = tl.where(factor == 0, 0.0, factor * _slope(x, t, r, LOGITS))
    tl.store(out + k, value, mask=valid)


any_loss, any_grad = _kernel(binary_loss, aligned=False), _kernel(binary_grad, aligned=False)
plain_loss, plain_grad = _kernel(binary_loss, aligned=True), _kernel(binary_grad, aligned=True)
"""The second two are for arrays that are PLAIN: compilers know of these that they are aligned."""
