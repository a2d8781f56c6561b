"""Calls of the backend on tensors without memory: one for every combination that leads to other machine code."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from crossent.kernels import triton as backend
from crossent.kernels.backend import (
    BiasedLogits,
    BinaryOperands,
    Cotangents,
    LossScale,
    PairCotangents,
    RowOutputs,
    Teacher,
)
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, PAIR_SUMS
from tools.gpu_build.budgets import FEW_LAYOUTS

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}
KINDS = ("index", "index capped", "topk", "smoothed capped", "dense", "dense capped")
FEWER_KINDS = {"f16": ("index",), "f64": ("index", "smoothed capped")}
"""float16 differs from bfloat16 in a conversion; float64 may be slow."""
PAIRS = (
    ("long", "bf16", "bf16"), ("long", "f32", "f32"), ("even", "bf16", "bf16"), ("middle", "bf16", "bf16"),
    ("short", "f32", "f32"), ("beside", "f32", "f32"), ("apart", "f32", "f32"), ("apart", "f64", "f64"),
    ("short", "f64", "f64"), ("long", "bf16", "f32"), ("long", "f32", "bf16"),
)  # fmt: skip
"""Layouts of a student's rows beside a teacher's, and the dtypes of the two."""
MIXED = " with js"
"""Added to the kind of a call that has a mixture of the two."""
EVEN = tuple(itertools.product(("bf16", "f32"), ("index", "index capped")))
LAYOUTS = {
    "long": ((4096, 50257),),  # GPT-2: rows that begin anywhere
    "even": ((4096, 128256), (4096, 151936)),  # Llama 3, Qwen
    "middle": ((4096, 1000),),
    "short": ((4096, 10),),
    "beside": ((2, 19, 4096),),  # classes in the middle, as for segmentation
    "apart": ((64, 100),),  # columns apart
    "few": ((4096, 10), (4096, 50)),  # a thread a row, eight threads a row
    "few beside": ((2, 19, 4096),),
}
ONE_READ = (1500, 8000)
LSE, ENTROPY = " with lse", " with entropy"
"""Added to the kind of a call whose gradient is of more than the loss."""
WITH_MORE = {"": KINDS, LSE: ("index",), ENTROPY: ("index", "smoothed capped", "dense")}
"""Kinds of targets for which such gradients are compiled, in the dtype of the logits: others differ in a few terms."""
ALIKE = ("even", "middle", "apart")
"""Layouts in which they differ from "long" by the number of warps, or by strides."""


class Call(NamedTuple):
    """A call of a function of the backend, and what it is about."""

    function: str
    layout: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    to: str
    """The dtype of the gradient where it is not that of the logits."""
    run: Callable[[], Any]

    @property
    def label(self) -> str:
        """What the call is about, in one line."""
        return f"{self.kind}, {self.shape}, {self.dtype}{self.to and ' to ' + self.to}"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return rows_of(self.shape)

    @property
    def logits(self) -> int:
        """Number of logits."""
        return self.rows * self.shape[1]


def calls() -> Iterator[Call]:
    """Yield the calls of the backend for every combination that leads to other code."""
    for (layout, shapes), name, kind in itertools.product(LAYOUTS.items(), DTYPES, KINDS):
        known = (name, kind) in EVEN if layout == "even" else kind in FEWER_KINDS.get(name, KINDS)
        if known and not (name == "f64" and layout in {"long", "even", "middle"}):  # which has no wide tiles
            for shape in shapes:
                if not (kind == "topk" and layout in FEW_LAYOUTS):  # which has a record
                    yield from row_calls(layout, shape, name, kind)
    for layout, name, teacher in PAIRS:
        shape = LAYOUTS[layout][0]
        for kind in KINDS if layout == "long" and name == teacher else ("index", "index capped", "topk"):
            yield from pair_calls(layout, shape, (name, teacher), kind)
    yield from pair_calls("even", LAYOUTS["even"][0], ("f32", "f32"), "index biased")
    for V, name, kind in itertools.product(ONE_READ, ("bf16", "f32"), ("index", "topk", "dense")):
        yield from row_calls("one read", (4096, V), name, kind)
    yield from row_calls("one read", (4096, ONE_READ[0]), "f16", "index")
    for call in row_calls("one read", (4096, 128256), "f32", "index"):
        yield call._replace(layout="one kernel", run=partial(_by_one_kernel, call.run))
    yield from row_calls("even", (32, 128256), "bf16", "index")  # few rows: records of parts, merged
    yield from row_calls("even", (4096, 128256), "bf16", "index by row")  # temperatures, in the kernels of all others
    for layout, shape in (("long", (4096, 50257)), ("even", (4096, 128256)), ("one read", (4096, ONE_READ[1]))):
        yield from row_calls(layout, shape, "f32", "index biased")  # a linear layer's
    for name, kind, weighted in itertools.product(("bf16", "f32", "f64"), ("logits", "probabilities"), (False, True)):
        yield from binary_calls(name, kind, weighted)
    for pair in (("f32", "f32"), ("f32", "bf16"), ("f32", "f16"), ("bf16", "bf16"), ("f16", "f16"), ("f64", "f64")):
        yield from scale_calls(*pair)


def _by_one_kernel(run: Callable[[], Any]) -> Any:
    """Call with the switch on for the kernel whose second pass reads from a cache."""
    os.environ["CROSSENT_GPU_ONE_KERNEL"] = "1"
    try:
        return run()
    finally:
        del os.environ["CROSSENT_GPU_ONE_KERNEL"]


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    """Return a tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def rows_of(shape: tuple[int, ...]) -> int:
    """Return how many rows logits of a shape have."""
    return shape[0] * (shape[2] if len(shape) == 3 else 1)


