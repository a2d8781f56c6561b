"""Holds results of a GPU against the reference in float64, within the bounds of the conformance suite.

The rows of a call are compared a few at a time, on all processors: where a call has 600 rows of 128256 classes, the
truth of all rows at once would take minutes and gigabytes.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import pages
from benchmarks.gpu.prove.lab import together
from crossent.spec import Scores, Target

NUMBERS = 2**17
"""Logits that are compared at a time: their float64 copies stay in a processor's cache."""


def of_this_checkout() -> None:
    """Let `tests` be the folder of this checkout: other packages install a module of that name."""
    package = types.ModuleType("tests")
    package.__path__ = [str(pages.ROOT / "tests")]
    _ = sys.modules.setdefault("tests", package)


class Rows(NamedTuple):
    """What a backend was given for its rows: logits (N, V), target, scores and cotangents of loss, lse and entropy."""

    logits: Tensor
    target: Target
    scores: Scores
    cotangents: tuple[Tensor | None, Tensor | None, Tensor | None]


class Results(NamedTuple):
    """What it made of them: outputs by name, the record (5, N) if there is one, and the gradient (N, V)."""

    outputs: dict[str, Tensor]
    record: Tensor | None
    gradient: Tensor


def shares(rows: Rows, results: Results, threads: int) -> dict[str, float]:
    """Return the largest error of each result, as a share of the error that the conformance suite allows."""
    of_this_checkout()
    logits, names = as_array(rows.logits), list(results.outputs)
    given = [None if g is None else as_array(g) for g in rows.cotangents]
    target = {name: _of(getattr(rows.target, name)) for name in ("index", "prob", "weight")}
    outputs = [as_array(results.outputs[name]) for name in names]
    record = None if results.record is None else as_array(results.record)
    gradient = as_array(results.gradient)
    dtype = str(rows.logits.dtype).removeprefix("torch.")
    step = max(1, NUMBERS // logits.shape[1])

    def part(begin: int) -> dict[str, float]:
        here = slice(begin, begin + step)
        own = {name: x if x is None or name == "weight" else x[here] for name, x in target.items()}
        cotangents = tuple(None if g is None else g[here] for g in given)
        case = _case(dtype, logits[here], dataclasses.replace(rows.target, **own), rows.scores, cotangents)
        found = {name: x[here] for name, x in zip(names, outputs, strict=True)}
        with np.errstate(all="ignore"):
            return _part(case, found, None if record is None else record[:, here], gradient[here])

    with ThreadPoolExecutor(threads) as pool:
        return together(pool.map(part, range(0, len(logits), step)))


def _case(dtype: str, logits: Any, target: Target, scores: Scores, cotangents: Any) -> Any:
    from tests import data

    return data.Case("rows", dtype, logits, target, scores, cotangents, data.LAYOUTS["rows"])


def _part(case: Any, outputs: dict[str, Any], record: Any, gradient: Any) -> dict[str, float]:
    from tests import data, oracle

    truth = oracle.Truth.of(case)
    unit, most = oracle.unit(case), oracle.allowed(case.wide, case.logits.shape[1])
    found: dict[str, float] = {}
    of_record = {} if record is None else dict(zip(oracle.FIELDS, record, strict=True))
    for name, got in (of_record | outputs).items():
        want, bound = getattr(truth.stats, name), np.where(truth.valid, unit * truth.bound[name], 0.0)
        if name in outputs:
            want = np.where(truth.valid, want, 0.0)
        found[name] = oracle.worst(got.astype(np.float64), want, bound) / most
    want, scale = truth.grad(case, case.cotangents)
    found["gradient"] = oracle.worst(data.decode(gradient), want, oracle.grad_bound(case, want, scale)) / most
    return found


def _of(x: Any) -> Any:
    return None if x is None else as_array(x)


def as_array(x: Tensor) -> Any:
    """Return a tensor of the device as an array of the host; bfloat16 as its bits."""
    x = x.detach().contiguous()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).cpu().numpy().view(np.uint16)
    return x.cpu().numpy()
