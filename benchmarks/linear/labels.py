"""How the errors of a bfloat16 head depend on its labels and on the number of chunks, computed when a page is built.

The gradient of the weight has a row for each class. If a class is the label of many rows of the batch, its row is a sum
of many large terms, and torch rounds that sum once in each chunk.
"""

from __future__ import annotations

from functools import cache

import torch
from torch.nn import LinearCrossEntropyOptions, functional

from benchmarks.common import pages
from benchmarks.common.grid import power
from benchmarks.common.losses import Data, errors_of
from benchmarks.linear.errors import reference
from crossent.torch import linear_cross_entropy

N, D, V = 128, 32, 8192
FEW = 8
"""The number of classes that are labels where labels are few."""
CHUNKS = (4, 16, 64)


@cache
def table() -> str:
    """Return the errors of torch's chunked loss and of crossent's for labels from all classes and from a few."""
    lines = [
        [f"{classes:,} classes", str(chunks), *(power(error[of]) for error in found for of in ("loss", "dW"))]
        for classes in (V, FEW)
        for chunks, found in errors(classes).items()
    ]
    heads = ["labels from", "chunks", "loss, torch", "dW, torch", "loss, crossent", "dW, crossent"]
    return pages.markdown(heads, lines)


def errors(classes: int) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
    """Return the relative errors of torch and crossent by the number of chunks, with labels below `classes`."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=random).bfloat16().requires_grad_()
    weight = torch.randn(V, D, generator=random).div_(D**0.5).bfloat16().requires_grad_()
    target = torch.randint(classes, (N,), generator=random)
    exact = reference(Data((features, weight), target, {}))
    found: dict[int, tuple[dict[str, float], dict[str, float]]] = {}
    for chunks in CHUNKS:
        rows = LinearCrossEntropyOptions(batch_chunk_size=N // chunks)
        ways = (
            (functional.linear_cross_entropy, {"options": rows}),
            (linear_cross_entropy, {"chunk_bytes": 6 * V * N // chunks}),
        )
        found[chunks] = tuple(
            errors_of(loss, Data((features, weight), target, options), exact, ("dX", "dW")) for loss, options in ways
        )
    return found
