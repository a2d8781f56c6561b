"""Rows of numbers that are not finite, ignored rows, memory beside the rows, very long rows, gradients in half."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from crossent import reference
from crossent.kernels.backend import Cotangents, LossScale
from crossent.spec import Scores, Target
from tests import data, oracle
from tests.data import Case
from tests.kernels.triton.calls import (
    APART,
    FLAT,
    HELD,
    INF,
    NAN,
    ODD,
    PLAIN,
    arguments,
    backend,
    bound,
    draw,
    evaluate,
    in_numpy,
    same_bits,
)  # fmt: skip

each = pytest.mark.parametrize
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter


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
    got = evaluate(odd, target, PLAIN, tuple(given), LossScale(scale))
    same_bits(got, evaluate(calm, target, PLAIN, tuple(given), LossScale(scale)), [0, 11])

    z, plain = odd.double().numpy(), in_numpy(target)
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
        return evaluate(logits, Target(index, ignore_index=-100, **options), PLAIN, every, LossScale(*every[:2]))

    want = call(rows, torch.tensor([2, 0, 5, 0, 0, 16]))
    rows[gone] = np.array([[NAN], [INF], [-INF]])
    got = call(rows, torch.tensor([2, -100, 5, -100, -100, 16]))
    same_bits(got, want, [0, 2, 5])
    for name, x in got.items():
        nothing = [[field == "total"] for field in oracle.FIELDS] if name in {"record", "again"} else 0
        assert (x[..., gone] == nothing).all(), name


# Memory: the checks of `oracle` fill results with NaN and what is beside them with a pattern, and watch the arguments


def check(case: Case, *, in_place: bool = True) -> None:
    truth = oracle.Truth.of(case)
    record = oracle.check_row_stats(backend, case, truth)
    _ = oracle.check_row_grad(backend, case, truth, record)
    fused = oracle.check_row_fused(backend, case, truth)
    if in_place:
        again = oracle.check_row_fused(backend, case, truth, in_place=True)
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
    truth, call, rounded = oracle.Truth.of(case), arguments(case), dataclasses.replace(case, dtype=half)
    record, g = oracle.empty_record(case.rows), Cotangents(*case.cotangents)
    grad, fused = (oracle.Guarded(ODD, case.logits.shape, data.storage(half)) for _ in range(2))
    backend.row_fused(*call, LossScale(g.loss), record, fused.view)
    backend.row_grad(*call, record, g, grad.view)
    for out, cotangents in ((grad, g), (fused, Cotangents(g.loss))):
        want, size = truth.grad(case, cotangents)
        oracle.agree("grad", rounded, out.values(), want, oracle.grad_bound(rounded, want, size))
