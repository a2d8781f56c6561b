"""The first stage: on what everything runs, whether half-precision products are fast there, and the first kernels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.common.records import Record, rounded
from benchmarks.gpu.device import describe
from benchmarks.gpu.prove.lab import Item, Lab
from crossent import kernels
from crossent.torch import cross_entropy
from crossent.torch.sources.products import operand_dtype


def items(lab: Lab) -> Iterator[Item]:
    """Yield the parts of the stage."""
    yield Item("device", partial(about, lab))
    yield Item("backend", backend)
    yield Item("products", partial(products, lab))
    for dtype in ("bfloat16", "float32"):
        yield Item(f"first call, {dtype}", partial(first_call, lab, dtype))


def about(lab: Lab) -> Iterator[Record]:
    """Yield the description of the machine that all records carry."""
    yield {"run": describe(lab.device, lab.commit)}


def backend() -> Iterator[Record]:
    """Yield whether the Triton backend can be used."""
    why_not = kernels.why_not("triton")
    yield {} if why_not is None else {"status": "failed", "reason": why_not}


def products(lab: Lab) -> Iterator[Record]:
    """Yield whether torch multiplies half-precision matrices into float32 ones: heads are ten times slower if not."""
    device = lab.device.device
    multiplied = operand_dtype(torch.bfloat16, device)
    record: Record = {"multiplied_as": str(multiplied).removeprefix("torch.")}
    if device.type == "cuda" and multiplied != torch.bfloat16:
        record |= {"status": "failed", "reason": "torch has no bfloat16 product with a float32 result here"}
    yield record


def first_call(lab: Lab, dtype: str) -> Iterator[Record]:
    """Yield how long a loss and its gradient take at the first call, which compiles, and at the second."""
    shape = lab.pick(512, 2), lab.pick(128256, 4608)
    logits = torch.zeros(shape, dtype=getattr(torch, dtype), device=lab.device.device, requires_grad=True)
    target = torch.zeros(shape[0], dtype=torch.int64, device=lab.device.device)
    seconds: list[float] = []
    for _ in range(2):
        begin = time.perf_counter()
        _ = torch.autograd.grad(cross_entropy(logits, target), logits)
        lab.device.wait()
        seconds.append(rounded(time.perf_counter() - begin))
    yield {"first_seconds": seconds[0], "second_seconds": seconds[1]}
