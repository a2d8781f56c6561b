"""linear_cross_entropy on several ranks when one fails, when they do not agree, and when it is misused."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel import ranks as of_ranks
from tests.parallel.linear import ROWS, Split, alone, check, differ, outcome
from tests.parallel.ranks import Ranks
from tests.torch.linear import KINDS, draw

pytestmark = pytest.mark.slow

R, S0, S1 = Replicate(), Shard(0), Shard(1)
PATIENCE = 2.0
X, W, B = torch.arange(12.0).view(4, 3) / 7, torch.arange(24.0).view(8, 3) / 9, torch.arange(8.0)
Y, P = torch.tensor([0, 1, 2, 7]), torch.full((4, 8), 0.125)
loss = F.linear_cross_entropy


def caught(function: Callable[[], Any]) -> tuple[str, str, float]:
    """The kind of error that a call raises, its text, and after how many seconds."""
    start = time.monotonic()
    try:
        _ = function()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - start
    return "nothing", "", time.monotonic() - start


# A rank that fails


def failing(_: Any, rows: int, chunk_bytes: int | None, reduction: str) -> tuple[tuple[str, str, float], list[str]]:
    """What a call raises if rank 1 has a negative probability in its last row, and what a good call does after it."""
    group = dist.new_group(list(range(4)), timeout=of_ranks.PATIENCE)
    distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=PATIENCE), group)  # a busy machine makes groups slowly
    _ = torch.manual_seed(0)
    (x, w, p, b, _), _ = draw(ROWS, "dense", bias=True)
    x, p = x.detach().repeat(rows, 1).requires_grad_(), p.detach().repeat(rows, 1)
    bad = p.clone()
    if dist.get_rank() == 1:
        bad[-1] = -0.5
    split = Split(group, "uneven", (x, w, bad, b, None))
    parts, call = split.args((x, w, bad, b, None)), split.function(chunk_bytes=chunk_bytes)
    found = caught(lambda: call(*parts, reduction=reduction))
    again = dist.new_group(list(range(4)), timeout=of_ranks.PATIENCE)
    return found, check(again, "uneven", (x, w, p, b, None), {"reduction": reduction}, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize(("rows", "chunk_bytes", "reduction"), [(1, None, "mean"), (9, 200, "none")])
def test_a_rank_that_fails_does_not_leave_the_others_waiting(
    ranks: Ranks, rows: int, chunk_bytes: int | None, reduction: str
) -> None:
    results = ranks.run(4, failing, rows, chunk_bytes, reduction)
    for rank, ((error, text, seconds), after) in enumerate(results):
        if rank == 1:
            assert error == "ValueError"
            assert "-0.5" in text
        assert error != "nothing", f"rank {rank}"
        assert seconds < PATIENCE + 5, f"rank {rank}"
        assert after == []


# Ranks that do not agree


class Validated:
    """The environment in which the ranks compare their calls."""

    def __enter__(self) -> None:
        self.before = os.environ.get("CROSSENT_VALIDATE")
        os.environ["CROSSENT_VALIDATE"] = "1"

    def __exit__(self, *_: object) -> None:
        del os.environ["CROSSENT_VALIDATE"]
        if self.before is not None:
            os.environ["CROSSENT_VALIDATE"] = self.before


OTHERWISE: dict[str, tuple[Any, Any]] = {  # of most ranks, and of one
    "num_classes": (8, 7),
    "reduction": ("mean", "sum"),
    "label_smoothing": (0.1, 0.2),
    "temperature": (1.0, 2.0),
    "softcap": (None, 3.0),
    "z_loss": (0.1, 0.2),
    "return_stats": (False, True),
}


def disagreeing(group: Any, name: str, placed: bool) -> str:
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    options: dict[str, Any] = {"num_classes": 8, name: OTHERWISE[name][rank == 1]}
    y = Y.clamp(max=6)
    with Validated():
        if placed:
            mesh = DeviceMesh.from_group(group, "cpu")
            x, w = (distribute_tensor(t, mesh, (S0,), src_data_rank=None) for t in (X, W))
            found = caught(lambda: loss(x, w, y, **options))
        else:
            found = caught(lambda: loss(X, W[8 // n * rank :][: 8 // n], y, process_group=group, **options))
    return f"{found[0]}: {found[1]}"


@pytest.mark.parametrize("placed", [False, True], ids=["group", "DTensor"])
@pytest.mark.parametrize("name", OTHERWISE)
def test_ranks_that_do_not_agree_are_named(ranks: Ranks, name: str, placed: bool) -> None:
    results = ranks.run(4, disagreeing, name, placed)
    most, one = OTHERWISE[name]
    for text in results:
        assert text == results[0]
        assert text.startswith("ValueError: ")
        for word in (name, f"{most!r} on ranks 0, 2, 3", f"{one!r} on rank 1"):
            assert word in text
        assert "\n" not in text


def operands_differ(group: Any, what: str) -> str:
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    x, w = X.detach().clone().requires_grad_(), W.detach()[8 // n * rank :][: 8 // n].clone()
    if what == "the dtype" and rank == 1:
        x, w = x.double(), w.double()
    _ = w.requires_grad_(what == "the dtype" or rank != 1)
    with Validated():
        found = caught(lambda: loss(x, w, Y, process_group=group, num_classes=8))
    return f"{found[0]}: {found[1]}"


@pytest.mark.parametrize(
    ("what", "here"), [("the dtype", "'torch.float64' on rank 1"), ("what gets no gradient", "linear_weight")]
)
def test_operands_that_differ_are_named(ranks: Ranks, what: str, here: str) -> None:
    for text in ranks.run(4, operands_differ, what):
        assert text.startswith("ValueError: ")
        assert what in text
        assert here in text


def validated(group: Any) -> list[str]:
    wrong: list[str] = []
    for kind in KINDS:
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, kind, "everything", bias=True)
        split = Split(group, "equal", args)
        with Validated():
            got = outcome(split.function(), split.args(args), options, stats=True)
        wrong += differ(got, split.expected(outcome(alone, args, options, stats=True)), kind)
    return wrong


def test_ranks_that_agree_are_left_alone(ranks: Ranks) -> None:
    assert ranks.run(3, validated) == [[], [], []]


# Misuse


def on(group: Any, x: Tensor, placement: Placement = R) -> Tensor:
    return distribute_tensor(x, DeviceMesh.from_group(group, "cpu"), (placement,), src_data_rank=None)


def partial(group: Any, x: Tensor) -> Tensor:
    return DTensor.from_local(x, DeviceMesh.from_group(group, "cpu"), (Partial(),), run_check=False)


def half(x: Tensor) -> Tensor:
    return x[4 * dist.get_rank() :][:4]


def without(group: Any, x: Any, w: Any, t: Any, **options: Any) -> Any:
    """A call on DTensors, which know their group."""
    return loss(on(group, x) if type(x) is Tensor else x, on(group, w, S0) if type(w) is Tensor else w, t, **options)


def within(group: Any, t: Any = Y, w: Tensor = W, **options: Any) -> Any:
    """A call on this rank's classes."""
    return loss(X, half(w), t, process_group=group, **options)


