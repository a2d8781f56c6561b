"""Losses of reinforcement learning: a function of log-probability and entropy of each row, for heads of models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from benchmarks.common.losses import Data


@dataclass(frozen=True, slots=True)
class RowsCase:
    """A loss of N rows of D features and V classes; the weight learns, or is frozen."""

    name: str
    model: str
    N: int
    D: int
    V: int
    loss: str = "clipped"
    """"clipped": a ratio of policies, clipped, with an entropy bonus. "logprob": the log-probabilities alone."""
    frozen: bool = False
    dtype: str = "float32"
    quick: bool = False
    suite: ClassVar[str] = "rows"
    rivals: ClassVar[tuple[str, ...]] = ("eager", "trl")
    repeat: ClassVar[int] = 1
    clock: ClassVar[str] = "wall"
    weighed: ClassVar[bool] = True
    weighs_compiled: ClassVar[bool] = False
    threads: ClassVar[int | None] = None

    @property
    def rows(self) -> int:
        """Number of losses before the reduction."""
        return self.N

    @property
    def products(self) -> int:
        """Products that nobody can do without: the logits, and the gradients of the operands that learn."""
        return 2 if self.frozen else 3

    def make(self) -> Data:
        """Return the arguments, the same ones at every call; logits have about the variance 1."""
        random, dtype = torch.Generator().manual_seed(0), getattr(torch, self.dtype)
        features = torch.randn(self.N, self.D, generator=random).to(dtype).requires_grad_()
        weight = torch.randn(self.V, self.D, generator=random).div_(math.sqrt(self.D)).to(dtype)
        target = torch.randint(self.V, (self.N,), generator=random)
        advantage = torch.randn(self.N, generator=random)
        old = torch.randn(self.N, generator=random).mul_(0.3).sub_(math.log(self.V) + 0.5)
        options = {"old": old, "advantage": advantage}
        if self.frozen:
            return Data((features,), target, options | {"weight": weight})
        return Data((features, weight.requires_grad_()), target, options)

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the case."""
        return {
            "shape": [self.N, self.D, self.V],
            "dtype": self.dtype,
            "loss": self.loss,
            "frozen": self.frozen,
            "products": self.products,
        }


GPT2, SMOLLM2 = (1024, 768, 50257), (1024, 576, 49152)
CASES = (
    RowsCase("gpt2-clipped", "GPT-2 head, a clipped ratio with an entropy bonus", *GPT2, quick=True),
    RowsCase("gpt2-clipped-frozen", "the same, the head frozen", *GPT2, frozen=True),
    RowsCase("gpt2-logprob", "GPT-2 head, log-probabilities", *GPT2, "logprob"),
    RowsCase("gpt2-logprob-frozen", "the same, the head frozen", *GPT2, "logprob", frozen=True, quick=True),
    RowsCase("smollm2-clipped-bf16", "SmolLM2-135M head in bfloat16, a clipped ratio", *SMOLLM2, dtype="bfloat16"),
)
