"""The row gradient in Triton: its coefficients, its values on a tile, and those at the classes that a target names."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossent.kernels.triton.lanes import LOG2E
from crossent.kernels.triton.scores import as_column, inverse_of, scored
from crossent.kernels.triton.tiles import (
    HAS_ENTROPY,
    HAS_GATHERED,
    HAS_LOSS,
    HAS_LSE,
    HAS_SQUARE,
    address,
    biased,
    named_class,
    weight_at,
)

_LEAST_LOG = tl.constexpr(-1e4)  # stands for log 0 where it multiplies 0
_LOSS, _LSE, _ENTROPY = tl.constexpr(HAS_LOSS), tl.constexpr(HAS_LSE), tl.constexpr(HAS_ENTROPY)
_SQUARE, _GATHERED = tl.constexpr(HAS_SQUARE), tl.constexpr(HAS_GATHERED)
_ONE = tl.constexpr(1)

# What a kernel of the gradient is made for, G: cotangents of the loss alone; of lse and its square too; of all.
OF_LOSS, OF_LSE, OF_ENTROPY = (tl.constexpr(x) for x in range(3))


class Cotangents(NamedTuple):
    """Arrays of cotangents of loss, lse, entropy and of the square of lse."""

    loss: Any
    lse: Any
    entropy: Any
    square: Any


class CotangentSteps(NamedTuple):
    """How far apart the cotangents of two rows are."""

    loss: int
    lse: int
    entropy: int
    square: int


class Normaliser(NamedTuple):
    """Softmax of a row's x, (R,): e^(rate · (x − peak)) / (1 + rest), with its inverse and logarithm."""

    peak: Any
    rest: Any
    inverse: Any
    log_total: Any


class Gradient(NamedTuple):
    """Coefficients of a row's gradient slope · (q (a + b log q) − c p), (R,), a and c in float64."""

    norm: Any
    a: Any
    b: Any
    c: Any


class NamedValue(NamedTuple):
    """The column of the one class that a target names, −1 if it is not here, and the gradient there, both (R,)."""

    column: Any
    value: Any


@triton.jit
def normaliser(peak, rest, G: tl.constexpr):
    """Return the normaliser of rows; its logarithm has only the digits of 1 + rest, and is not there for losses."""
    total = 1.0 + rest
    return Normaliser(peak, rest, inverse_of(total), tl.log(total) if G > OF_LOSS else total)


@triton.jit
def of_record(r, T: tl.constexpr, G: tl.constexpr):
    """Return the normaliser of rows from their records, with the peak in scores (`in_x`)."""
    return normaliser(r.peak, (r.total - 1.0).to(T), G)


@triton.jit
def cotangent(data, step, number, there):
    """Return the cotangents of rows in float64, 0 where none is there."""
    return tl.load(data + number * step, mask=there, other=0.0).to(tl.float64)


@triton.jit
def gradient_of(r, norm, cotangents, steps, number, wanted, flags, G: tl.constexpr):
    """Return the gradient of rows from their records; a, b and c are 0 for rows that are not wanted."""
    g_loss = cotangent(cotangents.loss, steps.loss, number, wanted & (flags & _LOSS != 0))
    reach = r.peak + r.total + g_loss  # − itself is 0 if it is finite
    removed = (r.mass == 0) & (r.target_score == 0) & (reach - reach != 0)
    g_loss = tl.where(removed, 0.0, g_loss)
    a, b = tl.where(g_loss == 0, 0.0, g_loss * r.mass), tl.zeros_like(g_loss)
    if G > OF_LOSS:
        log_total = norm.log_total.to(tl.float64)
        square = cotangent(cotangents.square, steps.square, number, wanted & (flags & _SQUARE != 0))
        a += cotangent(cotangents.lse, steps.lse, number, wanted & (flags & _LSE != 0))
        a += tl.where(square == 0, 0.0, 2.0 * square * (r.peak + log_total))
        if G == OF_ENTROPY:
            b = -cotangent(cotangents.entropy, steps.entropy, number, wanted & (flags & _ENTROPY != 0))
            a += tl.where(b == 0, 0.0, b * (log_total - r.tilt * norm.inverse.to(tl.float64)))
    return Gradient(norm, a, b, g_loss)


@triton.jit
def in_x(g, phi, T: tl.constexpr, CAPPED: tl.constexpr):
    """Return the gradient of rows whose peak is in scores with the peak in x."""
    norm = g.norm
    peak = norm.peak if CAPPED else norm.peak * phi.temperature
    return Gradient(Normaliser(peak.to(T), norm.rest, norm.inverse, norm.log_total), g.a, g.b, g.c)


@triton.jit
def has_gradient(wanted, g):
    """Return which rows have a gradient other than 0."""
    return wanted & ((g.a != 0) | (g.b != 0) | (g.c != 0))


@triton.jit
def for_tiles(g, wanted, T: tl.constexpr):
    """Return the gradient in the dtype of the computation, such that that of an unwanted row is 0."""
    norm = g.norm
    peak, inverse = tl.where(wanted, norm.peak, 0.0), tl.where(wanted, norm.inverse, 0.0)
    log_total = tl.where(wanted, norm.log_total, 0.0)
    return Gradient(Normaliser(peak, norm.rest, inverse, log_total), g.a.to(T), g.b.to(T), g.c.to(T))


