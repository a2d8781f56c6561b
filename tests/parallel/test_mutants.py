"""Mistakes that others have made, made on purpose: a comparison with one process has to find each of them."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from crossent.torch import linear_cross_entropy
from crossent.torch.call import arguments
from crossent.torch.ranks.gathered import InputGradient
from crossent.torch.sources.driver import TiledRows
from crossent.torch.sources.linear import SumsByClasses

pytestmark = pytest.mark.slow

N, V, D = 6, 10, 4


def unreduced(self, row_begin, row_end):
    """The gradient of the input is that of this rank's classes."""


def twice(self, gradient, rows, classes, counted):
    """A chunk of rows is added up after every tile."""
    ADD_TILE(self, gradient, rows, classes, counted)
    if classes.end < self._source.classes:
        self._input.finished(*rows)


def own_peak(tensor, op=dist.ReduceOp.SUM, **options):
    """Records are added up without a common peak."""
    return None if op == dist.ReduceOp.MAX else ALL_REDUCE(tensor, op, **options)


def local_smoothing(self, rows, classes):
    """Smoothing spreads over the classes of this rank."""
    target = TARGET_OF(self, rows, classes)
    return dataclasses.replace(target, smoothing=target.smoothing * 2)


def local_targets(*how):
    """Every rank counts its classes from 0."""
    return dataclasses.replace(SHARDS_OF(*how), first_class=0)


ALL_REDUCE, SHARDS_OF = dist.all_reduce, arguments.shards_of
ADD_TILE, TARGET_OF = SumsByClasses.add, TiledRows.target_of
MUTANTS = {
    "nothing": (dist, "all_reduce", ALL_REDUCE),
    "unreduced": (InputGradient, "finished", unreduced),
    "twice": (SumsByClasses, "add", twice),
    "own peak": (dist, "all_reduce", own_peak),
    "local smoothing": (TiledRows, "target_of", local_smoothing),
    "local targets": (arguments, "shards_of", local_targets),
}


def furthest(group, name):
    """How far loss and gradients are from those of one process."""
    torch.manual_seed(0)
    double = torch.float64
    h, weight, y = 3 * torch.randn(N, D, dtype=double), torch.randn(V, D, dtype=double), torch.randint(V, (N,))
    own = slice(V // 2 * group.rank(), V // 2 * (group.rank() + 1))
    alone = [h.clone().requires_grad_(), weight.clone().requires_grad_()]
    linear_cross_entropy(*alone, y, label_smoothing=0.2).backward()
    here = [h.clone().requires_grad_(), weight[own].clone().requires_grad_()]
    with mock.patch.object(*MUTANTS[name]):
        try:
            loss = linear_cross_entropy(*here, y, label_smoothing=0.2, process_group=group, chunk_bytes=100)
            loss.backward()
        except ValueError as error:
            return str(error)
    pairs = ((here[0].grad, alone[0].grad), (here[1].grad, alone[1].grad[own]))
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(ranks, name):
    found = ranks.run(2, furthest, name)
    if name == "nothing":
        assert max(found) < 1e-12
    elif name == "local targets":
        assert all("overlap" in text for text in found)
    else:
        assert max(found) > 1e-3
