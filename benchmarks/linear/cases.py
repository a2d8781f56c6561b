"""The cases of a linear layer: the heads of models and data sets, with as many rows as one step may have here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from benchmarks.common.losses import Data

MIB = 2**20


@dataclass(frozen=True, slots=True)
class LinearCase:
    """A loss of N rows of D features, each multiplied with a weight of V classes; the targets are class indices.

    Beside its default, crossent is also measured with chunks of each number of bytes in `chunk_bytes`.
    """

    name: str
    model: str
    N: int
    D: int
    V: int
    dtype: str = "float32"
    chunk_bytes: tuple[int, ...] = ()
    chunked: bool = True
    """Whether torch's chunked loss takes part; its steps take longer than PATIENCE where it does not."""
    quick: bool = False
    suite: ClassVar[str] = "linear"
    repeat: ClassVar[int] = 1
    clock: ClassVar[str] = "wall"
    weighed: ClassVar[bool] = True
    weighs_compiled: ClassVar[bool] = False  # compiled once more in another process: as long as all rounds
    threads: ClassVar[int | None] = None

    @property
    def rivals(self) -> tuple[str, ...]:
        """Who takes part beside crossent."""
        return ("eager", "torch chunked", "compile") if self.chunked else ("eager", "compile")

    @property
    def rows(self) -> int:
        """Number of losses before the reduction."""
        return self.N

    @property
    def logits_bytes(self) -> int:
        """Bytes of all logits in the dtype of the case."""
        return self.N * self.V * getattr(torch, self.dtype).itemsize

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight, and of its gradient."""
        return self.V * self.D * getattr(torch, self.dtype).itemsize

    def make(self) -> Data:
        """Return the arguments, the same ones at every call; logits have about the variance 1."""
        random, dtype = torch.Generator().manual_seed(0), getattr(torch, self.dtype)
        features = torch.randn(self.N, self.D, generator=random).to(dtype)
        weight = torch.randn(self.V, self.D, generator=random).div_(math.sqrt(self.D)).to(dtype)
        target = torch.randint(self.V, (self.N,), generator=random)
        return Data((features.requires_grad_(), weight.requires_grad_()), target, {})

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the case."""
        return {"shape": [self.N, self.D, self.V], "dtype": self.dtype}


class ScalingCase(LinearCase):
    """A point of a sweep, which only asks how time, memory and error grow beside those of who holds all logits."""

    __slots__ = ()
    suite = "scaling"
    rivals = ("eager",)


SMOLLM2 = (1024, 576, 49152)
# About 1, 8, 64 and 512 chunks, where a logit and its gradient take 4 and 2 bytes; tiles have 16 MiB at most.
SPLITS = tuple(6 * SMOLLM2[0] * SMOLLM2[2] // count for count in (1, 8, 64, 512))

CASES = (
    LinearCase("gpt2-head", "GPT-2 head, one sequence", 1024, 768, 50257),
    LinearCase("gpt2-head-bf16", "GPT-2 head in bfloat16", 1024, 768, 50257, "bfloat16"),
    LinearCase("smollm2-head", "SmolLM2-135M head", *SMOLLM2, quick=True),
    LinearCase("smollm2-head-bf16", "SmolLM2-135M head in bfloat16", *SMOLLM2, "bfloat16", SPLITS, quick=True),
    LinearCase("smollm2-head-bf16-64", "SmolLM2-135M head in bfloat16, 64 tokens", 64, *SMOLLM2[1:], "bfloat16"),
    LinearCase("llama3-head", "Llama 3 8B head, 256 tokens", 256, 4096, 128256, chunked=False),
    LinearCase(
        "llama3-head-bf16", "Llama 3 8B head in bfloat16, 256 tokens", 256, 4096, 128256, "bfloat16", chunked=False
    ),
    LinearCase(
        "recommender-512",
        "a million items, a batch of 512: what eager has the memory for",
        512,
        64,
        1_000_000,
        chunked=False,
    ),
    LinearCase("imagenet21k", "ImageNet-21k classifier, a batch of 4096", 4096, 512, 21841),
    LinearCase("chunks", "a head of 65536 tokens", 2048, 256, 65536, chunk_bytes=(16 * MIB, 64 * MIB)),
)

BASE = {"N": 1024, "D": 512, "V": 32768}
SWEEPS = {
    "N": [4**k for k in range(2, 7)],
    "D": [64, 128, 256, 512, 1024, 2048],
    "V": [2**k for k in range(10, 18)],
}
"""One of rows, features and classes grows while the others are those of the base, a head of medium size."""


def scaling() -> list[ScalingCase]:
    """Return the cases of the sweeps, of which the base is a point of each."""
    shapes = dict.fromkeys(tuple({**BASE, name: size}.values()) for name, sizes in SWEEPS.items() for size in sizes)
    return [ScalingCase(f"{N}×{D}×{V}", "a sweep", N, D, V, quick=V == 1024) for N, D, V in shapes]
