"""Random valid calls of the four losses: any option, layout and dtype that the losses take.

A `Call` names a loss, its arguments, which of them want a gradient, and the cotangents of what it returns. Tensors lie
in memory in every way that torch has: in order, transposed, sliced out of a larger tensor full of NaN, expanded, or at
an offset.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossent.torch import TopK

REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGER = (
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip
WEIGHTS = (*REAL, torch.int64, torch.int32, torch.uint8, torch.bool)
STATS = ("lse", "logprob", "entropy")
inf, nan = math.inf, math.nan


@dataclasses.dataclass
class Call:
    """A call of a loss by name: its arguments, the names of those that want a gradient, and its cotangents."""

    loss: str
    arguments: dict[str, Any]
    wanted: list[str]
    cotangents: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """By "loss" and the names of differentiable statistics."""
    class_axis: int = 0
    """Of the logits."""

    def leaves(self) -> list[Tensor]:
        """Return the tensors that want a gradient."""
        return [leaf_of(self, name) for name in self.wanted]

    def text(self) -> str:
        """Return the call as one would write it, tensors by dtype and shape."""
        arguments = ", ".join(f"{name}={shown(value)}" for name, value in self.arguments.items())
        return f"{self.loss}({arguments}), gradients of {self.wanted} for cotangents of {list(self.cotangents)}"


def leaf_of(call: Call, name: str) -> Tensor:
    """Return an argument by its name; "prob" is the floating part of a target."""
    if name != "prob":
        return call.arguments[name]
    target = call.arguments["target"]
    return target.prob if isinstance(target, TopK) else target


def shown(value: Any) -> str:
    """Return an argument as text."""
    if isinstance(value, TopK):
        return f"TopK({shown(value.index)}, {shown(value.prob)})"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}/{list(value.stride())}"
    return repr(value)


class Draw:
    """Draws calls from a generator of random numbers."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def chance(self, share: float) -> bool:
        """Return True in this share of cases."""
        return bool(self.rng.random() < share)

    def one(self, *choices: Any) -> Any:
        """Return one of the choices."""
        return choices[self.rng.integers(len(choices))]

    def tensor(self, values: Any, dtype: torch.dtype, *, expand: bool = True) -> Tensor:
        """Return values as a tensor that lies in memory in a random way."""
        x = torch.as_tensor(np.asarray(values)).to(dtype)
        way = self.rng.integers(8)
        axes = [axis for axis in range(x.ndim) if x.shape[axis] > 0]
        if way == 0 and x.ndim > 1:
            order = [int(axis) for axis in self.rng.permutation(x.ndim)]
            return x.permute(order).contiguous().permute([order.index(axis) for axis in range(x.ndim)])
        if way == 1 and axes:
            axis, step, start = self.one(*axes), self.one(1, 2, 3), self.one(0, 1, 2)
            shape = list(x.shape)
            shape[axis] = start + step * shape[axis]
            filled = nan if dtype.is_floating_point else 1
            wide = torch.full(shape, filled, dtype=dtype)
            here = (slice(None),) * axis + (slice(start, None, step),)
            wide[here] = x
            return wide[here]
        if way == 2 and axes and expand:
            axis = self.one(*axes)
            return x.narrow(axis, 0, 1).expand(x.shape)
        if way == 3:
            start = self.one(1, 2, 3)
            flat = torch.full((start + x.numel(),), 1, dtype=dtype)
            flat[start:] = x.reshape(-1)
            return flat[start:].view(x.shape)
        return x

    def normal(self, shape: Any, scale: float) -> Any:
        """Return normal numbers of a scale, now and then with one that stands out or with equal ones."""
        values = self.rng.normal(0, scale, shape)
        if self.chance(0.1):
            values = np.round(values / scale) * scale
        if self.chance(0.2) and values.size:
            values.reshape(-1)[self.rng.integers(values.size)] += 20
        return values

    def scale(self, most: float = 3.0) -> float:
        """Return a scale between 0.01 and 1000."""
        return float(10 ** self.rng.uniform(-2, most))

    def weights(self, size: Any, dtype: torch.dtype) -> Tensor:
        """Return weights of a dtype, some of them 0."""
        values = self.rng.random(size) * self.one(1.0, 3.0)
        if not dtype.is_floating_point:
            values = self.rng.integers(0, 3, size)
        if self.chance(0.4):
            values = np.where(self.rng.random(size) < 0.3, 0, values)
        return self.tensor(values, dtype)

    def cotangent(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """Return a cotangent, some of it 0, that lies in memory in a random way."""
        values = self.rng.normal(0, self.one(1.0, 30.0), shape)
        if self.chance(0.2):
            values = np.where(self.rng.random(shape) < 0.5, 0, values)
        return self.tensor(values, dtype)


def draw(rng: np.random.Generator) -> Call:
    """Return a random call."""
    d = Draw(rng)
    kind = d.one("logits", "logits", "logits", "layer", "layer", "layer", "binary", "probabilities")
    call = {"logits": _of_logits, "layer": _of_layer, "binary": _binary, "probabilities": _binary_probabilities}[kind](
        d
    )
    if not d.chance(0.1):
        call.wanted = [name for name in call.wanted if d.chance(0.8)]
        for name in call.wanted:
            _require(call, name)
    else:
        call.wanted = []
    return call


def _require(call: Call, name: str) -> None:
    leaf = leaf_of(call, name).detach().requires_grad_()
    target = call.arguments["target"]
    if name != "prob":
        call.arguments[name] = leaf
    else:
        call.arguments["target"] = TopK(target.index, leaf) if isinstance(target, TopK) else leaf


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of losses."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# Softmax losses ----------------------------------------------------------------------------------------------------


def _of_logits(d: Draw) -> Call:
    dtype, classes = d.one(*REAL), d.one(1, 2, 3, 5, 10, 31, 32, 33, 40, 64, 100, 700)
    rank = d.one(1, 2, 2, 2, 3, 4, 5)
    most = 4 if classes < 100 else 2
    batch = () if rank == 1 else (d.one(0, 1, 2, 3, 7, 65, 130) if rank == 2 and classes < 100 else d.one(1, 2, 3),)
    spatial = tuple(int(x) for x in d.rng.integers(0 if d.chance(0.05) else 1, most, max(0, rank - 2)))
    shape = (*batch, classes, *spatial)
    values = d.normal(shape, d.scale())
    axis = len(batch)
    if d.chance(0.2) and classes > 1:  # at least one class of each row is finite
        gone = d.rng.random(shape) < 0.3
        np.moveaxis(gone, axis, -1)[..., d.rng.integers(classes)] = False
        values = np.where(gone, -inf, values)
    given = d.tensor(values, dtype, expand=bool(np.isfinite(values).all()))
    call = Call("cross_entropy", {"input": given}, ["input"], class_axis=axis)
    return _with_options(d, call, shape, dtype)


def _of_layer(d: Draw) -> Call:
    dtype, classes, features = d.one(*REAL), d.one(1, 2, 3, 17, 40, 70, 300), d.one(1, 2, 5, 16)
    batch = tuple(int(x) for x in d.rng.integers(1, 5, d.one(0, 1, 1, 1, 2, 3)))
    if len(batch) == 1:
        batch = (d.one(0, 1, 5, 33, 150),)
    spatial = tuple(int(x) for x in d.rng.integers(1, 4, d.one(0, 0, 0, 1, 2))) if batch else ()
    scale = d.scale(2.0)
    arguments = {
        "input": d.tensor(d.rng.normal(0, 1, (*batch, features)), dtype),
        "linear_weight": d.tensor(d.rng.normal(0, scale, (classes, *spatial, features)), dtype),
    }
    wanted = ["input", "linear_weight"]
    if d.chance(0.5):
        bias = d.normal((classes, *spatial), d.scale(1.0))
        if d.chance(0.2) and classes > 1:  # masked classes
            gone = d.rng.random(bias.shape) < 0.3
            gone[d.rng.integers(classes)] = False
            bias = np.where(gone, -inf, bias)
        arguments["linear_bias"] = d.tensor(bias, dtype, expand=bool(np.isfinite(bias).all()))
        wanted.append("linear_bias")
    if d.chance(0.5):  # a tile of one logit, or up to a hundred tiles of as many as fit
        logits = math.prod((*batch, classes, *spatial))
        arguments["chunk_bytes"] = d.one(None, 1 if logits < 100 else logits // 16, logits // 2 + 1, 10 * logits + 1)
    call = Call("linear_cross_entropy", arguments, wanted, class_axis=len(batch))
    return _with_options(d, call, (*batch, classes, *spatial), dtype)


def _with_options(d: Draw, call: Call, shape: tuple[int, ...], dtype: torch.dtype) -> Call:
    """Add target, options and cotangents for logits of a shape."""
    axis, a = call.class_axis, call.arguments
    classes, rows = shape[axis], (*shape[:axis], *shape[axis + 1 :])
    kind = d.one("index", "index", "topk", "dense")
    if kind == "index":
        _index_target(d, call, rows, classes)
    elif kind == "dense":
        prob = d.rng.dirichlet(np.ones(classes), rows) if d.chance(0.8) else d.rng.random((*rows, classes))
        prob = np.where(d.rng.random(prob.shape) < 0.3, 0, prob)
        a["target"] = d.tensor(np.moveaxis(prob, -1, axis), d.one(*REAL))
    else:
        k = d.one(1, 2, 3, 6)
        at = (*shape[:axis], k, *shape[axis + 1 :])
        dtypes = [x for x in INTEGER if torch.iinfo(x).max >= classes - 1]
        index, prob = d.rng.integers(0, classes, at), d.rng.random(at)
        prob = np.where(d.rng.random(at) < 0.2, 0, prob)
        a["target"] = TopK(d.tensor(index, d.one(*dtypes)), d.tensor(prob, d.one(*REAL)))
    if kind != "index":
        call.wanted.append("prob")
    if d.chance(0.3):
        a["weight"] = d.weights(classes, d.one(*WEIGHTS))
    if d.chance(0.4):
        a["label_smoothing"] = d.one(0.0, 0.1, 0.5, float(d.rng.random()), 1.0)
    if d.chance(0.3):
        a["temperature"] = d.one(0.05, 0.5, 2.0, 10.0, float(d.rng.uniform(0.1, 3)), 2)
    if rows and d.chance(0.2):
        a["temperature"] = d.tensor(d.rng.choice([0.0625, 0.5, 1.0, 1.5, 10.0], rows), d.one(*REAL, torch.float64))
    if d.chance(0.25):
        a["softcap"] = d.one(5.0, 30.0, 50, np.float32(20), float(d.rng.uniform(1, 100)))
    if d.chance(0.35):
        a["z_loss"] = d.one(0.0, 1e-4, 1e-2, 0.5)
    if d.chance(0.35):
        a["sample_weight"] = d.weights(rows, d.one(*WEIGHTS))
        if a["sample_weight"].is_floating_point():
            call.wanted.append("sample_weight")
    if d.chance(0.8):
        a["reduction"] = d.one("mean", "sum", "none", "none")
    found = ["loss"]
    if d.chance(0.3):
        a["return_stats"] = True
        found += STATS
    for name in found:
        if len(found) > 1 and d.chance(0.4):
            continue
        reduced = name == "loss" and a.get("reduction", "mean") != "none"
        call.cotangents[name] = d.cotangent(() if reduced else rows, wide(dtype))
    if len(found) == 1 and "sample_weight" not in call.wanted and d.chance(0.5):
        _fill_removed_rows(d, call, rows)
    return call


def _fill_removed_rows(d: Draw, call: Call, rows: tuple[int, ...]) -> None:
    """Let rows without a target, and rows of weight 0, hold anything."""
    a, axis = call.arguments, call.class_axis
    removed, target, samples = np.zeros(rows, bool), a["target"], a.get("sample_weight")
    if isinstance(target, Tensor) and not target.is_floating_point():
        removed |= target.to(torch.int64).numpy() == int(a.get("ignore_index", -100))
    if samples is not None:
        removed |= samples.to(torch.float64).numpy() == 0
    if not removed.any():
        return
    values = a["input"].to(torch.float64).numpy().copy()
    if "linear_weight" in a:  # a row of the input is that of all positions
        removed = removed.reshape(*rows[:axis], -1).all(-1)
        values[removed] = d.one(nan, inf, -inf)
    else:
        np.moveaxis(values, axis, -1)[removed] = d.one(nan, inf, -inf)
    a["input"] = d.tensor(values, a["input"].dtype, expand=False)


def _index_target(d: Draw, call: Call, rows: tuple[int, ...], classes: int) -> None:
    """Add class indices, some of which may be ignored."""
    dtype = d.one(*[x for x in INTEGER if torch.iinfo(x).max >= classes - 1])
    index = d.rng.integers(0, classes, rows)
    ignore = d.one(None, None, -100, -1, 0, classes - 1, classes, 255)
    if ignore is not None:
        call.arguments["ignore_index"] = d.one(int, np.int64, torch.tensor)(ignore)
    if ignore is None or ignore < 0:
        ignore = -100 if ignore is None else ignore
        if torch.iinfo(dtype).min == 0:
            ignore = None
    elif torch.iinfo(dtype).max < ignore:
        ignore = None
    if ignore is not None and d.chance(0.6):
        index = np.where(d.rng.random(rows) < d.one(0.1, 0.5, 1.0), ignore, index)
    call.arguments["target"] = d.tensor(index, dtype)


# Binary losses -----------------------------------------------------------------------------------------------------


def _shape(d: Draw) -> tuple[int, ...]:
    if d.chance(0.1):
        return (d.one(0, 600, 1500),)
    return tuple(int(x) for x in d.rng.integers(0 if d.chance(0.05) else 1, 6, d.one(0, 1, 2, 3, 4, 5)))


def _elements(d: Draw, call: Call, shape: tuple[int, ...], dtype: torch.dtype) -> Call:
    """Add targets, weights and cotangents for elements of a shape."""
    a = call.arguments
    soft = d.chance(0.5)
    values = d.rng.random(shape) if soft else d.rng.integers(0, 2, shape)
    if soft and d.chance(0.3):
        values = np.where(d.rng.random(shape) < 0.3, np.round(values), values)
    target_dtype = d.one(*REAL) if soft or d.chance(0.5) else d.one(torch.int64, torch.int8, torch.uint8, torch.bool)
    a["target"] = d.tensor(values, target_dtype)
    if target_dtype.is_floating_point:
        call.wanted.append("prob")
    for name, share in (("weight", 0.4), ("pos_weight", 0.4 if call.loss.endswith("logits") else 0.0)):
        if d.chance(share):
            of = d.one(shape, *(shape[k:] for k in range(len(shape) + 1)), _ones_in(d, shape))
            a[name] = d.weights(of, d.one(*WEIGHTS))
    if d.chance(0.8):
        a["reduction"] = d.one("mean", "sum", "none", "none")
    call.cotangents["loss"] = d.cotangent(shape if a.get("reduction", "mean") == "none" else (), wide(dtype))
    return call


def _ones_in(d: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if d.chance(0.5) else n for n in shape)


def _binary(d: Draw) -> Call:
    shape, dtype = _shape(d), d.one(*REAL)
    x = d.normal(shape, d.scale())
    if d.chance(0.1):
        x = np.where(d.rng.random(shape) < 0.2, d.one(inf, -inf), x)
    call = Call("binary_cross_entropy_with_logits", {"input": d.tensor(x, dtype)}, ["input"])
    return _elements(d, call, shape, dtype)


def _binary_probabilities(d: Draw) -> Call:
    shape, dtype = _shape(d), d.one(*REAL)
    q = d.rng.random(shape)
    if d.chance(0.3):
        q = np.clip(q * 10 ** d.rng.uniform(-8, 0, shape), 0, 1)
    if d.chance(0.2):
        q = np.where(d.rng.random(shape) < 0.2, d.one(0.0, 1.0), q)
    call = Call("binary_cross_entropy", {"input": d.tensor(q, dtype)}, ["input"])
    return _elements(d, call, shape, dtype)