def computed(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that the kernels compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def target_of(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> Target:
    """Return a target of this kind for logits of this shape."""
    rows, wide = rows_of(shape), computed(dtype)
    weight, smoothing = empty(shape[1], dtype=wide), 0.1 if "smoothed" in kind else 0.0
    if "dense" in kind:
        return Target(prob=empty(*shape, dtype=dtype), weight=weight)
    if kind == "topk":
        return Target(empty(rows, 32, dtype=torch.int64), empty(rows, 32, dtype=wide), weight)
    return Target(empty(rows, dtype=torch.int64), weight=weight, smoothing=smoothing, ignore_index=-100)


def row_calls(layout: str, shape: tuple[int, ...], name: str, kind: str) -> Iterator[Call]:
    """Yield the calls of the row functions for one kind of target and one layout."""
    dtype, rows = DTYPES[name], rows_of(shape)
    logits = empty(shape[0], 2 * shape[1], dtype=dtype)[:, ::2] if layout == "apart" else empty(*shape, dtype=dtype)
    own = empty(rows, dtype=torch.float64) if "by row" in kind else None
    scores, target = Scores(1.0, 30.0 if "capped" in kind else None, own), target_of(kind, shape, dtype)
    z = BiasedLogits(logits, empty(shape[1], dtype=torch.bfloat16)) if "biased" in kind else logits
    few = layout in FEW_LAYOUTS
    record = None if few else empty(len(FIELDS), rows, dtype=torch.float64)
    vectors: Any = tuple(empty(rows, dtype=computed(dtype)) for _ in range(3))
    to = {"": empty(*shape, dtype=dtype) if few else logits}
    if name == "f32" and layout not in {"short", "apart", *FEW_LAYOUTS}:  # what the linear loss asks for
        to["bf16"] = empty(*shape, dtype=torch.bfloat16)

    def call(function: str, to: str, *arguments: Any, more: str = "", **options: Any) -> Call:
        run = partial(getattr(backend, function), *arguments, **options)
        return Call(function, layout, kind + more, name, shape, to, run)

    if layout == "one read":
        scale, outputs = LossScale(*vectors[:2]), RowOutputs(*vectors)
        for suffix, grad in to.items():
            yield call("row_fused", suffix, z, target, scores, scale, record, grad, outputs)
        return
    for more, wanted in (("", vectors[:2]), (ENTROPY, vectors)) if few else (("", vectors),):
        yield call("row_stats", "", z, target, scores, record, RowOutputs(*wanted), more=more)
    yield call("row_loss", "", z, target, scores, record, None if few else vectors[0], mean=True)
    for suffix, grad in to.items():
        for more, given in (("", vectors[:1]), (LSE, vectors[:2]), (ENTROPY, vectors)):
            if not more or (kind in WITH_MORE[more] and not suffix and layout not in ALIKE):
                yield call("row_grad", suffix, z, target, scores, record, Cotangents(*given), grad, more=more)


def pair_calls(layout: str, shape: tuple[int, ...], names: tuple[str, str], kind: str) -> Iterator[Call]:
    """Yield the calls of the functions of pairs for one kind of target and one layout, without and with a mixture."""
    logits, teacher_logits = (
        empty(shape[0], 2 * shape[1], dtype=DTYPES[name])[:, ::2] if layout == "apart"
        else empty(*shape, dtype=DTYPES[name])
        for name in names
    )  # fmt: skip
    rows, (name, other) = rows_of(shape), names
    scores, target = Scores(1.0, 30.0 if "capped" in kind else None), target_of(kind, shape, DTYPES[name])
    z, t = (
        BiasedLogits(x, empty(shape[1], dtype=torch.bfloat16)) if "biased" in kind else x
        for x in (logits, teacher_logits)
    )
    record, sums, g = (empty(k, rows, dtype=torch.float64) for k in (len(FIELDS), PAIR_SUMS, 1))
    teacher, g = Teacher(t, scores, record), g[0]
    for more, beta, given in (("", None, (g, None, None, g, g)), (MIXED, 0.5, (g, g, g, g, g, g))):
        about = f"{kind} beside {other}{more}"
        if kind != "topk":  # no target enters
            run = partial(backend.pair_stats, z, scores, record, teacher, beta, sums)
            yield Call("pair_stats", layout, about, name, shape, "", run)
        run = partial(backend.pair_grad, z, target, scores, record, teacher, beta, sums, PairCotangents(*given), logits)
        yield Call("pair_grad", layout, about, name, shape, "", run)


def binary_calls(name: str, kind: str, weighted: bool) -> Iterator[Call]:
    """Yield the calls of binary cross-entropy."""
    x, weight = empty(512, 512, dtype=DTYPES[name]), empty(512).expand(512, 512) if weighted else None
    operands = BinaryOperands(x, x, weight, weight)
    g = empty(512, 512)
    about = f"{kind}{', weighted' if weighted else ''}"

    def call(function: str, more: str, *arguments: Any) -> Call:
        run = getattr(backend, function)
        return Call(function, "elements", about + more, name, (512, 512), "", lambda: run(*arguments))

    yield call("binary_loss", "", kind, operands, None)
    yield call("binary_loss", ", stored", kind, operands, g)
    yield call("binary_grad", "", kind, operands, g, x)


def scale_calls(name: str, to: str) -> Iterator[Call]:
    """Yield the calls that scale a gradient: into other memory, and in place if the dtype is the same."""
    shape = (4096, 512)
    x, g, out = empty(*shape, dtype=DTYPES[name]), empty(dtype=computed(DTYPES[name])), empty(*shape, dtype=DTYPES[to])
    for kind in ("apart", "in place") if name == to else ("apart",):
        yield Call("scale", "elements", kind, name, shape, to, partial(_scale, x, g, out, in_place=kind == "in place"))


def _scale(x: torch.Tensor, g: torch.Tensor, out: torch.Tensor, *, in_place: bool) -> None:
    backend.scale(x, g, x if in_place else out)