@triton.jit
def slopes(g, x, slope, p, rate, MEASURED: tl.constexpr, G: tl.constexpr):
    """Return ds/dz · (q (a + b log q) − c p) of a tile, without the second term unless the entropy has a cotangent."""
    d, rate = x - g.norm.peak[:, None, None], rate[:, None, None]
    factor = (g.a * g.norm.inverse)[:, None, None]
    if G == OF_ENTROPY:
        logq = d * rate - g.norm.log_total[:, None, None]
        factor += (g.b * g.norm.inverse)[:, None, None] * tl.maximum(logq, _LEAST_LOG)
    value = tl.exp2(d * (rate * LOG2E)) * factor
    if MEASURED:
        value -= g.c[:, None, None] * p
    return value * slope


@triton.jit
def _zero_unless_nan(x):
    return x * 0.0


@triton.jit
def as_columns(g):
    """Return the gradient as columns [R, 1]."""
    norm = g.norm
    wide = Normaliser(norm.peak[:, None], norm.rest[:, None], norm.inverse[:, None], norm.log_total[:, None])
    return Gradient(wide, g.a[:, None], g.b[:, None], g.c[:, None])


@triton.jit
def at_named(
    logits, gathered, phi, measure, number, origin, k, there, g, begin, end,
    T: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Return the columns that the target names, whether they are in [begin, end), and the gradient there.

    q a − c p is a (q − 1) + (a − c p) where the difference is small, and q − 1 is the rest of the others alone where
    the class has the peak: nothing cancels. A class that is named twice (K > 1) has one gradient.
    """
    column, here, p = named_class(measure, number, k, there, K)
    here = here & (column >= begin) & (column < end)  # another program may be writing over the others' logits
    if K > 1:
        p = _zero_unless_nan(p)
        for other in range(measure.classes.picks):
            same, same_here, more = named_class(measure, number, other, there, K)
            p += tl.where(same_here & (same == column), more, 0.0)
    if MEASURED:
        p += tl.where(measure.spread == 0, 0.0, measure.spread * weight_at(measure, column, here))
    at = origin + column * logits.col
    if K > 1:  # one class is read before anything is written
        at = tl.where(measure.flags & _GATHERED != 0, number * measure.classes.picks + k, at)
    z = tl.load(gathered + at, mask=here, other=0.0).to(T)
    x, slope = scored(biased(z, logits, column, here), phi, here, CAPPED)
    norm = g.norm
    d = (x - norm.peak) * phi.rate
    e = tl.exp2(d * LOG2E)
    target = tl.where(p == 0, 0.0, g.c * p)
    left, a = g.a - target, g.a.to(T)
    near = a * (((e - 1.0) - norm.rest) * norm.inverse) + left.to(T)
    far = a * (e * norm.inverse) - target.to(T)
    value = tl.where(tl.abs(left) <= 0.5 * tl.abs(g.a), near, far)
    if G == OF_ENTROPY:
        value += tl.where((g.b == 0) | (e == 0), 0.0, g.b.to(T) * (e * norm.inverse) * (d - norm.log_total))
    return column, here, value * slope


@triton.jit
def named_value(
    logits, gathered, phi, measure, block, wanted, g, begin, end,
    R: tl.constexpr, T: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Return the gradient at the one class of each row if that is in columns [begin, end).

    Where the target names one class (K is 1), tiles are written with it in its place.
    """
    if K == _ONE:
        column, here, value = at_named(
            logits, gathered, phi, measure, block.number, block.origin, 0, wanted, g, begin, end,
            T, CAPPED, MEASURED, G, K,
        )  # fmt: skip
        return NamedValue(tl.where(here, column, -1).to(tl.int32), value)
    else:
        return NamedValue(tl.full([R], -1, tl.int32), g.norm.peak)


@triton.jit
def write_tile(grad, to, phase, place, live, value, one, U: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr):
    """Store the gradient of a tile; where the target names one class, with the value at that one in its place."""
    if K == _ONE:
        here = one.column + phase  # of no column, a place before the row
        value = tl.where(place == here[:, None, None], one.value[:, None, None], value)
    tl.store(address(grad, to, phase, place, U, WIDE), value, mask=live)


@triton.jit
def write_named(
    logits, gathered, phi, measure, block, wanted, g, grad, to, begin, end,
    T: tl.constexpr, K: tl.constexpr, CAPPED: tl.constexpr, MEASURED: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Store the gradient at all classes that the target names in columns [begin, end), over the present values."""
    tl.debug_barrier()
    for first in range(0, measure.classes.picks, K):
        k = first + tl.arange(0, K)[None, :]
        there = wanted[:, None] & (k < measure.classes.picks)
        column, here, value = at_named(
            logits, gathered, as_column(phi), measure, block.number[:, None], block.origin[:, None], k, there,
            as_columns(g), begin[:, None], end[:, None], T, CAPPED, MEASURED, G, K,
        )  # fmt: skip
        tl.store(grad.data + (to[:, None] + column * grad.col), value.to(T), mask=here)
