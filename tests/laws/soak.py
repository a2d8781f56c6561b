"""The soak: random valid calls of the four losses, each value and gradient held against float64 formulas.

    python -m tests.laws.soak --calls 100000 --seed 1
    python -m tests.laws.soak --seed 1 --only 4711        one call once more, with what it was

`soak_calls` draws the calls, `soak_truth` says what is right, and `near` derives how far off it may be: the roundings
of the formula in the arithmetic of the loss (float64 for float64 input, else float32), times their condition, and one
rounding to the dtype of each gradient. For float64 the truth has roundings of the same size, so twice the bound is
allowed. No tolerance is set by hand; test_soak.py shows that wrong losses are found.

Memory is the resident set of the process as the system counts it, read after 5000 calls, which fill the caches of
torch, and after the last. Before that the C library gives free memory back to the system: what it keeps in its lists
comes and goes by 10 MiB, and is nobody's. A tensor that leaks in each call would take 200 bytes at least (its
TensorImpl alone), so a growth below 100 bytes a call and 4 MiB is flat. Fewer calls say nothing of memory.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.laws.near import Near
from tests.laws.soak_calls import STATS, Call, draw, wide
from tests.laws.soak_truth import Binary, Closing, Precision, Softmax, close, measure

PRECISION = {
    torch.float64: Precision(2.0**-53, 0.0, torch.finfo(torch.float64).max),
    torch.float32: Precision(2.0**-24, 2.0**-126, torch.finfo(torch.float32).max),
    torch.bfloat16: Precision(2.0**-8, 2.0**-134, torch.finfo(torch.bfloat16).max),
    torch.float16: Precision(2.0**-11, 2.0**-25, torch.finfo(torch.float16).max),
}
WARM = 5000


@dataclasses.dataclass(frozen=True)
class Found:
    """How a result compares with the truth: its largest error in units of the bound, infinite where it is wrong."""

    name: str
    ratio: float
    text: str = ""


def exact(x: Tensor) -> Any:
    """Return a tensor as float64."""
    return x.detach().to(torch.float64).numpy()


def compare(name: str, got: Tensor, want: Near, shape: Any = None) -> Found:
    """Compare a result with its truth."""
    if shape is not None and tuple(got.shape) != tuple(shape):
        return Found(name, np.inf, f"shape {tuple(got.shape)} instead of {tuple(shape)}")
    value, limit = exact(got), want.off * (2.0 if want.u < 2.0**-50 else 1.0)
    wanted = np.broadcast_to(want.value, value.shape)
    over = np.abs(wanted) + limit > PRECISION[got.dtype].most
    same = (value == wanted) | (np.isnan(value) & np.isnan(wanted)) | (over & (value == np.copysign(np.inf, wanted)))
    if got.dtype == torch.float16:  # whose parts may overflow: see `close`
        same |= np.isinf(limit)
    error = np.abs(value - wanted)
    ratio = np.where(same, 0.0, error / limit)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    if ratio.max(initial=0.0) <= 1:
        return Found(name, float(ratio.max(initial=0.0)))
    at = np.unravel_index(int(ratio.argmax()), ratio.shape)
    bound = np.broadcast_to(limit, ratio.shape)[at]
    return Found(name, float(ratio.max()), f"at {[int(x) for x in at]}: {value[at]!r} for {wanted[at]!r} ± {bound:.3g}")


def check(call: Call, losses: Any = F) -> list[Found]:
    """Make a call, and compare all that it returns and its gradients with the truth."""
    arguments = dict(call.arguments)
    positional = [arguments.pop(name) for name in ("input", "linear_weight", "target") if name in arguments]
    result = getattr(losses, call.loss)(*positional, **arguments)
    outputs = {"loss": result}
    if call.arguments.get("return_stats"):
        outputs = {"loss": result[0], **{f.name: getattr(result[1], f.name) for f in dataclasses.fields(result[1])}}
    gradients: dict[str, Tensor] = {}
    pairs = [(outputs[name], g) for name, g in call.cotangents.items() if outputs[name].requires_grad]
    if call.wanted and pairs:
        found = torch.autograd.grad(
            [out for out, _ in pairs], call.leaves(), [g for _, g in pairs], allow_unused=True, materialize_grads=True
        )
        gradients = dict(zip(call.wanted, found, strict=True))
    with np.errstate(all="ignore"):
        truth = of_binary if call.loss.startswith("binary") else of_softmax
        return list(truth(call, outputs, gradients))


def of_binary(call: Call, outputs: dict[str, Tensor], gradients: dict[str, Tensor]) -> Iterator[Found]:
    """Compare a binary loss."""
    a, x = call.arguments, exact(call.arguments["input"])
    u, t = PRECISION[wide(a["input"].dtype)].half_ulp, exact(a["target"])
    weight, pos_weight = (
        np.broadcast_to(exact(a[name]), x.shape) if name in a else np.ones(x.shape) for name in ("weight", "pos_weight")
    )
    with_logits = call.loss.endswith("logits")
    elements = Binary.of_logits(x, pos_weight, u) if with_logits else Binary.of_probabilities(x, u)
    loss, g = elements.loss(t, weight), exact(call.cotangents["loss"])
    if a.get("reduction", "mean") != "none":
        loss = loss.sum().rounded()
    if a.get("reduction", "mean") == "mean":
        loss = loss / x.size
    yield compare("loss", outputs["loss"], loss.rounded(), loss.value.shape)
    of_each = Near.exact(np.broadcast_to(g, x.shape), u)
    if a.get("reduction", "mean") == "mean":
        of_each = of_each / x.size
    if "input" in gradients:
        part = elements.gradient(t, weight, of_each)
        yield compare("input", gradients["input"], close([part], PRECISION[a["input"].dtype]), x.shape)
    if "prob" in gradients:
        part = elements.by_target(weight, of_each)
        yield compare("prob", gradients["prob"], close([part], PRECISION[a["target"].dtype]), x.shape)


def of_softmax(call: Call, outputs: dict[str, Tensor], gradients: dict[str, Tensor]) -> Iterator[Found]:
    """Compare a loss of logits or of a layer."""
    return SoftmaxCall(call).compared(outputs, gradients)


class SoftmaxCall:
    """The truth of a call of a softmax loss."""

    def __init__(self, call: Call) -> None:
        self.call, a = call, call.arguments
        self.dtype = a["input"].dtype
        self.u = PRECISION[wide(self.dtype)].half_ulp
        self.axis = call.class_axis
        self.layer = "linear_weight" in a
        logits = self._product() if self.layer else Near.exact(exact(a["input"]), self.u)
        self.shape = logits.value.shape
        self.rows_shape = (*self.shape[: self.axis], *self.shape[self.axis + 1 :])
        z = logits.map(self._rows)
        self._target(z.value)
        z = z.where(self.valid[:, None])
        z = z.where(np.isfinite(z.value.max(1))[:, None])  # rows that hold anything, and are removed by their weight
        cap = a.get("softcap")
        T = a.get("temperature", 1.0)
        of_rows = isinstance(T, Tensor) and T.ndim > 0
        T = exact(T).reshape(-1, 1) if of_rows else float(T)
        self.rows = Softmax.of(z, T, None if cap is None else float(cap))
        self._closing()

    def _rows(self, x: Any) -> Any:
        """Return an array in the shape of the logits as (N, V)."""
        moved = np.moveaxis(x, self.axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    def _product(self) -> Near:
        """Return the logits of the layer."""
        a = self.call.arguments
        x, w = exact(a["input"]), exact(a["linear_weight"])
        self.x, self.w = x.reshape(-1, x.shape[-1]), w.reshape(-1, w.shape[-1])
        self.x = np.where(np.isfinite(self.x), self.x, 0.0)
        bias = exact(a["linear_bias"]).reshape(-1) if a.get("linear_bias") is not None else np.zeros(len(self.w))
        value = self.x @ self.w.T + bias
        size = np.abs(self.x) @ np.abs(self.w).T + np.abs(bias)
        return Near.of(value, (x.shape[-1] + 2) * self.u * size, self.u).map(
            lambda y: y.reshape(*x.shape[:-1], *w.shape[:-1])
        )

    def _target(self, z: Any) -> None:
        """Read the target: its probabilities (N, V), and which rows have one."""
        a, target = self.call.arguments, self.call.arguments["target"]
        n, classes = z.shape
        self.valid, self.index = np.ones(n, bool), None
        self.base, self.named = np.zeros((n, classes)), np.zeros((n, classes), bool)
        if isinstance(target, TopK):
            self.picks = self._rows(target.index.to(torch.int64).numpy())
            for k in range(self.picks.shape[1]):
                np.add.at(self.base, (np.arange(n), self.picks[:, k]), self._rows(exact(target.prob))[:, k])
                self.named[np.arange(n), self.picks[:, k]] = True
        elif tuple(target.shape) == self.shape and target.is_floating_point():
            self.base = self._rows(exact(target))
        else:
            ignore = a.get("ignore_index")
            index = target.to(torch.int64).numpy().reshape(-1)
            self.valid = index != (-100 if ignore is None else int(ignore))
            self.index = np.where(self.valid, index, 0)
            self.base[np.arange(n), self.index] = self.valid
            self.named[np.arange(n), self.index] = True

    def _closing(self) -> None:
        a = self.call.arguments
        weight = exact(a["weight"]) if a.get("weight") is not None else None
        self.weight, self.smoothing = weight, a.get("label_smoothing", 0.0)
        more = isinstance(a["target"], TopK) or (self.index is None and a["target"].dtype == torch.float64)
        self.p = measure(self.base, weight, self.smoothing, self.u, more)
        self.p = self.p.where(self.valid[:, None])
        self.plain_p = Near.exact(self.base, self.u).rounded(1.0 if self.index is None else 0.0)
        self.same = weight is None and self.smoothing == 0
        samples = exact(a["sample_weight"]).reshape(-1) if a.get("sample_weight") is not None else None
        counts = 1.0 * self.valid
        if self.index is not None and weight is not None:
            counts = counts * weight[self.index]
        massive, learned = (self.p.value != 0).any(1), "sample_weight" in self.call.wanted
        options = a.get("reduction", "mean"), a.get("z_loss", 0.0)
        self.closing = Closing(*options, samples, counts, self.valid, massive, learned)

    def compared(self, outputs: dict[str, Tensor], gradients: dict[str, Tensor]) -> Iterator[Found]:
        """Compare results and gradients."""
        losses = self.rows.loss(self.p).rounded()
        lse, entropy = self.rows.lse.rounded(), self.rows.entropy.rounded()
        loss = self.closing.loss(losses, lse).rounded()
        shape = self.rows_shape if self.closing.reduction == "none" else ()
        if self.closing.undefined:  # torch says NaN, 0 in the denominator infinity
            yield Found("loss", np.inf if outputs["loss"].isfinite() else 0.0, "finite, of weights that add up to 0")
        else:
            yield compare("loss", outputs["loss"], loss.map(lambda x: x.reshape(shape)), shape)
        if len(outputs) > 1:
            logprob = -self.rows.loss(self.plain_p).rounded()
            confidence = (-self.rows.log_total).exp().rounded(2)
            tiles = len(self.w) if self.layer else 0  # at most: the total of a row is rounded once for each
            confidence = confidence.less_precise(tiles * 2.0**-53 * confidence.value)
            for name, want in zip((*STATS, "confidence"), (lse, logprob, entropy, confidence), strict=True):
                of_rows = want.where(self.valid).map(lambda x: x.reshape(self.rows_shape))
                yield compare(name, outputs[name], of_rows, self.rows_shape)
            yield self._correct(outputs["correct"])
        if gradients and not self.closing.undefined:
            yield from self._gradients(gradients, losses, lse)

    def _correct(self, got: Tensor) -> Found:
        """Compare whether the most probable class of the target has the highest score, where rounding cannot decide."""
        n = np.arange(len(self.base))
        label = self.base.argmax(1)
        behind = -self.rows.d.value[n, label]
        off = 2 * self.rows.d.off[n, label]
        first = behind == 0
        if "linear_weight" in self.call.arguments:  # equal products need not be rounded equally
            others = np.sort(self.rows.d.value, 1)[:, :-1]
            first &= others.max(1, initial=-np.inf) < -off
        clear = first | (behind > off)
        clear &= (self.base[n, label] > 0) | ~self.valid
        ordered = np.sort(self.base, 1)
        if self.index is None and ordered.shape[1] > 1:
            clear &= ordered[:, -1] - ordered[:, -2] > 8 * self.u * ordered[:, -1]
        want = np.where(self.valid, behind == 0, False)
        wrong = clear & (got.numpy().reshape(-1) != want)
        return Found("correct", np.inf if wrong.any() else 0.0, f"in rows {wrong.nonzero()[0].tolist()}")

    def _cotangent(self, name: str) -> Any:
        g = self.call.cotangents.get(name)
        return np.zeros(self.valid.shape) if g is None else exact(g).reshape(-1) * self.valid

    def _gradients(self, gradients: dict[str, Tensor], losses: Near, lse: Near) -> Iterator[Found]:
        rows, u = self.rows, self.u
        g = exact(self.call.cotangents["loss"]).reshape(-1) if "loss" in self.call.cotangents else np.zeros(1)
        of_loss, of_lse = self.closing.shares(g, lse)
        nothing = Near.exact(np.zeros(self.valid.shape), u)
        own = {name: Near.exact(self._cotangent(name), u) for name in STATS}
        plain = self.index if self.same else None
        parts = [
            rows.gradient(self.p, (of_loss, of_lse, nothing), self.named, plain),
            rows.gradient(self.plain_p, (nothing, own["lse"], own["entropy"]), self.named),
            rows.gradient(self.plain_p, (-own["logprob"], nothing, nothing), self.named, self.index),
        ]
        if "sample_weight" in gradients and np.isfinite(losses.value).all():
            found = self.closing.by_samples(g, losses, lse).map(lambda x: x.reshape(self.rows_shape))
            dtype = self.call.arguments["sample_weight"].dtype
            yield compare("sample_weight", gradients["sample_weight"], close([found], PRECISION[dtype]))
        if "prob" in gradients:
            yield self._by_probabilities(gradients["prob"], of_loss, own["logprob"])
        if self.layer:
            yield from self._by_operands(gradients, parts)
        elif "input" in gradients:
            want = close(parts, PRECISION[self.dtype]).map(self._in_shape)
            yield compare("input", gradients["input"], want, self.shape)

    def _in_shape(self, x: Any) -> Any:
        """Return rows (N, K) in the shape of the logits, with K for the classes."""
        return np.moveaxis(x.reshape(*self.rows_shape, x.shape[-1]), -1, self.axis)

    def _by_probabilities(self, got: Tensor, of_loss: Near, of_logprob: Near) -> Found:
        cost = self.rows.cost()
        weight = np.ones(cost.value.shape[1]) if self.weight is None else self.weight
        parts = [
            cost * Near.exact(weight * (1 - self.smoothing), self.u).rounded(2) * of_loss[:, None],
            -cost * of_logprob[:, None],
        ]
        if self.same:
            parts = [cost * (of_loss - of_logprob)[:, None]]
        if isinstance(self.call.arguments["target"], TopK):
            parts = [part.map(lambda x: np.take_along_axis(x, self.picks, 1)) for part in parts]
        want = close([part.rounded(2) for part in parts], PRECISION[got.dtype])
        return compare("prob", got, want.map(self._in_shape))

    def _by_operands(self, gradients: dict[str, Tensor], parts: list[Near]) -> Iterator[Found]:
        """Compare the gradients of a layer's operands, products of the gradients of the logits."""
        n, width = len(self.x), len(self.w)
        eps = PRECISION[self.dtype].half_ulp if self.dtype == torch.bfloat16 else 0.0
        tiles = []
        for part in parts:
            tile = part.map(self._in_shape).map(lambda x: x.reshape(n, width))
            tiles.append(tile.less_precise(eps * np.abs(tile.value)))
        both = {
            "input": [self._times(tile, self.w) for tile in tiles],
            "linear_weight": [self._times(tile.map(np.transpose), self.x) for tile in tiles],
            "linear_bias": [tile.sum(0) for tile in tiles],
        }
        for name, products in both.items():
            if name in gradients:
                shape = self.call.arguments[name].shape
                want = close(products, PRECISION[self.dtype]).map(lambda x, shape=shape: x.reshape(shape))
                yield compare(name, gradients[name], want, shape)

    def _times(self, tile: Near, operand: Any) -> Near:
        """Return a product with an exact matrix, its sums in any order."""
        size = np.abs(operand)
        off = tile.off @ size + (tile.value.shape[1] + 2) * self.u * (np.abs(tile.value) @ size)
        return Near.of(tile.value @ operand, off, self.u)


