"""The cases of a GPU, who takes part in them, and floors: copies of the logits, and the products of a linear layer.

Whoever cannot take part is named with the reason. Nothing here needs a GPU: data are made on any device, of any size.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import contenders
from benchmarks.cases import Case, Data
from benchmarks.contenders import Call, Loss, compiled_by_torch
from benchmarks.linear_cases import MIB, LinearCase
from crossent.torch import linear_cross_entropy


@dataclass(frozen=True, slots=True)
class HeadCase(LinearCase):
    """A linear layer whose logits may have a softcap; `chunk_bytes` are sizes beside crossent's default."""

    softcap: float | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Contenders that differ in the bytes of their chunks."""
        return {f"crossent {size / MIB:g} MiB": size for size in self.chunk_bytes}

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the case."""
        return {"shape": [self.N, self.D, self.V], "dtype": self.dtype, "softcap": self.softcap}


@dataclass(frozen=True, slots=True)
class ErrorCase(HeadCase):
    """A linear layer of which errors are measured, not times, with the logits in more and more parts.

    A half-precision logit and its gradient take 6 bytes, so 6 N V / n bytes make about n parts.
    """

    parts: tuple[int, ...] = (1, 4, 16, 64)
    suite: ClassVar[str] = "errors"

    @property
    def sizes(self) -> dict[str, int]:
        """Contenders that differ in how many parts their logits come in."""
        return {f"crossent in {n}": 6 * self.N * self.V // n for n in self.parts}


AnyCase = Case | HeadCase

CHUNKS = (2**27, 2**31)

CASES: tuple[AnyCase, ...] = (
    Case("llama3", "Llama 3 head, 8192 tokens", (8192, 128256), "bfloat16"),
    Case("gpt2", "GPT-2 head, 8192 tokens, an odd number of classes", (8192, 50257), "bfloat16"),
    Case("llama2-f32", "Llama 2 head in float32, 16384 tokens", (16384, 32000)),
    Case("decode", "Llama 3 head, a batch of 32 tokens", (32, 128256), "bfloat16"),
    Case("cityscapes", "Cityscapes segmentation, classes in axis 1", (8, 19, 512, 1024)),
    Case("tags", "ten million binary logits", (10**7,), target="binary"),
    HeadCase("llama3-head", "Llama 3 8B head", 4096, 4096, 128256, "bfloat16", CHUNKS),
    HeadCase("gemma2-head", "Gemma 2 2B head, softcap 30", 8192, 2304, 256000, "bfloat16", CHUNKS, softcap=30.0),
    HeadCase("qwen-head", "Qwen 2.5 0.5B head", 16384, 896, 151936, "bfloat16", CHUNKS),
    HeadCase("gpt2-head", "GPT-2 head", 8192, 768, 50257, "bfloat16", CHUNKS),
    ErrorCase("errors-1k", "a thousand rows, 32000 classes", 1024, 512, 32000, "bfloat16"),
    ErrorCase("errors-16k", "more rows than twice the features, 32000 classes", 16384, 512, 32000, "bfloat16"),
)

OVERWRITE = {"liger"}
"""Contenders that write the gradient over the logits: each has logits of its own, restored before every call."""

KNOWN_LOOSE = ("liger", "cce", "torch chunked")
"""Rivals that add up in bfloat16 or leave small gradients out; how far they are off is recorded."""

CONSTANT = 4.0
"""The first feature of every row, by which the weight says how likely a class is."""

PIECE = 2**25
"""Numbers that are compared, or logits that are made, in float64 at a time."""

SHARE_OF_MEMORY = 4
"""The floor's logits take a quarter of the device's memory at most; beyond that, its rows come in chunks."""


def scaled(case: AnyCase) -> AnyCase:
    """Return the case with a few numbers in place of its many."""
    if not isinstance(case, HeadCase):
        return dataclasses.replace(case, shape=tuple(min(n, 12) for n in case.shape))
    sizes = tuple(size >> 17 for size in case.chunk_bytes)
    return dataclasses.replace(case, N=40, D=8, V=70, chunk_bytes=sizes)


def make(case: AnyCase, device: torch.device) -> Data:
    """Return the arguments of the case on a device, the same ones at every call.

    Classes are as likely as words are, one over their rank: of uniform ones, a gradient without its softmax would look
    right, and CCE, which leaves small gradients out, would leave out all.
    """
    random, dtype = torch.Generator(device).manual_seed(0), getattr(torch, case.dtype)
    normal = partial(torch.randn, generator=random, device=device, dtype=dtype)
    indices = partial(torch.randint, generator=random, device=device)
    options: dict[str, Any] = {}
    if isinstance(case, HeadCase):
        features, weight = normal((case.N, case.D)), normal((case.V, case.D)).div_(math.sqrt(case.D))
        features[:, 0] = CONSTANT
        weight[:, 0] = _likely(case.V, device) / CONSTANT
        leaves, target = (features, weight), indices(case.V, (case.N,))
        options = {} if case.softcap is None else {"softcap": case.softcap}
    elif case.target == "binary":
        leaves, target = (normal(case.shape),), indices(2, case.shape).to(dtype)
    else:
        N, V, *places = case.shape
        leaves = (normal(case.shape).add_(_likely(V, device).to(dtype).view(V, *[1] * len(places))),)
        target = indices(V, (N, *places))
    return Data(tuple(x.requires_grad_() for x in leaves), target, options)


def _likely(V: int, device: torch.device) -> Tensor:
    return -torch.arange(1, V + 1, device=device, dtype=torch.float32).log_()


def losses(case: AnyCase, *, compiled: bool) -> tuple[dict[str, Loss], dict[str, str]]:
    """Return the losses of everyone who can take part, and why the others cannot."""
    found, missing = dict[str, Loss](), dict[str, str]()
    for name, maker in (_of_heads if isinstance(case, HeadCase) else _of_logits)(case).items():
        if name == "compile" and not compiled:
            missing[name] = "left out"
            continue
        try:
            found[name] = maker()
        except Exception as error:  # a package may fail in its own way at its import
            missing[name] = reason(error)
    return found, missing


def reason(error: Exception) -> str:
    """Return in one line and without paths why something cannot run."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {str(error).partition('. GPU')[0]}"
    text = re.sub(r"(/[\w.+-]+)+/", "", str(error)).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def _of_logits(case: Case) -> dict[str, Callable[[], Loss]]:
    both = contenders.losses(case, compiled=False)
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


def _liger(case: Case) -> Loss:
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


def floor(case: AnyCase, data: Data, memory: int | None) -> tuple[Call, dict[str, int]]:
    """Return the least that a step could do on a device with so much memory, and in how many chunks of rows it is."""
    operands = [x.detach() for x in data.leaves]
    if not isinstance(case, HeadCase):
        into = torch.empty_like(operands[0])
        return partial(into.copy_, operands[0]), {"chunks": 1}
    fit = case.N if memory is None else memory // SHARE_OF_MEMORY // (case.logits_bytes // case.N)
    rows = min(case.N, max(1, fit))
    return products(*operands, rows=rows), {"chunks": -(-case.N // rows)}


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


def distance(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference over the norm of the exact numbers, in float64, a piece at a time."""
    pairs = zip(found.reshape(-1).split(PIECE), exact.reshape(-1).split(PIECE), strict=True)
    sums = [torch.stack([(a.double() - b).square().sum(), b.double().square().sum()]) for a, b in pairs]
    difference, norm = torch.stack(sums).sum(0).sqrt().tolist()
    return difference / norm if norm else math.inf if difference else 0.0


def reference(data: Data) -> list[Tensor]:
    """Return the mean loss of a linear layer and its gradients in float64, some of the rows at a time."""
    features, weight = (x.detach() for x in data.leaves)
    softcap: float | None = data.options.get("softcap")
    wide, N, rows = weight.double(), len(features), max(1, PIECE // len(weight))
    g_features, g_weight = torch.empty_like(features, dtype=torch.float64), torch.zeros_like(wide)
    loss = wide.new_zeros(())
    for x, target, place in zip(*(x.split(rows) for x in (features, data.target, g_features)), strict=True):
        x64 = x.double()
        tanh = None if softcap is None else torch.tanh(x64 @ wide.t() / softcap)
        logprob = (x64 @ wide.t() if tanh is None else softcap * tanh).log_softmax(1)
        here = torch.arange(len(x), device=x.device), target
        loss -= logprob[here].sum() / N
        g = logprob.exp_()
        g[here] -= 1.0
        g /= N
        if tanh is not None:
            g *= 1 - tanh.square()
        _ = torch.mm(g, wide, out=place)
        _ = g_weight.addmm_(g.t(), x64)
    return [loss, g_features, g_weight]
