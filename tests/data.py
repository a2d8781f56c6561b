"""Rows for the tests: every kind of target, option, dtype and memory layout, drawn from fixed seeds, in NumPy alone.

bfloat16 has no NumPy dtype: its arrays are uint16 here, and whoever hands them to a kernel views them as bfloat16.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from crossent.spec import Scores, Target

CLASSES = (1, 2, 10, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097, 5003)
ALL_CLASSES = (*CLASSES, 64, 65, 2041)  # the last three: on either side of a change of tile on a GPU
KINDS = ("index", "topk", "dense")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
PHIS = (Scores(), Scores(0.7), Scores(1.0, 5.0), Scores(1.3, 30.0))
GUARD = 33  # elements on either side of an array that nobody may touch; odd, so that nothing is aligned


# Storage


def encode(values: Any, dtype: str) -> Any:
    """Round float64 values to a dtype, to nearest with ties to even; bfloat16 as its bits."""
    if dtype != "bfloat16":
        return np.asarray(values).astype(dtype)
    b = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((b + 0x7FFF + ((b >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)


def decode(array: Any) -> Any:
    """Values of an array as float64; uint16 is bfloat16."""
    if array.dtype != np.uint16:
        return array.astype(np.float64)
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def storage(dtype: str) -> Any:
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def spacing(dtype: str) -> tuple[float, float]:
    """Relative spacing of a dtype, and the distance between its smallest numbers."""
    if dtype == "bfloat16":
        return 2.0**-7, 2.0**-133
    info = np.finfo(dtype)
    return float(info.eps), float(info.smallest_subnormal)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array lies in memory: its axes, nearest neighbours first, the gap along each, and which run backwards."""

    name: str
    order: tuple[int, ...]
    pad: tuple[int, ...]
    back: tuple[bool, ...]

    def empty(self, shape: tuple[int, ...], dtype: Any, fill: Any) -> tuple[Any, Any]:
        """A flat array full of `fill`, and a view of this layout inside it."""
        strides, step = [0] * len(shape), 1
        for axis in self.order:
            step += self.pad[axis]
            strides[axis] = step
            step *= max(shape[axis], 1)
        base = np.full(step + 2 * GUARD, fill, dtype)
        start = GUARD + sum((n - 1) * s for n, s, b in zip(shape, strides, self.back, strict=True) if b and n > 0)
        signed = [(-s if b else s) * base.itemsize for s, b in zip(strides, self.back, strict=True)]
        return base, np.lib.stride_tricks.as_strided(base[start:], shape, signed)

    def hold(self, values: Any) -> Any:
        """The values in this layout, amid NaNs (amid large numbers, if they are integers)."""
        fill = np.nan if values.dtype.kind == "f" else np.iinfo(values.dtype).max
        _, view = self.empty(values.shape, values.dtype, fill)
        view[...] = values
        return view


_FLAT, _DEEP = (False, False), (False, False, False)
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("rows", (1, 0), (0, 0), _FLAT),
        Layout("rows apart", (1, 0), (5, 0), _FLAT),
        Layout("classes apart", (1, 0), (0, 1), _FLAT),
        Layout("transposed", (0, 1), (0, 0), _FLAT),
        Layout("transposed, apart", (0, 1), (0, 3), _FLAT),
        Layout("classes backwards", (1, 0), (0, 0), (False, True)),
        Layout("rows backwards", (1, 0), (0, 0), (True, False)),
        Layout("classes in the middle", (2, 1, 0), (0, 0, 0), _DEEP),
        Layout("classes in the middle, apart", (2, 1, 0), (2, 3, 1), _DEEP),
        Layout("classes last in memory", (1, 2, 0), (0, 0, 0), _DEEP),
        Layout("classes first in memory", (2, 0, 1), (0, 0, 0), _DEEP),
        Layout("rows of (outer, classes, inner) backwards", (1, 2, 0), (0, 0, 0), (True, False, True)),
    )
}


def layouts(axes: int, *, backwards: bool = True) -> list[Layout]:
    return [x for x in LAYOUTS.values() if len(x.order) == axes and (backwards or not any(x.back))]


def as_rows(array: Any) -> Any:
    """(N, V) of (N, V) or (outer, V, inner)."""
    return array if array.ndim == 2 else np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])