# The program -------------------------------------------------------------------------------------------------------


def call_of(seed: int, number: int) -> Call:
    """Return a call of a soak by its number."""
    return draw(np.random.default_rng((seed, number)))


def checked(call: Call, losses: Any = F) -> list[Found]:
    """Check a call; one that raises is off, and the soak goes on."""
    try:
        return check(call, losses)
    except Exception as error:
        return [Found("call", np.inf, f"{type(error).__name__}: {error}")]


@dataclasses.dataclass
class Soak:
    """What a soak found: calls that are off with their results, the largest ratio of each result, and memory."""

    calls: int = 0
    off: dict[int, list[Found]] = dataclasses.field(default_factory=dict)
    largest: dict[str, float] = dataclasses.field(default_factory=dict)
    grown: int | None = None
    """Bytes since call `WARM`."""

    @property
    def flat(self) -> bool:
        """Whether memory is flat, as far as it was measured."""
        return self.grown is None or self.grown <= 100 * (self.calls - WARM) + 2**22

    @property
    def memory(self) -> str:
        """What to say of it."""
        if self.grown is None:
            return "memory not measured"
        return f"memory grew by {self.grown / 2**20:.1f} MiB ({'flat' if self.flat else 'not flat'})"


def resident() -> int:
    """Return the bytes of memory that the process holds, without what it has freed."""
    _ = gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc
        _ = trim(0)
    return psutil.Process().memory_info().rss


