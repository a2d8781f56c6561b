"""Distillation through two heads: a student that learns and a frozen teacher, for each kind of divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from benchmarks.common.losses import Data


@dataclass(frozen=True, slots=True)
class DistillationCase:
    """A divergence of N rows and V classes; the student has D features, the teacher as many or `teacher_features`."""

    name: str
    model: str
    N: int
    D: int
    V: int
    kind: Literal["forward", "reverse", "js"] = "forward"
    """The direction, as in `linear_divergence`; β of js is 0.5."""
    teacher_features: int | None = None
    dtype: str = "float32"
    labels: bool = False
    """Whether a closing mixes the cross-entropy of labels in, at a temperature of 2."""
    gap: float | None = None
    """None: the teacher has nothing to do with the student. Else how far its logits are from the student's."""
    threads: int | None = None
    weighed: bool = False
    """Whether peaks of memory are measured."""
    judged: bool = True
    """Whether errors are measured."""
    fresh: bool = False
    """Whether the four products are timed into fresh memory too."""
    quick: bool = False
    suite: ClassVar[str] = "distillation"
    repeat: ClassVar[int] = 1
    clock: ClassVar[str] = "wall"
    weighs_compiled: ClassVar[bool] = False

    @property
    def rivals(self) -> tuple[str, ...]:
        """Who takes part beside crossent; TRL's function mixes no labels in."""
        return ("eager",) if self.labels else ("eager", "trl")

    @property
    def rows(self) -> int:
        """Number of losses before the reduction."""
        return self.N

    def make(self) -> Data:
        """Return the arguments, the same ones at every call; logits have about the variance 1."""
        random, dtype = torch.Generator().manual_seed(0), getattr(torch, self.dtype)
        features, weight = self._head(random, self.D)
        target = torch.randint(self.V, (self.N,), generator=random)
        teacher_input, teacher_weight = self._head(random, self.teacher_features or self.D)
        if self.gap is not None:
            teacher_input, teacher_weight = features.clone(), weight + self.gap * teacher_weight
        teacher = {"teacher_input": teacher_input.to(dtype), "teacher_weight": teacher_weight.to(dtype)}
        leaves = features.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        return Data(leaves, target, teacher)

    def describe(self) -> dict[str, Any]:
        """Return what a record says of the case."""
        return {
            "shape": [self.N, self.D, self.V],
            "dtype": self.dtype,
            "kind": self.kind,
            "teacher_features": self.teacher_features or self.D,
            "labels": self.labels,
            "gap": self.gap,
        }

    def _head(self, random: torch.Generator, features: int) -> tuple[torch.Tensor, torch.Tensor]:
        weight = torch.randn(self.V, features, generator=random).div_(math.sqrt(features))
        return torch.randn(self.N, features, generator=random), weight


HEAD = 576, 49152
"""Features and classes of SmolLM2-135M."""
SMOLLM2 = (1024, *HEAD)
LARGER = 960
"""Features of SmolLM2-360M, whose vocabulary is that of the small model."""

# A part of the rows where a step would take long: the whole suite takes minutes.
CASES = (
    DistillationCase("distill-forward", "SmolLM2-135M heads, KL(teacher‖student)", *SMOLLM2, fresh=True, quick=True),
    DistillationCase("distill-reverse", "the same, KL(student‖teacher)", *SMOLLM2, "reverse"),
    DistillationCase("distill-js", "the same, Jensen-Shannon, β 0.5", *SMOLLM2, "js"),
    DistillationCase("distill-labels", "a tenth of the labels' cross-entropy", *SMOLLM2, labels=True, judged=False),
    DistillationCase(
        "distill-larger", "SmolLM2-135M learns from 360M", 512, *HEAD, teacher_features=LARGER, judged=False
    ),
    DistillationCase("distill-one", "SmolLM2-135M heads, on one thread", 256, *HEAD, threads=1, judged=False),
    DistillationCase("distill-close", "a student close to its teacher", 128, *HEAD, gap=0.02, quick=True),
    DistillationCase("distill-bf16", "SmolLM2-135M heads in bfloat16", 64, *HEAD, dtype="bfloat16"),
    DistillationCase("distill-tokens", "a vocabulary of 65536", 2048, 128, 65536, weighed=True, judged=False),
)
