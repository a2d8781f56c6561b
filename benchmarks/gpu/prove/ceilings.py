"""The stage of ceilings: what a copy moves, and how fast the three products of each head are, written in three ways.

`narrow` writes half precision, `wide` float32, and `added` adds to a float32 matrix that is there.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.common.losses import Call
from benchmarks.common.records import Record, rounded
from benchmarks.gpu.cases import CASES, ErrorCase, HeadCase, make
from benchmarks.gpu.prove.lab import Item, Lab
from crossent.torch.sources.products import multiply, operand, operand_dtype

ROUNDS, WARMUP = 10, 2
COPIED = 2**31
"""Bytes of the array that is copied."""


def items(lab: Lab) -> Iterator[Item]:
    """Yield the parts of the stage."""
    yield Item("copy", partial(copy, lab))
    for case in heads(lab):
        yield Item(case.name, partial(products, lab, case))


def heads(lab: Lab) -> list[HeadCase]:
    """Return the heads of the GPU suite, or what stands in for them."""
    return [small(case) for case in whole_heads()[:2]] if lab.small else whole_heads()


def small(case: HeadCase) -> HeadCase:
    """Return the case with a few numbers in place of its many."""
    return dataclasses.replace(case, N=4, D=8, V=70, chunk_bytes=())


def whole_heads() -> list[HeadCase]:
    """Return the heads of the GPU suite."""
    return [case for case in CASES if isinstance(case, HeadCase) and not isinstance(case, ErrorCase)]


def copy(lab: Lab) -> Iterator[Record]:
    """Yield how many bytes a second a copy reads and writes."""
    source = torch.ones(lab.pick(COPIED, 2**12), dtype=torch.uint8, device=lab.device.device)
    into = torch.empty_like(source)
    seconds = medians(lab, {"copy": lambda: into.copy_(source)})["copy"]
    yield {"median_seconds": {"copy": seconds}, "bytes_per_second": rounded(2 * source.nbytes / seconds)}


def products(lab: Lab, case: HeadCase) -> Iterator[Record]:
    """Yield the times of the products of logits, of the input's and of the weight's gradient."""
    dtype = operand_dtype(getattr(torch, case.dtype), lab.device.device)
    x, weight = (operand(leaf.detach(), dtype) for leaf in make(case, lab.device.device).leaves)
    g = torch.empty((case.N, case.V), dtype=dtype, device=x.device).normal_()
    for name, a, b in (("logits", x, weight.t()), ("dX", g, weight), ("dW", g.t(), x)):
        narrow = torch.empty((a.shape[0], b.shape[1]), dtype=dtype, device=x.device)
        wide = torch.zeros(narrow.shape, dtype=torch.float32, device=x.device)
        calls: dict[str, Call] = {
            "narrow": partial(torch.mm, a, b, out=narrow),
            "wide": partial(multiply, a, b, wide),
            "added": partial(multiply, a, b, wide, add=True),
        }
        seconds = medians(lab, calls)
        flops = 2 * case.N * case.D * case.V
        rates = {way: rounded(flops / time / 1e12) for way, time in seconds.items()}
        yield {**case.describe(), "product": name, "median_seconds": seconds, "flops": flops, "tflops": rates}
        del narrow, wide, calls
        lab.device.clear()


def medians(lab: Lab, calls: dict[str, Call]) -> dict[str, float]:
    """Return the median seconds of calls that take turns in random order."""
    order, times = list(calls), {name: list[float]() for name in calls}
    shuffle = random.Random(0).shuffle
    for turn in range(-WARMUP, lab.pick(ROUNDS, 2)):
        shuffle(order)
        for name in order:
            seconds = lab.device.seconds(calls[name]).device
            if turn >= 0:
                times[name].append(seconds)
    return {name: rounded(statistics.median(each)) for name, each in times.items()}
