"""Sums and extremes over ranks, with the gradients that autograd is told of; what is sent is in tests/parallel."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from crossent.torch.ranks.collectives import LogTotal, add_up, extreme_over, group_of, log_sum_exp, share, sum_over

pytestmark = pytest.mark.slow

N, V = 4, 11


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_all(group, *shape):
    """What each rank draws, in order; the same list on every rank."""
    return [drawn(rank, *shape) for rank in range(dist.get_world_size(group))]


def test_without_groups_nothing_happens():
    x = drawn(0, N).requires_grad_()
    assert sum_over(x, ()) is x
    assert share(x, ()) is x
    assert share(None, ("a",)) is None
    assert not extreme_over(x, "max", ()).requires_grad
    assert torch.equal(extreme_over(x, "min", ()), x)
    add_up((x, None), ())


def added(group):
    parts, name = of_all(group, N), (group.group_name,)
    mine = parts[dist.get_rank(group)].clone()
    add_up((mine, None), name)
    torch.testing.assert_close(mine, sum(parts))
    assert group_of(group.group_name) is group


@pytest.mark.parametrize("n", [1, 3])
def test_tensors_are_replaced_by_their_sums(ranks, n):
    ranks.run(n, added)


def summed(group):
    parts, cotangents, name = of_all(group, N), of_all(group, N + 1), (group.group_name,)
    rank = dist.get_rank(group)
    x = parts[rank].clone().requires_grad_()
    given = x.detach().clone()
    y = sum_over(x, name)
    torch.testing.assert_close(y.detach(), sum(parts))
    assert torch.equal(x, given)
    g = cotangents[rank][:N].clone().requires_grad_()
    (by_x,) = torch.autograd.grad(y, x, g, create_graph=True)
    assert torch.equal(by_x, g)  # one number that all have: each rank's gradient is its own
    (by_g,) = torch.autograd.grad(by_x, g, parts[rank])
    torch.testing.assert_close(by_g, sum(parts))  # as x is of y, so is g of its copies
    strided = parts[rank].expand(2, N).t()
    torch.testing.assert_close(sum_over(strided, name), sum(parts).expand(2, N).t())


def test_a_sum_is_one_number_that_all_ranks_have(ranks):
    ranks.run(3, summed)


def extremes(group):
    parts, name = of_all(group, N), (group.group_name,)
    x = parts[dist.get_rank(group)].clone().requires_grad_()
    for how, of in (("max", torch.amax), ("min", torch.amin)):
        found = extreme_over(x, how, name)
        assert torch.equal(found, of(torch.stack(parts), 0))
        assert not found.requires_grad


def test_extremes_are_constants(ranks):
    ranks.run(3, extremes)


def shared(group):
    cotangents, name, rank = of_all(group, N), (group.group_name,), dist.get_rank(group)
    x = torch.ones(N, dtype=torch.float64, requires_grad=True)
    y = share(x, name)
    assert torch.equal(y, x)
    (g,) = torch.autograd.grad(y, x, cotangents[rank])
    torch.testing.assert_close(g, sum(cotangents))


def test_what_all_ranks_share_gets_the_sum_of_their_gradients(ranks):
    ranks.run(3, shared)


# Normalisers


def special():
    s = drawn(0, N, V)
    s[1, :4] = -torch.inf  # all classes of the first rank
    s[2] = -torch.inf
    s[3] += 1e4
    return s


@pytest.mark.parametrize("shape", [(N, V), (2, V, 3)])
def test_on_one_rank_the_normaliser_is_that_of_torch(shape):
    s = drawn(1, *shape).requires_grad_()
    total = log_sum_exp(s)
    torch.testing.assert_close(total.lse, s.logsumexp(1))
    assert torch.equal(total.peak, s.detach().amax(1))
    g = drawn(2, *total.lse.shape)
    for a, b in zip(*(torch.autograd.grad(x, s, g) for x in (total.lse, s.logsumexp(1))), strict=True):
        torch.testing.assert_close(a, b)


def test_a_normaliser_in_two_parts():
    total = LogTotal(torch.tensor([1e4]), torch.tensor([0.25]))
    assert total.lse.item() == 10000.25


def test_a_normaliser_of_nothing():
    assert log_sum_exp(torch.zeros(3, 0)).lse.tolist() == [-torch.inf] * 3
    assert log_sum_exp(torch.full((2, 3), -torch.inf)).lse.tolist() == [-torch.inf] * 2


def normalised(group):
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    edges = [0, 4, 4, V][: n + 1]  # the second of three ranks has no classes
    own = slice(edges[rank], edges[rank + 1] if rank < n - 1 else V)
    whole = special()
    mine = whole[:, own].clone().requires_grad_()
    total = log_sum_exp(mine, (group.group_name,))
    torch.testing.assert_close(total.lse.detach(), whole.logsumexp(1))
    kept = torch.tensor([0, 1, 3])
    (g,) = torch.autograd.grad(total.lse[kept], mine, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(g[kept], whole.softmax(1)[kept, own])


@pytest.mark.parametrize("n", [2, 3])
def test_the_normaliser_of_shards_is_that_of_all_classes(ranks, n):
    ranks.run(n, normalised)
