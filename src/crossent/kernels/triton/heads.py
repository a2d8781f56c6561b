"""The rows of a student and of a teacher in Triton: log-probabilities of either by the same instructions.

Equal rows have equal log-probabilities, to the last bit, if dtype, scores and layout are the same.
"""

# No `from __future__ import annotations`: Triton reads annotations.

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.scores import as_column, as_tile, scored
from crossent.kernels.triton.tiles import HAS_GATHERED, NUMBERS, biased, read_logits

# Flags beside those of `tiles` and `scores`: which cotangents there are, and whether sums with a mixture are needed.
HAS_KL, HAS_REVERSE, HAS_JS, HAS_MIXTURE = (1 << k for k in range(12, 16))
_GATHERED = tl.constexpr(HAS_GATHERED)

PAIR_NUMBERS = [
    *NUMBERS, "t_batch", "t_row", "t_col", "t_flags", "t_step", "sums_step", "kl_step", "reverse_step", "js_step",
    "parts_number",
]  # fmt: skip
"""Names of numbers that no kernel of pairs is specialised for."""


class Head(NamedTuple):
    """The rows of one of the two models, (R,): where they begin, how logits become x, and x log-probabilities.

    Log-probabilities are rate · (x − peak) − log_total; `defined` marks the rows that have any.
    """

    logits: Any
    phi: Any
    origin: Any
    peak: Any
    log_total: Any
    defined: Any


class HeadValues(NamedTuple):
    """Log-probabilities and the slope ds/dz."""

    logs: Any
    slope: Any


@triton.jit
def head_of(logits, phi, origin, record, step, number, there, T: tl.constexpr):
    """Return the rows of a model from their records over all columns; one that is not there is defined.

    `phi` is that of `phi_by_flag`. The logarithm of a total near 1 has all digits.
    """
    peak = tl.load(record + number, mask=there, other=0.0)
    total = tl.load(record + (number + step), mask=there, other=1.0)
    log_total = libdevice.log1p((total - 1.0).to(T))
    return Head(logits, phi, origin, (peak * phi.temperature).to(T), log_total, is_defined(peak, total))


@triton.jit
def is_defined(peak, total):
    """Return which rows have a distribution by their records: some class, and no NaN or +∞."""
    reach = peak + total
    return (total > 0) & (reach - reach == 0)


@triton.jit
def read_head(
    head, phase, place, live, T: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr
):  # fmt: skip
    """Return log-probabilities and slopes at places of each row; −∞ where a place is not live."""
    z = read_logits(head.logits, head.origin, phase, place, live, T, U, WIDE)
    x, slope = scored(z, as_tile(head.phi), live, CAPPED)
    head = _as_columns(_as_columns(head))
    return HeadValues(_log_probs(x, head), slope)


@triton.jit
def head_at(
    head, gathered, number, k, column, here, measure, T: tl.constexpr, CAPPED: tl.constexpr, K: tl.constexpr
):  # fmt: skip
    """Return log-probabilities and slopes at columns that a target names, the k-th of each row.

    With several names (K > 1) rows are a column [R, 1], and logits may have been gathered before others took their
    place.
    """
    if K > 1:
        head = _as_columns(head)
    at = head.origin + column * head.logits.col
    if K > 1:
        at = tl.where(measure.flags & _GATHERED != 0, number * measure.classes.picks + k, at)
    z = tl.load(gathered + at, mask=here, other=float("-inf")).to(T)
    x, slope = scored(biased(z, head.logits, column, here), head.phi, here, CAPPED)
    return HeadValues(_log_probs(x, head), slope)


@triton.jit
def _as_columns(head):
    """Return the rows of a model as columns [R, 1]."""
    peak, log_total, defined = head.peak[:, None], head.log_total[:, None], head.defined[:, None]
    return Head(head.logits, as_column(head.phi), head.origin[:, None], peak, log_total, defined)


@triton.jit
def _log_probs(x, head):
    """Return log-probabilities; an fma in so many words, so that no compiler rounds the two heads differently."""
    return tl.fma(x - head.peak, head.phi.rate, -head.log_total)
