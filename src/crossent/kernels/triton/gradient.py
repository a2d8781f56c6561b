"""The row gradient in Triton: its coefficients, its values on a tile, and those at the classes that a target names."""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.record import LOG2E, reciprocal
from crossent.kernels.triton.tiles import (
    HAS_ENTROPY,
    HAS_GATHERED,
    HAS_LOSS,
    HAS_LSE,
    HAS_SQUARE,
    address,
    named_class,
    scored,
    weight_at,
)

_LEAST_LOG = tl.constexpr(-1e4)  # stands for log 0 where it multiplies 0
_LOSS, _LSE, _ENTROPY = tl.constexpr(HAS_LOSS), tl.constexpr(HAS_LSE), tl.constexpr(HAS_ENTROPY)
_SQUARE, _GATHERED = tl.constexpr(HAS_SQUARE), tl.constexpr(HAS_GATHERED)


class StridedCotangents(NamedTuple):
    """Cotangents of loss, lse, entropy and of the square of lse, and how far apart those of two rows are."""

    loss: Any
    loss_step: int
    lse: Any
    lse_step: int
    entropy: Any
    entropy_step: int
    square: Any
    square_step: int


class Gradient(NamedTuple):
    """Numbers that a row's gradient slope · (q (a + b log q) − c p), q = e^(s − peak) / total, holds fixed, (R,)."""

    peak: Any
    total: Any
    inverse: Any
    log_total: Any
    a: Any
    b: Any
    c: Any


class NamedValue(NamedTuple):
    """The column of the one class that a target names, −1 if it is not here, and the gradient there, both (R,)."""

    column: Any
    value: Any


@triton.jit
def _cotangent(data, step, number, there):
    return tl.load(data + number * step, mask=there, other=0.0).to(tl.float64)


@triton.jit
def gradient_of(r, cotangents, block, flags):
    """Return the gradient of rows in float64 from their records; a, b and c are 0 for rows that are not wanted."""
    inverse, log_total = reciprocal(r.total), libdevice.log(r.total)
    number, wanted = block.number, block.wanted
    g_loss = _cotangent(cotangents.loss, cotangents.loss_step, number, wanted & (flags & _LOSS != 0))
    g_lse = _cotangent(cotangents.lse, cotangents.lse_step, number, wanted & (flags & _LSE != 0))
    g_entropy = _cotangent(cotangents.entropy, cotangents.entropy_step, number, wanted & (flags & _ENTROPY != 0))
    square = _cotangent(cotangents.square, cotangents.square_step, number, wanted & (flags & _SQUARE != 0))
    g_lse += tl.where(square == 0, 0.0, 2.0 * square * (r.peak + log_total))
    reach = r.peak + r.total + g_loss  # − itself is 0 if it is finite
    removed = (r.mass == 0) & (r.target_score == 0) & (reach - reach != 0)
    g_loss = tl.where(removed, 0.0, g_loss)
    from_entropy = tl.where(g_entropy == 0, 0.0, g_entropy * (log_total - r.tilt * inverse))
    a = tl.where(g_loss == 0, 0.0, g_loss * r.mass) + g_lse - from_entropy
    return Gradient(r.peak, r.total, inverse, log_total, a, -g_entropy, g_loss)


@triton.jit
def has_gradient(block, g):
    """Return which rows have a gradient other than 0."""
    return block.wanted & ((g.a != 0) | (g.b != 0) | (g.c != 0))


@triton.jit
def for_tiles(g, temperature, T: tl.constexpr, CAPPED: tl.constexpr):
    """Return the gradient in the dtype of the computation, and its peak in the unit of x."""
    peak = g.peak if CAPPED else g.peak * temperature
    return Gradient(peak.to(T), g.total.to(T), g.inverse.to(T), g.log_total.to(T), g.a.to(T), g.b.to(T), g.c.to(T))


@triton.jit
def _as_column(g):
    """Return the gradient as columns [R, 1]."""
    return Gradient(
        g.peak[:, None],
        g.total[:, None],
        g.inverse[:, None],
        g.log_total[:, None],
        g.a[:, None],
        g.b[:, None],
        g.c[:, None],
    )