BAD = torch.tensor([0, 1, 9, 2])
# error, words that its text must hold, and the call of two ranks that have four classes each
MISUSE: dict[str, tuple[str, list[str], Callable[[Any], Any]]] = {
    "tensor as input": ("TypeError", ["input", "DTensor.from_local"], lambda g: loss(X, on(g, W, S0), Y)),
    "tensor as weight": ("TypeError", ["linear_weight", "DTensor.from_local"], lambda g: loss(on(g, X), W, Y)),
    "tensor as bias": (
        "TypeError",
        ["linear_bias", "DTensor.from_local"],
        lambda g: without(g, X, W, Y, linear_bias=B),
    ),
    "DTensor as bias only": ("TypeError", ["DTensor"], lambda g: loss(X, W, Y, linear_bias=on(g, B, S0))),
    "features of the weight": ("ValueError", ["linear_weight", "features"], lambda g: without(g, X, on(g, W, S1), Y)),
    "features of the input": ("ValueError", ["input", "features"], lambda g: without(g, on(g, X, S1), W, Y)),
    "sum as input": ("ValueError", ["input", "Partial", "redistribute"], lambda g: without(g, partial(g, X), W, Y)),
    "sum as weight": ("ValueError", ["linear_weight", "Partial"], lambda g: without(g, X, partial(g, W), Y)),
    "two meshes": ("ValueError", ["input", "linear_weight", "mesh"], lambda g: loss(two(g), on(g, W, S0), Y)),
    "group of DTensors": ("ValueError", ["DTensor", "process_group"], lambda g: without(g, X, W, Y, process_group=g)),
    "first class of DTensors": ("ValueError", ["DTensor", "first_class"], lambda g: without(g, X, W, Y, first_class=0)),
    "first class of no group": ("ValueError", ["first_class", "process_group"], lambda _: loss(X, W, Y, first_class=0)),
    "list as group": ("TypeError", ["process_group", "list"], lambda _: loss(X, W, Y, process_group=[0, 1])),  # pyright: ignore[reportArgumentType]
    "more than all classes": ("ValueError", ["8", "9", "first_class"], lambda g: within(g, num_classes=9)),
    "a gap": ("ValueError", ["8", "9"], lambda g: within(g, num_classes=9, first_class=5 * dist.get_rank(g))),
    "an overlap": ("ValueError", ["overlap"], lambda g: within(g, num_classes=8, first_class=2 * dist.get_rank(g))),
    "one class in two shards": ("ValueError", ["8", "4"], lambda g: within(g, Y % 4, num_classes=4, first_class=0)),
    "more classes than stored": ("ValueError", ["num_classes", "9", "8"], lambda g: without(g, X, W, Y, num_classes=9)),
    "no classes": ("ValueError", ["num_classes", "0"], lambda g: within(g, num_classes=0)),
    "no classes of DTensors": ("ValueError", ["num_classes", "0"], lambda g: without(g, X, W, Y, num_classes=0)),
    "a negative class first": ("ValueError", ["first_class", "-1"], lambda g: within(g, first_class=-1)),
    "weight of a shard": ("ValueError", ["weight", "8", "(4,)"], lambda g: within(g, weight=torch.ones(4))),
    "weight of padding": ("ValueError", ["weight", "7"], lambda g: within(g, Y % 7, weight=B, num_classes=7)),
    "class of padding": ("IndexError", ["class 7", "row 3"], lambda g: within(g, num_classes=7)),
    "picked class of padding": ("IndexError", ["class 7", "row 3"], lambda g: within(g, picked(Y), num_classes=7)),
    "class too large": ("IndexError", ["class 9", "row 2", "8 classes"], lambda g: within(g, BAD)),
    "class too large for DTensors": ("IndexError", ["class 9", "row 2"], lambda g: without(g, on(g, X, S0), W, BAD)),
    "class too large in a DTensor": ("IndexError", ["class 9"], lambda g: without(g, on(g, X, S0), W, on(g, BAD, S0))),
    "probabilities of all": ("ValueError", ["(4, 8)", "(4, 4)"], lambda g: within(g, P)),
    "probabilities of a shard": ("ValueError", ["(4, 8)", "(4, 4)"], lambda g: without(g, X, W, half(P.T).T)),
    "classes of a rank": ("ValueError", ["(2,)", "(4,)"], lambda g: loss(on(g, X, S0), on(g, W), Y[:2])),
    "bias of all": ("ValueError", ["linear_bias", "(8,)", "(4,)"], lambda g: within(g, linear_bias=B)),
}


def two(group: Any) -> Tensor:
    """The input, on a mesh of its own."""
    return distribute_tensor(X, DeviceMesh.from_group(group, "cpu", mesh_dim_names=("a",)), (R,), src_data_rank=None)


def picked(index: Tensor) -> TopK:
    return TopK(index[:, None], torch.ones(len(index), 1))


def misused(group: Any, name: str) -> tuple[str, str, float]:
    return caught(lambda: MISUSE[name][2](group))


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(ranks: Ranks, name: str) -> None:
    error, words, _ = MISUSE[name]
    for got, text, _ in ranks.run(2, misused, name):
        assert got == error, text
        for word in words:
            assert word in text, f"{word!r} is not in {text!r}"
        assert "\n" not in text
