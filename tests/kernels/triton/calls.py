"""Calls of the Triton backend on tensors of the host, on a GPU or in Triton's interpreter, and rows to call it with.

The truth is the shipped reference in float64, and its error bounds are those of `tests.oracle`. Where calls differ in
nothing that matters to a row, its results have the same bits.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from crossent.kernels import triton
from crossent.kernels.backend import Cotangents, LossScale, RowOutputs
from crossent.spec import Scores, Target
from tests import data, oracle
from tests.conformance.adapters import Triton
from tests.data import Case, Layout, as_rows

DEVICE = torch.device("cpu" if triton.interpreted() else "cuda")
backend = Triton("triton")
INF, NAN, PLAIN = math.inf, math.nan, Scores()
ODD, HELD = Layout("rows apart", (1, 0), (2, 0), (False, False)), Layout("held", (0,), (0,), (False,))
FLAT, APART = data.LAYOUTS["rows"], data.LAYOUTS["classes in the middle, apart"]


def evaluate(logits: Any, target: Target, scores: Scores = PLAIN, given: Any = None, scale: Any = None) -> Any:
    """The results of all three functions for tensors, NaN beforehand; in float64, rows last.

    `again` is the record of `row_fused`.
    """
    one = torch.ones(logits.numel() // logits.shape[1])
    narrow = torch.float64 if logits.dtype == torch.float64 else torch.float32
    outputs = {name: torch.full(one.shape, NAN, dtype=narrow) for name in RowOutputs._fields}
    records = {
        name: torch.full((len(oracle.FIELDS), *one.shape), NAN, dtype=torch.float64) for name in ("record", "again")
    }
    grads = {name: torch.full_like(logits, NAN) for name in ("grad", "fused")}
    backend.row_stats(logits, target, scores, records["record"], RowOutputs(**outputs))
    backend.row_grad(logits, target, scores, records["record"], given or Cotangents(one), grads["grad"])
    backend.row_fused(logits, target, scores, scale or LossScale(one), records["again"], grads["fused"])
    rows = {name: as_rows(x.double().numpy()).T for name, x in grads.items()}
    return {name: x.double().numpy() for name, x in (outputs | records).items()} | rows


def same_bits(got: Any, want: Any, rows: list[int]) -> None:
    for name, x in got.items():
        np.testing.assert_array_equal(x[..., rows], want[name][..., rows], err_msg=name)


def bound(logits: Any) -> float:
    """Above all first-order bounds of `oracle`, where scores lie within d > log V of their peak."""
    finite = logits[logits.isfinite()].double()
    u = 2.0**-53 if logits.dtype == torch.float64 else 2.0**-24
    return oracle.K * u * (1 + (finite.max() - finite.min()).item()) ** 2


def draw(kind: str, dtype: str, rows: int, V: int, layout: Layout, *, K: int = 3, **options: Any) -> Case:
    """Logits in a layout, and all arguments amid what must not be read. The first row names but one of its classes."""
    rng = np.random.default_rng([rows, V])
    shape = (rows, V) if len(layout.order) == 2 else (1, V, rows)
    logits = layout.hold(data.encode(rng.normal(0, 3, shape), dtype))
    scores = options.pop("scores", PLAIN)
    if kind == "dense":
        target = Target(prob=layout.hold(rng.random(shape).astype(np.float32) / V), **options)
    elif kind == "index":
        target = Target(HELD.hold(rng.integers(0, V, rows)), **options)
    else:
        index = rng.integers(0, V, (rows, K))
        index[0] = index[0, 0]
        target = Target(ODD.hold(index), ODD.hold(rng.random((rows, K)).astype(np.float32)), **options)
    cotangents = tuple(HELD.hold(rng.normal(size=rows).astype(np.float32)) for _ in range(3))
    return Case(f"{kind} {dtype} {rows} x {V}", dtype, logits, target, scores, cotangents, layout)


def arguments(case: Case) -> tuple[Any, Target, Scores]:
    return case.logits, case.target, case.scores


def in_numpy(target: Target) -> Target:
    arrays = {name: getattr(target, name) for name in ("index", "prob", "weight")}
    return dataclasses.replace(target, **{name: None if x is None else x.numpy() for name, x in arrays.items()})
