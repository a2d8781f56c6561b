"""A linear layer that was called and not multiplied yet, and the operations on its output since."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossent.spec import Scores


class Step(NamedTuple):
    """One operation on logits: "mul" or "div" by a number, "tanh", or "to" a dtype."""

    name: str
    operand: Any


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Deferred:
    """A linear layer's operands, which of them want a gradient, and the steps that its output went through since."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    steps: tuple[Step, ...] = ()
    wants: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def of_layer(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Deferred:
        """Return the call of a layer, of which every operand wants a gradient that requires one."""
        wants = hidden.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad
        return cls(hidden, weight, bias, wants=wants)

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias."""
        return self.hidden, self.weight, self.bias

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

    def of_rows(self, hidden: Tensor) -> Deferred:
        """Return this for other rows of the input."""
        return dataclasses.replace(self, hidden=hidden)

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


def take(logits: Tensor, step: str, what: Any) -> Tensor:
    """Return logits after one step."""
    if step == "mul":
        return logits * what
    if step == "div":
        return logits / what
    return torch.tanh(logits) if step == "tanh" else logits.to(what)
