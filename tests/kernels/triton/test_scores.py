"""A temperature of each row: every kernel takes it, for tiles and for the classes that a target names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from crossent.kernels.backend import NO_OUTPUTS, Cotangents, RowOutputs
from crossent.kernels.triton.launch import Launch
from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from tests import oracle
from tests.conformance.adapters import Triton
from tests.data import Case, Layout
from tests.kernels.triton.calls import APART, FLAT, HELD, INF, NAN, ODD, backend, draw, evaluate, same_bits

each = pytest.mark.parametrize
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter
WRONG = (0.0, -2.0, 9e-16, 2e15, INF, -INF, NAN)

ROWS = [  # on either side of every change of tile, in every dtype
    ("index", "float32", 40, 10, FLAT, None), ("dense", "bfloat16", 33, 50, ODD, 6.0),
    ("index", "float64", 35, 19, APART, None), ("topk", "float64", 5, 33, FLAT, None),
    ("index", "bfloat16", 6, 129, FLAT, None), ("dense", "float32", 5, 600, FLAT, None),
    ("index", "float32", 5, 1500, FLAT, 6.0), ("topk", "bfloat16", 4, 2056, FLAT, None),
    ("index", "float32", 4, 8200, ODD, None), ("index", "bfloat16", 4, 8200, FLAT, 6.0),
]  # fmt: skip


def warm(kind: str, dtype: str, rows: int, V: int, layout: Layout, softcap: float | None) -> Case:
    """Rows of temperatures from 0.05 to 20, with weights and, if rows have one class, smoothed and ignored ones."""
    T = HELD.hold(np.exp(np.random.default_rng(V).uniform(np.log(0.05), np.log(20), rows)))
    options = {"smoothing": 0.1} if kind == "dense" or V % 2 else {}
    case = draw(
        kind,
        dtype,
        rows,
        V,
        layout,
        weight=HELD.hold(np.linspace(0.5, 2, V)),
        scores=Scores(1.0, softcap, T),
        **options,
    )
    if kind == "index":
        index = np.array(case.target.index)
        index[1::3] = -100
        case = dataclasses.replace(case, target=dataclasses.replace(case.target, index=index, ignore_index=-100))
    return case


@each(("kind", "dtype", "rows", "V", "layout", "softcap"), ROWS)
def test_temperatures_far_apart_agree_with_the_reference(kind, dtype, rows, V, layout, softcap):
    case = warm(kind, dtype, rows, V, layout, softcap)
    oracle.check_rows(backend, case, oracle.Truth.of(case))


class Forgetful(Triton):
    """The backend, but for some functions that forget the temperature of each row."""

    forgets = ""

    def row_grad(self, logits: Any, target: Any, scores: Any, record: Any, cotangents: Any, grad: Any) -> None:
        super().row_grad(logits, target, self.forgotten(scores, "row_grad"), record, cotangents, grad)

    def row_fused(
        self, logits: Any, target: Any, scores: Any, scale: Any, record: Any, grad: Any, outputs: Any = NO_OUTPUTS
    ) -> None:
        super().row_fused(logits, target, self.forgotten(scores, "row_fused"), scale, record, grad, outputs)

    def forgotten(self, scores: Scores, function: str) -> Scores:
        return Scores(1.0, scores.softcap) if function == self.forgets else scores


@each("forgets", ["row_grad", "row_fused"])
@each("V", [10, 129, 1500])
def test_a_gradient_that_forgets_them_is_found_out(V, forgets):
    mutant, case = Forgetful("triton"), warm("index", "float32", 5, V, FLAT, None)
    mutant.forgets = forgets
    with pytest.raises(AssertionError, match="times its first-order error bound"):
        oracle.check_rows(mutant, case, oracle.Truth.of(case))


# Temperatures that cannot be


def called(V: int, T: Any, softcap: float | None, kind: str, dtype: Any = torch.float32) -> Any:
    random = torch.Generator().manual_seed(V)
    logits, N = torch.randn(len(T), V, generator=random).to(dtype), len(T)
    target = Target(torch.arange(N) % V) if kind == "index" else Target(prob=torch.rand(N, V, generator=random))
    return evaluate(logits, target, Scores(1.0, softcap, torch.tensor(T, dtype=torch.float64)))


@each("kind", ["index", "dense"])
@each(("V", "dtype", "softcap"), [
    (1, torch.float32, None), (10, torch.float64, 5.0), (100, torch.float32, None), (1500, torch.bfloat16, None),
    (3000, torch.float32, 5.0),
])  # fmt: skip
def test_a_temperature_out_of_range_makes_its_row_nan_and_nothing_else(V, dtype, softcap, kind):
    T = np.linspace(0.5, 3, 2 * len(WRONG))
    want = called(V, T, softcap, kind, dtype)
    bad = list(range(1, len(T), 2))
    T[bad] = WRONG
    got = called(V, T, softcap, kind, dtype)
    for name, x in got.items():
        rows = x[FIELDS.index("total")] if name in {"record", "again"} else x
        assert np.isnan(rows[..., bad]).all(), name
    same_bits(got, want, list(range(0, len(T), 2)))


@each("V", [10, 100])
def test_few_classes_without_a_record_too(V):
    T, index = torch.ones(len(WRONG) + 1), torch.arange(len(WRONG) + 1) % V
    T[1:] = torch.tensor(WRONG)
    logits, one = torch.randn(len(T), V), torch.ones(len(T))
    record = None if backend.few_classes >= V else torch.full((len(FIELDS), len(T)), NAN, dtype=torch.float64)
    assert (record is None) == (V == 10)
    outputs, grad = RowOutputs(*(torch.zeros(len(T)) for _ in range(3))), torch.zeros_like(logits)
    scores, target = Scores(1.0, None, T), Target(index)
    backend.row_stats(logits, target, scores, record, outputs)
    backend.row_grad(logits, target, scores, record, Cotangents(one, one, one), grad)
    for x in (*outputs, grad.T):
        assert x[..., 1:].isnan().all()
        assert x[..., 0].isfinite().all()
    assert np.isnan(backend.row_loss(logits, target, scores, record, None if record is None else one, mean=True).loss)


@each("softcap", [None, 5.0])
@each("V", [10, 100, 1500, 3000])
def test_who_has_no_target_or_no_cotangent_may_have_any(V, softcap):
    T, N = torch.tensor([*WRONG, 1.0]), len(WRONG) + 1
    logits = torch.randn(N, V, generator=torch.Generator().manual_seed(0))
    scores, ignored = Scores(1.0, softcap, T), torch.full((N,), -100)
    ignored[-1] = 0
    found = evaluate(logits, Target(ignored, ignore_index=-100), scores)
    for name in ("loss", "lse", "entropy", "grad", "fused"):
        assert (found[name][..., :-1] == 0).all(), name
    g = torch.zeros(N)
    g[-1] = 1
    target = Target(torch.zeros(N, dtype=torch.long), smoothing=0.1)
    found = evaluate(logits, target, scores, Cotangents(g, g, g))
    assert (found["grad"][..., :-1] == 0).all()
    assert np.isnan(found["fused"][..., :-1]).all()
    assert np.isfinite(found["grad"][..., -1]).all()
    if backend.few_classes >= V:
        grad = torch.full_like(logits, NAN)
        backend.row_grad(logits, target, scores, None, Cotangents(g), grad)
        assert (grad[:-1] == 0).all()


def test_a_call_makes_them_in_one_launch(monkeypatch: Any) -> None:
    names, run = [], Launch.__call__

    def noted(launch: Launch, *arrays: Any) -> None:
        names.append(launch.kernel.fn.__name__)
        run(launch, *arrays)

    monkeypatch.setattr(Launch, "__call__", noted)
    logits, record = torch.randn(3, 100), torch.full((len(FIELDS), 3), NAN, dtype=torch.float64)
    for own in (None, torch.ones(3)):
        names.clear()
        backend.row_stats(logits, Target(torch.zeros(3, dtype=torch.long)), Scores(1.0, None, own), record)
        assert names == ["row_stats", "finish"] if own is None else ["own_temperatures", "row_stats", "finish"]
