"""The arguments of a loss, the ways in which a loss is called, and how far its results are from exact ones.

A call is timed under a key of measure and contender:

    forward    the loss alone, where no gradient is wanted
    both       the loss and its gradients in fresh memory, as a training step has it
    backward   the gradient alone, into memory that is there already
    floor      work without which no contender could do: reads, copies or products
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.common.records import rounded

Call = Callable[[], object]
Loss = Callable[..., Tensor]

PART = 2**28
"""Bytes of float64 numbers that are made at a time beside the weight, its gradient and their counterparts."""


class Key(NamedTuple):
    """What is timed: a measure of a contender."""

    measure: str
    contender: str


class Contenders(NamedTuple):
    """The calls of the contenders of a case, and the reason why each of the others cannot take part."""

    calls: dict[Key, Call]
    missing: dict[str, str]


class Exact(NamedTuple):
    """The loss of a case and the gradients of its leaves, in float64."""

    loss: float
    gradients: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """Arguments of a loss: tensors that require a gradient, their target, and keyword options.

    The tensors are logits; or the input and the weight of a linear layer.
    """

    leaves: tuple[Tensor, ...]
    target: Any
    options: dict[str, Any]

    @property
    def logits(self) -> Tensor:
        """Return the one tensor that requires a gradient."""
        (logits,) = self.leaves
        return logits

    def forget(self) -> None:
        """Give the memory of the gradients back."""
        for x in self.leaves:
            x.grad = None

    def operands(self) -> list[Tensor]:
        """Return every tensor of the size of the logits, each of which a loss has to read."""
        target = self.target
        large = isinstance(target, Tensor) and target.shape == self.logits.shape
        return [self.logits.detach(), *([target] if large else [])]


def forward(loss: Loss, data: Data) -> Tensor:
    """Return the loss where no gradient is wanted."""
    return loss(*(x.detach() for x in data.leaves), data.target, **data.options)


def step(loss: Loss, data: Data) -> Tensor:
    """Leave the gradients in the leaves, as a training step does, and return the loss."""
    data.forget()
    value = loss(*data.leaves, data.target, **data.options)
    value.backward()
    return value.detach()


def timed(losses: dict[str, Loss], data: Data) -> dict[Key, Call]:
    """Return the calls that measure the losses, forward alone and with backward."""
    found: dict[Key, Call] = {}
    for name, loss in losses.items():
        found[Key("forward", name)] = partial(forward, loss, data)
        found[Key("both", name)] = partial(step, loss, data)
    return found


def floors_as_calls(floors: dict[str, Call]) -> dict[Key, Call]:
    """Return floors as they are timed."""
    return {Key("floor", name): call for name, call in floors.items()}


def compiled_by_torch(loss: Loss) -> Loss:
    """Return the loss as torch compiles it, for shapes as they are."""
    torch.compiler.reset()  # of an earlier case's shapes, which would make these dynamic
    return torch.compile(loss)


def errors_of(loss: Loss, data: Data, exact: Exact, names: tuple[str, ...]) -> dict[str, float]:
    """Return the relative error of the loss, and those of the gradients, by these names, in the Euclidean norm."""
    value = float(step(loss, data))
    found = {"loss": abs(value - exact.loss) / abs(exact.loss)}
    leaves: Any = data.leaves
    for name, x, gradient in zip(names, leaves, exact.gradients, strict=True):
        found[name] = distance(x.grad, gradient)
    data.forget()
    return {name: rounded(error) for name, error in found.items()}


def distance(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference over the norm of the exact gradient, a part of the rows at a time."""
    part = max(1, PART // (8 * exact.shape[1]))
    sums = [
        ((a.double() - b).square().sum(), b.square().sum())
        for a, b in zip(found.split(part), exact.split(part), strict=True)
    ]
    return float((sum(a for a, _ in sums) / sum(b for _, b in sums)) ** 0.5)
