"""What every backend is held against: the shipped reference in float64, and how far rounding may lead away from it.

A backend is anything with the functions of `crossent.kernels.backend.Backend` that takes NumPy arrays: the CPU's, and
every adapter of tests/conformance. The checks call it on arrays that are surrounded by guards and filled with NaN,
compare with the reference, and raise AssertionError.

The bounds. With u the unit roundoff of the arithmetic (float32 for half-precision logits) and d = s − peak, rounding d
and taking the exponential makes e^d wrong by at most 3 u (1 + |d|), relatively; u (1 + |d|) is the first-order bound
from which those of all else follow, and an error may be `K` times its bound: 3 for this, 7 for sums. The four lanes of
the narrowest kernel add 128 terms each before anything wider takes over; n independent roundings of growing partial
sums have the standard deviation u √n / 3, the mean of four lanes has half of that, and 7 is nearly four times as much.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from crossent import reference
from crossent.kernels.backend import BinaryOperands, Cotangents, LossScale, RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, RowStats
from tests.data import GUARD, Case, Layout, as_rows, decode, spacing

K = 10.0
PLAIN = Scores()


# Buffers


class Guarded:
    """An array for results, full of NaN, inside a larger one that must stay as it is."""

    def __init__(self, layout: Layout | None, shape: tuple[int, ...], dtype: Any) -> None:
        dtype = np.dtype(dtype)
        if layout is None:  # contiguous
            self.base = np.empty(int(np.prod(shape)) + 2 * GUARD, dtype)
            self.view = self.base[GUARD : self.base.size - GUARD].reshape(shape)
            inside = np.zeros(self.base.size, bool)
            inside[GUARD : self.base.size - GUARD] = True
        else:
            inside, part = layout.empty(shape, bool, False)
            part[...] = True
            self.base, self.view = layout.empty(shape, dtype, 0)
        self._bits = self.base.view(np.uint8).reshape(self.base.size, dtype.itemsize)
        self._bits[...] = 0xA5
        self.view[...] = 0x7FC0 if dtype == np.uint16 else np.nan
        self._outside = ~inside

    def values(self) -> Any:
        """What was written, as float64; fails if anything outside was."""
        assert (self._bits[self._outside] == 0xA5).all(), "memory beside the result was written to"
        return decode(self.view)


@dataclasses.dataclass
class Inputs:
    """Copies of all arguments, to see that none was written to."""

    arrays: list[Any]
    before: list[bytes]

    @classmethod
    def of(cls, *arrays: Any) -> Inputs:
        kept = [a for a in arrays if a is not None]
        return cls(kept, [a.tobytes() for a in kept])

    def check(self) -> None:
        assert [a.tobytes() for a in self.arrays] == self.before, "an argument was written to"


# The truth of a case, and its bounds in units of u


class Parts(NamedTuple):
    """What gradients and their bounds are made of: p is the target measure, d = s − peak, D how far off d may be."""

    z: Any
    target: Target
    slope: Any
    p: Any
    d: Any
    D: Any
    relative: Any


@dataclasses.dataclass
class Truth:
    """Reference values of a case, and the first-order error bound of each, divided by u."""

    stats: RowStats
    bound: dict[str, Any]
    valid: Any
    parts: Parts
    known: dict[str, Any] = dataclasses.field(default_factory=dict)  # gradients asked for once already

    @classmethod
    def of(cls, case: Case, whole: Truth | None = None) -> Truth:
        """Truth of the case; `whole` is that of the whole rows if the case is but a shard of them."""
        z = np.ascontiguousarray(as_rows(decode(case.logits)))  # NumPy's sums are pairwise along contiguous axes alone
        target = case.target
        if target.kind == "dense":
            target = dataclasses.replace(target, prob=np.ascontiguousarray(as_rows(np.asarray(target.prob))))
        own = reference.row_stats(z, target, case.scores)
        stats = own if whole is None else whole.stats
        s, _ = reference.score_and_slope(z, case.scores)
        p, valid = reference.target_measure(target, *z.shape)
        d = np.where(valid[:, None], s - stats.peak[:, None], 0.0)
        capped = case.scores.softcap is not None
        # tanh is off by u |s|; in float64 so is z / temperature, here and in the reference
        scaled = bool(np.any(temperature_of(case.scores) != 1))
        off = np.abs(s) + np.abs(stats.peak)[:, None] if capped or (case.wide and scaled) else 0.0
        size = np.abs(d)
        D = size + off
        e = np.exp(d)
        bound = {
            "peak": np.abs(own.peak),
            "total": (e * (1 + D)).sum(1),
            "tilt": (e * ((1 + size) * D + size)).sum(1) + z.shape[1] * 1e-30,  # e^d may be 0 below e^-87
            "target_score": (np.abs(p) * (size + D)).sum(1),
            "mass": np.abs(p).sum(1),
        }
        if whole is not None:  # all that gradients depend on
            parts = Parts(z, target, slope_of(z, case.scores), p, d, D, whole.parts.relative)
            return cls(stats, whole.bound, valid, parts)
        L, T = np.log(stats.total), stats.tilt
        relative = bound["total"] / stats.total
        bound |= {
            "loss": bound["mass"] * (L + relative) + bound["target_score"] + np.abs(stats.loss),
            "lse": np.abs(stats.peak) + relative + np.abs(stats.lse),
            "entropy": relative * (1 + np.abs(T) / stats.total) + bound["tilt"] / stats.total + np.abs(stats.entropy),
        }
        return cls(stats, bound, valid, Parts(z, target, slope_of(z, case.scores), p, d, D, relative))

    def grad(self, case: Case, cotangents: tuple[Any, Any, Any], a_bound: Any = 0.0) -> tuple[Any, Any]:
        """Gradient of each row (N, V) and its bound; `a_bound` is what the coefficient a is off by beforehand."""
        z, target, slope, p, d, D, relative = self.parts
        g = tuple(np.zeros(len(z)) if x is None else decode(x) for x in cotangents)
        a, b, c = (x[:, None] for x in self.stats.coefficients(*g))
        logq = d - np.log(self.stats.total)[:, None]
        q = np.exp(logq)
        kept = (self.valid & np.any([x != 0 for x in g], axis=0))[:, None]
        want = np.where(kept, slope * (q * (a + b * logq) - c * p), 0.0)

        g_loss, g_lse, g_entropy = (np.abs(x)[:, None] for x in g)
        mass, entropy, p = self.bound["mass"][:, None], np.abs(self.stats.entropy)[:, None], np.abs(p)
        a_sum = g_loss * mass + g_lse + g_entropy * entropy
        a_off = g_loss * mass + g_lse + g_entropy * self.bound["entropy"][:, None]
        q_off = D + relative[:, None]
        scale = q * ((a_sum + g_entropy * np.abs(logq)) * (1 + q_off) + a_off + np.reshape(a_bound, (-1, 1)))
        scale += q * g_entropy * q_off + g_loss * p
        if case.scores.softcap is not None:
            scale *= 1 + 2 * np.abs(z / (temperature_of(case.scores) * case.scores.softcap))
        size = a_sum + g_entropy * (1 + np.abs(logq)) + g_loss * p
        named = named_columns(target, *z.shape) * 2.0**-53 / unit(case)  # there q a is (q − 1) a + a, in double
        least = float(np.finfo(np.float64 if case.wide else np.float32).tiny) / unit(case)  # q and slopes underflow
        steepest = slope if case.scores.softcap is None else slope + 4 / temperature_of(case.scores)  # times u ≥ 0
        scale = slope * (scale + named * size) + least * (1 + steepest) * (1 + np.abs(logq) + size)
        return want, np.where(kept, scale, 0.0)


def named_columns(target: Target, rows: int, V: int) -> Any:
    """Which columns the target names by their index."""
    mask = np.zeros((rows, V), bool)
    if target.index is not None:
        local = np.asarray(target.index).reshape(rows, -1).astype(np.int64) - target.first_class
        row, k = np.nonzero((local >= 0) & (local < V))
        mask[row, local[row, k]] = True
    return mask


def slope_of(z: Any, scores: Scores) -> Any:
    """phi'(z), with relative accuracy where tanh is nearly 1."""
    T = temperature_of(scores)
    if scores.softcap is None:
        return np.ones_like(z) / T
    u = np.exp(-2 * np.abs(z) / (T * scores.softcap))
    return 4 * u / (1 + u) ** 2 / T


