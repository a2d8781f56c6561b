"""Numbers that are not finite, targets that do not exist, memory beside the rows, very long rows.

The truth is the shipped reference in float64, on the numbers as they are stored. Where a call differs from another one
in nothing that matters to a row, the row has the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from crossent import reference
from crossent.kernels import cpu, triton
from crossent.spec import Scores, Target
from crossent.stats import RowStats
from tests import data, oracle
from tests.data import Case, Layout, as_rows
from tests.gpu.device import DEVICE, as_tensor, backend

INF, NAN = math.inf, math.nan
PLAIN = Scores()
FLAT, ODD = data.LAYOUTS["rows"], Layout("rows apart", (1, 0), (2, 0), (False, False))
MIDDLE = data.LAYOUTS["classes in the middle"]
kinds = pytest.mark.parametrize("kind", data.KINDS)
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


# A call, and its truth


@dataclasses.dataclass
class Result:
    """What came of a call, in float64 and with the rows last; `again` is the record of row_fused."""

    loss: Any
    lse: Any
    entropy: Any
    record: Any
    grad: Any
    again: Any
    fused: Any

    def items(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]


def evaluate(logits: Any, target: Target, scores: Scores = PLAIN, given: Any = None, scale: Any = None) -> Result:
    """The three functions; their results are NaN beforehand."""
    rows = logits.numel() // max(logits.shape[1], 1)
    narrow = torch.float64 if logits.dtype == torch.float64 else torch.float32
    summary = tuple(torch.full((rows,), NAN, dtype=narrow) for _ in range(3))
    record, again = (torch.full((5, rows), NAN, dtype=torch.float64) for _ in range(2))
    grad, fused = (torch.full(logits.shape, NAN, dtype=logits.dtype) for _ in range(2))
    one = torch.ones(rows)
    backend.row_stats(logits, target, scores, record, summary)
    backend.row_grad(logits, target, scores, record, given or (one, None, None), grad)
    backend.row_fused(logits, target, scores, scale or (one, None), again, fused)
    results = [x.double().numpy() for x in (*summary, record, grad, again, fused)]
    return Result(*(as_rows(x).T if x.shape == logits.shape else x for x in results))


def same_bits(got: Result, want: Result, rows: Any = slice(None), others: Any = None) -> None:
    """The rows of one call are those of another, in every result."""
    for (name, x), (_, y) in zip(got.items(), want.items(), strict=True):
        np.testing.assert_array_equal(x[..., rows], y[..., rows if others is None else others], err_msg=name)


def like_the_reference(got: Result, logits: Any, target: Target, scores: Scores, given: Any, scale: Any) -> None:
    """Infinite and NaN where the reference is, and elsewhere within the first-order bounds that `oracle` derives.

    All of them are below u (1 + d)², times the cotangents, where the finite scores lie within d > log V of their peak.
    """
    z, (g, s) = as_rows(logits.double().numpy()), ([x.double().numpy() for x in xs] for xs in (given, scale))
    arrays = {name: getattr(target, name) for name in ("index", "prob", "weight")}
    plain = dataclasses.replace(target, **{k: None if x is None else x.numpy() for k, x in arrays.items()})
    stats = reference.row_stats(z, plain, scores)
    grad = reference.row_grad(z, plain, scores, stats, tuple(g))
    fused = reference.row_grad(z, plain, scores, stats, (s[0], 2 * s[1] * stats.lse, 0 * s[0]))
    record = np.stack([getattr(stats, field) for field in oracle.FIELDS])
    record[:, np.isnan(record).any(0)] = NAN  # which of its numbers are NaN is not declared
    for x in (got.record, got.again):
        x[:, np.isnan(x).any(0)] = NAN
    want = Result(stats.loss, stats.lse, stats.entropy, record, grad.T, record, fused.T)
    finite = z[np.isfinite(z)]
    u = 2.0**-53 if logits.dtype == torch.float64 else 2.0**-24
    size = (1 + finite.max() - finite.min()) ** 2 * (1 + np.abs([*g, *s]).sum(0).max())
    for (name, x), (_, y) in zip(got.items(), want.items(), strict=True):
        rounding = torch.finfo(logits.dtype).eps / 2 if name in {"grad", "fused"} else 0.0
        np.testing.assert_allclose(x, y, rtol=rounding, atol=oracle.K * u * size, err_msg=name)


def held(values: Any) -> Any:
    """A tensor (n,) amid NaN, or amid the largest of integers."""
    return torch.from_numpy(Layout("guarded", (0,), (0,), (False,)).hold(np.asarray(values)))


def draw(kind: str, dtype: str, rows: int, V: int, layout: Layout = FLAT, **options: Any) -> Case:
    """Logits in a layout, everything in memory that is surrounded by what must not be read."""
    rng = np.random.default_rng([rows, V])
    inner = rows if len(layout.order) == 3 else 1
    shape = (1, V, inner) if len(layout.order) == 3 else (rows, V)
    logits = layout.hold(data.encode(rng.normal(0, 3, shape), dtype))
    scores = options.pop("scores", PLAIN)
    K = options.pop("K", 3)
    if kind == "index":
        target = Target(held(rng.integers(0, V, rows)).numpy(), **options)
    elif kind == "topk":
        index = rng.integers(0, V, (rows, K))
        index[0] = index[0, 0]  # the same class again and again
        target = Target(ODD.hold(index), ODD.hold(rng.random((rows, K)).astype(np.float32)), **options)
    else:
        target = Target(prob=layout.hold(rng.random(shape).astype(np.float32) / V), **options)
    cotangents = tuple(held(rng.normal(size=rows).astype(np.float32)).numpy() for _ in range(3))
    return Case(f"{kind} {dtype} {rows} x {V}", dtype, logits, target, scores, cotangents, layout)


def wrap(case: Case) -> Any:
    return functools.partial(as_tensor, dtype=case.dtype)


def target_of(kind: str, rows: int, V: int) -> Target:
    """Classes 3 and 6, and class 5 with probability zero; of an index class 3 alone."""
    if kind == "index":
        return Target(torch.full((rows,), 3))
    if kind == "topk":
        return Target(torch.tensor([3, 6, 5]).expand(rows, 3), torch.tensor([0.75, 0.25, 0.0]).expand(rows, 3))
    prob = torch.zeros(rows, V)
    prob[:, 3], prob[:, 6] = 0.75, 0.25
    return Target(prob=prob)


# Numbers that are not finite


@dtypes
@kinds
def test_what_is_not_finite_stays_in_its_row_and_does_there_what_the_reference_says(kind, dtype):
    V = 37
    rng = torch.Generator().manual_seed(0)
    calm = torch.randn(10, V, generator=rng).to(dtype)
    odd = calm.clone()
    odd[1, 0], odd[2, V - 1], odd[3, 3] = NAN, NAN, NAN
    odd[4, 5] = odd[4, 20] = -INF  # off the target: classes that cannot be; of probability zero: nothing
    odd[5, 3] = -INF  # on the target: the loss is infinite
    odd[6] = -INF
    odd[7, 4:] = odd[7, :3] = -INF  # only one class can be
    odd[8, 20] = INF
    target = target_of(kind, 10, V)
    given, scale = torch.randn(3, 10, generator=rng), torch.randn(2, 10, generator=rng)
    given[2, 4:6] = torch.tensor([2.0, -2.0])
    given[:, 9] = 0  # nothing depends on this row
    got = evaluate(odd, target, PLAIN, tuple(given), tuple(scale))
    assert got.loss[5] == INF
    assert np.isnan(got.loss[[1, 2, 3, 6, 8]]).all()
    assert not np.isnan(got.loss[[0, 4, 5, 7, 9]]).any()
    assert got.lse[8] == INF or np.isnan(got.lse[8])
    got.lse[8] = NAN  # either will do
    like_the_reference(got, odd, target, PLAIN, given, scale)
    same_bits(got, evaluate(calm, target, PLAIN, tuple(given), tuple(scale)), [0, 9])


@kinds
def test_rows_that_nothing_depends_on_have_no_gradient_whatever_they_hold(kind):
    z = torch.full((4, 20), NAN)
    z[1], z[3] = INF, 1.0
    zero = torch.tensor([0.0, 0, 0, 1])
    got = evaluate(z, target_of(kind, 4, 20), given=(zero, 0 * zero, None), scale=(zero, None))
    for grad in (got.grad, got.fused):
        assert (grad[:, :3] == 0).all()
        assert np.isfinite(grad[:, 3]).all()
        assert (grad[:, 3] != 0).any()


@pytest.mark.parametrize("layout", [FLAT, data.LAYOUTS["transposed, apart"], MIDDLE], ids=lambda x: x.name)
@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1, "weight": torch.linspace(0.5, 2, 17)}], ids=["", "smooth"])
def test_ignored_rows_are_nothing_whatever_they_hold(layout, options):
    rows = np.random.default_rng(2).normal(size=(6, 17)).astype(np.float32)
    gone, kept = [1, 3, 4], [0, 2, 5]
    rows[gone] = np.array([[NAN], [INF], [-INF]])
    index = torch.tensor([2, -100, 5, -100, -100, 16])
    logits = torch.from_numpy(layout.hold(data.from_rows(rows, len(layout.order), 6)))
    every = torch.ones(3, 6)
    got = evaluate(logits, Target(index, ignore_index=-100, **options), given=tuple(every), scale=tuple(every[:2]))
    for name, x in got.items():
        nothing = np.array([[0, 1, 0, 0, 0]]).T if name in {"record", "again"} else 0
        assert (x[..., gone] == nothing).all(), name
    clean = torch.from_numpy(layout.hold(data.from_rows(np.where(np.isfinite(rows), rows, 1), len(layout.order), 6)))
    want = evaluate(
        clean, Target(torch.tensor([2, 0, 5, 0, 0, 16]), **options), given=tuple(every), scale=tuple(every[:2])
    )
    same_bits(got, want, kept)


# Targets that do not exist


def bad_index(dtype: torch.dtype, V: int) -> list[int]:
    """Labels of this dtype that are no class; cut down to fewer bits, some of them would be."""
    info = torch.iinfo(dtype)
    every = [-1, V, -100, 2**8 + 3, 2**31 - 1, -(2**31), 2**32 + 3, 3 - 2**32, 2**40, info.max, -(2**63) + 1]
    return [x for x in every if info.min <= x <= info.max]


def broken(got: Result, want: Result, bad: list[int]) -> None:
    """Loss and gradient of the bad rows are NaN, everything else has the same bits."""
    for x in (got.loss, got.grad, got.fused):
        assert np.isnan(x[..., bad]).all()
    for name in ("lse", "entropy"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    same_bits(got, want, [row for row in range(len(got.loss)) if row not in bad])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize("kind", ["index", "topk"])
def test_a_class_that_does_not_exist_makes_its_row_nan_and_nothing_else(kind, dtype):
    V = 200  # 156 is −100 in eight bits, and a class
    labels = [5, *bad_index(dtype, V), 156, 199]
    bad = list(range(1, len(labels) - 2))
    logits = torch.randn(len(labels), V, generator=torch.Generator().manual_seed(1))
    index = torch.tensor(labels, dtype=dtype)
    legal = torch.where((index >= 0) & (index < V), index, 7)

    def target(index: Any, **options: Any) -> Target:
        if kind == "index":
            return Target(index, ignore_index=-99, **options)
        return Target(torch.stack([legal, index], 1), torch.tensor([0.5, 0.0]).expand(len(labels), 2), **options)

    for options in ({}, {"smoothing": 0.1, "weight": torch.linspace(0, 2, V)}):
        broken(evaluate(logits, target(index, **options)), evaluate(logits, target(legal, **options)), bad)


@pytest.mark.parametrize("kind", ["dense", "topk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_a_probability_that_is_none_makes_its_row_nan_and_nothing_else(dtype, kind):
    rng = torch.Generator().manual_seed(2)
    V = 19 if kind == "dense" else 4
    logits, prob = torch.randn(6, 19, generator=rng), torch.rand(6, V, generator=rng).to(dtype)
    wrong = prob.clone()
    wrong[0, 0] = prob[0, 0] = 0
    wrong[0, 0], wrong[1, 0], wrong[2, V - 1], wrong[3, 2], wrong[4, 1] = -0.0, -0.25, NAN, INF, -INF
    index = torch.arange(24).view(6, 4) % 19 if kind == "topk" else None
    for options in ({}, {"smoothing": 1.0}, {"weight": torch.zeros(19)}):  # also where nothing depends on them
        got, want = (evaluate(logits, Target(index, p, **options)) for p in (wrong, prob))
        broken(got, want, [1, 2, 3, 4])


def wrong_targets() -> Any:
    index, prob = torch.tensor([3, 1, 7, 0, 2, 4]), torch.full((2, 5, 3), 0.2)
    yield Target(index), IndexError, "class 7 (row 2"
    yield Target(index.neg(), ignore_index=-3), IndexError, "class -1 (row 1"
    yield Target(index.view(6, 1), torch.ones(6, 1)), IndexError, "class 7 (row 2"
    for wrong, shown in ((-0.5, "-0.5"), (NAN, "nan"), (INF, "inf")):
        dense, picked = prob.clone(), torch.ones(6, 2)
        dense[1, 4, 0] = picked[4, 1] = wrong
        yield Target(prob=dense), ValueError, f"{shown} (row 3, column 4)"
        yield Target(torch.zeros(6, 2).long(), picked), ValueError, f"{shown} (row 4, column 1)"


@pytest.mark.parametrize(("target", "error", "words"), list(wrong_targets()))
def test_if_asked_to_validate_it_raises_what_the_cpu_raises(target, error, words, monkeypatch):
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")
    logits, record, one = torch.zeros(2, 5, 3), torch.zeros(5, 6, dtype=torch.float64), torch.ones(6)
    for call in (
        lambda where: where.row_stats(logits, target, PLAIN, record),
        lambda where: where.row_fused(logits, target, PLAIN, (one, None), record, torch.zeros(2, 5, 3)),
    ):
        with pytest.raises(error) as ours:
            call(backend)
        with pytest.raises(error) as theirs:
            call(cpu)
        assert str(ours.value) == str(theirs.value)
        assert words in str(ours.value)


# Memory beside the rows


ROWS = (
    ("index", "bfloat16", 8, 257),
    ("dense", "float16", 8, 257),
    ("topk", "float32", 5, 513),
    ("index", "float16", 2, 5003),
    ("dense", "bfloat16", 3, 5003),
)


@pytest.mark.parametrize(("kind", "dtype", "rows", "V"), ROWS)
def test_rows_that_begin_anywhere_read_and_write_nothing_beside_them(kind, dtype, rows, V):
    # NaN lies around and between them; eight rows of 257 numbers and two of NaN begin at every offset from a vector
    weight = held(np.linspace(0.5, 2, V)).numpy()
    case = draw(kind, dtype, rows, V, ODD, weight=weight, smoothing=0.1)
    oracle.check_rows(backend, case, oracle.Truth.of(case), wrap(case))


@pytest.mark.parametrize(
    ("kind", "dtype", "rows", "V"),
    [("index", "bfloat16", 2, 50257), ("dense", "float32", 1, 70_000), ("topk", "float32", 1, 40_000)],
)
def test_few_rows_of_very_many_columns(kind, dtype, rows, V):
    case = draw(kind, dtype, rows, V, ODD, scores=Scores(1.3, 30.0))
    oracle.check_rows(backend, case, oracle.Truth.of(case), wrap(case))


@pytest.mark.parametrize(
    ("kind", "inner", "V"), [("index", 1, 33), ("topk", 3, 513), ("dense", 40, 33), ("index", 200, 17)]
)
def test_classes_in_the_middle(kind, inner, V):
    layout = data.LAYOUTS["classes in the middle, apart"]
    case = draw(kind, "float32", inner, V, layout, smoothing=0.1, scores=Scores(0.7))
    oracle.check_rows(backend, case, oracle.Truth.of(case), wrap(case))


def expanded(x: Any, *axes: int) -> Any:
    """The first of each of these axes again and again, the same memory every time."""
    strides = [0 if axis in axes else stride for axis, stride in enumerate(x.strides)]
    return np.lib.stride_tricks.as_strided(x, x.shape, strides)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=["rows", "columns", "both"])
@kinds
def test_expanded_arguments(kind, axes):
    case, target = draw(kind, "float32", 4, 70, smoothing=0.1), {"weight": expanded(np.ones(70), 0)}
    if kind != "dense":
        target["index"] = expanded(case.target.index, 0)
    if kind != "index":
        target["prob"] = expanded(case.target.prob, *axes)
    case = dataclasses.replace(
        case,
        logits=expanded(case.logits, *axes),
        target=dataclasses.replace(case.target, **target),
        cotangents=tuple(expanded(x, 0) for x in case.cotangents),
    )
    truth = oracle.Truth.of(case)
    record = oracle.check_row_stats(backend, case, truth, wrap(case))
    _ = oracle.check_row_grad(backend, case, truth, record, wrap(case))
    _ = oracle.check_row_fused(backend, case, truth, wrap(case))


@pytest.mark.parametrize(
    ("layout", "strides"), [(FLAT, (2**30 + 1, 1)), (MIDDLE, (1, 1, 2**30 + 1)), (FLAT, (1, 2**23 + 1))]
)
def test_rows_and_columns_billions_of_numbers_apart(layout, strides):
    case = draw("index", "bfloat16", 3, 257, layout)
    far = torch.empty(2**31 + 2**10, dtype=torch.bfloat16, device=DEVICE).as_strided(case.logits.shape, strides)
    _ = far.copy_(wrap(case)(case.logits))
    record, one = torch.full((5, 3), NAN, dtype=torch.float64, device=DEVICE), torch.ones(3, device=DEVICE)
    target = Target(torch.from_numpy(case.target.index).to(DEVICE))
    triton.row_fused(far, target, PLAIN, (one, None), record, far)
    truth = oracle.Truth.of(case)
    want, bound = truth.grad(case, (np.ones(3), None, None))
    oracle.check_record(case, truth, record.cpu().numpy())
    got = as_rows(far.cpu().double().numpy())
    oracle.agree("gradient", case, got, want, oracle.grad_bound(case, want, bound))


# Gradients in other memory and of other dtypes


@pytest.mark.parametrize(
    ("kind", "V", "options"),
    [
        ("index", 257, {}),
        ("index", 40_000, {"smoothing": 0.1, "scores": Scores(1.0, 5.0)}),
        ("topk", 257, {"K": 1}),
        ("topk", 257, {"K": 40}),
        ("topk", 40_000, {"K": 3, "scores": Scores(1.0, 5.0)}),
        ("dense", 257, {"smoothing": 0.1}),
    ],
)
def test_a_gradient_in_the_place_of_the_logits_is_the_same(kind, V, options):
    case = draw(kind, "bfloat16", 2 if V < 1000 else 1, V, **options)
    logits, target, one = wrap(case)(case.logits), oracle.wrapped(case.target, wrap(case)), torch.ones(case.rows)
    record, again = (torch.full((5, case.rows), NAN, dtype=torch.float64) for _ in range(2))
    grad = torch.full_like(logits, NAN)
    backend.row_fused(logits, target, case.scores, (one, one), record, grad)
    backend.row_fused(logits, target, case.scores, (one, one), again, logits)
    assert torch.equal(logits, grad)
    assert torch.equal(record, again)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize(("kind", "V"), [("index", 257), ("topk", 34_000), ("dense", 257)])
def test_float32_logits_may_have_a_gradient_in_half_precision(kind, V, half):
    case = draw(kind, "float32", 2 if V < 1000 else 1, V, ODD, K=3)
    truth = oracle.Truth.of(case)
    logits, target = wrap(case)(case.logits), oracle.wrapped(case.target, wrap(case))
    g = tuple(torch.from_numpy(x) for x in case.cotangents)
    fused = truth.grad(case, (case.cotangents[0], None, None))
    record = torch.full((5, case.rows), NAN, dtype=torch.float64)
    backend.row_stats(logits, target, case.scores, record)
    for (want, bound), call in (
        (truth.grad(case, case.cotangents), lambda out: backend.row_grad(logits, target, case.scores, record, g, out)),
        (fused, lambda out: backend.row_fused(logits, target, case.scores, (g[0], None), record.clone(), out)),
    ):
        out = oracle.Guarded(ODD, logits.shape, data.storage(half))
        call(as_tensor(out.view, half))
        rounded = dataclasses.replace(case, dtype=half)
        oracle.agree("gradient", rounded, out.values(), want, oracle.grad_bound(rounded, want, bound))


# Parts of rows


def part(case: Case, first: int, last: int) -> Case:
    """Some of the columns, with their share of the target."""
    t, V = case.target, case.logits.shape[1]
    share = {"weight": None if t.weight is None else t.weight[first:last], "first_class": first, "num_classes": V}
    if t.kind == "dense":
        share["prob"] = t.prob[:, first:last]
    return dataclasses.replace(case, logits=case.logits[:, first:last], target=dataclasses.replace(t, **share))


@kinds
def test_records_of_parts_extend_and_merge_to_that_of_the_row(kind):
    V = 36_000
    weight = np.linspace(0.5, 2, V)
    case = draw(kind, "float32", 2, V, ODD, smoothing=0.1, weight=weight)
    parts = [part(case, *cut) for cut in ((0, 1), (1, 600), (600, V))]  # the last one is long enough to be split
    whole, record = oracle.Truth.of(case), oracle.Guarded(ODD, (5, 2), np.float64)
    summary, merged = torch.full((3, 2), NAN), None
    for piece in parts:
        alone, call = (
            torch.full((5, 2), NAN, dtype=torch.float64),
            (wrap(case)(piece.logits), oracle.wrapped(piece.target, wrap(case)), case.scores),
        )
        backend.row_stats(*call, wrap(case)(record.view), tuple(summary), extend=merged is not None)
        backend.row_stats(*call, alone)
        stats = RowStats(*alone.numpy())
        merged = stats if merged is None else merged.merge(stats)
    oracle.check_record(case, whole, record.values())
    oracle.check_record(case, whole, np.stack([getattr(merged, field) for field in oracle.FIELDS]))
    for name, got in zip(("loss", "lse", "entropy"), summary, strict=True):
        want, bound = getattr(whole.stats, name), whole.bound[name]
        oracle.agree(name, case, got.double().numpy(), want, oracle.unit(case) * bound)
    for piece in parts:
        _ = oracle.check_row_grad(backend, piece, oracle.Truth.of(piece, whole), record.view, wrap(case))


def test_what_is_not_finite_and_who_is_ignored_survive_an_extension():
    V = 40
    logits = torch.randn(8, V, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    logits[0, :13] = logits[1, 13:] = logits[2] = -INF
    logits[3, 0] = logits[4, V - 1] = logits[5] = NAN
    target = Target(torch.tensor([20, 5, 7, 8, 9, -100, V, -1]), ignore_index=-100, smoothing=0.1)
    record, summary = torch.zeros(5, 8, dtype=torch.float64), torch.zeros(3, 8, dtype=torch.float64)
    record[0] = -INF  # the record of no columns
    for first, last in ((0, 13), (13, V)):
        piece = dataclasses.replace(target, first_class=first, num_classes=V)
        backend.row_stats(logits[:, first:last], piece, PLAIN, record, tuple(summary), extend=True)
    want = evaluate(logits, target)
    size = (
        2.0**-53 * oracle.K * (1 + (logits.nan_to_num(0, 0, 0).amax() - logits.nan_to_num(0, 0, 0).amin()).item()) ** 2
    )
    for got, x in zip((*summary, record[1:]), (want.loss, want.lse, want.entropy, want.record[1:]), strict=True):
        np.testing.assert_allclose(got.numpy(), x, rtol=0, atol=size)


# Confident rows, and the least of calls


@pytest.mark.parametrize(("V", "at"), [(2, 0), (17, 16), (5003, 4100)])
@pytest.mark.parametrize("scores", [PLAIN, Scores(0.7)], ids=["", "temperature"])
def test_a_confident_row_keeps_its_digits_wherever_zero_is(V, at, scores):
    # loss = log(1 + (V − 1) e^−gap), and the gradient of the label is −(V − 1) e^−gap / (1 + ...)
    offsets, gaps = (0.0, 1e4, -300.0), (5, 12, 20, 25, 30)
    tops, below = (x.flatten() for x in np.meshgrid(offsets if V < 100 else (1e4,), gaps))
    logits = np.repeat((tops - below)[:, None], V, 1)
    logits[:, at] = tops
    got = evaluate(torch.from_numpy(logits.astype(np.float32)), Target(torch.full(tops.shape, at)), scores)
    with mpmath.workdps(40):
        rest = [(V - 1) * mpmath.exp(-mpmath.mpf(float(gap)) / mpmath.mpf(scores.temperature)) for gap in below]
        loss = np.array([float(mpmath.log1p(r)) for r in rest])
        slope = np.array([float(-r / (1 + r) / scores.temperature) for r in rest])
    least = 2.0**-52 * (1 + 1 / scores.temperature)  # the record holds 1 + rest in double
    bound = oracle.K * 2.0**-24 * (1 + below / scores.temperature)
    assert (np.abs(got.loss - loss) <= bound * loss + least).all()
    for grad in (got.grad[at], got.fused[at]):
        assert (np.abs(grad - slope) <= bound * np.abs(slope) + least).all()


@kinds
def test_one_class_is_certain(kind):
    target = draw(kind, "float32", 3, 1, K=2).target
    got = evaluate(torch.tensor([[3.0], [-INF], [1e30]]), oracle.wrapped(target, torch.from_numpy))
    for x in (got.loss, got.entropy, got.grad[0], got.fused[0]):
        np.testing.assert_array_equal(x, [0, NAN, 0])


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (2, 5, 0)], ids=str)
@kinds
def test_no_rows_are_no_work(kind, shape):
    index, prob = torch.zeros(0, dtype=torch.long), torch.zeros(shape)
    targets = {"index": Target(index), "topk": Target(index.view(0, 1), torch.zeros(0, 1)), "dense": Target(prob=prob)}
    got = evaluate(torch.zeros(shape), targets[kind])
    assert got.loss.shape == (0,)
    assert got.record.shape == (5, 0)
