"""The cases: logits in the shapes that models and data sets give them, with their targets and options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from benchmarks.common.divergences import KINDS
from benchmarks.common.losses import Data
from crossent.torch import TopK

TOP = 32
"""Classes of a row that a teacher's top-k keeps."""


@dataclass(frozen=True, slots=True)
class LogitsCase:
    """A loss on logits of one shape. Axis 1 holds the classes, except in a binary case, which has none.

    `ignored` is the share of rows, chosen at random, that have the class -100.

    A case too small for one call to be timed is called `repeat` times in a row and has no memory to speak of. With
    `threads` it runs on that many: where torch shares out a few microseconds of work, what is timed is how fast the
    system wakes a thread, and on a busy machine eager then seems several times slower than it is.
    """

    name: str
    model: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    target: Literal["index", "prob", "topk", "binary", "forward", "reverse", "js"] = "index"
    """What the logits are compared with; a kind of divergence stands for a teacher's logits."""
    smoothing: float = 0.0
    weighted: bool = False
    ignored: float = 0.0
    repeat: int = 1
    threads: int | None = None
    quick: bool = False
    suite: ClassVar[str] = "logits"
    clock: ClassVar[Literal["wall", "cpu"]] = "wall"
    backward_alone: ClassVar[bool] = True
    """Whether the gradient alone is timed too, into memory that is there already."""
    weighs_compiled: ClassVar[bool] = False  # compiled once more in another process: as long as all rounds

    @property
    def rivals(self) -> tuple[str, ...]:
        """Who takes part beside crossent."""
        return "eager", "compile"

    @property
    def weighed(self) -> bool:
        """Whether memory is measured."""
        return self.repeat == 1

    @property
    def rows(self) -> int:
        """Number of losses before the reduction."""
        return math.prod(self.shape) // (1 if self.target == "binary" else self.shape[1])

    def make(self) -> Data:
        """Return the arguments, the same ones at every call."""
        random = torch.Generator().manual_seed(0)
        logits = torch.randn(self.shape, generator=random).to(getattr(torch, self.dtype))
        options: dict[str, Any] = {}
        if self.smoothing:
            options["label_smoothing"] = self.smoothing
        if self.weighted:
            options["weight"] = 0.5 + torch.rand(self.shape[1], generator=random)
        return Data((logits.requires_grad_(),), self._target(random, logits.dtype), options)

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the case."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "target": self.target,
            "smoothing": self.smoothing,
            "weighted": self.weighted,
            "ignored": self.ignored,
        }

    def _target(self, random: torch.Generator, dtype: torch.dtype) -> Tensor | TopK:
        if self.target == "binary":
            return torch.rand(self.shape, generator=random).round().to(dtype)
        if self.target == "prob":
            return torch.randn(self.shape, generator=random).softmax(1).to(dtype)
        if self.target in KINDS:
            return torch.randn(self.shape, generator=random).to(dtype)
        places = (self.shape[0], *self.shape[2:])
        if self.target == "index":
            target = torch.randint(self.shape[1], places, generator=random)
            if self.ignored:
                target[torch.rand(places, generator=random) < self.ignored] = -100
            return target
        kept = min(TOP, self.shape[1])
        index = torch.stack([torch.randperm(self.shape[1], generator=random)[:kept] for _ in range(self.shape[0])])
        return TopK(index, torch.randn(index.shape, generator=random).softmax(1).to(dtype))


GPT2 = (1024, 50257)

CASES = (
    LogitsCase("imagenet", "ImageNet classifier, a batch of 8192", (8192, 1000), quick=True),
    LogitsCase("gpt2", "GPT-2 head, one sequence", GPT2, quick=True),
    LogitsCase("gpt2-bf16", "GPT-2 head in bfloat16", GPT2, "bfloat16", quick=True),
    LogitsCase("llama3", "Llama 3 head, half a thousand tokens", (512, 128256)),
    LogitsCase("gemma-bf16", "Gemma head in bfloat16", (256, 256000), "bfloat16"),
    LogitsCase("digits", "the digits of scikit-learn, a batch of 64", (64, 10), repeat=1000, threads=1, quick=True),
    LogitsCase("cityscapes", "Cityscapes segmentation, two crops, classes in axis 1", (2, 19, 512, 512), quick=True),
    LogitsCase("tags", "binary tags, 20 000 items with 500 each", (20_000, 500), target="binary", quick=True),
    LogitsCase("gpt2-smoothing", "GPT-2 head, label smoothing 0.1", GPT2, smoothing=0.1),
    LogitsCase("gpt2-weight", "GPT-2 head, class weights", GPT2, weighted=True),
    LogitsCase("gpt2-prob", "GPT-2 head, distilled from all probabilities", GPT2, target="prob"),
    LogitsCase("gpt2-topk", f"GPT-2 head, distilled from the top {TOP}", GPT2, target="topk"),
)
