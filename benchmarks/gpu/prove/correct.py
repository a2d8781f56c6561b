"""The stage of correctness: rows against the reference in float64, and what only a GPU can get wrong.

Kinds of targets are chosen so that few kernels are compiled: few rows with all outputs and cotangents, whose columns
are split among programs, and many rows with the loss alone, as in training. Items that need the same kernels go to the
same process.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.prove import behaviour, few, long_rows, two_heads
from benchmarks.gpu.prove.lab import Item, Lab

PAIRS = (
    ("plain", "bfloat16"),
    ("smoothing", "bfloat16"),
    ("softcap", "bfloat16"),
    ("smoothing", "float32"),
    ("plain", "float32"),
    ("top-k", "bfloat16"),
    ("softcap", "float32"),
    ("top-k", "float32"),
)
"""In this order smoothing and top-k of a dtype, which share kernels, meet in one of four processes."""

CLASSES = {50257: 4103, 128256: 4608}
"""GPT-2's and Llama 3's vocabulary, and what stands in for them where cases are small."""

HEADS = ((512, 32000, "bfloat16"), (4096, 32000, "bfloat16"), (512, 5003, "bfloat16"), (512, 5003, "float32"))
"""Rows, classes and dtype. Rows of 5003 classes are read once, and float32 gradients take the place of logits."""

TWO_HEADS = ((("bfloat16", "bfloat16"), None), (("float32", "bfloat16"), None), (("bfloat16", "bfloat16"), 30.0))
"""Dtypes of a student and a teacher, and the softcap of both."""


def items(lab: Lab) -> Iterator[Item]:
    """Yield the parts of the stage."""
    for whole, small in CLASSES.items():
        for kind, dtype in PAIRS:
            V = lab.pick(whole, small)
            yield Item(f"{kind}, {dtype}, {whole} classes", partial(long_rows.rows, lab, kind, dtype, V))
    for dtype in ("bfloat16", "float32"):
        yield Item(f"masked classes, {dtype}", partial(long_rows.masked, lab, dtype))
        yield Item(f"confident rows, {dtype}", partial(long_rows.confident, lab, dtype))
    for dtype in ("bfloat16", "float32"):
        yield Item(f"segmentation, 19 classes, {dtype}", partial(few.images, lab, dtype))
        yield Item(f"table, 10 classes, {dtype}", partial(few.table, lab, dtype))
    for dtypes, softcap in TWO_HEADS:
        about = f"{dtypes[0]} beside {dtypes[1]}{', softcap' if softcap else ''}"
        yield Item(f"two heads, {about}", partial(two_heads.rows, lab, dtypes, softcap, lab.pick(50257, 4103)))
    yield Item("two heads that are equal, bfloat16", partial(two_heads.equal, lab, "bfloat16"))
    yield Item("the same bits a hundred times", partial(behaviour.bits, lab))
    yield Item("replayed from a graph", partial(behaviour.graphs, lab))
    yield Item("nothing waits for the device", partial(behaviour.waiting, lab))
    yield Item("more than 2³¹ logits", partial(behaviour.large, lab))
    for N, V, dtype in HEADS:
        yield Item(f"head of {N} rows, {V} classes, {dtype}", partial(behaviour.head, lab, N, V, dtype))
