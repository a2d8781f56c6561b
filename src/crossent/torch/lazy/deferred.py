"""A linear layer that was called and not multiplied yet, and the operations on its output since."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crossent.spec import Scores


class Step(NamedTuple):
    """One operation on logits: "mul" or "div" by a number, "tanh", or "to" a dtype."""

    name: str
    operand: Any


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Deferred:
    """A linear layer's operands, and the steps that its output went through since."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    steps: tuple[Step, ...] = ()

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows to any operand."""
        return any(x is not None and x.requires_grad for x in (self.hidden, self.weight, self.bias))

    @property
    def shape(self) -> torch.Size:
        """Shape of the logits."""
        return torch.Size((*self.hidden.shape[:-1], self.weight.shape[0]))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the logits."""
        casts = [what for step, what in self.steps if step == "to"]
        return casts[-1] if casts else self.hidden.dtype

    def then(self, step: str, what: Any) -> Deferred:
        """Return this with one more step."""
        return dataclasses.replace(self, steps=(*self.steps, Step(step, what)))

    def compute(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits, as an ordinary layer and ordinary operations make them."""
        logits = nn.functional.linear(hidden, weight, bias)
        for step, what in self.steps:
            logits = take(logits, step, what)
        return logits

    def scores(self) -> Scores | None:
        """Return the steps as temperature and softcap, or None if they are something else."""
        inner, outer, capped = 1.0, 1.0, False
        for step, what in self.steps:
            if step == "tanh":
                if capped:
                    return None
                capped = True
            elif step != "to":
                if what == 0:
                    return None
                factor = 1.0 / what if step == "div" else float(what)
                inner, outer = (inner, outer * factor) if capped else (inner * factor, outer)
        if inner * outer == 0:
            return None
        temperature, softcap = (1.0 / (inner * outer), outer) if capped else (1.0 / inner, None)
        usual = all(x is None or 0 < x < math.inf for x in (temperature, softcap))
        return Scores(temperature, softcap) if usual else None


class Family:
    """State shared by lazy logits and everything that was derived from them."""

    def __init__(self) -> None:
        self.fused = False
        """Whether a loss was computed without the numbers."""
        self._preparations: OrderedDict[int, Callable[[Tensor], Any]] = OrderedDict()

    def prepare(self, hook: Callable[[Tensor], Any]) -> RemovableHandle:
        """Collect a hook of FSDP, which gathers the weight again before the backward of results of the logits."""
        handle = RemovableHandle(self._preparations)
        self._preparations[handle.id] = hook
        return handle

    def tell(self, results: Sequence[Tensor]) -> None:
        """Register the collected hooks on results, so that they run before the backward of the results."""
        for result in results:
            for hook in self._preparations.values() if result.requires_grad else ():
                _ = result.register_hook(hook)


def take(logits: Tensor, step: str, what: Any) -> Tensor:
    """Return logits after one step."""
    if step == "mul":
        return logits * what
    if step == "div":
        return logits / what
    return torch.tanh(logits) if step == "tanh" else logits.to(what)