def temperature_of(scores: Scores) -> Any:
    """The temperature of all rows, or of each, (N, 1)."""
    own: Any = scores.row_temperature
    return scores.temperature if own is None else decode(own)[:, None]


def unit(case: Case) -> float:
    return 2.0**-53 if case.wide else 2.0**-24


def allowed(wide: bool, terms: int) -> float:
    """How many times its bound an error may be. Nothing wider than double takes over there: 4 √n / 3 for a sum."""
    return max(K, 3 + 4 * terms**0.5 / 3) if wide else K


def worst(got: Any, want: Any, bound: Any) -> float:
    """Largest error in units of its bound; infinite where one is not finite and the other is, or where got is NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(got == want, 0.0, np.abs(got - want))
        ratio = np.where(error == 0, 0.0, error / bound)
    return float(np.where(np.isnan(ratio), np.inf, ratio).max(initial=0.0))


def agree(name: str, case: Case, got: Any, want: Any, bound: Any) -> None:
    ratio = worst(got, want, bound)
    limit = allowed(case.wide, case.logits.shape[1])
    assert ratio <= limit, f"{name} of {case.name}: {ratio:.3g} times its first-order error bound"


# The checks


def check_record(case: Case, truth: Truth, record: Any) -> None:
    for k, field in enumerate(FIELDS):
        want = getattr(truth.stats, field)
        agree(field, case, record[k], want, np.where(truth.valid, unit(case) * truth.bound[field], 0.0))


def grad_bound(case: Case, want: Any, scale: Any) -> Any:
    """Bound in units such that K of them are allowed: rounding to the dtype of the logits counts in full."""
    eps, least = spacing(case.dtype)
    return unit(case) * scale + (np.abs(want) * eps + least) / K * (unit(case) < eps / 2)


def empty_record(rows: int) -> Any:
    """A record full of NaN."""
    return np.full((len(FIELDS), rows), np.nan)


def check_outputs(backend: Any, case: Case, truth: Truth, record: Any) -> dict[str, Guarded]:
    """Check and return loss, lse and entropy of each row, which are written beside the record (None is none)."""
    narrow = np.float64 if case.wide else np.float32
    summary = {name: Guarded(None, (case.rows,), narrow) for name in ("loss", "lse", "entropy")}
    inputs = Inputs.of(case.logits, case.target.index, case.target.prob, case.target.weight)
    outs = RowOutputs(*(x.view for x in summary.values()))
    backend.row_stats(case.logits, case.target, case.scores, record, outs)
    inputs.check()
    for name, out in summary.items():
        want = np.where(truth.valid, getattr(truth.stats, name), 0.0)
        agree(name, case, out.values(), want, np.where(truth.valid, unit(case) * truth.bound[name], 0.0))
    return summary


def check_row_stats(backend: Any, case: Case, truth: Truth) -> Any:
    """Check the record and the summary; return the record for `check_row_grad`."""
    narrow = np.float64 if case.wide else np.float32
    record = Guarded(None, (len(FIELDS), case.rows), np.float64)
    summary = check_outputs(backend, case, truth, record.view)
    values = record.values()
    check_record(case, truth, values)
    derived = RowStats(*values)
    for name, out in summary.items():
        exact = getattr(derived, name)
        size = (
            np.abs(derived.peak)
            + np.abs(derived.mass * np.log(derived.total))
            + np.abs(derived.target_score)
            + np.abs(exact)
        )
        limit = np.finfo(narrow).eps / 2 * np.abs(exact) + 4 * 2.0**-53 * size
        assert worst(out.values(), exact, limit) <= 1, f"{name} of {case.name} is not the one of the record"
    return record.view


def check_few(backend: Any, case: Case, truth: Truth) -> None:
    """Check rows without a record against the same bounds, and their sum and mean against what is written of rows."""
    outputs = check_outputs(backend, case, truth, None)
    check_row_grad(backend, case, truth, None)
    check_row_loss(backend, case, truth, outputs["loss"].values(), recorded=False)


def check_row_loss(backend: Any, case: Case, truth: Truth, losses: Any, *, recorded: bool) -> None:
    """Check sum and mean of losses that were written before, and the record beside them but for its tilt."""
    wide = np.float64 if case.wide else np.float32
    record, room = Guarded(None, (len(FIELDS), case.rows), np.float64), np.full(case.rows, np.nan, wide)
    kept = (record.view, room) if recorded else (None, None)
    total, mean = (backend.row_loss(case.logits, case.target, case.scores, *kept, mean=mean) for mean in (False, True))
    rounding = max(1, case.rows) * 2.0**-53
    # a sum may be one of losses that were not rounded, and is rounded itself
    bound = (rounding + 2 * unit(case)) * np.abs(losses).sum()
    assert worst(np.array(total.loss), losses.sum(), bound) <= 1, f"the sum of {case.name}"
    assert total.scale == 1
    weight = row_weights(case).sum()
    if weight == 0:
        assert np.isnan(mean.loss)
    else:
        np.testing.assert_allclose(1 / mean.scale, weight, rtol=2 * rounding + unit(case))  # weights are rounded
        size = (bound + unit(case) * np.abs(losses.sum())) / abs(weight)
        assert worst(np.array(mean.loss), losses.sum() / weight, size) <= 1, f"the mean of {case.name}"
    if recorded:
        values = record.values()
        values[FIELDS.index("tilt")] = truth.stats.tilt
        check_record(case, truth, values)


def row_weights(case: Case) -> Any:
    """What each row weighs in a mean."""
    target, weights = case.target, np.ones(case.rows)
    if target.kind != "index":
        return weights
    index = np.asarray(target.index).astype(np.int64)
    local = np.clip(index - target.first_class, 0, case.logits.shape[1] - 1)
    here = local == index - target.first_class
    if target.weight is not None:
        weights = np.where(here, decode(target.weight)[local], 1.0)
    return np.where(index == target.ignore_index, 0.0, weights)


def check_row_grad(backend: Any, case: Case, truth: Truth, record: Any) -> Any:
    """Check the gradient for the case's cotangents."""
    if "grad" not in truth.known:
        truth.known["grad"] = truth.grad(case, case.cotangents)
    want, scale = truth.known["grad"]
    out = Guarded(case.grad_layout, case.logits.shape, case.logits.dtype)
    inputs = Inputs.of(
        case.logits,
        case.target.index,
        case.target.prob,
        case.target.weight,
        case.scores.row_temperature,
        record,
        *case.cotangents,
    )
    backend.row_grad(case.logits, case.target, case.scores, record, Cotangents(*case.cotangents), out.view)
    inputs.check()
    got = as_rows(out.values())
    agree("grad", case, got, want, grad_bound(case, want, scale))
    return got