def soak(seed: int, calls: int, losses: Any = F, *, tell: Any = None) -> Soak:
    """Make calls and compare them with the truth."""
    result = Soak(calls)
    start = 0
    for number in range(calls):
        if number == WARM:
            start = resident()
        call = call_of(seed, number)
        found = checked(call, losses)
        for x in found:
            name = f"{call.loss} {x.name} {call.arguments['input'].dtype}".replace("torch.", "")
            if np.isfinite(x.ratio):
                result.largest[name] = max(result.largest.get(name, 0.0), x.ratio)
        wrong = [x for x in found if x.ratio > 1]
        if wrong:
            result.off[number] = wrong
            if tell is not None:
                tell(number, call, wrong)
    if calls > WARM:
        result.grown = resident() - start
    return result


def _tell(number: int, call: Call, wrong: list[Found]) -> None:
    print(f"call {number} {'is off' if any(x.ratio > 1 for x in wrong) else 'is right'}: {call.text()}", flush=True)
    for x in wrong:
        print(f"    {x.name}: {x.ratio:.3g} times the bound {x.text}", flush=True)


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Random calls of the four losses against float64.")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="number of one call")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.only is not None:
        call = call_of(chosen.seed, chosen.only)
        found = check(call)
        _tell(chosen.only, call, found)
        return int(any(x.ratio > 1 for x in found))
    begin = time.perf_counter()
    result = soak(chosen.seed, chosen.calls, tell=_tell)
    for name, ratio in sorted(result.largest.items()):
        print(f"{ratio:8.3f} of the bound: {name}")
    seconds = time.perf_counter() - begin
    print(f"{result.calls} calls, {len(result.off)} off, {result.memory}, {seconds:.0f} s")
    return int(bool(result.off) or not result.flat)


if __name__ == "__main__":
    sys.exit(main())
