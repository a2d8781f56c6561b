"""Where the Triton backend runs in these tests: on a GPU, or in Triton's interpreter on CPU tensors.

`backend` has the functions of `crossent.kernels.cpu`, takes CPU tensors (or NumPy arrays) and brings the results back,
so that the oracle's checks hold for it as they are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from crossent.kernels import triton

INTERPRETED = triton.interpreted()
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")


def as_tensor(array: Any, dtype: str = "") -> Any:
    """The same memory as a tensor; uint16 arrays are bfloat16 where the case is."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" and array.dtype == np.uint16 else tensor


class _Mirrors:
    """Tensors with the same strides on the device, the gaps between their elements included."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, Any, Any]] = []

    def of(self, x: Any) -> Any:
        if x is None or DEVICE.type == "cpu":
            return x
        for known, _, mirror in self.made:
            if known is x:
                return mirror
        here = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
        there = here.to(DEVICE)
        mirror = torch.as_strided(there, x.shape, x.stride(), x.storage_offset())
        self.made.append((x, (here, there), mirror))
        return mirror

    def target(self, target: Any) -> Any:
        fields = {name: self.of(getattr(target, name)) for name in ("index", "prob", "weight")}
        return dataclasses.replace(target, **fields)

    def bring_back(self, *results: Any) -> None:
        for x, (here, there), _ in self.made:
            if any(x is result for result in results):
                here.copy_(there)


class _Backend:
    """The Triton backend for tensors of the host."""

    def row_stats(
        self, logits: Any, target: Any, scores: Any, record: Any, summary: Any = (None,) * 3, **how: Any
    ) -> None:
        m = _Mirrors()
        outs = tuple(m.of(x) for x in summary)
        triton.row_stats(m.of(logits), m.target(target), scores, m.of(record), outs, **how)
        m.bring_back(record, *summary)

    def row_grad(self, logits: Any, target: Any, scores: Any, record: Any, cotangents: Any, grad: Any) -> None:
        m = _Mirrors()
        given = tuple(m.of(x) for x in cotangents)
        triton.row_grad(m.of(logits), m.target(target), scores, m.of(record), given, m.of(grad))
        m.bring_back(grad)

    def row_fused(
        self, logits: Any, target: Any, scores: Any, scale: Any, record: Any, grad: Any, summary: Any = (None,) * 3
    ) -> None:
        m = _Mirrors()
        given, outs = tuple(m.of(x) for x in scale), tuple(m.of(x) for x in summary)
        triton.row_fused(m.of(logits), m.target(target), scores, given, m.of(record), m.of(grad), outs)
        m.bring_back(record, grad, *summary)

    def binary_loss(self, kind: str, operands: Any, out: Any) -> float:
        m = _Mirrors()
        total = triton.binary_loss(kind, tuple(m.of(x) for x in operands), m.of(out))
        m.bring_back(out)
        return total.item()

    def binary_grad(self, kind: str, operands: Any, cotangent: Any, out: Any) -> None:
        m = _Mirrors()
        triton.binary_grad(kind, tuple(m.of(x) for x in operands), m.of(cotangent), m.of(out))
        m.bring_back(out)


backend = _Backend()
