"""Every backend against the reference: records, outputs and gradients of rows of every kind and layout."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from crossent.kernels.backend import Cotangents, LossScale, RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import RowStats
from tests import data, oracle
from tests.oracle import evaluate

SHORT, LONG = ([V for V in data.ALL_CLASSES if (V > 100) == long] for long in (False, True))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("length", [*SHORT, *(pytest.param(V, marks=pytest.mark.slow) for V in LONG)])
@pytest.mark.parametrize("kind", data.KINDS)
def test_rows_agree_with_the_reference(kind, length, dtype, backend, each_isa):
    for case in backend.cases(kind, length, dtype):
        truth = oracle.Truth.of(case)
        for _ in each_isa():
            oracle.check_rows(backend, case, truth)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 21), (1, 64), (5, 13), (2, 64), (3, 65), (70, 2)])
@pytest.mark.parametrize("kind", data.KINDS)
def test_many_rows_agree_with_the_reference(kind, shape, dtype, backend, each_isa):
    # rows that are short, or whose classes are apart in memory, may be worked on side by side
    for V in backend.some((1, 2, 3, 10, 31, 32, 33, 64, 65, 129)):
        for case in backend.cases(kind, V, dtype, shape=shape, every=12):
            truth = oracle.Truth.of(case)
            for _ in each_isa():
                oracle.check_rows(backend, case, truth)


@pytest.mark.parametrize("V", [1, 3, 10, 32, 33, 100])
@pytest.mark.parametrize("kind", data.KINDS)
def test_a_row_does_not_know_its_neighbours(kind, V, backend):
    # broken rows among a hundred and fifty change no bit of the others
    bad = np.arange(0, 150, 7)
    for case in backend.cases(kind, V, "float32", shape=(3, 50), every=5):
        rows = data.as_rows(case.logits).copy()
        g = tuple(np.ones(150, np.float32) if x is None else x for x in case.cotangents)
        results = []
        for spoil in (False, True):
            if spoil:
                rows[bad] = np.resize(np.array([np.nan, np.inf, -np.inf], np.float32), (len(bad), 1))
            logits = case.grad_layout.hold(data.from_rows(rows, case.logits.ndim, 50))
            results.append(evaluate(backend, logits, case.target, case.scores, g))
        for name in ("loss", "lse", "entropy", "grad", "fused"):
            clean, spoilt = (np.delete(getattr(x, name), bad, 0) for x in results)
            np.testing.assert_array_equal(spoilt, clean, err_msg=case.name)


def part_of(target, first, last, num_classes):
    """The target as columns [first, last) of all classes see it."""
    return dataclasses.replace(
        target,
        prob=target.prob[:, first:last] if target.kind == "dense" else target.prob,
        weight=None if target.weight is None else target.weight[first:last],
        first_class=first,
        num_classes=num_classes,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("kind", data.KINDS)
def test_shards_agree_with_the_reference_and_add_up(kind, dtype, backend, each_isa):
    # the record of each shard, then its gradient from the record of the whole rows
    for case in backend.cases(kind, 513, dtype):
        target, V = case.target, 513
        total = oracle.Truth.of(case)
        for _ in each_isa():
            merged = None
            for first, last in ((0, 100), (100, 101), (101, V)):
                part = part_of(target, first, last, V)
                shard = dataclasses.replace(case, logits=case.logits[:, first:last], target=part)
                record = oracle.check_row_stats(backend, shard, oracle.Truth.of(shard))
                merged = RowStats(*record) if merged is None else merged.merge(RowStats(*record))
                whole = np.stack([getattr(total.stats, field) for field in oracle.FIELDS])
                oracle.check_row_grad(backend, shard, oracle.Truth.of(shard, total), whole)
            # an ignored row has peak 0 and total 1 in every shard, which only its owner may count
            fields = np.where(total.valid, [getattr(merged, field) for field in oracle.FIELDS], 1.0)
            wanted = RowStats(*np.where(total.valid, [getattr(total.stats, field) for field in oracle.FIELDS], 1.0))
            oracle.check_record(case, dataclasses.replace(total, stats=wanted), fields)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("kind", data.KINDS)
def test_a_record_extended_part_by_part_is_that_of_the_whole_row(kind, dtype, backend, each_isa):
    V, parts = 513, (0, 100, 101, 130, 513)
    for case in backend.cases(kind, V, dtype):
        truth, target = oracle.Truth.of(case), case.target
        for _ in each_isa():
            record = oracle.empty_record(case.rows)
            outputs = {
                name: np.full(case.rows, np.nan, np.float64 if case.wide else np.float32) for name in RowOutputs._fields
            }
            for first, last in itertools.pairwise(parts):
                part = part_of(target, first, last, V)
                logits, to = case.logits[:, first:last], RowOutputs(**outputs)
                backend.row_stats(logits, part, case.scores, record, to, extend=first > 0)
            oracle.check_record(case, truth, record)
            for name, got in outputs.items():
                want = np.where(truth.valid, getattr(truth.stats, name), 0.0)
                bound = np.where(truth.valid, oracle.unit(case) * truth.bound[name], 0.0)
                oracle.agree(name, case, got, want, bound)


@pytest.mark.parametrize("integer", data.INTEGERS)
def test_every_integer_dtype_names_the_same_classes(integer, backend):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 127)).astype(np.float32)
    index = rng.integers(0, 127, 64)
    index[5] = 126
    want = evaluate(backend, logits, Target(index))
    got = evaluate(backend, logits, Target(index.astype(integer)))
    np.testing.assert_array_equal(got.loss, want.loss)
    np.testing.assert_array_equal(got.grad, want.grad)
    want = evaluate(backend, logits, Target(index, ignore_index=126))
    got = evaluate(backend, logits, Target(index.astype(integer), ignore_index=126))
    np.testing.assert_array_equal(got.loss, want.loss)
    assert got.loss[5] == 0


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("kind", data.KINDS)
def test_inputs_may_be_expanded_and_read_only(kind, axes, backend):
    rng = np.random.default_rng(1)
    V, shape = 37, (6, 37) if axes == 2 else (2, 37, 3)
    row = rng.normal(size=V).astype(np.float32)
    logits = np.broadcast_to(row if axes == 2 else row[:, None], shape)
    prob = rng.random(V).astype(np.float32)
    if kind == "index":
        target = Target(np.broadcast_to(np.int32(7), 6))
    elif kind == "topk":
        target = Target(np.broadcast_to(np.array([3, 7]), (6, 2)), np.broadcast_to(np.float32([0.25, 0.5]), (6, 2)))
    else:
        target = Target(prob=np.broadcast_to(prob if axes == 2 else prob[:, None], shape))
    target = dataclasses.replace(target, weight=np.broadcast_to(np.float32(1.5), V), smoothing=0.1)
    cotangents = tuple(np.broadcast_to(np.float32(g), 6) for g in (0.5, -1.0, 2.0))
    places = data.layouts(axes)
    case = data.Case("expanded", "float32", logits, target, Scores(), cotangents, places[0])
    truth = oracle.Truth.of(case)
    oracle.check_row_grad(backend, case, truth, oracle.check_row_stats(backend, case, truth))
    oracle.check_row_fused(backend, case, truth)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_read_only_arrays_of_any_layout_are_read(dtype, backend):
    for case in backend.cases("index", 17, dtype):
        arrays = [case.logits, case.target.index, case.target.weight, *case.cotangents]
        for array in arrays:
            if array is not None:
                array.flags.writeable = False
        truth = oracle.Truth.of(case)
        oracle.check_row_grad(backend, case, truth, oracle.check_row_stats(backend, case, truth))


@pytest.mark.parametrize("kind", data.KINDS)
def test_no_cotangent_is_a_zero_one(kind, backend):
    for case in backend.cases(kind, 16, "float32"):
        record = oracle.check_row_stats(backend, case, oracle.Truth.of(case))
        zeros = np.zeros(case.rows, np.float32)
        grads = []
        for cotangents in (Cotangents(), Cotangents(zeros, zeros, zeros)):
            grad = np.full(case.logits.shape, np.nan, np.float32)
            backend.row_grad(case.logits, case.target, case.scores, record, cotangents, grad)
            grads.append(grad)
        assert (np.array(grads) == 0).all()
        full, bare = (np.full(case.logits.shape, np.nan, np.float32) for _ in range(2))
        g = np.linspace(-1, 1, case.rows, dtype=np.float32)
        backend.row_grad(case.logits, case.target, case.scores, record, Cotangents(g, zeros, zeros), full)
        backend.row_grad(case.logits, case.target, case.scores, record, Cotangents(g), bare)
        np.testing.assert_array_equal(full, bare)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
def test_outputs_are_written_only_where_wanted(wanted, backend):
    case = next(backend.cases("dense", 17, "float32"))
    every = RowOutputs(*(np.full(6, np.nan, np.float32) for _ in range(3)))
    some = RowOutputs(*(np.full(6, np.nan, np.float32) if want else None for want in wanted))
    records = [oracle.empty_record(6) for _ in range(2)]
    backend.row_stats(case.logits, case.target, case.scores, records[0], every)
    backend.row_stats(case.logits, case.target, case.scores, records[1], some)
    np.testing.assert_array_equal(*records)
    for a, b in zip(every, some, strict=True):
        assert b is None or np.array_equal(a, b)


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (2, 5, 0), (0, 5, 0)])
def test_no_rows_are_no_work(shape, backend):
    logits = np.empty(shape, np.float32)
    for target in (Target(np.empty(0, np.int64)), Target(prob=logits), Target(np.empty((0, 2), int), np.empty((0, 2)))):
        record, grad = oracle.empty_record(0), np.empty(shape, np.float32)
        empty = np.empty(0, np.float32)
        backend.row_stats(logits, target, Scores(), record, RowOutputs(empty, empty, empty))
        backend.row_grad(logits, target, Scores(), record, Cotangents(empty, empty, empty), grad)
        backend.row_fused(logits, target, Scores(), LossScale(empty), record, grad)


def test_many_picks_of_one_row(backend):
    # as many as classes, and more: with and without repetition
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3, 1000)).astype(np.float32)
    for K in (1, 40) if backend.slow else (1, 1000, 1300):
        index = np.stack([rng.permutation(max(K, 1000))[:K] % 1000 for _ in range(3)])
        prob = rng.random((3, K)).astype(np.float32)
        case = data.Case(
            f"K={K}", "float32", logits, Target(index, prob), Scores(), (prob[:, 0],) * 3, data.LAYOUTS["rows"]
        )
        oracle.check_rows(backend, case, oracle.Truth.of(case))


def test_weights_of_any_float_dtype_and_stride(backend):
    rng = np.random.default_rng(3)
    logits, index = rng.normal(size=(20, 33)).astype(np.float32), rng.integers(0, 33, 20)
    weight = rng.random(33).astype(np.float16)
    want = evaluate(backend, logits, Target(index, weight=weight.astype(np.float32), smoothing=0.2))
    apart = np.full((33, 2), np.nan, np.float32)
    apart[:, 0] = weight
    backwards = weight[::-1].copy()[::-1]
    for same in (weight, weight.astype(np.float64), apart[:, 0], backwards if backend.backwards else weight):
        got = evaluate(backend, logits, Target(index, weight=same, smoothing=0.2))
        np.testing.assert_array_equal(got.loss, want.loss)
        np.testing.assert_array_equal(got.grad, want.grad)


def test_negative_weights_are_weights(backend):
    # torch takes them, and its own samples have them
    rng = np.random.default_rng(4)
    logits, index = rng.normal(size=(6, 40)), rng.integers(0, 40, 6)
    target = Target(index, weight=rng.normal(size=40), smoothing=0.3)
    case = data.Case("negative", "float64", logits, target, Scores(), (rng.normal(size=6),) * 3, data.LAYOUTS["rows"])
    oracle.check_rows(backend, case, oracle.Truth.of(case))
