"""Closings of heads whose classes and rows lie on several ranks: what one process gives."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from tests.parallel import layouts
from tests.parallel.layouts import S0, Layout, R
from tests.parallel.linear import CUTS, REDUCTIONS, ROWS, TOKENS, agree, check
from tests.parallel.ranks import Ranks
from tests.torch.linear import KINDS, WITH, draw

pytestmark = pytest.mark.slow


def clipped(rows: Any, old: Tensor, advantage: Tensor) -> Tensor:
    ratio = (rows.logprob - old).exp()
    part = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return -part - 0.1 * rows.entropy + 0.01 * rows.lse**2 + torch.where(rows.correct, rows.confidence, rows.loss)


def drawn(turn: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A shape, the arguments and the options of a call."""
    _ = torch.manual_seed(turn)
    shape, kind = (ROWS, TOKENS)[turn % 2], KINDS[turn // 2 % 4]
    option = list(WITH)[turn % len(WITH)]
    args, options = draw(shape, kind, option, bias=turn % 3 == 0, frozen=("sample_weight",))
    options |= {"reduction": REDUCTIONS[turn % 3], "closing": clipped}
    options["operands"] = tuple(torch.randn(shape.rows, dtype=torch.float64) for _ in range(2))
    return shape, args, options


def on_shards(group: Any) -> list[str]:
    wrong: list[str] = []
    for turn, cut in enumerate(itertools.islice(itertools.cycle(CUTS), 24)):
        shape, args, options = drawn(turn)
        wrong += check(group, cut, args, options, stats=turn % 5 == 0, where=f"{turn}: {shape}")
    return wrong


@pytest.mark.parametrize("n", [2, 3])
def test_shards_of_the_classes(ranks: Ranks, n: int) -> None:
    agree(ranks.run(n, on_shards))


def with_nothing_on_the_last_rank(group: Any) -> list[str]:
    _ = torch.manual_seed(0)
    args, options = draw(ROWS, "index", "weight", bias=True)
    args[2][-2:] = -100
    options |= {"closing": clipped, "operands": tuple(torch.randn(ROWS.rows, dtype=torch.float64) for _ in range(2))}
    layout = Layout(DeviceMesh.from_group(group, "cpu"), (S0,), (R,), whole=True, by_rows=False, padding=0)
    return layouts.check(layout, args, options)


def test_a_rank_whose_rows_are_all_ignored_calls_the_closing_too(ranks: Ranks) -> None:
    agree(ranks.run(2, with_nothing_on_the_last_rank))


def on_a_mesh(group: Any) -> list[str]:
    wrong: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    for turn, (x, w) in enumerate(itertools.islice(itertools.cycle([(R, S0), (S0, R), (S0, S0)]), 24)):
        shape, args, options = drawn(turn)
        layout = Layout(mesh, (x,), (w,), whole=True, by_rows=False, padding=0)
        wrong += layouts.check(layout, args, options, where=f"{turn}: {shape}")
    return wrong


@pytest.mark.parametrize("n", [2])
def test_dtensors(ranks: Ranks, n: int) -> None:
    agree(ranks.run(n, on_a_mesh))
