"""Sums in two parts: chunks of rows of the first classes, then tiles of all rows of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from crossent.torch.sources.parts import SumsInParts
from crossent.torch.sources.source import Span, spans


@dataclass
class Source:
    """Three positions for each pair of a row and a class."""

    size: int = 5
    positions: int = 3


@dataclass
class Tiles:
    """Memory for gradients, and how much of it was asked for."""

    source: Source = field(default_factory=Source)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def new_gradients(self, rows: int, columns: int) -> torch.Tensor:
        self.asked.append((rows, columns))
        return torch.full((rows, columns), torch.nan)

    def gradient(self, tile: torch.Tensor) -> torch.Tensor:
        return torch.full_like(tile, torch.nan)


class Written:
    """Sums that only put the gradients together; which rows counted is asked once for each tile."""

    def __init__(self) -> None:
        self.whole, self.counted, self.ended = torch.full((5, 7 * 3), torch.nan), [], []

    def begin(self, classes: Span) -> None:
        self.classes = classes

    def add(self, gradient: torch.Tensor, rows: Span, classes: Span, counted: Any) -> None:
        assert classes == self.classes
        self.whole[rows.begin : rows.end, classes.of(3)] = gradient
        self.counted.append(counted(rows))

    def end(self, classes: Span) -> None:
        self.ended.append(classes)

    def result(self) -> torch.Tensor:
        return self.whole


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("kept", [1, 4, 7])
def test_every_gradient_is_multiplied_once_and_in_its_place(kept, chunk):
    z, tiles, made = torch.randn(5, 21), Tiles(), []

    def new_sums() -> Any:
        made.append(Written())
        return made[-1]

    sums, first = SumsInParts(tiles, new_sums), Span(0, kept)
    sums.begin(first)
    for rows in spans(5, chunk):
        place = sums.place(z[slice(*rows), first.of(3)], rows)
        assert place.shape == (rows.size, 3 * kept)
        _ = place.copy_(z[slice(*rows), first.of(3)])
        sums.add(place, rows, first, lambda span: span.size)
    assert made == []  # memory for sums comes when chunks have gone
    sums.end(first)
    for classes in [Span(k, k + 1) for k in range(kept, 7)]:
        sums.begin(classes)
        place = sums.place(z[:, classes.of(3)], Span(0, 5))
        _ = place.copy_(z[:, classes.of(3)])
        sums.add(place, Span(0, 5), classes, lambda span: span.size)
        sums.end(classes)
    assert torch.equal(sums.result(), z)
    assert tiles.asked == [(5, 3 * kept)]
    assert made[0].counted == [5] * (8 - kept)
    assert made[0].ended == [first, *(Span(k, k + 1) for k in range(kept, 7))]