@triton.jit
def slopes(g, x, slope, p, wanted, rate, MEASURED: tl.constexpr):
    """Return ds/dz · (q (a + b log q) − c p) of a tile, 0 for rows that are not wanted."""
    d = x - g.peak[:, None, None]
    q = tl.exp2(d * (rate * LOG2E)) * g.inverse[:, None, None]
    logq = d * rate - g.log_total[:, None, None]
    value = q * (g.a[:, None, None] + g.b[:, None, None] * tl.maximum(logq, _LEAST_LOG))
    if MEASURED:
        value -= g.c[:, None, None] * p
    return tl.where(wanted[:, None, None], value * slope, 0.0)


@triton.jit
def _zero_unless_nan(x):
    return x * 0.0


@triton.jit
def _at_named(
    logits, gathered, phi, measure, number, origin, k, there, g, begin, end,
    T: tl.constexpr, CAPPED: tl.constexpr, REPEATED: tl.constexpr,
):  # fmt: skip
    """Return the columns that the target names, whether they are in [begin, end), and the gradient there in float64.

    q − 1 comes from the record without cancellation. A class that is named twice (REPEATED) has one gradient.
    """
    column, here, p = named_class(measure, number, k, there)
    here = here & (column >= begin) & (column < end)  # another program may be writing over the others' logits
    if REPEATED:
        p = _zero_unless_nan(p)
        for other in range(measure.classes.picks):
            same, same_here, more = named_class(measure, number, other, there)
            p += tl.where(same_here & (same == column), more, 0.0)
    p += measure.spread * weight_at(measure, column, here)
    at = tl.where(measure.flags & _GATHERED != 0, number * measure.classes.picks + k, origin + column * logits.col)
    x, slope = scored(tl.load(gathered + at, mask=here, other=0.0).to(T), phi, CAPPED)
    d = x.to(tl.float64) * phi.scale - g.peak
    e = libdevice.exp(d)
    entropic = tl.where((g.b == 0) | (e == 0), 0.0, g.b * (e * g.inverse) * (d - g.log_total))
    target = tl.where(p == 0, 0.0, g.c * p)
    q_less_1 = (e - g.total) * g.inverse
    return column, here, slope.to(tl.float64) * (g.a * q_less_1 + (g.a - target) + entropic)


@triton.jit
def named_value(
    logits, gathered, phi, measure, block, wanted, g, begin, end,
    R: tl.constexpr, T: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr,
):  # fmt: skip
    """Return the gradient at the one class of each row if that is in columns [begin, end).

    Unless MEASURED, tiles are written with it in its place.
    """
    if MEASURED:
        return NamedValue(tl.full([R], -1, tl.int64), g.a.to(T))
    else:
        column, here, value = _at_named(
            logits, gathered, phi, measure, block.number, block.origin, 0, wanted, g, begin, end, T, CAPPED, False
        )
        return NamedValue(tl.where(here, column, -1), value.to(T))


@triton.jit
def write_tile(grad, to, phase, place, live, value, one, U: tl.constexpr, WIDE: tl.constexpr, MEASURED: tl.constexpr):
    """Store the gradient of a tile; where the target names one class, with the value at that one in its place."""
    if not MEASURED:
        value = tl.where(place == (one.column + phase)[:, None, None], one.value[:, None, None], value)
    tl.store(address(grad, to, phase, place, U, WIDE), value, mask=live)


@triton.jit
def write_named(
    logits, gathered, phi, measure, block, wanted, g, grad, to, begin, end,
    T: tl.constexpr, K: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Store the gradient at all classes that the target names in columns [begin, end), over what is there."""
    tl.debug_barrier()
    for first in range(0, measure.classes.picks, K):
        k = first + tl.arange(0, K)[None, :]
        there = wanted[:, None] & (k < measure.classes.picks)
        column, here, value = _at_named(
            logits, gathered, phi, measure, block.number[:, None], block.origin[:, None], k, there, _as_column(g),
            begin[:, None], end[:, None], T, CAPPED, True,
        )  # fmt: skip
        tl.store(grad.data + (to[:, None] + column * grad.col), value.to(T), mask=here)