def check_row_fused(backend: Any, case: Case, truth: Truth, *, in_place: bool = False) -> Any:
    """Check the record and the gradient of Σ scale.loss · loss + scale.lse_squared · lse².

    The scales are the first two cotangents.
    """
    ones = np.ones(case.rows, np.float32)
    scale = LossScale(ones if case.cotangents[0] is None else case.cotangents[0], case.cotangents[1])
    if "fused" not in truth.known:
        squared = scale.lse_squared
        g_lse = None if squared is None else 2 * decode(squared) * truth.stats.lse
        a_bound = 0.0 if squared is None else 2 * np.abs(decode(squared)) * truth.bound["lse"]
        truth.known["fused"] = truth.grad(case, Cotangents(scale.loss, g_lse), a_bound)
    want, bound = truth.known["fused"]
    record = Guarded(None, (len(FIELDS), case.rows), np.float64)
    out = Guarded(case.grad_layout, case.logits.shape, case.logits.dtype)
    logits = case.logits
    if in_place:
        out.view[...] = case.logits
        logits = out.view
    inputs = Inputs.of(*([] if in_place else [logits]), case.target.index, case.target.prob, case.target.weight, *scale)
    backend.row_fused(logits, case.target, case.scores, scale, record.view, out.view)
    inputs.check()
    check_record(case, truth, record.values())
    got = as_rows(out.values())
    agree("fused grad", case, got, want, grad_bound(case, want, bound))
    return got


