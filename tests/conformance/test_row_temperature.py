"""A temperature of each row, on every backend: rows of every kind and layout, beside rows of one temperature."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest

from crossent.kernels.backend import RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import RowStats
from tests import data, oracle
from tests.oracle import evaluate

SHORT, LONG = (1, 2, 10, 17, 33, 65, 129), (513, 4097, 5003)


def warmed(case: data.Case) -> data.Case:
    """The case with a temperature of each row, in some dtype, and where its tensors may, backwards."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    T = data.reals(rng, case.dtype, rng.choice([0.25, 0.7, 1.0, 1.3, 3.0], case.rows))
    T = np.repeat(T, 2)[::2] if rng.random() < 0.5 else T
    scores = Scores(1.0, case.scores.softcap, T)
    return dataclasses.replace(case, scores=scores, name=f"{case.name} T={T.tolist()}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("length", [*SHORT, *(pytest.param(V, marks=pytest.mark.slow) for V in LONG)])
@pytest.mark.parametrize("kind", data.KINDS)
def test_rows_with_temperatures_agree_with_the_reference(kind, length, dtype, backend, each_isa):
    for case in backend.cases(kind, length, dtype, every=3):
        own = warmed(case)
        truth = oracle.Truth.of(own)
        for _ in each_isa():
            oracle.check_rows(backend, own, truth)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(3, 21), (5, 13), (3, 65), (70, 2)])
@pytest.mark.parametrize("kind", data.KINDS)
def test_many_rows_with_temperatures_agree_with_the_reference(kind, shape, dtype, backend, each_isa):
    for V in backend.some((2, 10, 32, 33, 65, 129)):
        for case in backend.cases(kind, V, dtype, shape=shape, every=24):
            own = warmed(case)
            truth = oracle.Truth.of(own)
            for _ in each_isa():
                oracle.check_rows(backend, own, truth)


@pytest.mark.parametrize("V", [2, 10, 33, 100, 600])
@pytest.mark.parametrize("kind", data.KINDS)
def test_the_same_temperature_in_each_row_is_one_of_all_rows(kind, V, backend):
    # bit for bit: the arithmetic of a row is the same
    for case in backend.cases(kind, V, "float32", shape=(2, 35), every=5):
        for T in (1.0, 0.7):
            one, each = (
                evaluate(backend, case.logits, case.target, scores, case.cotangents)
                for scores in (Scores(T, case.scores.softcap), Scores(1.0, case.scores.softcap, np.full(case.rows, T)))
            )
            for name in ("loss", "lse", "entropy", "grad", "fused"):
                np.testing.assert_array_equal(getattr(each, name), getattr(one, name), err_msg=case.name)


@pytest.mark.parametrize("V", [2, 10, 33, 100, 600])
def test_a_row_has_its_own_temperature_only(V, backend):
    # bit for bit what the row is alone, at one temperature
    rng = np.random.default_rng(V)
    logits, index = rng.normal(0, 5, (67, V)).astype(np.float32), rng.integers(0, V, 67)
    T = rng.choice([0.3, 1.0, 2.5], 67)
    for softcap in (None, 7.0):
        each = evaluate(backend, logits, Target(index), Scores(1.0, softcap, T))
        for row in backend.some(range(0, 67, 11)):
            here = slice(row, row + 1)
            alone = evaluate(backend, logits[here], Target(index[here]), Scores(float(T[row]), softcap))
            for name in ("loss", "lse", "entropy", "grad", "fused"):
                np.testing.assert_array_equal(getattr(each, name)[here], getattr(alone, name), err_msg=f"{row} {name}")


def test_records_of_parts_merge_at_the_temperature_of_their_row(backend):
    rng = np.random.default_rng(0)
    logits, index, V = rng.normal(0, 5, (5, 300)), rng.integers(0, 300, 5), 300
    scores = Scores(1.0, None, rng.choice([0.3, 1.0, 2.5], 5))
    parts, outputs = oracle.empty_record(5), RowOutputs(*(np.full(5, np.nan) for _ in range(3)))
    for begin, end in ((0, 130), (130, V)):
        target = Target(index, first_class=begin, num_classes=V)
        backend.row_stats(logits[:, begin:end], target, scores, parts, outputs, extend=begin > 0)
    whole = evaluate(backend, logits, Target(index), scores)
    for name in ("loss", "lse", "entropy"):
        np.testing.assert_allclose(getattr(outputs, name), getattr(whole, name), rtol=1e-12)
    np.testing.assert_allclose(RowStats(*parts).target_score, whole.stats.target_score, rtol=1e-12, atol=1e-12)


WRONG = (0.0, -1.0, 9e-16, 2e15, np.inf, np.nan)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("V", [3, 200])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_a_temperature_out_of_range_is_found(kind, V, wrong, backend):
    # on a CPU with its row; where to raise is to wait for the device, the row is NaN, and no other
    rng = np.random.default_rng(V)
    T = np.ones(70)
    T[41] = wrong
    base = {"index": np.arange(70) % V} if kind == "index" else {"prob": rng.random((70, V))}
    target, logits = Target(**base), rng.normal(size=(70, V))
    few = backend.few_classes >= V
    records = [oracle.empty_record(70), *([None] if few else [])]
    for record in records:
        losses = np.full(70, np.nan)
        if backend.raises:
            with pytest.raises(ValueError, match=r"temperature must be between .* \(row 41\)"):
                backend.row_stats(logits, target, Scores(1.0, None, T), record, RowOutputs(losses))
            with pytest.raises(ValueError, match=r"\(row 41\)"):
                _ = backend.row_loss(logits, target, Scores(1.0, None, T), record, losses, mean=True)
        else:
            backend.row_stats(logits, target, Scores(1.0, None, T), record, RowOutputs(losses))
            assert np.flatnonzero(np.isnan(losses)).tolist() == [41]


@pytest.mark.parametrize("V", [3, 200])
def test_an_ignored_row_may_have_any_temperature(V, backend):
    logits, index, T = np.random.default_rng(V).normal(size=(len(WRONG), V)), np.full(len(WRONG), -7), np.array(WRONG)
    got = evaluate(backend, logits, Target(index, ignore_index=-7), Scores(1.0, None, T))
    for x in (got.loss, got.lse, got.entropy, got.grad, got.fused):
        assert not x.any()
