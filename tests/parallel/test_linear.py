"""linear_cross_entropy of a layer of which each rank has some classes: what one process gives, whatever is asked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from tests.parallel.linear import (
    CUTS,
    PIXELS,
    REDUCTIONS,
    ROWS,
    SHAPES,
    WIDE,
    Split,
    agree,
    check,
    check_dtype,
    differ,
    off,
    outcome,
)
from tests.parallel.ranks import Ranks
from tests.torch import plain
from tests.torch.linear import KINDS, WITH, Shape, draw

pytestmark = pytest.mark.slow

kinds = pytest.mark.parametrize("kind", KINDS)
any_ranks = pytest.mark.parametrize("n", [1, 2, 3, 4])


# Values and derivatives


def any_of(*choices: Sequence[Any]) -> list[Any]:
    """One of each, the same on every rank."""
    return [some[int(torch.randint(len(some), ()))] for some in choices]


def every_option(group: Any, kind: str, stats: bool) -> list[str]:
    wrong: list[str] = []
    for turn, (option, reduction) in enumerate(itertools.product(WITH, REDUCTIONS), KINDS.index(kind) + group.size()):
        if stats and turn % 3 != list(WITH).index(option) % 3:
            continue
        _ = torch.manual_seed(1000 * group.size() + 100 * KINDS.index(kind) + turn)
        shape, cut, chunk_bytes, spread = any_of(SHAPES, CUTS, (None, 200, 60), (1.0, 5.0))
        args, options = draw(shape, kind, option, bias=turn % 5 != 0, spread=spread)
        options |= {"reduction": reduction}
        where = f"{option}, {reduction}, {shape}"
        wrong += check(group, cut, args, options, stats=stats, chunk_bytes=chunk_bytes, where=where)
    return wrong


@any_ranks
@kinds
def test_every_option_of_every_target(ranks: Ranks, kind: str, n: int) -> None:
    agree(ranks.run(n, every_option, kind, False))


@any_ranks
@kinds
def test_statistics_and_their_gradients(ranks: Ranks, kind: str, n: int) -> None:
    agree(ranks.run(n, every_option, kind, True))


def by_torch(x: Tensor, w: Tensor, t: Tensor, b: Tensor | None, _: None, **options: Any) -> Tensor:
    return nnf.cross_entropy(nnf.linear(x, w, b), t, **options)


def as_in_torch(group: Any) -> list[str]:
    wrong: list[str] = []
    _ = torch.manual_seed(group.size())
    for kind, option, reduction, cut in itertools.product(
        ("ignored", "dense"), ("nothing", "weight", "smoothing"), REDUCTIONS, ("equal", "uneven")
    ):
        args, options = draw((ROWS, WIDE)[cut == "equal"], kind, option, bias=True)
        options |= {"reduction": reduction}
        split = Split(group, cut, args)
        got = outcome(split.function(), split.args(args), options)
        wrong += differ(got, split.expected(outcome(by_torch, args, options)), f"{kind}, {option}, {reduction}, {cut}")
    return wrong


@pytest.mark.parametrize("n", [2, 4])
def test_torch_gives_the_same(ranks: Ranks, n: int) -> None:
    agree(ranks.run(n, as_in_torch))


def in_dtype(group: Any, kind: str, dtype: torch.dtype) -> list[str]:
    wrong: list[str] = []
    for turn, option in enumerate(WITH, KINDS.index(kind)):
        _ = torch.manual_seed(turn)
        args, options = draw(SHAPES[1 + turn % 5], kind, option, bias=turn % 2 == 0, spread=(1.0, 5.0, 3.0)[turn % 3])
        options |= {"reduction": REDUCTIONS[(turn + KINDS.index(kind)) % 3]}
        wrong += check_dtype(group, ("equal", "uneven")[turn // 2 % 2], dtype, args, options)
    return wrong


@pytest.mark.parametrize("dtype", plain.DTYPES[1:], ids=str)
@kinds
def test_the_error_of_a_dtype_is_that_of_one_process(ranks: Ranks, kind: str, dtype: torch.dtype) -> None:
    agree(ranks.run(2 + KINDS.index(kind) % 3, in_dtype, kind, dtype))


def differentiated_twice(group: Any, kind: str) -> list[str]:
    wrong: list[str] = []
    for turn, (option, reduction) in enumerate(itertools.product(("nothing", "softcap", "everything"), REDUCTIONS)):
        _ = torch.manual_seed(turn)
        args, options = draw(SHAPES[1 + turn % 3], kind, option, bias=True)
        options |= {"reduction": reduction}
        where = f"{option}, {reduction}"
        wrong += check(group, CUTS[turn % 2], args, options, stats=turn % 4 == 0, twice=True, where=where)
    return wrong


@kinds
def test_second_derivatives(ranks: Ranks, kind: str) -> None:
    agree(ranks.run(3, differentiated_twice, kind))


# What concerns the classes


def smoothed(group: Any) -> list[float]:
    _ = torch.manual_seed(0)
    args, _ = draw(Shape((6,), (), 7, 4), "index", bias=True)
    x, w, y, b, _ = args
    logp = nnf.linear(x, w, b).log_softmax(-1)
    want = -(0.7 * logp[torch.arange(6), y] + 0.3 * logp.mean(-1))
    errors: list[float] = []
    for cut in ("equal", "uneven", "turned"):
        split = Split(group, cut, args)
        errors.append(off(split.function()(*split.args(args), label_smoothing=0.3, reduction="none"), want))
    return errors


@any_ranks
def test_smoothing_spreads_over_all_classes(ranks: Ranks, n: int) -> None:
    assert max(itertools.chain(*ranks.run(n, smoothed))) <= 1e-12


def of_one_shard(group: Any) -> list[str]:
    wrong: list[str] = []
    for owner, kind, option in itertools.product((0, 6), ("index", "topk"), ("nothing", "everything")):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, kind, option, bias=True)
        _ = (args[2].index if kind == "topk" else args[2]).fill_(owner)
        wrong += check(group, "uneven", args, options, stats=True, where=f"class {owner}, {kind}, {option}")
    return wrong


def test_the_target_is_of_another_shard(ranks: Ranks) -> None:
    agree(ranks.run(4, of_one_shard))


def with_nothing(group: Any, cut: str, classes: int) -> list[str]:
    wrong: list[str] = []
    some: tuple[str, ...] = ("nothing", "everything")
    for kind, option, reduction in itertools.product(KINDS, some, REDUCTIONS):
        _ = torch.manual_seed(0)
        args, options = draw(Shape((5,), (), classes, 3), kind, option, bias=True)
        options |= {"reduction": reduction}
        where = f"{kind}, {option}, {reduction}"
        wrong += check(group, cut, args, options, stats=reduction == "none", twice=reduction == "sum", where=where)
    return wrong


@pytest.mark.parametrize(("n", "cut", "classes"), [(2, "empty", 7), (4, "empty", 7), (4, "equal", 5), (2, "equal", 1)])
def test_a_rank_without_classes(ranks: Ranks, n: int, cut: str, classes: int) -> None:
    agree(ranks.run(n, with_nothing, cut, classes))


def padded(group: Any, twice: bool) -> list[str]:
    wrong: list[str] = []
    for kind, reduction, padding in itertools.product(KINDS, ("mean", "none"), (1e4, torch.inf, torch.nan)):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, kind, "everything", bias=True)
        options |= {"reduction": reduction}
        where = f"{kind}, {reduction}, padded with {padding}"
        wrong += check(group, "equal", args, options, stats=not twice, twice=twice, padding=padding, where=where)
    return wrong


@pytest.mark.parametrize("twice", [False, True], ids=["first", "second derivatives"])
def test_padding_may_hold_anything(ranks: Ranks, twice: bool) -> None:
    agree(ranks.run(2, padded, twice))


# What concerns the rows


def of_no_rows(group: Any) -> list[str]:
    wrong: list[str] = []
    _ = torch.manual_seed(0)
    for shape, kind, reduction in itertools.product(
        (Shape((0,), (), 7, 3), Shape((2, 0), (), 7, 3), Shape((0,), (2,), 5, 2)),
        ("index", "dense", "topk"),
        REDUCTIONS,
    ):
        args, options = draw(shape, kind, bias=True)
        options |= {"reduction": reduction}
        wrong += check(group, "equal", args, options, where=f"{shape}, {kind}, {reduction}")
    return wrong


def test_no_rows(ranks: Ranks) -> None:
    agree(ranks.run(3, of_no_rows))


def of_ignored_rows(group: Any) -> list[str]:
    wrong: list[str] = []
    for shape, option, reduction in itertools.product((ROWS, PIXELS), ("nothing", "weight", "z-loss"), REDUCTIONS):
        _ = torch.manual_seed(0)
        args, options = draw(shape, "index", option, bias=True)
        _ = args[2].fill_(-100)
        options |= {"reduction": reduction}
        wrong += check(group, "uneven", args, options, stats=True, where=f"{shape}, {option}, {reduction}")
    return wrong


def test_all_rows_ignored(ranks: Ranks) -> None:
    agree(ranks.run(3, of_ignored_rows))


def in_chunks(group: Any, kind: str) -> list[str]:
    wrong: list[str] = []
    for reduction, (shape, chunk_bytes) in itertools.product(
        ("mean", "none"), ((Shape((40,), (), 33, 6), 200), (Shape((7, 5), (), 9, 3), 200), (Shape((4,), (2,), 9, 3), 1))
    ):
        _ = torch.manual_seed(0)
        args, options = draw(shape, kind, "everything", bias=True)
        options |= {"reduction": reduction}
        where = f"{shape}, {reduction}"
        wrong += check(group, "uneven", args, options, stats=True, chunk_bytes=chunk_bytes, where=where)
    return wrong


@kinds
def test_many_chunks(ranks: Ranks, kind: str) -> None:
    agree(ranks.run(3, in_chunks, kind))
