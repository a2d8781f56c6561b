"""Misuse of cross_entropy with shards of classes: the same error on every rank, in one line that says what to do."""

from __future__ import annotations

import os
import types

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import crossent.torch as F
from crossent.torch import TopK

pytestmark = pytest.mark.slow

N, LENGTH = 3, 4
"""Rows, and columns of each of two ranks."""


def scene(group):
    """What the calls are made of."""
    _ = torch.manual_seed(0)
    mesh = DeviceMesh.from_group(group, "cpu")

    def put(x, *placements):
        return distribute_tensor(x, mesh, placements, src_data_rank=None)

    y = torch.tensor([0, 5, 7])
    return types.SimpleNamespace(
        group=group,
        rank=dist.get_rank(group),
        mesh=mesh,
        put=put,
        z=torch.randn(N, LENGTH),
        p=torch.rand(N, LENGTH),
        y=y,
        placed=put(torch.randn(N, 2 * LENGTH), Shard(1)),
        partial=DTensor.from_local(torch.randn(N, 2 * LENGTH), mesh, [Partial()]),
        high=torch.tensor([0, 8, 7]),
    )


def sharded(s, target, *args, **options):
    return F.cross_entropy(options.pop("input", s.z), target, *args, process_group=s.group, **options)


def alone(s, **options):
    return F.cross_entropy(s.z, s.y, **options)


# error, words that the message must hold, call
MISUSE = {
    "first class without a group": (
        ValueError,
        ["first_class", "process_group"],
        lambda s: F.cross_entropy(s.z, s.y % 4, first_class=0),
    ),
    "more classes than columns": (
        ValueError,
        ["num_classes", "9", "4", "process_group"],
        lambda s: F.cross_entropy(s.z, s.y % 4, num_classes=9),
    ),
    "more classes than a DTensor has": (
        ValueError,
        ["num_classes", "9", "8"],
        lambda s: F.cross_entropy(s.placed, s.y, num_classes=9),
    ),
    "group of another type": (
        TypeError,
        ["process_group", "str"],
        lambda s: alone(s, process_group="world"),
    ),
    "rank for a group": (TypeError, ["process_group", "int"], lambda s: alone(s, process_group=0)),
    "mesh for a group": (
        TypeError,
        ["process_group", "DeviceMesh", "get_group"],
        lambda s: F.cross_entropy(s.z, s.y, process_group=s.mesh),
    ),
    "fractional first class": (
        TypeError,
        ["first_class"],
        lambda s: sharded(s, s.y, first_class=4.0 * s.rank, num_classes=8),
    ),
    "negative first class": (ValueError, ["first_class", "-4"], lambda s: sharded(s, s.y, first_class=-4)),
    "fractional number of classes": (TypeError, ["num_classes", "8.0"], lambda s: sharded(s, s.y, num_classes=8.0)),
    "no classes": (ValueError, ["num_classes", "0"], lambda s: sharded(s, s.y, num_classes=0)),
    "more classes than all shards": (
        ValueError,
        ["8", "9", "first_class"],
        lambda s: sharded(s, s.y, num_classes=9),
    ),
    "shards of unequal length": (
        ValueError,
        ["9", "first_class", "num_classes"],
        lambda s: sharded(s, s.y, input=torch.zeros(N, LENGTH + s.rank)),
    ),
    "a gap between shards": (
        ValueError,
        ["8", "9", "first_class"],
        lambda s: sharded(s, s.y, first_class=5 * s.rank, num_classes=9),
    ),
    "shards that overlap": (
        ValueError,
        ["first_class"],
        lambda s: sharded(s, s.y % 7, first_class=3 * s.rank, num_classes=7),
    ),
    "shards that overlap and leave out as many": (
        ValueError,
        ["first_class"],
        lambda s: sharded(s, s.y, first_class=3 * s.rank, num_classes=8),
    ),
    "every shard first": (ValueError, ["first_class"], lambda s: sharded(s, s.y, first_class=0, num_classes=8)),
    "a DTensor with a group": (
        ValueError,
        ["DTensor", "process_group"],
        lambda s: sharded(s, s.y, input=s.placed),
    ),
    "a DTensor with a first class": (
        ValueError,
        ["DTensor", "first_class"],
        lambda s: F.cross_entropy(s.placed, s.y, first_class=0),
    ),
    "a partial sum": (ValueError, ["input", "redistribute"], lambda s: F.cross_entropy(s.partial, s.y)),
    "a target that is a DTensor beside a shard": (
        (TypeError, ValueError),
        ["target", "DTensor"],
        lambda s: sharded(s, s.put(s.y, Replicate())),
    ),
    "a weight that is a DTensor beside a shard": (
        (TypeError, ValueError),
        ["weight", "DTensor"],
        lambda s: sharded(s, s.y, s.put(torch.ones(8), Replicate())),
    ),
    "a sample weight that is a DTensor beside a shard": (
        (TypeError, ValueError),
        ["sample_weight", "DTensor"],
        lambda s: sharded(s, s.y, sample_weight=s.put(torch.ones(N), Replicate())),
    ),
    "weights of one shard": (
        ValueError,
        ["weight", "8 classes", "(4,)"],
        lambda s: sharded(s, s.y, torch.ones(4)),
    ),
    "weights of the padding": (
        ValueError,
        ["weight", "7 classes", "(8,)"],
        lambda s: sharded(s, s.y % 7, torch.ones(8), num_classes=7),
    ),
    "weights of one shard of a DTensor": (
        ValueError,
        ["weight", "8 classes", "(4,)"],
        lambda s: F.cross_entropy(s.placed, s.y, torch.ones(4)),
    ),
    "probabilities of all classes beside a shard": (
        ValueError,
        ["(3, 8)", "(3, 4)"],
        lambda s: sharded(s, torch.rand(N, 8)),
    ),
    "probabilities of a shard beside a DTensor": (
        ValueError,
        ["(3, 4)", "(3, 8)"],
        lambda s: F.cross_entropy(s.placed, s.p),
    ),
    "rows of another shape": (ValueError, ["(2,)", "(3,)"], lambda s: sharded(s, s.y[:2])),
    "sample weights of another shape": (
        ValueError,
        ["sample_weight", "(4,)", "(3,)"],
        lambda s: sharded(s, s.y, sample_weight=torch.ones(4)),
    ),
    "a number": (
        ValueError,
        ["class axis"],
        lambda s: sharded(s, torch.tensor(0), input=torch.tensor(1.0)),
    ),
    "class too large": (IndexError, ["class 8", "row 1", "8 classes"], lambda s: sharded(s, s.high)),
    "class of the first shard negative": (
        IndexError,
        ["class -1", "row 0", "8 classes"],
        lambda s: sharded(s, s.y - 1),
    ),
    "class of the padding": (
        IndexError,
        ["class 7", "row 2", "7 classes"],
        lambda s: sharded(s, s.y, num_classes=7),
    ),
    "class of a DTensor too large": (
        IndexError,
        ["class 8", "row 1", "8 classes"],
        lambda s: F.cross_entropy(s.placed, s.high),
    ),
    "class in the padding of a DTensor": (
        IndexError,
        ["class 7", "row 2", "7 classes"],
        lambda s: F.cross_entropy(s.placed, s.y, num_classes=7),
    ),
    "picked class too large": (
        IndexError,
        ["class 8", "row 1"],
        lambda s: sharded(s, TopK(s.high[:, None], s.p[:, :1])),
    ),
    "negative picked probability": (
        ValueError,
        ["-", "row 0", "exp"],
        lambda s: sharded(s, TopK(s.y[:, None], s.p[:, :1] - 2)),
    ),
    "negative probabilities on all ranks": (ValueError, ["-", "row 0", "exp"], lambda s: sharded(s, s.p - 2)),
    "ignored probabilities": (
        ValueError,
        ["ignore_index", "probabilities"],
        lambda s: sharded(s, s.p, ignore_index=5),
    ),
}


