"""Rows that each rank brings: gathered with gradients, and the gradient of the input summed or scattered."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.distributed as dist

from crossent.torch.ranks.gathered import InputGradient, gather_rows
from crossent.torch.ranks.shards import NO_RANKS, Ranks
from tests.parallel.ranks import square

pytestmark = pytest.mark.slow

D = 3


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scene(group, N, permuted):
    """All rows, which of them this rank brings, and what it knows of the others."""
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    each = math.ceil(N / n)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(7)) if permuted else None
    places = torch.arange(N) if order is None else order
    whole = drawn(0, N, D)
    return whole, places[each * rank : each * (rank + 1)], Ranks((group.group_name,), (), whole, order, each)


def gathered(group, N, permuted):
    whole, own, known = scene(group, N, permuted)
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    rows = whole[own].clone().requires_grad_()
    found = gather_rows(rows, known)
    torch.testing.assert_close(found.detach(), whole, rtol=0, atol=0)
    cotangents = [drawn(1 + r, N, D).requires_grad_() for r in range(n)]
    (g,) = torch.autograd.grad(found, rows, cotangents[rank], create_graph=True)
    torch.testing.assert_close(g, sum(cotangents)[own])  # every rank used all rows
    seeds = drawn(9, N, D)
    (by_cotangent,) = torch.autograd.grad(g, cotangents[rank], seeds[own])
    torch.testing.assert_close(by_cotangent, seeds)


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize(("n", "N"), [(1, 4), (2, 6), (3, 7), (3, 2)])
def test_rows_are_gathered_and_their_gradients_scattered(ranks, n, N, permuted):
    ranks.run(n, gathered, N, permuted)


# The gradient of the input


def test_on_one_rank_the_gradient_is_its_own():
    x = torch.randn(4, D)
    gradient = InputGradient(x, torch.float64, NO_RANKS)
    assert (gradient.part.shape, gradient.part.dtype) == (x.shape, torch.float64)
    assert gradient.part.count_nonzero() == 0
    _ = gradient.part.copy_(x)
    gradient.finished(0, 4)
    found = gradient.sum(lambda part: part.flip(0))
    assert torch.equal(found, x.flip(0).double())


def parts_of(group, N):
    return [drawn(10 + rank, N, D) for rank in range(dist.get_world_size(group))]


def summed(group, N, step):
    parts, name = parts_of(group, N), (group.group_name,)
    gradient = InputGradient(torch.empty(N, D), torch.float64, Ranks(name))
    for begin in range(0, N, step):
        end = min(begin + step, N)
        _ = gradient.part[begin:end].copy_(parts[dist.get_rank(group)][begin:end])
        gradient.finished(begin, end)
    torch.testing.assert_close(gradient.sum(lambda part: part), sum(parts))


@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 3])
def test_parts_of_all_ranks_are_summed(ranks, n, step):
    ranks.run(n, summed, 5, step)


def packed(group):
    """Only the rows 0, 2 and 3 of five are multiplied."""
    parts, rows = parts_of(group, 3), torch.tensor([0, 2, 3])
    gradient = InputGradient(torch.empty(5, D), torch.float64, Ranks((group.group_name,)))
    _ = gradient.part[:3].copy_(parts[dist.get_rank(group)])
    gradient.finished(0, 3)

    def unpack(part):
        moved = torch.zeros_like(part)
        moved[rows] = part[:3]
        return moved

    want = torch.zeros(5, D, dtype=torch.float64).index_copy(0, rows, sum(parts))
    torch.testing.assert_close(gradient.sum(unpack), want)


def test_packed_rows_are_summed_where_they_lie_and_unpacked_after(ranks):
    ranks.run(2, packed)


def scattered(group, N, permuted, complete):
    _, own, known = scene(group, N, permuted)
    parts = parts_of(group, N)
    gradient = InputGradient(torch.empty(N, D), torch.float64, known)
    _ = gradient.part.copy_(parts[dist.get_rank(group)])
    for begin in range(0, N, 2):
        gradient.finished(begin, min(begin + 2, N) if complete else min(begin + 2, N - 1))
    unpacked = []
    found = gradient.sum(lambda part: unpacked.append(part) or part)
    torch.testing.assert_close(found[: len(own)], sum(parts)[own])
    assert len(found) == known.each
    assert len(unpacked) == (0 if complete else 1)  # before the rows are sent, not after


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(("n", "N"), [(2, 6), (3, 7)])
def test_each_rank_gets_its_share_of_the_sum(ranks, n, N, complete, permuted):
    ranks.run(n, scattered, N, permuted, complete)


def in_two_groups(group, share):
    """Ranks in pairs, and pairs of pairs: sums over the first group come before those over the last."""
    rank = dist.get_rank(group)
    first, last = square().get_group(1), square().get_group(0)
    parts, known = parts_of(group, 4), Ranks((first.group_name, last.group_name))
    if share:
        known = dataclasses.replace(known, gathered=drawn(0, 4, D), each=2)
    gradient = InputGradient(torch.empty(4, D), torch.float64, known)
    _ = gradient.part.copy_(parts[rank])
    gradient.finished(0, 4)
    found, want = gradient.sum(lambda part: part), sum(parts)
    own = slice(2 * dist.get_rank(last), 2 * dist.get_rank(last) + 2) if share else slice(None)
    torch.testing.assert_close(found, want[own])


@pytest.mark.parametrize("share", [False, True])
def test_sums_over_two_dimensions_of_a_mesh(ranks, share):
    ranks.run(4, in_two_groups, share)
