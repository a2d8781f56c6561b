"""A linear layer that was called and not multiplied yet, and the operations on its output since."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.spec import Scores, is_scale
from crossent.torch.call.layout import LayerOperands, logits_of
from crossent.torch.lazy.notice import Notice


class Step(NamedTuple):
    """One operation on logits: "mul", "div" by a number, "add" a bias, "tanh", "(log_)softmax", or "to" a dtype."""

    name: str
    operand: Any


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Deferred:
    """A linear layer's operands, the ones that require a gradient, and later steps on its output.

    The operands are those of `LayerOperands`: an adapter meets the last features of the input.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    adapter: Tensor | None = None
    steps: tuple[Step, ...] = ()
    wants: tuple[bool, ...] = (False, False, False, False)
    notice: Notice | None = None
    """The warning to raise when the numbers are computed; None outside training."""

    @classmethod
    def of_layer(cls, layer: LayerOperands, notice: Notice | None = None) -> Deferred:
        """Return the call of a layer; operands that require a gradient get one."""
        wants = tuple(x is not None and x.requires_grad for x in layer)
        return cls(*layer, wants=wants, notice=notice)

    @property
    def operands(self) -> LayerOperands:
        """Input, weight, bias and adapter."""
        return LayerOperands(self.hidden, self.weight, self.bias, self.adapter)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All tensors behind the numbers: the operands, and biases that were added since."""
        return *self.operands, *(what for step, what in self.steps if step == "add")

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

    def compute(self) -> Tensor:
        """Return the logits, as an ordinary layer and ordinary operations make them."""
        logits = logits_of(self.operands)
        for step, what in self.steps:
            logits = take(logits, step, what)
        return logits

    @property
    def factor(self) -> float:
        """Factor of the layer's output."""
        return math.prod(_factor(step) for step in self.steps)

    def fused_operands(self) -> LayerOperands:
        """Return the operands of the layer whose output, after the `scores`, these logits are.

        Its bias includes later added ones: z t + b = (z + b / t) t.
        """
        bias, factor = self.bias, 1.0
        for step in self.steps:
            factor *= _factor(step)
            if step.name == "add":
                added = step.operand.reshape(-1) / factor
                bias = (added if bias is None else bias + added).to(self.hidden.dtype)
        return self.operands._replace(linear_bias=bias)

    @property
    def shifted(self) -> bool:
        """Whether a log_softmax has shifted the rows: losses stay the same, normalisers do not."""
        return any(step.name == "log_softmax" for step in self.steps)

    def log_probs(self) -> tuple[Deferred, float] | None:
        """Return the logits of these log-probabilities and the factor since, or None if these are something else."""
        names = [step.name for step in self.steps]
        if "log_softmax" not in names:
            return None
        at = len(names) - 1 - names[::-1].index("log_softmax")
        since = dataclasses.replace(self, steps=self.steps[at + 1 :])
        only_scaled = {"tanh", "add", "softmax"}.isdisjoint(names[at + 1 :])
        return (dataclasses.replace(self, steps=self.steps[:at]), since.factor) if only_scaled else None

    def probabilities(self) -> Deferred | None:
        """Return the logits of these probabilities, or None if these are something else."""
        if not self.steps or self.steps[-1].name != "softmax":
            return None
        return dataclasses.replace(self, steps=self.steps[:-1])

    def scores(self) -> Scores | None:
        """Return the steps as temperature and softcap, or None if they are something else.

        A bias (`fused_operands`) and a log_softmax (`shifted`) change neither.
        """
        inner, outer, capped, shifted = 1.0, 1.0, False, False
        for step in self.steps:
            if step.name == "softmax":
                return None
            if step.name == "tanh":
                if capped or shifted:
                    return None
                capped = True
            shifted = shifted or step.name == "log_softmax"
            if capped:
                outer *= _factor(step)
            else:
                inner *= _factor(step)
        if inner * outer == 0:
            return None
        temperature, softcap = (1.0 / (inner * outer), outer) if capped else (1.0 / inner, None)
        return scores_or_none(temperature, softcap)


def combined(steps: Scores | None, loss: Scores) -> Scores | None:
    """Return a loss's scores of logits after their own steps, or None if these cannot be expressed."""
    if steps is None or (steps.softcap is not None and loss.softcap is not None):  # a cap of a cap is neither
        return None
    softcap, own = loss.softcap, loss.row_temperature
    if own is not None:
        if steps.softcap is not None:  # it would be another cap for each row
            return None
        if steps.temperature == 1.0:
            return loss
        return dataclasses.replace(loss, row_temperature=torch.as_tensor(own).double() * steps.temperature)
    if steps.softcap is not None:  # cap tanh(z) / t = (cap / t) tanh(z)
        softcap = steps.softcap / loss.temperature
    return scores_or_none(steps.temperature * loss.temperature, softcap)


def scores_or_none(temperature: float, softcap: float | None) -> Scores | None:
    """Return scores, or None if temperature or softcap is out of the range of theirs."""
    usual = all(x is None or is_scale(x) for x in (temperature, softcap))
    return Scores(temperature, softcap) if usual else None


def _factor(step: Step) -> float:
    if step.name == "div":
        return 1.0 / step.operand if step.operand != 0 else 0.0  # 0 is no temperature, and neither is 1 / 0
    return float(step.operand) if step.name == "mul" else 1.0


def take(logits: Tensor, step: str, what: Any) -> Tensor:
    """Return logits after one step."""
    if step == "add":
        return logits + what
    if step in ("log_softmax", "softmax"):
        return logits.log_softmax(-1) if step == "log_softmax" else logits.softmax(-1)
    if step == "mul":
        return logits * what
    if step == "div":
        return logits / what
    return torch.tanh(logits) if step == "tanh" else logits.to(what)