def check_rows(backend: Any, case: Case, truth: Truth) -> None:
    """All of the above."""
    record = check_row_stats(backend, case, truth)
    check_row_grad(backend, case, truth, record)
    check_row_loss(backend, case, truth, RowStats(*record).loss, recorded=True)
    check_row_fused(backend, case, truth)
    check_row_fused(backend, case, truth, in_place=True)
    if 0 < case.logits.shape[1] <= backend.few_classes and case.target.kind != "topk":
        check_few(backend, case, truth)


# One call, its results in new arrays


@dataclasses.dataclass
class Result:
    """What a backend made of a few rows: summary (N,), record and gradients (N, V), all as float64."""

    loss: Any
    lse: Any
    entropy: Any
    stats: RowStats
    grad: Any
    fused: Any


def evaluate(
    backend: Any,
    logits: Any,
    target: Target,
    scores: Scores = PLAIN,
    cotangents: tuple[Any, Any, Any] | None = None,
) -> Result:
    """Statistics, the gradient for the cotangents (of the loss alone if there are none), and that of `row_fused`."""
    N = logits.size // logits.shape[1] if logits.shape[1] else logits.shape[0]
    narrow = np.float64 if logits.dtype == np.float64 else np.float32
    outputs = RowOutputs(*(np.full(N, np.nan, narrow) for _ in range(3)))
    record, again = empty_record(N), empty_record(N)
    grad, fused = (np.full(logits.shape, np.nan, logits.dtype) for _ in range(2))
    ones = np.ones(N, narrow)
    backend.row_stats(logits, target, scores, record, outputs)
    given = Cotangents(ones) if cotangents is None else Cotangents(*cotangents)
    backend.row_grad(logits, target, scores, record, given, grad)
    backend.row_fused(logits, target, scores, LossScale(ones), again, fused)
    return Result(*outputs, RowStats(*record), as_rows(grad), as_rows(fused))


