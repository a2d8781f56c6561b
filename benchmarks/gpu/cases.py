"""The cases of a GPU: logits and heads of models, made on any device and of any size."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.common.losses import Data
from benchmarks.common.records import Record
from benchmarks.linear.cases import MIB, LinearCase
from benchmarks.logits.cases import LogitsCase


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


AnyCase = LogitsCase | HeadCase

CHUNKS = (2**27, 2**31)

CASES: tuple[AnyCase, ...] = (
    LogitsCase("llama3", "Llama 3 head, 8192 tokens", (8192, 128256), "bfloat16"),
    LogitsCase("gpt2", "GPT-2 head, 8192 tokens, an odd number of classes", (8192, 50257), "bfloat16"),
    LogitsCase("llama2-f32", "Llama 2 head in float32, 16384 tokens", (16384, 32000)),
    LogitsCase("decode", "Llama 3 head, a batch of 32 tokens", (32, 128256), "bfloat16"),
    LogitsCase("cityscapes", "Cityscapes segmentation, classes in axis 1", (8, 19, 512, 1024)),
    LogitsCase("tags", "ten million binary logits", (10**7,), target="binary"),
    HeadCase("llama3-head", "Llama 3 8B head", 4096, 4096, 128256, "bfloat16", CHUNKS),
    HeadCase("gemma2-head", "Gemma 2 2B head, softcap 30", 8192, 2304, 256000, "bfloat16", CHUNKS, softcap=30.0),
    HeadCase("qwen-head", "Qwen 2.5 0.5B head", 16384, 896, 151936, "bfloat16", CHUNKS),
    HeadCase("gpt2-head", "GPT-2 head", 8192, 768, 50257, "bfloat16", CHUNKS),
    ErrorCase("errors-1k", "a thousand rows, 32000 classes", 1024, 512, 32000, "bfloat16"),
    ErrorCase("errors-16k", "more rows than twice the features, 32000 classes", 16384, 512, 32000, "bfloat16"),
)

CONSTANT = 4.0
"""The first feature of every row, by which the weight says how likely a class is."""


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


def head(case: AnyCase) -> Record:
    """Return what every record says of its case."""
    return {"suite": f"gpu-{case.suite}", "case": case.name, "model": case.model, **case.describe()}
