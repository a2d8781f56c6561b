"""Numbers that are not finite, targets that do not exist, memory beside the rows, very long rows, parts of rows.

The truth is the shipped reference in float64, and its error bounds are those of `tests.oracle`. Where calls differ in
nothing that matters to a row, its results have the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from crossent import reference
from crossent.kernels import cpu
from crossent.spec import Scores, Target
from crossent.stats import RowStats
from tests import data, oracle
from tests.data import Case, Layout, as_rows
from tests.kernels.triton.device import as_tensor, backend

INF, NAN, PLAIN = math.inf, math.nan, Scores()
ODD, HELD = Layout("rows apart", (1, 0), (2, 0), (False, False)), Layout("held", (0,), (0,), (False,))
FLAT, APART = data.LAYOUTS["rows"], data.LAYOUTS["classes in the middle, apart"]
each = pytest.mark.parametrize
kinds = each("kind", data.KINDS)
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter


# Calls


def evaluate(logits: Any, target: Target, scores: Scores = PLAIN, given: Any = None, scale: Any = None) -> Any:
    """The results of all three functions, NaN beforehand; in float64, rows last. `again` is row_fused's record."""
    one = torch.ones(logits.numel() // logits.shape[1])
    narrow = torch.float64 if logits.dtype == torch.float64 else torch.float32
    summary = {name: torch.full(one.shape, NAN, dtype=narrow) for name in ("loss", "lse", "entropy")}
    records = {name: torch.full((5, *one.shape), NAN, dtype=torch.float64) for name in ("record", "again")}
    grads = {name: torch.full_like(logits, NAN) for name in ("grad", "fused")}
    backend.row_stats(logits, target, scores, records["record"], tuple(summary.values()))
    backend.row_grad(logits, target, scores, records["record"], given or (one, None, None), grads["grad"])
    backend.row_fused(logits, target, scores, scale or (one, None), records["again"], grads["fused"])
    rows = {name: as_rows(x.double().numpy()).T for name, x in grads.items()}
    return {name: x.double().numpy() for name, x in (summary | records).items()} | rows


def same_bits(got: Any, want: Any, rows: list[int]) -> None:
    for name, x in got.items():
        np.testing.assert_array_equal(x[..., rows], want[name][..., rows], err_msg=name)


def bound(logits: Any) -> float:
    """Above all first-order bounds of `oracle`, where scores lie within d > log V of their peak."""
    finite = logits[logits.isfinite()].double()
    u = 2.0**-53 if logits.dtype == torch.float64 else 2.0**-24
    return oracle.K * u * (1 + (finite.max() - finite.min()).item()) ** 2


def draw(kind: str, dtype: str, rows: int, V: int, layout: Layout, *, K: int = 3, **options: Any) -> Case:
    """Logits in a layout, and all arguments amid what must not be read. The first row names but one of its classes."""
    rng = np.random.default_rng([rows, V])
    shape = (rows, V) if len(layout.order) == 2 else (1, V, rows)
    logits = layout.hold(data.encode(rng.normal(0, 3, shape), dtype))
    scores = options.pop("scores", PLAIN)
    if kind == "dense":
        target = Target(prob=layout.hold(rng.random(shape).astype(np.float32) / V), **options)
    elif kind == "index":
        target = Target(HELD.hold(rng.integers(0, V, rows)), **options)
    else:
        index = rng.integers(0, V, (rows, K))
        index[0] = index[0, 0]
        target = Target(ODD.hold(index), ODD.hold(rng.random((rows, K)).astype(np.float32)), **options)
    cotangents = tuple(HELD.hold(rng.normal(size=rows).astype(np.float32)) for _ in range(3))
    return Case(f"{kind} {dtype} {rows} x {V}", dtype, logits, target, scores, cotangents, layout)


def tensors(case: Case) -> tuple[Any, Target, Scores]:
    return as_tensor(case.logits, case.dtype), oracle.wrapped(case.target, torch.from_numpy), case.scores


# Numbers that are not finite


@each(("kind", "dtype"), [("index", "bfloat16"), ("topk", "float32"), ("dense", "float16")])
def test_what_is_not_finite_stays_in_its_row_and_does_there_what_the_reference_says(kind, dtype):
    rng = torch.Generator().manual_seed(0)
    calm = torch.randn(12, 37, generator=rng).to(getattr(torch, dtype))
    odd = calm.clone()
    odd[1, 0] = odd[2, 36] = odd[3, 3] = NAN
    odd[4, 5] = odd[4, 20] = -INF  # not on the target: these classes cannot be
    odd[5, 3] = -INF  # on the target: the loss is infinite
    odd[6] = odd[7, 4:] = odd[7, :3] = -INF  # no class can be, and but one can
    odd[8, 20] = INF
    odd[9], odd[10, 9] = NAN, INF
    given, scale = torch.randn(3, 12, generator=rng), torch.randn(12, generator=rng)
    given[2, 4:6] = torch.tensor([2.0, -2.0])
    given[:, 9:11] = scale[9:11] = 0  # nothing depends on these rows, and they have no gradient
    index, prob = torch.tensor([3, 6, 5]).expand(12, 3), torch.tensor([0.75, 0.25, 0.0]).expand(12, 3)
    targets = {"index": Target(index[:, 0]), "topk": Target(index, prob)}
    target = targets.get(kind, Target(prob=torch.zeros(12, 37).scatter(1, index, prob)))
    got = evaluate(odd, target, PLAIN, tuple(given), (scale, None))
    same_bits(got, evaluate(calm, target, PLAIN, tuple(given), (scale, None)), [0, 11])

    z, plain = odd.double().numpy(), oracle.wrapped(target, torch.Tensor.numpy)
    stats, g, s = reference.row_stats(z, plain), given.double().numpy(), scale.double().numpy()
    want = {name: getattr(stats, name) for name in ("loss", "lse", "entropy")}
    want["grad"] = reference.row_grad(z, plain, PLAIN, stats, tuple(g)).T
    want["fused"] = reference.row_grad(z, plain, PLAIN, stats, (s, 0 * s, 0 * s)).T
    assert want["loss"][5] == INF
    assert (want["fused"][:, 9:11] == 0).all()
    for name, x in want.items():
        rounding = torch.finfo(odd.dtype).eps / 2 if name in {"grad", "fused"} else 0.0
        size = bound(odd) * (1 + np.abs([*g, s]).sum(0).max())
        np.testing.assert_allclose(got[name], x, rtol=rounding, atol=size, err_msg=name)


@each("layout", [FLAT, data.LAYOUTS["transposed, apart"], APART], ids=lambda x: x.name)
def test_ignored_rows_are_nothing_whatever_they_hold(layout):
    rows, gone = np.random.default_rng(2).normal(size=(6, 17)).astype(np.float32), [1, 3, 4]
    options, every = {"smoothing": 0.1, "weight": torch.linspace(0.5, 2, 17)}, tuple(torch.ones(3, 6))

    def call(rows: Any, index: Any) -> Any:
        logits = torch.from_numpy(layout.hold(data.from_rows(rows, len(layout.order), 6)))
        return evaluate(logits, Target(index, ignore_index=-100, **options), PLAIN, every, every[:2])

    want = call(rows, torch.tensor([2, 0, 5, 0, 0, 16]))
    rows[gone] = np.array([[NAN], [INF], [-INF]])
    got = call(rows, torch.tensor([2, -100, 5, -100, -100, 16]))
    same_bits(got, want, [0, 2, 5])
    for name, x in got.items():
        assert (x[..., gone] == (np.array([[0, 1, 0, 0, 0]]).T if len(x) == 5 else 0)).all(), name


# Targets that do not exist


def broken(got: Any, want: Any, bad: list[int]) -> None:
    """Loss and gradient of the bad rows are NaN, everything else has the same bits."""
    for name in ("loss", "grad", "fused"):
        assert np.isnan(got[name][..., bad]).all()
    for name in ("lse", "entropy"):
        np.testing.assert_array_equal(got[name], want[name])
    same_bits(got, want, [row for row in range(len(got["loss"])) if row not in bad])


@each(("kind", "dtype"), [("index", "int64"), ("topk", "int64"), ("topk", "int32"), ("index", "uint8")])
def test_a_class_that_does_not_exist_makes_its_row_nan_and_nothing_else(kind, dtype):
    V, dtype = 200, getattr(torch, dtype)
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    wrong = (-1, V, -99, 2**8 + 3, 2**31 - 1, -(2**31), 2**32 + 3, 3 - 2**32, 2**40, high, low + 1)
    labels = [5, 156, 199, *(x for x in wrong if low <= x <= high and not 0 <= x < V)]  # 156 is −100 in eight bits
    logits = torch.randn(len(labels), V, generator=torch.Generator().manual_seed(1))
    index = torch.tensor(labels).to(dtype)
    legal, prob = torch.tensor([x if 0 <= x < V else 7 for x in labels]).to(dtype), torch.tensor([0.5, 0.0])
    smooth = {"smoothing": 0.1, "weight": torch.linspace(0, 2, V)} if dtype == torch.int64 else {}

    def call(index: Any) -> Any:
        if kind == "index":
            return evaluate(logits, Target(index, ignore_index=-100, **smooth))
        return evaluate(logits, Target(torch.stack([legal, index], 1), prob.expand(len(labels), 2), **smooth))

    broken(call(index), call(legal), list(range(3, len(labels))))


@each(("kind", "dtype"), [("dense", "float64"), ("topk", "float32"), ("dense", "bfloat16"), ("topk", "float16")])
def test_a_probability_that_is_none_makes_its_row_nan_and_nothing_else(kind, dtype):
    rng, K = torch.Generator().manual_seed(2), 19 if kind == "dense" else 4
    logits, prob = torch.randn(6, 19, generator=rng), torch.rand(6, K, generator=rng).to(getattr(torch, dtype))
    prob[0, 0] = 0
    wrong = prob.clone()
    wrong[0, 0], wrong[1, 0], wrong[2, -1], wrong[3, 2], wrong[4, 1] = -0.0, -0.25, NAN, INF, -INF
    index = torch.arange(24).view(6, 4) % 19 if kind == "topk" else None
    for options in ({}, {"smoothing": 1.0, "weight": torch.zeros(19)}):  # even where nothing depends on them
        got, want = (evaluate(logits, Target(index, p, **options)) for p in (wrong, prob))
        broken(got, want, [1, 2, 3, 4])


@each("wrong", [-1, 5, 2**40, -0.5, NAN, INF], ids=str)
def test_if_asked_to_validate_it_raises_what_the_cpu_raises(wrong, monkeypatch):
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")
    index, picked, dense = torch.tensor([3, 1, 2, 0, 2, 4]), torch.ones(6, 2), torch.ones(2, 5, 3)
    if isinstance(wrong, int):
        error, index[2] = IndexError, wrong
        targets = {"row 2": Target(index), "(row 2": Target(index.view(6, 1), torch.ones(6, 1))}
    else:
        error, picked[4, 1], dense[1, 4, 0] = ValueError, wrong, wrong
        targets = {
            "row 4, column 1": Target(index[:, None].expand(6, 2), picked),
            "row 3, column 4": Target(prob=dense),
        }
    logits, record, one = torch.zeros(2, 5, 3), torch.zeros(5, 6, dtype=torch.float64), torch.ones(6)
    calls = (
        lambda where, target: where.row_stats(logits, target, PLAIN, record),
        lambda where, target: where.row_fused(logits, target, PLAIN, (one, None), record, torch.zeros(2, 5, 3)),
    )
    for (place, target), call in itertools.product(targets.items(), calls):
        with pytest.raises(error, match=rf"{wrong} .*{re.escape(place)}") as ours:
            call(backend, target)
        with pytest.raises(error) as theirs:
            call(cpu, target)
        assert str(ours.value) == str(theirs.value)


# Memory: the checks of `oracle` fill results with NaN and what is beside them with a pattern, and watch the arguments


def check(case: Case, *, in_place: bool = True) -> None:
    truth, wrap = oracle.Truth.of(case), functools.partial(as_tensor, dtype=case.dtype)
    record = oracle.check_row_stats(backend, case, truth, wrap)
    _ = oracle.check_row_grad(backend, case, truth, record, wrap)
    fused = oracle.check_row_fused(backend, case, truth, wrap)
    if in_place:
        again = oracle.check_row_fused(backend, case, truth, wrap, in_place=True)
        np.testing.assert_array_equal(again, fused)


CAPPED, SMOOTH, LONG = {"scores": Scores(0.7, 20.0)}, {"smoothing": 0.1}, 40_000  # a row as long as this is split
ROWS = [
    # rows of 257 numbers and two NaN begin at every offset from a vector
    ("index", "bfloat16", 8, 257, ODD, {}), ("dense", "float16", 8, 257, ODD, {}), ("topk", "float32", 5, 513, ODD, {}),
    ("topk", "bfloat16", 2, 257, ODD, {"K": 40}), ("topk", "float16", 2, 257, ODD, {"K": 1}),
    ("index", "float16", 2, 5003, ODD, SMOOTH), ("dense", "bfloat16", 3, 5003, ODD, SMOOTH),
    ("index", "bfloat16", 2, 50257, ODD, {}), ("index", "float32", 1, LONG, ODD, SMOOTH | CAPPED),
    ("dense", "float32", 1, LONG, ODD, SMOOTH), ("topk", "bfloat16", 1, LONG, ODD, SMOOTH | CAPPED),
    ("index", "float32", 3, 1, ODD, SMOOTH), ("dense", "float16", 3, 1, ODD, {}), ("topk", "float32", 3, 1, ODD, {}),
    ("index", "float32", 1, 33, APART, CAPPED), ("topk", "float32", 3, 513, APART, CAPPED),
    ("dense", "float32", 40, 33, APART, SMOOTH), ("index", "float32", 200, 17, APART, SMOOTH),
]  # fmt: skip


@each(("kind", "dtype", "rows", "V", "layout", "options"), ROWS)
def test_rows_read_and_write_nothing_beside_them(kind, dtype, rows, V, layout, options):
    check(draw(kind, dtype, rows, V, layout, weight=HELD.hold(np.linspace(0.5, 2, V)), **options))


def expanded(x: Any, *axes: int) -> Any:
    """The first of each of these axes again and again, the same memory every time."""
    strides = [0 if axis in axes else stride for axis, stride in enumerate(x.strides)]
    return np.lib.stride_tricks.as_strided(x, x.shape, strides)


@each(("kind", "axes"), [("index", (0, 1)), ("index", (0,)), ("topk", (0,)), ("dense", (1,))], ids=str)
def test_expanded_arguments(kind, axes):
    case = draw(kind, "float32", 4, 70, FLAT, smoothing=0.1, weight=expanded(np.ones(70), 0))
    target = {"prob": expanded(case.target.prob, *axes)} if kind != "index" else {}
    target |= {"index": expanded(case.target.index, 0)} if kind != "dense" else {}
    case = dataclasses.replace(
        case,
        logits=expanded(case.logits, *axes),
        target=dataclasses.replace(case.target, **target),
        cotangents=tuple(expanded(x, 0) for x in case.cotangents),
    )
    check(case, in_place=False)


@each(("kind", "V", "half"), [("index", 257, "bfloat16"), ("topk", 34_000, "bfloat16"), ("dense", 257, "float16")])
def test_float32_logits_may_have_a_gradient_in_half_precision(kind, V, half):
    case = draw(kind, "float32", 2 if V < 1000 else 1, V, ODD)
    truth, call, g = oracle.Truth.of(case), tensors(case), tuple(torch.from_numpy(x) for x in case.cotangents)
    record, rounded = torch.full((5, case.rows), NAN, dtype=torch.float64), dataclasses.replace(case, dtype=half)
    grad, fused = (oracle.Guarded(ODD, case.logits.shape, data.storage(half)) for _ in range(2))
    backend.row_fused(*call, (g[0], None), record, as_tensor(fused.view, half))
    backend.row_grad(*call, record, g, as_tensor(grad.view, half))
    for out, cotangents in ((grad, case.cotangents), (fused, (case.cotangents[0], None, None))):
        want, size = truth.grad(case, cotangents)
        oracle.agree("grad", rounded, out.values(), want, oracle.grad_bound(rounded, want, size))


# Parts of rows


def part(case: Case, first: int, last: int) -> Case:
    """Some of the columns, with their share of the target."""
    whole, V = case.target, case.logits.shape[1]
    prob = whole.prob[:, first:last] if whole.kind == "dense" else whole.prob
    share = {"prob": prob, "weight": whole.weight[first:last], "first_class": first, "num_classes": V}
    return dataclasses.replace(case, logits=case.logits[:, first:last], target=dataclasses.replace(whole, **share))


@each(("kind", "V"), [("index", 36_000), ("topk", 700), ("dense", 700)])
def test_records_of_parts_extend_and_merge_to_that_of_the_row(kind, V):
    case = draw(kind, "float32", 2, V, ODD, smoothing=0.1, weight=np.linspace(0.5, 2, V))
    parts = [part(case, *cut) for cut in ((0, 1), (1, 600), (600, V))]  # of the longest, the last is split itself
    whole, record = oracle.Truth.of(case), oracle.Guarded(ODD, (5, 2), np.float64)
    summary, merged = torch.full((3, 2), NAN), RowStats(*np.array([[-INF], [0], [0], [0], [0]]) * np.ones(2))
    for turn, piece in enumerate(parts):
        alone = torch.full((5, 2), NAN, dtype=torch.float64)
        backend.row_stats(*tensors(piece), torch.from_numpy(record.view), tuple(summary), extend=turn > 0)
        backend.row_stats(*tensors(piece), alone)
        merged = merged.merge(RowStats(*alone.numpy()))
    oracle.check_record(case, whole, record.values())
    oracle.check_record(case, whole, [getattr(merged, field) for field in oracle.FIELDS])
    for name, got in zip(("loss", "lse", "entropy"), summary.double().numpy(), strict=True):
        oracle.agree(name, case, got, getattr(whole.stats, name), oracle.unit(case) * whole.bound[name])
    for piece in parts:
        _ = oracle.check_row_grad(backend, piece, oracle.Truth.of(piece, whole), record.view, torch.from_numpy)


def test_what_is_not_finite_and_who_is_ignored_survive_an_extension():
    logits = torch.randn(8, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    logits[0, :13] = logits[1, 13:] = logits[2] = -INF
    logits[3, 0] = logits[4, 39] = logits[5] = NAN
    target = Target(torch.tensor([20, 5, 7, 8, 9, -100, 40, -1]), ignore_index=-100, smoothing=0.1)
    record, summary = torch.zeros(5, 8, dtype=torch.float64), torch.zeros(3, 8, dtype=torch.float64)
    record[0] = -INF  # the record of no columns
    for first, last in ((0, 13), (13, 40)):
        piece = dataclasses.replace(target, first_class=first, num_classes=40)
        backend.row_stats(logits[:, first:last], piece, PLAIN, record, tuple(summary), extend=True)
    want = evaluate(logits, target)
    for got, name in zip((*summary, record[1:]), ("loss", "lse", "entropy", "record"), strict=True):
        exact = want[name][1:] if name == "record" else want[name]
        np.testing.assert_allclose(got.numpy(), exact, rtol=0, atol=bound(logits), err_msg=name)


# Confident rows, and the least of calls


@each(("V", "at", "scores"), [(2, 0, PLAIN), (17, 16, Scores(0.7)), (5003, 4100, PLAIN)], ids=str)
def test_a_confident_row_keeps_its_digits_wherever_zero_is(V, at, scores):
    # loss = log(1 + (V − 1) e^−gap), and the gradient of the label is −(V − 1) e^−gap / (1 + ...)
    tops, gaps = (x.flatten() for x in np.meshgrid((0.0, 1e4, -300.0) if V < 100 else (1e4,), (5, 12, 20, 25, 30)))
    logits = np.repeat((tops - gaps)[:, None], V, 1).astype(np.float32)
    logits[:, at] = tops
    got = evaluate(torch.from_numpy(logits), Target(torch.full(tops.shape, at)), scores)
    with mpmath.workdps(40):
        rest = [(V - 1) * mpmath.exp(-mpmath.mpf(int(gap)) / mpmath.mpf(scores.temperature)) for gap in gaps]
        loss = np.array([float(mpmath.log1p(r)) for r in rest])
        slope = np.array([float(-r / (1 + r) / scores.temperature) for r in rest])
    least = 2.0**-52 * (1 + 1 / scores.temperature)  # the record holds 1 + rest in double
    for x, exact in ((got["loss"], loss), (got["grad"][at], slope), (got["fused"][at], slope)):
        size = oracle.K * 2.0**-24 * (1 + gaps / scores.temperature) * np.abs(exact)
        assert (np.abs(x - exact) <= size + least).all()


@each("shape", [(0, 5), (0, 5, 3), (2, 5, 0)], ids=str)
@kinds
def test_no_rows_are_no_work(kind, shape):
    index, prob = torch.zeros(0, dtype=torch.long), torch.zeros(shape)
    targets = {"index": Target(index), "topk": Target(index.view(0, 1), torch.zeros(0, 1)), "dense": Target(prob=prob)}
    assert evaluate(torch.zeros(shape), targets[kind])["record"].shape == (5, 0)
