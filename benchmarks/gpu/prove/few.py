"""Rows of few classes on a GPU, in tables and in images with the classes in the middle."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.records import Record
from benchmarks.gpu.prove.lab import Lab, verdict
from benchmarks.gpu.prove.long_rows import IGNORED, normal
from benchmarks.gpu.prove.truth import Results, Rows, shares
from crossent import kernels
from crossent.kernels.backend import Cotangents, RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from crossent.torch import cross_entropy


def images(lab: Lab, dtype: str) -> Iterator[Record]:
    """Yield the errors of images, an odd number of places in each."""
    yield from _errors(lab, (lab.pick(4, 2), 19, lab.pick(33333, 35)), dtype)


def table(lab: Lab, dtype: str) -> Iterator[Record]:
    """Yield the errors of a table."""
    yield from _errors(lab, (lab.pick(100003, 67), 10), dtype)


def _errors(lab: Lab, shape: tuple[int, ...], dtype: str) -> Iterator[Record]:
    device = lab.device.device
    random = torch.Generator(device).manual_seed(0)
    logits = normal(lab, random, *shape).mul_(3).to(getattr(torch, dtype))
    N, V = logits.numel() // shape[1], shape[1]
    label = torch.randint(V, (N,), generator=random, device=device)
    label[0], label[1], label[2] = 0, V - 1, IGNORED
    target = Target(label, ignore_index=IGNORED)
    loss, gradient = (torch.full(size, math.nan, device=device) for size in ((N,), shape))
    gradient = gradient.to(logits.dtype)
    backend, g = kernels.get("triton"), normal(lab, random, N)
    few = backend.FEW_CLASSES >= V
    record = None if few else torch.full((len(FIELDS), N), math.nan, dtype=torch.float64, device=device)
    backend.row_stats(logits, target, Scores(), record, RowOutputs(loss))
    backend.row_grad(logits, target, Scores(), record, Cotangents(g), gradient)
    given = Rows(as_rows(logits), target, Scores(), (g, None, None))
    errors = shares(given, Results({"loss": loss}, record, as_rows(gradient)), lab.threads)
    places = label.view(shape[0], *shape[2:])
    mean = float(cross_entropy(logits, places))
    exact = float(functional.cross_entropy(logits.double(), places))
    errors["mean"] = abs(mean - exact) / (1e-6 * abs(exact)) if exact else 0.0
    yield {"shape": list(shape), "dtype": dtype, "keeps_record": not few, **verdict(errors)}


def as_rows(x: Tensor) -> Tensor:
    """Return (N, V) of (N, V) or (outer, V, inner)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])
