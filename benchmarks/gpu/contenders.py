"""Who takes part in a case of a GPU, and floors: copies of the logits, and the products of a linear layer.

Whoever cannot take part is named with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.losses import Call, Data, Loss, compiled_by_torch
from benchmarks.gpu.cases import AnyCase, HeadCase
from benchmarks.logits import contenders as logits_contenders
from benchmarks.logits.cases import LogitsCase
from crossent.torch import linear_cross_entropy

OVERWRITE = {"liger"}
"""Contenders that write the gradient over the logits: each has logits of its own, restored before every call."""

KNOWN_LOOSE = ("liger", "cce", "torch chunked")
"""Rivals that add up in bfloat16 or leave small gradients out; how far they are off is recorded."""

SHARE_OF_MEMORY = 4
"""The floor's logits take a quarter of the device's memory at most; beyond that, its rows come in chunks."""


class Losses(NamedTuple):
    """The losses of everyone who takes part in a case, and the reason why each of the others cannot."""

    found: dict[str, Loss]
    missing: dict[str, str]


class Floor(NamedTuple):
    """The least that a step could do, and in how many chunks of rows it is done."""

    call: Call
    work: dict[str, int]


def losses(case: AnyCase, *, compiled: bool) -> Losses:
    """Return the losses of everyone who can take part, and why the others cannot."""
    found, missing = dict[str, Loss](), dict[str, str]()
    makers = _of_heads(case) if isinstance(case, HeadCase) else _of_logits(case)
    for name, maker in makers.items():
        if name == "compile" and not compiled:
            missing[name] = "left out"
            continue
        try:
            found[name] = maker()
        except Exception as error:  # a package may fail in its own way at its import
            missing[name] = reason(error)
    return Losses(found, missing)


def reason(error: Exception) -> str:
    """Return in one line and without paths why something cannot run."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {str(error).partition('. GPU')[0]}"
    text = re.sub(r"(/[\w.+-]+)+/", "", str(error)).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def _of_logits(case: LogitsCase) -> dict[str, Callable[[], Loss]]:
    both = logits_contenders.losses(case, compiled=False)
    return {
        "crossent": lambda: both["crossent"],
        "eager": lambda: both["eager"],
        "compile": lambda: compiled_by_torch(both["eager"]),
        "liger": lambda: _liger(case),
    }


def _of_heads(case: HeadCase) -> dict[str, Callable[[], Loss]]:
    sized = {name: partial(linear_cross_entropy, chunk_bytes=size) for name, size in case.sizes.items()}
    return {
        "crossent": lambda: linear_cross_entropy,
        **{name: lambda loss=loss: loss for name, loss in sized.items()},
        "eager": lambda: eager,
        "compile": lambda: compiled_by_torch(eager),
        "torch chunked": lambda: _torch_chunked(case),
        "liger": lambda: _liger_head(case),
        "cce": _cce,
    }


def eager(features: Tensor, weight: Tensor, target: Tensor, softcap: float | None = None) -> Tensor:
    """Return what one writes without a loss of a linear layer."""
    logits = functional.linear(features, weight)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return functional.cross_entropy(logits, target)


def _torch_chunked(case: HeadCase) -> Loss:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise NotImplementedError(f"torch {torch.__version__} has no chunked loss")
    if case.softcap is not None:
        raise NotImplementedError("it has no softcap")
    return partial(functional.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions())


def _liger(case: LogitsCase) -> Loss:
    if case.target == "binary":
        raise NotImplementedError("it has no binary loss")
    from liger_kernel.transformers import LigerCrossEntropyLoss

    loss = LigerCrossEntropyLoss()
    # it takes (rows, classes) only, and this is how one brings images there
    flat = len(case.shape) == 2
    return loss if flat else lambda logits, target: loss(logits.movedim(1, -1).flatten(0, -2), target.flatten())


def _liger_head(case: HeadCase) -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(softcap=case.softcap)
    return lambda features, weight, target, **_options: loss(weight, features, target)


def _cce() -> Loss:
    from cut_cross_entropy import linear_cross_entropy as loss

    return loss


def floor(case: AnyCase, data: Data, memory: int | None) -> Floor:
    """Return the least that a step could do on a device with so much memory, and in how many chunks of rows it is."""
    operands = [x.detach() for x in data.leaves]
    if not isinstance(case, HeadCase):
        into = torch.empty_like(operands[0])
        return Floor(partial(into.copy_, operands[0]), {"chunks": 1})
    fit = case.N if memory is None else memory // SHARE_OF_MEMORY // (case.logits_bytes // case.N)
    rows = min(case.N, max(1, fit))
    return Floor(products(*operands, rows=rows), {"chunks": -(-case.N // rows)})


def products(features: Tensor, weight: Tensor, *, rows: int) -> Call:
    """Return the three products of a step into memory that is there; the logits stand for their own gradient."""
    logits = features.new_zeros(rows, len(weight))
    g_features, g_weight = torch.zeros_like(features), torch.zeros_like(weight)

    def call() -> tuple[Tensor, Tensor]:
        for begin in range(0, len(features), rows):
            x, place = features[begin : begin + rows], g_features[begin : begin + rows]
            g = torch.mm(x, weight.t(), out=logits[: len(x)])
            _ = torch.mm(g, weight, out=place)
            _ = torch.mm(g.t(), x, out=g_weight) if begin == 0 else g_weight.addmm_(g.t(), x)
        return g_features, g_weight

    return call


def gradients(loss: Loss, data: Data) -> list[Tensor]:
    """Return the loss and the gradients, which no leaf accumulates: logits are none where a model has made them."""
    value = loss(*data.leaves, data.target, **data.options)
    return [value.detach(), *torch.autograd.grad(value, data.leaves)]
