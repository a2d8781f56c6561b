"""The rows of a block that count, in the one form that every sum takes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.errors import quoted
from crossent.scoring.input.batch import Batch
from crossent.scoring.input.plain import plain
from crossent.scoring.parts import Zero
from crossent.scoring.sums.costs import Costs


@dataclass(frozen=True, slots=True, eq=False)
class CountedRows:
    """n rows of a block that have a class and a positive weight, each column (n,), and how many others were left out.

    `places` are their places in their batch, and `first` is the number of the batch's first row in the state. `loss` is
    their loss, with probabilities floored at the smallest. `right` is whether the predicted class is the true one.
    `weight` is None where all weights are 1. Of the rows left out, `ignored` have no class and `weightless` a weight of
    0.
    """

    batch: Batch
    first: int
    places: Any
    costs: Costs
    loss: Any
    label: Any
    right: Any
    weight: Any | None
    ignored: int
    weightless: int

    @classmethod
    def of(cls, batch: Batch, begin: int, costs: Costs, first: int, zero: Zero) -> CountedRows:
        """Return the rows that count among the rows of a batch from `begin` on, whose costs are known."""
        end = begin + len(costs.loss)
        places, label = np.arange(begin, end), batch.label[begin:end]
        weight = None if batch.weight is None else batch.weight[begin:end]
        counts = label >= 0
        ignored, weightless = len(label) - int(counts.sum()), 0
        if weight is not None:
            weightless = int((counts & (weight == 0)).sum())
            counts &= weight > 0
        if not counts.all():
            costs, places, label = costs.rows(counts), places[counts], label[counts]
            weight = None if weight is None else weight[counts]
        loss, right = _charged(costs, zero), costs.predicted == label
        return cls(batch, first, places, costs, loss, label, right, weight, ignored, weightless)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def numbers(self) -> Any:
        """Numbers of the rows in the state."""
        return self.first + self.places

    def total(self, x: Any, rows: Any = slice(None)) -> float:
        """Return Σ w x over the rows that x belongs to."""
        return float(x.sum() if self.weight is None else self.weight[rows] @ x)

    def name(self, k: Any) -> Hashable:
        """Return the id of a row, or its number if rows have no ids."""
        place = int(self.places[k])
        if self.batch.id is None:
            return self.first + place
        return plain(self.batch.id[place])

    def called(self, k: int) -> str:
        """Return a row as errors call it: "row 17" or "row 'a17'"."""
        return f"row {quoted(self.name(k))}"

    def stored(self, k: int) -> Any:
        """Return the numbers of a row as the caller stored them, as float64."""
        values = self.batch.values[int(self.places[k])]
        return np.atleast_1d(np.asarray(values.double() if hasattr(values, "detach") else values, float))


def _charged(costs: Costs, zero: Zero) -> Any:
    """Return the losses, capped at the loss of the smallest probability."""
    if zero == "inf":
        return costs.loss
    return np.where(costs.probability < zero, -np.log(zero), costs.loss)
