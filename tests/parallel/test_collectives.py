"""What is sent: the collectives that the docstrings promise, and no others; and the model of their cost."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from benchmarks.linear.shards import Head, cost
from crossent.torch import TopK, cross_entropy, linear_cross_entropy
from crossent.torch.sources import products
from tests.parallel.counting import sent

pytestmark = pytest.mark.slow

N, V, D = 11, 26, 5
EVERYTHING = {"label_smoothing": 0.1, "temperature": 0.7, "softcap": 3.0, "z_loss": 0.1}


def pair(rows=N):
    return {("all_reduce", rows): 1, ("all_reduce", 4 * rows + 2): 1}


def shard(group, rows=N):
    ranks, rank = group.size(), group.rank()
    begin, end = rank * V // ranks, (rank + 1) * V // ranks
    torch.manual_seed(1)
    h, weight = torch.randn(rows, D), torch.randn(V, D)
    return h, weight, slice(begin, end), {"process_group": group, "first_class": begin, "num_classes": V}


def loss_of_logits(group, kind, **options):
    h, weight, own, where = shard(group)
    z = (h @ weight.t())[:, own].requires_grad_()
    target = {
        "index": torch.arange(N),
        "dense": torch.rand(N, V)[:, own].requires_grad_(),
        "topk": TopK(torch.arange(2 * N).view(N, 2), torch.rand(N, 2, requires_grad=True)),
    }[kind]
    loss, forward = sent(lambda: cross_entropy(z, target, **where, **options))
    _, backward = sent(lambda: (loss[0] if isinstance(loss, tuple) else loss).sum().backward())
    return forward, backward


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_loss_of_logits_sends_one_maximum_and_one_sum_of_vectors(ranks, n, reduction):
    for kind, options in (("index", {}), ("index", EVERYTHING), ("dense", EVERYTHING)):
        for forward, backward in ranks.run(n, call_of_logits, kind, {"reduction": reduction, **options}):
            assert forward == pair()
            assert not backward


def call_of_logits(group, kind, options):
    return loss_of_logits(group, kind, **options)


def test_gradients_of_topk_probabilities_add_their_own_size(ranks):
    for forward, backward in ranks.run(3, call_of_logits, "topk", {}):
        assert forward == pair()
        assert backward == {("all_reduce", 2 * N): 1}


def test_stats_send_what_the_docstring_says(ranks):
    one, none = pair(), Counter()
    of_predictions = {**one, ("all_reduce", N): one["all_reduce", N] + 2}
    for kind, options, more in (
        ("index", {}, none),
        ("index", {"label_smoothing": 0.1}, one),
        ("topk", {}, one),
        ("dense", {}, {**one, ("all_reduce", N): 3}),
    ):
        for forward, _ in ranks.run(2, call_of_logits, kind, {"return_stats": True, **options}):
            assert forward == Counter(one) + Counter(of_predictions) + Counter(more)


def loss_of_layer(group, chunk_bytes, options, rows=N):
    h, weight, own, where = shard(group, rows)
    h, weight = h.requires_grad_(), weight[own].requires_grad_()
    loss, forward = sent(
        lambda: linear_cross_entropy(h, weight, torch.arange(rows), chunk_bytes=chunk_bytes, **where, **options)
    )
    _, backward = sent(loss.sum().backward)
    return forward, backward


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_loss_of_a_layer_sends_the_gradient_of_its_input_once(ranks, n):
    for options in ({}, {"reduction": "none", **EVERYTHING}):
        for forward, backward in ranks.run(n, loss_of_layer, None, options):
            assert forward == pair()
            assert backward == {("all_reduce", N * D): 1}


def test_chunks_send_no_more_numbers(ranks):
    for forward, backward in ranks.run(2, loss_of_layer, 100, {}):
        assert forward == pair()
        assert len(backward) > 1
        assert sum(size * times for (_, size), times in backward.items()) == N * D


def order_of_work(group):
    """What a backward in chunks does, in order: products, and sums that it begins and does not wait for."""
    log, add, multiply = [], dist.all_reduce, products.multiply

    def begin(*args, async_op=False, **options):
        log.append("sum" if async_op else "waiting")
        return add(*args, async_op=async_op, **options)

    def product(*args, **options):
        log.append("product")
        return multiply(*args, **options)

    h, weight, own, where = shard(group)
    loss = linear_cross_entropy(h.requires_grad_(), weight[own], torch.arange(N), chunk_bytes=100, **where)
    with mock.patch.object(dist, "all_reduce", begin), mock.patch.object(products, "multiply", product):
        loss.backward()
    return log


def test_rows_are_sent_while_the_next_are_multiplied(ranks):
    for log in ranks.run(2, order_of_work):
        assert "waiting" not in log
        assert log.count("sum") > 1
        assert "product" in log[log.index("sum") :]


def loss_of_mesh(group, inputs, heads, rows=N):
    mesh = DeviceMesh.from_group(group, "cpu")
    h, weight, _, _ = shard(group, rows)

    def placed(x, placement):
        whole = DTensor.from_local(x, mesh, [Replicate()], run_check=False)
        return whole.redistribute(mesh, [placement]).detach().requires_grad_()

    h, weight = placed(h, inputs), placed(weight, heads)
    loss, forward = sent(lambda: linear_cross_entropy(h, weight, torch.arange(rows)))
    _, backward = sent(loss.backward)
    return forward, backward


@pytest.mark.parametrize("n", [2, 3, 4])
def test_sequence_parallelism_gathers_and_scatters_the_rows(ranks, n):
    each = -(-N // n)
    for forward, backward in ranks.run(n, loss_of_mesh, Shard(0), Shard(0)):
        assert forward == {**pair(), ("all_gather", each * D): 1}
        assert backward == {("reduce_scatter", n * each * D): 1}


def test_shards_of_rows_add_up_the_gradient_of_the_weight(ranks):
    for forward, backward in ranks.run(2, loss_of_mesh, Shard(0), Replicate()):
        assert forward == {("all_reduce", 2): 1}
        assert backward == {("all_reduce", V * D): 1}


def test_one_rank_sends_nothing(ranks):
    assert ranks.run(1, loss_of_layer, None, {}) == [(Counter(), Counter())]
    assert ranks.run(1, loss_of_mesh, Shard(0), Shard(0)) == [(Counter(), Counter())]


def ring_bytes(counts, sizes, n):
    """Bytes that each rank sends if its collectives go round a ring: twice round to reduce and to share the result."""
    share = {"all_reduce": 2 * (n - 1) / n, "reduce_scatter": (n - 1) / n, "all_gather": n - 1}
    return sum(share[kind] * times * numbers * sizes[kind, numbers] for (kind, numbers), times in counts.items())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("sequence", [False, True])
def test_the_model_of_the_cost_counts_the_bytes_that_are_sent(ranks, n, sequence):
    rows = 12  # of which each rank has as many
    expected = cost(Head(rows, D, V, bytes_each=4), n, sequence_parallel=sequence)
    sizes = {("all_reduce", rows): 8, ("all_reduce", 4 * rows + 2): 8, ("all_reduce", rows * D): 4}
    sizes |= {("all_gather", rows // n * D): 4, ("reduce_scatter", rows * D): 4}
    calls = (loss_of_mesh, Shard(0), Shard(0)) if sequence else (loss_of_layer, None, {})
    for forward, backward in ranks.run(n, *calls, rows):
        assert ring_bytes(forward + backward, sizes, n) == pytest.approx(expected.sent, rel=1e-12)
