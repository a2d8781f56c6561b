"""linear_cross_entropy of DTensors: classes and rows over any dimensions of a mesh give what one process gives."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from tests.parallel.layouts import S0, S1, Layout, Placements, R, call, check, here, like
from tests.parallel.linear import (
    LEAVES,
    PIXELS,
    REDUCTIONS,
    ROWS,
    TOKENS,
    WIDE,
    agree,
    alone,
    differ,
    named_leaves,
    outcome,
)
from tests.parallel.ranks import Ranks, square
from tests.torch import linear, plain
from tests.torch.linear import KINDS, WITH, Shape, draw

pytestmark = pytest.mark.slow

kinds = pytest.mark.parametrize("kind", KINDS)
ONE: tuple[tuple[Placements, Placements], ...] = (((S0,), (S0,)), ((R,), (S0,)), ((S0,), (R,)))
"""Sequence parallel, classes only, rows only."""
TWO: tuple[tuple[Placements, Placements], ...] = (
    ((S0, R), (R, S0)),
    ((S0, S0), (R, S0)),
    ((R, S0), (S0, R)),
    ((S0, R), (S0, S0)),
    ((R, S0), (S0, S0)),
)
"""Rows by classes, rows over both, classes by rows, and rows over one of two dimensions that share the classes."""


def every(*choices: Any) -> Any:
    """All combinations."""
    return itertools.product(*choices)


# One dimension


def on_one_dimension(group: Any, kind: str) -> list[str]:
    wrong: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    layouts = list(every((R, S0, S1), (S0, R), (False, True), (False, True)))
    for turn, (option, reduction) in enumerate(every(WITH, REDUCTIONS), KINDS.index(kind) + group.size()):
        _ = torch.manual_seed(turn)
        x, w, whole, by_rows = layouts[turn % len(layouts)]
        shape = TOKENS if x == S1 else (ROWS, TOKENS, PIXELS, WIDE)[turn // 3 % 4]
        layout = Layout(mesh, (x,), (w,), whole=whole, by_rows=by_rows, padding=(0, 0, 3)[turn % 3])
        args, options = draw(shape, kind, option, bias=turn % 7 != 0)
        options |= {"reduction": reduction, "chunk_bytes": (None, 200)[turn // 3 % 2]}
        wrong += check(layout, args, options, stats=turn % 5 == 0, where=f"{shape}, {option}, {reduction}")
    return wrong


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@kinds
def test_layouts_of_one_dimension(ranks: Ranks, kind: str, n: int) -> None:
    agree(ranks.run(n, on_one_dimension, kind))


def biases(group: Any) -> list[str]:
    wrong: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    for (w, b), x, padding, reduction in every(((S0, R), (R, S0)), (R, S0), (0, 1), ("mean", "none")):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, "index", "everything", bias=True)
        layout = Layout(mesh, (x,), (w,), (b,), padding=padding)
        wrong += check(layout, args, options | {"reduction": reduction}, stats=True, where=reduction)
    return wrong


def test_a_bias_that_is_placed_otherwise(ranks: Ranks) -> None:
    agree(ranks.run(2, biases))


def double(group: Any, kind: str) -> list[str]:
    wrong: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    for turn, ((x, w), reduction) in enumerate(every((*ONE, ((S1,), (S0,))), REDUCTIONS), KINDS.index(kind)):
        _ = torch.manual_seed(turn)
        layout = Layout(mesh, x, w, whole=turn % 4 == 0)
        args, options = draw(TOKENS if x == (S1,) else ROWS, kind, ("nothing", "everything")[turn % 2], bias=True)
        options |= {"reduction": reduction}
        wrong += check(layout, args, options, stats=turn % 3 == 1, twice=True, where=reduction)
    return wrong


@kinds
def test_second_derivatives(ranks: Ranks, kind: str) -> None:
    agree(ranks.run(2, double, kind))


# Two dimensions


def is_refused(x: Placements, w: Placements) -> bool:
    """Rows that lie over two dimensions of the classes, or over one and then further over another."""
    both = [k for k in range(2) if R not in {x[k], w[k]}]
    return len(both) == 2 or (both == [0] and x[0] == x[1])


def on_two_dimensions(_: Any, kind: str) -> list[str]:
    wrong: list[str] = []
    combinations = list(every(WITH, REDUCTIONS))
    layouts = every(every((R, S0, S1), (R, S0, S1)), every((R, S0), (R, S0)))
    for turn, (x, w) in enumerate(layouts, 6 * KINDS.index(kind)):
        _ = torch.manual_seed(turn)
        option, reduction = combinations[turn % 24]
        shape = Shape((3, 5), (), 7, 4) if S1 in x else (ROWS, PIXELS, TOKENS)[turn % 3]
        shape, padding = dataclasses.replace(shape, C=7), (0, 1)[turn % 7 == 3]
        layout = Layout(square(), x, w, whole=turn % 3 == 0, by_rows=turn // 3 % 2 == 0, padding=padding)
        args, options = draw(shape, kind, option, bias=turn % 5 != 0)
        options |= {"reduction": reduction, "chunk_bytes": (None, 200)[turn // 2 % 2]}
        if is_refused(x, w):
            with pytest.raises(NotImplementedError, match="redistribute"):
                _ = call(*layout.args(args), **layout.options(args, options))
        else:
            wrong += check(layout, args, options, stats=turn % 5 == 1, where=f"{shape}, {option}, {reduction}")
    return wrong


@kinds
def test_layouts_of_two_dimensions(ranks: Ranks, kind: str) -> None:
    agree(ranks.run(4, on_two_dimensions, kind))


def on_few_rows(_: Any, rows: int) -> list[str]:
    wrong: list[str] = []
    for (x, w), reduction, whole in every(TWO, REDUCTIONS, (False, True)):
        _ = torch.manual_seed(rows)
        kind = KINDS[::2][whole] if rows else "index"
        args, options = draw(Shape((rows,), (), 9, 3), kind, "nothing" if not rows else "everything", bias=True)
        options |= {"reduction": reduction}
        wrong += check(Layout(square(), x, w, whole=whole), args, options, stats=whole, where=f"{kind}, {reduction}")
    return wrong


@pytest.mark.parametrize("rows", [0, 3, 5])
def test_rows_that_do_not_go_round(ranks: Ranks, rows: int) -> None:
    agree(ranks.run(4, on_few_rows, rows))


def ignored_on_one(_: Any, rows: slice) -> list[str]:
    wrong: list[str] = []
    for (x, w), option, reduction in every(TWO, ("nothing", "everything"), REDUCTIONS):
        _ = torch.manual_seed(0)
        args, options = draw(Shape((8,), (), 9, 3), "index", option, bias=True)
        args[2][rows] = -100
        if rows == slice(None):
            args = (*args[:4], None if args[4] is None else args[4].detach())
        options |= {"reduction": reduction}
        stats = reduction == "none"
        wrong += check(Layout(square(), x, w), args, options, stats=stats, where=f"{option}, {reduction}")
    return wrong


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 6), slice(None)], ids=["half", "quarter", "all"])
def test_all_rows_of_a_rank_ignored(ranks: Ranks, rows: slice) -> None:
    agree(ranks.run(4, ignored_on_one, rows))


def in_chunks(_: Any, kind: str) -> list[str]:
    wrong: list[str] = []
    for (x, w), reduction in every(TWO, ("mean", "none")):
        _ = torch.manual_seed(0)
        args, options = draw(Shape((30,), (), 21, 3), kind, "everything", bias=True)
        options |= {"reduction": reduction, "chunk_bytes": 200}
        wrong += check(Layout(square(), x, w), args, options, where=reduction)
    return wrong


@kinds
def test_many_chunks(ranks: Ranks, kind: str) -> None:
    agree(ranks.run(4, in_chunks, kind))


def without_classes(group: Any) -> list[str]:
    wrong: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    for kind, x, (classes, padding), reduction in every(KINDS, (R, S0), ((5, 0), (3, 5)), ("mean", "none")):
        _ = torch.manual_seed(0)
        args, options = draw(Shape((6,), (), classes, 3), kind, "everything", bias=True)
        options |= {"reduction": reduction}
        wrong += check(Layout(mesh, (x,), (S0,), padding=padding), args, options, where=f"{kind}, {reduction}")
    return wrong


def test_a_rank_without_classes(ranks: Ranks) -> None:
    agree(ranks.run(4, without_classes))


# Precision, what needs no gradient, and what is called twice


def in_dtype(_: Any, dtype: torch.dtype) -> list[str]:
    wrong: list[str] = []
    for turn, ((x, w), kind) in enumerate(every(TWO, KINDS)):
        _ = torch.manual_seed(turn)
        option, layout = list(WITH)[turn % len(WITH)], Layout(square(), x, w)
        args, options = draw(WIDE, kind, option, bias=True, spread=(1.0, 3.0)[turn % 2])
        args = tuple(plain.cast(a, dtype) for a in args)
        options = {k: plain.cast(v, dtype) for k, v in options.items()} | {"reduction": REDUCTIONS[turn % 3]}

        parts = layout.args(args)
        loss = call(*parts, **layout.options(args, options))
        leaves = named_leaves(parts)
        grads = torch.autograd.grad(loss, list(leaves.values()), like(plain.cotangent_like(loss).to(loss.dtype), loss))
        got = {"loss": loss} | {f"loss by {k}": g for k, g in zip(leaves, grads, strict=True)}
        exact = tuple(plain.cast(a, torch.float64) for a in args)
        want = outcome(
            linear.linear_cross_entropy, exact, {k: plain.cast(v, torch.float64) for k, v in options.items()}
        )
        rival = outcome(linear.in_float32(linear.linear_cross_entropy), args, options)
        for k, a in got.items():
            full = a.full_tensor() if isinstance(a, DTensor) else a
            if full.dtype != (dtype if " by " in k else torch.float32):
                wrong.append(f"{k} is {full.dtype}")
            try:
                plain.agree(k, full, want[k], rival[k], plain.FLOOR[full.dtype])
            except AssertionError as error:
                wrong.append(f"{layout}, {kind}, {option}: {error}")
    return wrong


@pytest.mark.parametrize("dtype", plain.DTYPES[1:], ids=str)
def test_the_error_of_a_dtype_is_that_of_one_process(ranks: Ranks, dtype: torch.dtype) -> None:
    agree(ranks.run(4, in_dtype, dtype))


def frozen(group: Any) -> list[str]:
    wrong: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    for kept, (x, w), reduction, stats in every(LEAVES, ONE, ("mean", "none"), (False, True)):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, "dense", "everything", bias=True, frozen=tuple({*LEAVES} - {kept}))
        layout, options = Layout(mesh, x, w), options | {"reduction": reduction}
        if not stats:
            wrong += check(layout, args, options, where=f"only {kept}, {reduction}")
        with torch.no_grad():
            result = call(*layout.args(args), **layout.options(args, options), return_stats=stats)
            want = alone(*args, **options, return_stats=stats)
        got = result[1].entropy if stats else result
        if got.requires_grad:
            wrong.append(f"only {kept}, {reduction}: a gradient")
        wrong += differ({"": here(got)}, {"": here(like(want[1].entropy if stats else want, got))}, f"{reduction}")
    return wrong


def test_frozen_operands(ranks: Ranks) -> None:
    agree(ranks.run(2, frozen))


def repeated(group: Any) -> list[str]:
    wrong: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    for (x, w), kind, reduction in every(ONE, KINDS, ("mean", "none")):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, kind, "everything", bias=True)
        layout, where = Layout(mesh, x, w), f"{x} × {w}, {kind}, {reduction}"
        parts, placed = layout.args(args), layout.options(args, options) | {"reduction": reduction}
        given = [here(a).clone() for a in linear.tensors(*parts)]
        loss, again = call(*parts, **placed), call(*parts, **placed)
        leaves: list[Any] = list(named_leaves(parts).values())
        g = like(plain.cotangent_like(loss), loss)
        _ = loss.backward(g, retain_graph=True)
        first = [here(a.grad).clone() for a in leaves]
        if any(a.grad.placements != a.placements for a in leaves):
            wrong.append(f"{where}: placements of .grad")
        for a in leaves:
            a.grad = None
        _ = loss.backward(g)
        second = [here(a.grad).clone() for a in leaves]
        _ = again.backward(g)
        for a, b, c in zip(first, second, leaves, strict=True):
            if not torch.equal(a, b) or not torch.equal(2 * a, here(c.grad)):
                wrong.append(f"{where}: another gradient")
        if not torch.equal(here(loss), here(again)):
            wrong.append(f"{where}: another loss")
        if not all(torch.equal(here(a), b) for a, b in zip(linear.tensors(*parts), given, strict=True)):
            wrong.append(f"{where}: an argument is written to")
    return wrong


def test_calls_and_backwards_repeat_and_accumulate(ranks: Ranks) -> None:
    agree(ranks.run(2, repeated))


def under_autocast(group: Any) -> list[str]:
    wrong: list[str] = []
    mesh = DeviceMesh.from_group(group, "cpu")
    for (x, w), kind in every(ONE, KINDS):
        _ = torch.manual_seed(0)
        args, options = draw(ROWS, kind, "everything", bias=True)
        args = tuple(plain.cast(a, torch.float32) for a in args)
        low = tuple(plain.cast(a, torch.bfloat16) if k in (0, 1, 3) else a for k, a in enumerate(args))
        layout, want = Layout(mesh, x, w), outcome(alone, low, options)
        parts = layout.args(args)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = call(*parts, **layout.options(args, options))
        leaves = named_leaves(parts)
        grads: Any = torch.autograd.grad(loss, list(leaves.values()), like(plain.cotangent_like(loss).float(), loss))
        if not plain.off(here(loss), want["loss"]) <= plain.FLOOR[torch.float32]:
            wrong.append(f"{layout}, {kind}: loss")
        for (k, leaf), g in zip(leaves.items(), grads, strict=True):
            error = plain.off(g.full_tensor(), want[f"loss by {k}"])
            if g.dtype != leaf.dtype or not error <= plain.FLOOR[torch.bfloat16]:
                wrong.append(f"{layout}, {kind}: {k} is off by {error:.3g}")
    return wrong


def test_under_autocast(ranks: Ranks) -> None:
    agree(ranks.run(2, under_autocast))
