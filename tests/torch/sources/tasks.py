"""Rows of a linear layer with a target, as a source that multiplies and as a source that has the logits."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor

from crossent.kernels.backend import Cotangents
from crossent.spec import Scores, Target
from crossent.torch.base.values import RowResults, loss_dtype, new_record
from crossent.torch.operators.rows import RowCall
from crossent.torch.sources.driver import TiledRows
from crossent.torch.sources.linear import LinearSource
from crossent.torch.sources.plan import TileShape
from crossent.torch.sources.tensor import TensorSource
from tests.torch import plain

KINDS = ("index", "topk", "dense")
OPTIONS = ("nothing", "everything", "temperatures")
IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Rows:
    """Operands of a layer, and the target of N · P rows in the form of the kernels."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    positions: int
    target: Target
    scores: Scores

    @property
    def classes(self) -> int:
        return len(self.weight) // self.positions

    @property
    def number(self) -> int:
        """Number of rows N · P."""
        return len(self.input) * self.positions

    def linear(self, **more: Any) -> TiledRows:
        """The rows of a source that multiplies."""
        source = LinearSource(self.input, self.weight, self.bias, positions=self.positions, **more)
        return TiledRows(source, self.target, self.scores)

    def logits(self) -> Tensor:
        """The logits (N · P, V) by torch, as wide as losses are."""
        wide = loss_dtype(self.input.dtype)
        bias = None if self.bias is None else self.bias.to(wide)
        z = torch.nn.functional.linear(self.input.to(wide), self.weight.to(wide), bias)
        return z.view(len(z), self.classes, self.positions).mT.reshape(-1, self.classes)

    def flat_target(self) -> Target:
        """The target of the logits (N · P, V)."""
        prob: Any = self.target.prob
        if self.target.kind != "dense" or self.positions == 1:
            return self.target
        return dataclasses.replace(self.target, prob=prob.mT.reshape(-1, self.classes))

    def tensor(self) -> TiledRows:
        """The rows of a source that has the logits."""
        return TiledRows(TensorSource(self.logits()), self.flat_target(), self.scores)

    def call(self) -> RowCall:
        """The call of the row operators, of all logits at once."""
        return RowCall(self.logits(), self.flat_target(), self.scores, recorded=True)

    def packed(self, gradient: Tensor) -> Tensor:
        """A gradient (N · P, V) of logits in the shape of a product (N, V · P)."""
        return gradient.view(-1, self.positions, self.classes).mT.reshape(len(gradient) // self.positions, -1)


def draw(
    kind: str,
    option: str = "nothing",
    *,
    dtype: torch.dtype = torch.float64,
    positions: int = 1,
    N: int = 7,
    V: int = 11,
    D: int = 5,
    ignored: float = 0.3,
) -> Rows:
    """Random operands and a target; with everything: class weights, smoothing, temperature and softcap.

    With temperatures the same, and a temperature of each row.
    """
    double = torch.float64
    x, w = torch.randn(N, D, dtype=double).to(dtype), torch.randn(V * positions, D, dtype=double).to(dtype)
    rows = N * positions
    base: dict[str, Any]
    if kind == "index":
        y = torch.randint(max(1, V), (rows,))
        base = {"index": torch.where(torch.rand(rows) < ignored, IGNORED, y), "ignore_index": IGNORED}
    elif kind == "topk":
        base = {"index": torch.randint(V, (rows, 3)), "prob": torch.rand(rows, 3, dtype=double)}
    else:
        prob = torch.rand(N, V, positions, dtype=double)
        base = {"prob": prob.squeeze(2) if positions == 1 else prob}
    if option == "nothing":
        return Rows(x, w, None, positions, Target(**base), Scores())
    bias = torch.randn(V * positions, dtype=double).to(dtype)
    weight = torch.rand(V, dtype=double) + 0.5
    scores = Scores(0.7, 3.0) if option == "everything" else Scores(1.0, 3.0, torch.rand(rows, dtype=double) + 0.5)
    return Rows(x, w, bias, positions, Target(**base, weight=weight, smoothing=0.2), scores)


def shapes(N: int, V: int) -> list[TileShape]:
    """Tiles of one logit, of some, of all classes, of all rows, and of everything."""
    return list(itertools.starmap(TileShape, ((1, 1), (3, 4), (2, V), (N, 5), (N, V))))


def results_of(rows: int, like: Tensor) -> RowResults:
    """Memory for results, full of NaN."""
    loss, record = new_record(rows, like)
    made = RowResults(loss, torch.empty_like(loss), torch.empty_like(loss), record)
    for x in made:
        _ = x.fill_(torch.nan)
    return made


def cotangents_of(rows: int, dtype: torch.dtype) -> Cotangents:
    """Random cotangents of loss, lse and entropy."""
    like = torch.empty(rows)
    return Cotangents(*(plain.cotangent_like(like, k).to(loss_dtype(dtype)) for k in range(3)))


def agree(got: Any, want: Any, dtype: torch.dtype) -> None:
    """Hold results by name against others, to the rounding of a dtype."""
    for name, a, b in zip(want._fields, got, want, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            plain.agree(name, a, b, None, plain.FLOOR[dtype])