def outcome(call):
    try:
        return f"no error: {call()}", ""
    except Exception as error:
        return type(error), str(error)


def misused(group, name):
    s = scene(group)
    before = outcome(lambda: sharded(s, s.y).item())
    error = outcome(lambda: MISUSE[name][2](s))
    return *error, before == outcome(lambda: sharded(s, s.y).item())


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(ranks, name):
    error, words, _ = MISUSE[name]
    for rank, (kind, message, goes_on) in enumerate(ranks.run(2, misused, name)):
        assert isinstance(kind, type), f"rank {rank}: {kind}"
        assert issubclass(kind, error), f"rank {rank}: {kind.__name__}: {message}"
        assert "\n" not in message
        for word in words:
            assert word in message, f"rank {rank}: {word!r} is not in {message!r}"
        assert goes_on


DIFFERENT = {
    "rows": lambda s: sharded(s, s.y[: N - s.rank], input=s.z[: N - s.rank]),
    "label_smoothing": lambda s: sharded(s, s.y, label_smoothing=0.1 * s.rank),
    "reduction": lambda s: sharded(s, s.y, reduction=("mean", "sum")[s.rank]),
    "return_stats": lambda s: sharded(s, s.y, return_stats=s.rank == 1),
    "num_classes": lambda s: sharded(s, s.y % 7, num_classes=8 - s.rank),
}


def disagreed(group, name):
    s = scene(group)
    before = os.environ.get("CROSSENT_VALIDATE")
    os.environ["CROSSENT_VALIDATE"] = "1"
    try:
        fine = outcome(lambda: sharded(s, s.y).item())[1]
        return *outcome(lambda: DIFFERENT[name](s)), fine
    finally:
        _ = os.environ.pop("CROSSENT_VALIDATE")
        if before is not None:
            os.environ["CROSSENT_VALIDATE"] = before


@pytest.mark.parametrize("name", DIFFERENT)
def test_ranks_that_make_different_calls_are_told_so(ranks, name):
    for kind, message, fine in ranks.run(2, disagreed, name):
        assert fine == ""
        assert kind is ValueError
        assert name in message
        assert "rank 0" in message
        assert "rank 1" in message
        assert "\n" not in message