# Binary cross-entropy


def softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x: Any) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x > 0, 1, small) / (1 + small)


def binary_truth(kind: str, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    """What the positive and the negative part of the target cost, and their derivatives: the loss is the sum."""
    x, t, w, r = (np.float64(1) if a is None else decode(a) for a in operands)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if kind == "logits":
            costs, slopes = (softplus(-x), softplus(x)), (-sigmoid(-x), sigmoid(x))
        else:
            costs, slopes = (-np.log(x), -np.log1p(-x)), (-1 / x, 1 / (1 - x))
        shares = r * t, 1 - t
        loss, slope = (
            [np.where(s == 0, 0.0, w * s * f) for s, f in zip(shares, fs, strict=True)] for fs in (costs, slopes)
        )
    return loss, slope


def check_binary(backend: Any, kind: Any, operands: tuple[Any, ...], cotangent: Any) -> None:
    """Check losses, their sum and the gradient; all terms keep their relative accuracy.

    Bound: exponential, logarithm and the products are wrong by at most 2, 4 and 4 u, so a term by `K` u; results below
    the normal numbers may vanish.
    """
    shape, dtype = operands[0].shape, "bfloat16" if operands[0].dtype == np.uint16 else str(operands[0].dtype)
    wide = dtype == "float64"
    u, tiny = (2.0**-53, 2.3e-308) if wide else (2.0**-24, 1.2e-38)
    given = BinaryOperands(*operands)
    inputs = Inputs.of(*operands, cotangent)
    losses, slopes = binary_truth(kind, operands)
    want, size = sum(losses), sum(np.abs(x) for x in losses)
    out = Guarded(None, shape, np.float64 if wide else np.float32)
    total = backend.binary_loss(kind, given, out.view)
    assert worst(out.values(), want, u * size + tiny) <= K, f"loss of {kind} {dtype}"
    limit = u * size.sum() + tiny * want.size
    assert worst(np.float64(total), want.sum(), limit) <= allowed(wide, want.size), f"sum of {kind} {dtype} {shape}"
    assert backend.binary_loss(kind, given, None) == total
    grad = Guarded(None, shape, operands[0].dtype)
    backend.binary_grad(kind, given, cotangent, grad.view)
    g = decode(cotangent)
    want, size = g * sum(slopes), np.abs(g) * sum(np.abs(x) for x in slopes)
    if dtype == "float16":
        want = np.where(np.abs(want) >= 65520, np.copysign(np.inf, want), want)
    eps, least = spacing(dtype)
    rounding = 0.0 if dtype in {"float32", "float64"} else (np.abs(want) * eps + least) / K
    assert worst(grad.values(), want, u * size + tiny + rounding) <= K, f"gradient of {kind} {dtype}"
    inputs.check()
