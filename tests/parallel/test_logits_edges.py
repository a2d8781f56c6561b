"""cross_entropy of classes that are spread over ranks where other libraries go wrong, and where numbers are special."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as nnf

import crossent.torch as F
from crossent.torch import TopK
from tests.parallel.shards import (
    ALL,
    KINDS,
    SMOOTH,
    STATS,
    Call,
    apart,
    check,
    cut,
    differences,
    layout_of,
    nothing_wrong,
    part_of,
)
from tests.torch import plain

pytestmark = pytest.mark.slow

counts = pytest.mark.parametrize("n", [1, 2, 3, 4])


def smoothed(group):
    # uniform logits cost log V, and smoothing alone pulls every class towards 1/V: V counts the classes of all ranks
    V = 3 * dist.get_world_size(group)
    z = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        z[:, 0] = 1.0
    loss = F.cross_entropy(z, torch.tensor([0, V - 1]), label_smoothing=1.0, process_group=group, reduction="none")
    (g,) = torch.autograd.grad(loss.sum(), z)
    k = V / 3
    total = k * math.e + V - k
    want = torch.full((2,), math.log(total) - k / V, dtype=torch.float64)
    slope = (torch.tensor([math.e, 1, 1], dtype=torch.float64) / total - 1 / V).expand(2, 3)
    return apart("loss", loss, want) + apart("gradient", g, slope)


@counts
def test_smoothing_is_spread_over_the_classes_of_all_ranks(ranks, n):
    nothing_wrong(ranks.run(n, smoothed))


def far_away(group):
    _ = torch.manual_seed(4)
    found: list[str] = []
    for owner, reduction in itertools.product(range(4), ("mean", "none")):
        z = plain.logits_of((6, 12))
        y = torch.randint(3 * owner, 3 * owner + 3, (6,))
        for rows in (0, 2, 6):
            y[:rows] = -100
            call = Call(z, y.clone(), {"reduction": reduction, "label_smoothing": 0.1, "return_stats": True})
            found += check(group, call, "default")
            call = Call(z, y.clone(), {"reduction": reduction})
            found += check(group, call, "default", function=nnf.cross_entropy) if rows < 6 else []
    return found


def test_targets_of_another_shard_and_ignored_rows(ranks):
    nothing_wrong(ranks.run(4, far_away))


def all_ignored(group):
    z, y = torch.randn(3, 4, requires_grad=True), torch.full((3,), -100)
    found: list[str] = []
    extras: tuple[dict[str, Any], ...] = ({}, {"weight": torch.rand(8)}, {"label_smoothing": 0.1}, {"z_loss": 0.1})
    for options in extras:
        for reduction in ("mean", "sum", "none"):
            loss, stats = F.cross_entropy(z, y, process_group=group, reduction=reduction, return_stats=True, **options)
            (g,) = torch.autograd.grad(loss.sum() + stats.lse.sum() + stats.entropy.sum(), z)
            found += apart("gradient", g, torch.zeros_like(g))
            found += apart("loss", loss, torch.full_like(loss, math.nan if reduction == "mean" else 0.0))
            found += [f"{name} is not 0" for name in STATS if name != "predicted" and getattr(stats, name).any()]
            found += [] if (stats.predicted == -1).all() else [f"predicted is {stats.predicted}"]
    return found


def test_all_rows_ignored(ranks):
    nothing_wrong(ranks.run(2, all_ignored))


def one_output_at_a_time(group):
    _ = torch.manual_seed(5)
    found: list[str] = []
    for kind in KINDS:
        call = Call.draw((5, 11), kind, reduction="none", return_stats=True, **ALL)
        here = call.of(group, "uneven")
        want, got = call.outputs(), here.outputs()
        for k, name in enumerate(SMOOTH):
            sides = []
            for side, out in ((call, want), (here, got)):
                leaves = side.leaves()
                g = plain.cotangent_like(out[name], k)
                again = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
                grads = [torch.autograd.grad(out[name], list(leaves.values()), g, **again) for _ in range(2)]
                if not all(torch.equal(a, b) for a, b in zip(*grads, strict=True)):
                    found += [f"{kind} {name}: a second backward gives something else"]
                sides.append({f"gradient of {key}": x for key, x in zip(leaves, grads[0], strict=True)})
            found += differences(f"{kind} {name}", sides[1], part_of(sides[0], group, "uneven", call))
    return found


@pytest.mark.parametrize("n", [2, 4])
def test_random_cotangents_of_each_output_twice(ranks, n):
    nothing_wrong(ranks.run(n, one_output_at_a_time))


def second_derivatives(group, kind):
    _ = torch.manual_seed(6)
    found: list[str] = []
    for reduction, options in itertools.product(("mean", "none"), ({}, {"softcap": 2.0}, ALL)):
        call = Call.draw((4, 7), kind, reduction=reduction, return_stats=True, **options)
        sides = []
        for side in (call, call.of(group, "uneven")):
            out, leaves = side.outputs(), side.leaves()
            squares = [(plain.cotangent_like(out[name], k) * out[name] ** 2).sum() for k, name in enumerate(SMOOTH)]
            (g,) = torch.autograd.grad(squares, side.input, create_graph=True)
            v = {"slope": plain.cotangent_like(call.input, 9)}
            v = v if side is call else part_of(v, group, "uneven", call)
            hessian = torch.autograd.grad(g, list(leaves.values()), v["slope"])
            sides.append({"slope": g} | {f"gradient of {key}": x for key, x in zip(leaves, hessian, strict=True)})
        want = part_of(sides[0], group, "uneven", call)
        found += differences(f"{kind} {reduction} {list(options)}", sides[1], want)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 3])
def test_second_derivatives(ranks, n, kind):
    nothing_wrong(ranks.run(n, second_derivatives, kind))


# Special values


def special_values(group):
    inf, nan = math.inf, math.nan
    found: list[str] = []
    rows = torch.tensor(
        [
            [0, 1, 2, -inf, -inf, -inf, 3, 1],  # here and below, −inf fills whole shards
            [-inf, -inf, -inf, -inf, 0, 1, -inf, -inf],
            [0, nan, 1, 2, 3, 4, 5, 6],
            [-inf] * 8,
            [0, 1, 2, 3, 4, 5, 6, inf],
            [0, -inf, 1, inf, 1, inf, 0, 0],
            [1, 2, 3, 4, 5, 6, 7, 8],
        ],
        dtype=torch.float64,
    ).requires_grad_()
    sound = [0, 1, 6]
    targets = {
        "index": torch.tensor([0, 4, 0, 0, 7, 3, 2]),
        "impossible": torch.tensor([3, 0, 7, 1, 0, 4, 0]),
        "ignored": torch.tensor([7, 5, -100, -100, -100, -100, 7]),
    }
    for (name, y), layout, stats in itertools.product(
        targets.items(), ("default", "padded", "uneven", "empty"), (0, 1)
    ):
        if layout == "default" and 8 % dist.get_world_size(group):
            continue
        call = Call(rows, y, {"reduction": "none", "return_stats": bool(stats)})
        found += check(group, call, layout)
        got = call.of(group, layout).everything()
        found += apart(name, got["loss"], nnf.cross_entropy(rows, y, reduction="none"))
        finite = got["gradient of input"].isfinite().all(1)
        if name != "impossible" and not finite[sound].all():
            found += [f"{name} {layout}: gradients of sound rows are {got['gradient of input']}"]
        if name == "ignored" and (not finite.all() or got["gradient of input"][2:6].any()):
            found += [f"{name} {layout}: gradients of ignored rows are {got['gradient of input']}"]
    return found


@pytest.mark.parametrize("n", [2, 3, 4])
def test_special_values_are_those_of_one_process(ranks, n):
    nothing_wrong(ranks.run(n, special_values))


def impossible_classes(group):
    _ = torch.manual_seed(18)
    found: list[str] = []
    for layout, kind, stats in itertools.product(("uneven", "empty"), ("topk", "dense"), (False, True)):
        for extra in ({}, {"softcap": 3.0}, {"label_smoothing": 0.1}, {"temperature": 0.5, "z_loss": 0.1}):
            call = Call.draw((6, 11), kind, reduction="none", return_stats=stats, **extra)
            with torch.no_grad():
                call.input[0, :5] = call.input[1, 5:] = call.input[2] = call.input[3, ::2] = -math.inf
                if kind == "dense":  # in row 3 impossible classes have probability
                    call.target[:3][call.input[:3].isneginf()] = 0.0
            found += check(group, call, layout)
    return found


@pytest.mark.parametrize("n", [2, 4])
def test_soft_targets_of_impossible_classes(ranks, n):
    nothing_wrong(ranks.run(n, impossible_classes))


def one_row_of_nan(group):
    _ = torch.manual_seed(8)
    found: list[str] = []
    for kind, column, extra in itertools.product(("index", "topk", "dense"), (0, 5, 10), ({}, ALL)):
        call = Call.draw((4, 11), kind, reduction="none", return_stats=True, **extra)
        with torch.no_grad():
            call.input[1, column] = math.nan
        got = call.of(group, "uneven").everything()
        for name in ("loss", "lse", "logprob", "entropy"):
            if got[name].isnan().tolist() != [False, True, False, False]:
                found += [f"{kind} {column}: {name} is {got[name]}"]
        if not got["gradient of input"][[0, 2, 3]].isfinite().all() or got["gradient of input"][1].isfinite().any():
            found += [f"{kind} {column}: gradient is {got['gradient of input']}"]
        found += check(group, call, "uneven")
    return found


@pytest.mark.parametrize("n", [2, 4])
def test_nan_in_one_shard_makes_that_row_nan_on_all_ranks(ranks, n):
    nothing_wrong(ranks.run(n, one_row_of_nan))


def huge_logits(group, kind):
    _ = torch.manual_seed(9)
    found: list[str] = []
    for dtype, apart_by in itertools.product((torch.float64, torch.float32), (0.0, 2e4)):
        call = Call.draw((6, 12), kind, reduction="none", return_stats=True)
        with torch.no_grad():
            call.input.add_(1e4)
            call.input[3:, :6] -= apart_by
        call = call.cast(dtype)
        want = call.cast(torch.float64).everything(nnf_and_statistics)
        got = call.of(group, "default").everything()
        floor = plain.FLOOR[dtype]
        for name, x in part_of(want, group, "default", call).items():
            try:
                plain.agree(name, got[name], x, None, floor)
            except AssertionError as error:
                found += [f"{dtype} {kind} {apart_by}: {error}"]
    return found


def nnf_and_statistics(z, target, **options):
    _, stats = plain.cross_entropy(z, target, **options)
    base = target if isinstance(target, torch.Tensor) else plain.base_of(target, z, -100)[0]
    return nnf.cross_entropy(z, base, reduction=options["reduction"]), stats


@pytest.mark.parametrize("kind", KINDS)
def test_huge_logits_keep_their_accuracy(ranks, kind):
    nothing_wrong(ranks.run(3, huge_logits, kind))


# Ties


def ties(group):
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    z = torch.zeros(n, 3)
    found: list[str] = []
    _, stats = F.cross_entropy(z, torch.arange(n) * 3 + 1, process_group=group, return_stats=True)
    found += [] if stats.correct.all() else [f"equal logits: {stats.correct}"]
    z[:, 1] = 1.0
    z[0, 1] += (rank == 0) * 2.0**-23  # one unit in the last place above the others
    for temperature, softcap in ((1.0, None), (0.7, None), (3.0, None), (1.0, 30.0)):
        for k in range(3 * n):
            options = {"temperature": temperature, "softcap": softcap, "return_stats": True}
            _, stats = F.cross_entropy(z, torch.full((n,), k), process_group=group, **options)
            want = torch.tensor([k == 1] + [k % 3 == 1] * (n - 1))
            if softcap is None and not torch.equal(stats.correct, want):
                found += [f"class {k} at temperature {temperature}: {stats.correct} instead of {want}"]
            whole = torch.cat([torch.where(torch.arange(3) == 1, 1.0, 0.0).expand(n, 3)] * n, 1).contiguous()
            whole[0, 1] += 2.0**-23
            _, one = F.cross_entropy(whole, torch.full((n,), k), **options)
            if not torch.equal(stats.correct, one.correct):
                found += [f"class {k} with {options}: {stats.correct}, on one process {one.correct}"]
    return found


@counts
def test_ties_across_shards_are_correct(ranks, n):
    nothing_wrong(ranks.run(n, ties))


def tied_targets(group):
    # the most probable class of a soft target, where two are equally so
    _ = torch.manual_seed(10)
    found: list[str] = []
    for _turn in range(10):
        z = torch.randn(8, 12, dtype=torch.float64).requires_grad_()
        flat = torch.zeros(8, 12, dtype=torch.float64)
        for row in range(8):
            flat[row, torch.randperm(12)[:3]] = 0.25
        index = torch.randint(12, (8, 4))
        index[:, 3] = index[:, 0]  # picked twice: its probabilities add
        prob = torch.tensor([0.2, 0.3, 0.3, 0.2], dtype=torch.float64).expand(8, 4)
        for target in (flat, torch.full_like(flat, 0.1), TopK(index, prob), TopK(index, prob * 0 + 0.25)):
            with torch.no_grad():  # so that a right choice is often correct
                z[:4] += 3 * (plain.base_of(target, z, -100)[0][:4] > 0)
            found += check(group, Call(z, target, {"return_stats": True, "label_smoothing": 0.1}), "default")
    return found


@pytest.mark.parametrize("n", [2, 4])
def test_ties_of_a_soft_target_are_broken_as_on_one_process(ranks, n):
    nothing_wrong(ranks.run(n, tied_targets))


def at_any_temperature(group):
    _ = torch.manual_seed(11)
    first, length = layout_of("uneven", dist.get_world_size(group), 20)[0][dist.get_rank(group)]
    found: list[str] = []
    for dtype, temperature in itertools.product((torch.float32, torch.bfloat16), (1.0, 0.7, 1.3, 3.0, 0.1)):
        z = (torch.randn(300, 20) * 30).to(dtype)
        second = z.float().scatter(1, z.argmax(1, keepdim=True), -math.inf).argmax(1)
        wrong = z.gather(1, second[:, None]) < z.amax(1, keepdim=True)
        options = {"temperature": temperature, "return_stats": True, "process_group": group}
        options |= {"first_class": first, "num_classes": 20}
        _, stats = F.cross_entropy(cut(z, first, length), z.argmax(1), **options)
        found += [] if stats.correct.all() else [f"{dtype} {temperature}: the right answer is not correct"]
        _, stats = F.cross_entropy(cut(z, first, length), second, **options)
        found += [f"{dtype} {temperature}: a wrong answer is correct"] if stats.correct[wrong[:, 0]].any() else []
    return found


def test_the_right_answer_is_correct_at_any_temperature(ranks):
    nothing_wrong(ranks.run(3, at_any_temperature))
