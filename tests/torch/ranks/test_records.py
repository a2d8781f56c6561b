"""Records of the same rows on several ranks, merged; outputs and the most probable class that follow from them."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist

import crossent.torch as F
from crossent import reference
from crossent.kernels.backend import RowOutputs
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, RowStats
from crossent.torch.ranks.records import ClassRange, all_reduce, merge, most_probable, write_outputs
from tests.parallel.shards import apart, layout_of, nothing_wrong

counts = pytest.mark.parametrize("n", [1, 2, 3, 4])
N, V = 6, 11


# Records of shards are the record of the row


def records(group):
    draw = np.random.default_rng(7)
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    z = 3 * draw.normal(size=(6, V))
    z[1, V // 2 :] = -np.inf
    z[2, : V // 2] = -np.inf
    z[3] += 1e4 * np.arange(V)
    index, prob = draw.integers(V, size=(6, 3)), draw.random((6, 3))
    index[1], index[2] = 0, V - 1
    dense, weight = np.where(np.isfinite(z), draw.random((6, V)), 0.0), draw.random(V)
    found: list[str] = []
    for scores, smoothing, weighted in itertools.product((Scores(), Scores(0.6, 3.0)), (0.0, 0.2), (False, True)):
        for kind, layout in itertools.product(("index", "topk", "dense"), ("uneven", "empty")):
            rows = np.arange(6) if smoothing == 0 else np.array([0, 3, 4, 5])

            def record(first, last, rows=rows, kind=kind, smoothing=smoothing, weighted=weighted, scores=scores):
                given = {
                    "index": {"index": index[rows, 0]},
                    "topk": {"index": index[rows], "prob": prob[rows]},
                    "dense": {"prob": dense[rows, first:last]},
                }[kind]
                w = weight[first:last] if weighted else None
                target = Target(**given, weight=w, smoothing=smoothing, first_class=first, num_classes=V)
                return reference.row_stats(z[rows, first:last], target, scores)

            first, length = layout_of(layout, n, V)[0][rank]
            fields = {name: getattr(record(first, first + length), name) for name in FIELDS}
            given = RowStats(**{name: torch.from_numpy(np.array(x)) for name, x in fields.items()})
            got = all_reduce(given, group)
            for name, before in fields.items():
                label = f"{kind} {layout} {scores} {smoothing} {name}"
                found += apart(label, getattr(got, name), torch.from_numpy(getattr(record(0, V), name)))
                found += apart(f"{label}, an argument", getattr(given, name), torch.from_numpy(before), 0.0)
    return found


@pytest.mark.slow
@counts
def test_records_of_all_ranks_are_the_record_of_the_row(ranks, n):
    nothing_wrong(ranks.run(n, records))


def drawn(kind, layout, n):
    """Rows with an ignored one, their target, and the record of each of n shards by the reference."""
    draw = np.random.default_rng(3)
    z = 3 * draw.normal(size=(N, V))
    z[2, 1:] = -np.inf
    z[3] += 1e4
    target = {
        "index": Target(np.array([0, 4, 0, 10, 9, 3]), ignore_index=9),
        "topk": Target(np.array([[0, 3, 0]] * N), draw.random((N, 3))),
        "dense": Target(prob=np.where(np.isfinite(z), draw.random((N, V)), 0.0)),
    }[kind]
    if kind == "topk":
        target = dataclasses.replace(target, index=np.where(np.arange(N)[:, None] == 2, 0, target.index))
    ranges = [(min(first, V), max(0, min(length, V - first))) for first, length in layout_of(layout, n, V)[0]]
    shards = []
    for first, length in ranges:
        prob = target.prob[:, first : first + length] if kind == "dense" else target.prob
        own = dataclasses.replace(target, prob=prob, first_class=first, num_classes=V)
        shards.append(reference.row_stats(z[:, first : first + length], own))
    return z, target, ranges, shards


def as_record(stats):
    return torch.stack([torch.from_numpy(np.array(getattr(stats, name))) for name in FIELDS])


def merged(group, kind, layout):
    z, target, ranges, shards = drawn(kind, layout, dist.get_world_size(group))
    rank = dist.get_rank(group)
    record = as_record(shards[rank])
    merge(record, (group.group_name,), ClassRange(*ranges[rank], V))
    want = as_record(functools.reduce(RowStats.merge, shards))
    # an ignored row has a total of 1 on each rank; `write_outputs` mends that
    found = apart(f"{kind} {layout}", record, want)
    outputs = RowOutputs(*torch.full((3, N), torch.nan, dtype=torch.float64))
    index = None if target.index is None else torch.from_numpy(target.index)
    write_outputs(record, dataclasses.replace(target, index=index), outputs)
    whole = reference.row_stats(z, target)
    found += apart(f"{kind} {layout}, in the end", record, as_record(whole))
    for name, out in outputs._asdict().items():
        found += apart(f"{kind} {layout}: {name}", out, torch.from_numpy(getattr(whole, name)))
    return found


@pytest.mark.slow
@counts
@pytest.mark.parametrize("kind", ["index", "topk", "dense"])
@pytest.mark.parametrize("layout", ["uneven", "empty", "only padding"])
def test_merging_over_ranks_is_merging_records_one_by_one(ranks, n, kind, layout):
    nothing_wrong(ranks.run(n, merged, kind, layout))


def test_a_record_of_all_classes_is_left_alone():
    record = torch.rand(5, N, dtype=torch.float64)
    before = record.clone()
    merge(record, (), ClassRange(0, 3, 7))
    assert torch.equal(record, before)


def test_outputs_are_those_of_the_record():
    z, target, _, _ = drawn("dense", "uneven", 1)
    whole = reference.row_stats(z, target)
    outputs = RowOutputs(*torch.full((3, N), torch.nan))  # rounded to what they are written into
    write_outputs(as_record(whole), Target(prob=torch.from_numpy(target.prob)), outputs)
    for name, out in outputs._asdict().items():
        np.testing.assert_allclose(out.numpy(), getattr(whole, name), rtol=1e-7, atol=1e-7)


# Shards that are not all classes


WRONG = {
    "a gap": ([(0, 3), (4, 3)], 7, "hold 6 classes together, not 7"),
    "an overlap": ([(0, 4), (3, 4)], 7, "hold 8 classes together, not 7"),
    "an overlap and a gap": ([(0, 4), (3, 4)], 8, "overlap"),
    "twice the first": ([(0, 3), (0, 3)], 6, "overlap"),
}


def mistaken(group, ranges, total):
    record = torch.ones(5, N, dtype=torch.float64)
    try:
        merge(record, (group.group_name,), ClassRange(*ranges[dist.get_rank(group)], total))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_shards_that_are_not_all_classes_are_an_error_on_every_rank(ranks, name):
    ranges, total, text = WRONG[name]
    first, second = ranks.run(2, mistaken, ranges, total)
    assert first == second
    assert text in first
    assert "first_class=" in first


def test_records_need_ranks() -> None:
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="init_process_group"):
        _ = F.all_reduce(RowStats(*[one for _ in FIELDS]))


# The most probable class


def with_ties(shape):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(4, shape, generator=generator).double()


@pytest.mark.parametrize("shape", [(20, 7), (5, 7, 4)])
def test_the_most_probable_class_is_the_first_of_equal_ones(shape):
    prob = with_ties(shape)
    got = most_probable(prob, Target(prob=prob), ())
    rows = prob if prob.ndim == 2 else prob.movedim(1, -1).flatten(0, 1)
    assert got.tolist() == [row.index(max(row)) for row in rows.tolist()]


def chosen(group, layout):
    rank, n = dist.get_rank(group), dist.get_world_size(group)
    prob = with_ties((40, V))
    first, length = layout_of(layout, n, V)[0][rank]
    first = min(first, V)
    own = prob[:, first : first + length]
    target = Target(prob=own, first_class=first, num_classes=V)
    got = most_probable(own, target, (group.group_name,))
    return got.tolist() == [row.index(max(row)) for row in prob.tolist()]


@pytest.mark.slow
@counts
@pytest.mark.parametrize("layout", ["uneven", "empty", "backwards", "only padding"])
def test_the_most_probable_class_of_all_shards(ranks, n, layout):
    assert all(ranks.run(n, chosen, layout))
