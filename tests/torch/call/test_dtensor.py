"""What a call of DTensors is on a rank: its part of each argument, its shards, and DTensors of the results."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from crossent.kernels.backend import BinaryOperands
from crossent.spec import Scores
from crossent.torch import Stats, TopK
from crossent.torch.call.arguments import NOT_SHARDED, Arguments, Closing, Sharding
from crossent.torch.call.dtensor import of_elements, of_layer, of_logits, stand_in
from crossent.torch.call.layout import LayerOperands
from crossent.torch.ranks.shards import NO_SHARDS
from tests.parallel.ranks import square

pytestmark = pytest.mark.slow

N, V, D = 6, 10, 3
HALVES = (slice(0, 3), slice(3, 6))


def put(x, mesh, *placements):
    return distribute_tensor(x, mesh, placements, src_data_rank=None)


def call(operands, target, *, reduction="mean", sharding=NOT_SHARDED, **how):
    options = {"weight": None, "ignore_index": None, "sample_weight": None} | how
    closing = Closing(reduction, options["sample_weight"], 0.0)
    return Arguments(
        operands, target, options["weight"], options["ignore_index"], 0.0, Scores(), closing, False, sharding, NO_SHARDS
    )


def numbers(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape)


def test_a_stand_in_has_everything_but_memory():
    x = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    found = stand_in(x)
    assert (found.shape, found.dtype, found.requires_grad) == (x.shape, x.dtype, True)
    assert found.is_meta
    top = stand_in(TopK(torch.zeros(3, 1).long(), torch.zeros(3, 1)))
    assert top.index.is_meta
    assert top.prob.is_meta
    assert stand_in(None) is None
    assert stand_in([1]) == [1]


# Logits


def logits_in_two_dimensions(_group):
    mesh = square()
    row, column = mesh.get_coordinate()
    z, y, s, weight = numbers(N, V), torch.arange(N), numbers(N), numbers(V)
    placed = put(z, mesh, Shard(0), Shard(1))
    local = of_logits(call(placed, y, weight=put(weight, mesh, Replicate(), Shard(0)), sample_weight=s))
    here = local.arguments
    assert torch.equal(here.operands, z[HALVES[row]][:, 5 * column : 5 * column + 5])
    assert torch.equal(here.target, y[HALVES[row]])
    assert torch.equal(here.closing.sample_weight, s[HALVES[row]])
    assert torch.equal(here.weight, weight)  # of all classes, on every rank
    shards = here.shards
    assert (shards.first_class, shards.num_classes) == (5 * column, V)
    assert shards.ranks.groups == (mesh.get_group(1).group_name,)
    assert shards.ranks.row_groups == (mesh.get_group(0).group_name,)
    loss = local.finish(torch.tensor(2.5))
    assert loss.placements == (Replicate(), Replicate())
    assert loss.to_local().item() == 2.5
    dense = of_logits(call(placed, numbers(N, V))).arguments.target
    assert torch.equal(dense, here.operands)
    top = of_logits(call(placed, TopK(y[:, None], numbers(N, 1)))).arguments.target
    assert torch.equal(top.index[:, 0], y[HALVES[row]])
    assert torch.equal(top.prob[:, 0], numbers(N)[HALVES[row]])


def test_a_rank_has_its_part_of_each_argument(ranks):
    ranks.run(4, logits_in_two_dimensions)


def logits_in_one_dimension(group):
    mesh = DeviceMesh.from_group(group, "cpu")
    rank = group.rank()
    z, y = numbers(N, V), torch.arange(N)
    rows = of_logits(call(put(z, mesh, Shard(0)), y, reduction="none"))
    assert rows.arguments.shards.ranks.groups == ()
    assert rows.arguments.shards.num_classes is None
    whole = of_logits(call(put(z, mesh, Replicate()), y)).arguments
    assert whole.shards.ranks.alone
    assert torch.equal(whole.operands, z)
    padded = of_logits(call(put(z, mesh, Shard(1)), y, sharding=Sharding(num_classes=7))).arguments
    assert (padded.shards.first_class, padded.shards.num_classes) == (5 * rank, 7)
    # results: rows lie as the logits' rows
    stats = Stats(*(numbers(N)[HALVES[rank]] + k for k in range(len(dataclasses.fields(Stats)))))
    loss, more = rows.finish((numbers(N)[HALVES[rank]], stats))
    assert loss.placements == (Shard(0),)
    assert loss.shape == (N,)
    assert torch.equal(loss.full_tensor(), numbers(N))
    assert isinstance(more, Stats)
    assert torch.equal(more.confidence.full_tensor(), numbers(N) + 3)
    # gradients go back to where the logits are
    leaf = put(z, mesh, Shard(1)).requires_grad_()
    of_logits(call(leaf, y)).arguments.operands.sum().backward()
    assert leaf.grad.placements == (Shard(1),)
    assert torch.equal(leaf.grad.full_tensor(), torch.ones_like(z))


def test_rows_classes_or_nothing_is_sharded(ranks):
    ranks.run(2, logits_in_one_dimension)


def refused(group):
    mesh, other = DeviceMesh.from_group(group, "cpu"), DeviceMesh.from_group(group, "cpu", mesh_dim_names=("a",))
    z, y = put(numbers(N, V), mesh, Shard(1)), torch.arange(N)
    partial = DTensor.from_local(numbers(N, V), mesh, [Partial()])
    for arguments, words in (
        (call(z, y, sharding=Sharding(group)), "carry their shards"),
        (call(z, y, sharding=Sharding(None, 0)), "carry their shards"),
        (call(z, y, sharding=Sharding(num_classes=11)), "between 1 and the 10 classes"),
        (call(z, put(y, other, Replicate())), "on one mesh"),
        (call(partial, y), "placed as Partial on dimension 0"),
        (call(z, y[:3]), r"target of shape \(3,\)"),
        (call(z, y, sample_weight=torch.ones(4)), "sample_weight"),
        (call(z, y, weight=torch.ones(5)), "weight"),
        (call(z, numbers(N, V), ignore_index=3), "ignore_index"),
    ):
        with pytest.raises(ValueError, match=words):
            _ = of_logits(arguments)


def test_calls_that_have_no_loss_are_refused_on_every_rank(ranks):
    ranks.run(2, refused)


# A layer


def layer(_group):
    mesh = square()
    row, column = mesh.get_coordinate()
    x, w, y = numbers(N, D), numbers(V, D), torch.arange(N)
    operands = LayerOperands(put(x, mesh, Shard(0), Replicate()), put(w, mesh, Replicate(), Shard(0)), None)
    here = of_layer(call(operands, y)).arguments
    assert torch.equal(here.operands.input, x[HALVES[row]])
    assert torch.equal(here.operands.linear_weight, w[5 * column : 5 * column + 5])
    assert torch.equal(here.target, y[HALVES[row]])
    assert (here.shards.first_class, here.shards.num_classes) == (5 * column, V)
    assert here.shards.ranks.groups == (mesh.get_group(1).group_name,)
    assert here.shards.ranks.row_groups == (mesh.get_group(0).group_name,)
    assert here.shards.ranks.gathered is None


def test_a_layer_has_its_rows_and_its_classes(ranks):
    ranks.run(4, layer)


def sequence_parallel(group):
    mesh = DeviceMesh.from_group(group, "cpu")
    rank, w = group.rank(), numbers(V, D)
    for batch, axis, order in (((N,), 0, None), ((3, 5), 1, [0, 1, 2, 5, 6, 7, 10, 11, 12, 3, 4, 8, 9, 13, 14])):
        x, y = numbers(*batch, D), torch.arange(torch.Size(batch).numel()).view(batch) % V
        own = x.tensor_split([3], dim=axis)[rank]
        operands = LayerOperands(put(x, mesh, Shard(axis)), put(w, mesh, Shard(0)), put(numbers(V), mesh, Shard(0)))
        here = of_layer(call(operands, y)).arguments
        assert torch.equal(here.operands.input, own)
        assert torch.equal(here.operands.linear_bias, numbers(V)[5 * rank : 5 * rank + 5])
        assert torch.equal(here.target, y)  # of all rows
        known = here.shards.ranks
        assert torch.equal(known.gathered, x)
        assert (None if known.order is None else known.order.tolist()) == order
        assert known.each == (3 if axis == 0 else 9)
        assert known.groups == (group.group_name,)


def test_rows_over_the_ranks_of_the_classes_are_gathered(ranks):
    ranks.run(2, sequence_parallel)


def refused_layers(group):
    mesh = DeviceMesh.from_group(group, "cpu")
    x, w, y = numbers(N, D), numbers(V, D), torch.arange(N)
    features, classes = put(x, mesh, Replicate()), put(w, mesh, Shard(0))
    for operands, error, words in (
        (LayerOperands(x, classes, None), TypeError, "input is a plain tensor beside DTensors"),
        (LayerOperands(features, w, None), TypeError, "linear_weight is a plain tensor beside DTensors"),
        (LayerOperands(features, put(w, mesh, Shard(1)), None), ValueError, "neither over its features"),
        (LayerOperands(put(x, mesh, Shard(1)), classes, None), ValueError, "neither over its features"),
    ):
        with pytest.raises(error, match=words):
            _ = of_layer(call(operands, y))


def test_layers_that_have_no_loss_are_refused_on_every_rank(ranks):
    ranks.run(2, refused_layers)


# Elements


def elements(_group):
    mesh = square()
    row, column = mesh.get_coordinate()
    own = HALVES[row], slice(2 * column, 2 * column + 2)
    x, t, weight, pos_weight = numbers(N, 4), numbers(N, 4) + 0.5, numbers(4), numbers(N, 1)
    placed = put(x, mesh, Shard(0), Shard(1))
    operands = BinaryOperands(placed, t, weight, put(pos_weight, mesh, Replicate(), Replicate()))
    local = of_elements(operands, "mean")
    assert torch.equal(local.operands.input, x[own])
    assert torch.equal(local.operands.target, t[own])
    assert torch.equal(local.operands.weight, weight[own[1]])
    assert torch.equal(local.operands.pos_weight, pos_weight[own[0]])
    for mode, want in (("mean", x.mean()), ("sum", x.sum())):
        loss = of_elements(operands, mode).finish(x[own].sum())
        assert loss.placements == (Replicate(), Replicate())
        torch.testing.assert_close(loss.to_local(), want)
    each = of_elements(operands, "none").finish(x[own] + 1)
    assert each.placements == (Shard(0), Shard(1))
    assert torch.equal(each.full_tensor(), x + 1)


def test_binary_losses_are_those_of_a_rank_s_elements(ranks):
    ranks.run(4, elements)