def from_rows(rows: Any, axes: int, inner: int = 3) -> Any:
    """The inverse."""
    return rows if axes == 2 else np.moveaxis(rows.reshape(len(rows) // inner, inner, -1), -1, 1)


# Cases


@dataclasses.dataclass(frozen=True)
class Case:
    """A call: logits as stored, target and options, cotangents of loss, lse and entropy, the layout of the gradient."""

    name: str
    dtype: str
    logits: Any
    target: Target
    scores: Scores
    cotangents: tuple[Any, Any, Any]
    grad_layout: Layout

    @property
    def rows(self) -> int:
        return self.logits.size // self.logits.shape[1]

    @property
    def wide(self) -> bool:
        return self.dtype == "float64"


def reals(rng: Any, dtype: str, values: Any) -> Any:
    """Values in a floating dtype no wider than the arithmetic on logits of `dtype`, so that reading them is exact."""
    names = ("float32", "float16", "float64") if dtype == "float64" else ("float32", "float16")
    return np.asarray(values).astype(names[rng.integers(len(names))])


def index_target(rng: Any, V: int, rows: int, dtype: str) -> dict[str, Any]:
    integer = INTEGERS[rng.integers(len(INTEGERS))]
    if integer == "uint16" and dtype == "bfloat16":  # uint16 stands for bfloat16 there
        integer = "int16"
    classes = rng.integers(0, min(V, int(np.iinfo(integer).max) + 1), rows).astype(integer)
    ignore = -100 if integer.startswith("int") else int(classes[0])
    if integer.startswith("int"):
        classes[rng.random(rows) < 0.2] = ignore
    return {"index": np.repeat(classes, 2)[::2] if rng.random() < 0.5 else classes, "ignore_index": ignore}


def topk_target(rng: Any, V: int, rows: int, dtype: str, places: list[Layout]) -> dict[str, Any]:
    K = int(rng.integers(1, 5))
    index = rng.integers(0, V, (rows, K)).astype("int32" if rng.random() < 0.5 else "int64")
    prob = rng.random((rows, K))
    if K > 1:
        index[0, 1] = index[0, 0]  # a class named twice
    prob[rng.random(prob.shape) < 0.1] = 0.0
    lay = places[rng.integers(len(places))]
    return {"index": lay.hold(index), "prob": lay.hold(reals(rng, dtype, prob))}


def dense_target(rng: Any, V: int, shape: tuple[int, int], dtype: str, places: list[Layout]) -> dict[str, Any]:
    prob = rng.dirichlet(np.full(V, 0.5), shape[0] * shape[1])
    prob[rng.random(prob.shape) < 0.3] = 0.0
    lay = places[rng.integers(len(places))]
    return {"prob": lay.hold(reals(rng, dtype, from_rows(prob, len(lay.order), shape[1])))}


def cases(
    kind: str, V: int, dtype: str, *, shape: tuple[int, int] = (2, 3), every: int | None = None, backwards: bool = True
) -> Iterator[Case]:
    """Every combination of class weight, smoothing, temperature and softcap, each in another layout and size.

    `shape` is outer × inner rows. Of long rows, or if told so, only every n-th combination, others for each length.
    """
    rng = np.random.default_rng(zlib.crc32(f"{kind} {V} {dtype} {shape}".encode()))
    places = layouts(2, backwards=backwards) + layouts(3, backwards=backwards)
    start, rows = int(rng.integers(len(places))), shape[0] * shape[1]
    options = list(itertools.product((False, True), (0.0, 0.1, 1.0), PHIS))
    every = every or (3 if V > 600 else 1)
    options = options[int(rng.integers(every)) :: every]
    for turn, (weighted, smoothing, scores) in enumerate(options, start):
        layout = places[turn % len(places)]
        axes = len(layout.order)
        same = layouts(axes, backwards=backwards)
        far = (
            1e4 if dtype in {"float32", "float64"} else 100.0
        )  # half precision has multiples of 8 near 1e4, and no more
        spread, offset = (1.0, 5.0, 30.0)[turn % 3], (0.0, 0.0, 0.0, far, -3.0)[turn % 5]
        values = from_rows(rng.normal(offset, spread, (rows, V)), axes, shape[1])
        logits = layout.hold(encode(values, dtype))
        if kind == "index":
            base = index_target(rng, V, rows, dtype)
        elif kind == "topk":
            base = topk_target(rng, V, rows, dtype, layouts(2, backwards=backwards))
        else:
            base = dense_target(rng, V, shape, dtype, same)
        weight = reals(rng, dtype, rng.random(V) + 0.5)[:: -1 if backwards else 1] if weighted else None
        target = Target(**base, weight=weight, smoothing=smoothing)
        cotangents = [reals(rng, dtype, rng.normal(size=rows)) for _ in range(3)]
        for g in cotangents:
            g[min(1, rows - 1)] = 0.0
        for k in range(3):
            if turn >> k & 1 and rng.random() < 0.6:
                cotangents[k] = None
        name = f"{kind} V={V} {dtype} {shape} {layout.name!r} {weighted=} {smoothing=} {scores} N({offset}, {spread})"
        yield Case(name, dtype, logits, target, scores, tuple(cotangents), same[(turn + 1) % len(same)])
