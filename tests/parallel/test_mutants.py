"""Mistakes that others have made, made on purpose: a comparison with one process has to find each of them."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from crossent.torch import linear_cross_entropy
from crossent.torch.ranks import collectives as _collectives
from crossent.torch.ranks import shards as _parallel

N, V, D = 6, 10, 4


def unreduced(self, i, j, *, last=True):
    """The gradient of the input is that of this rank's classes."""


def twice(self, i, j, *, last=True):
    """A chunk of rows is added up after every tile."""
    dist.all_reduce(self._whole[i:j], group=_collectives.group_of(self._groups[0]))


def own_peak(tensor, op=dist.ReduceOp.SUM, **options):
    """Records are added up without a common peak."""
    return None if op == dist.ReduceOp.MAX else ADD(tensor, op, **options)


def local_smoothing(self, options):
    """Smoothing spreads over the classes of this rank."""
    return OPTIONS(self, options)._replace(smoothing=options.smoothing * 2)


def local_targets(self, options):
    """Every rank counts its classes from 0."""
    return OPTIONS(dataclasses.replace(self, first_class=0), options)


ADD, OPTIONS = dist.all_reduce, _parallel.Shards.told_to
MUTANTS = {
    "nothing": (dist, "all_reduce", ADD),
    "unreduced": (_collectives.InputGradient, "finished", unreduced),
    "twice": (_collectives.InputGradient, "finished", twice),
    "own peak": (dist, "all_reduce", own_peak),
    "local smoothing": (_parallel.Shards, "told_to", local_smoothing),
    "local targets": (_parallel.Shards, "told_to", local_targets),
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
