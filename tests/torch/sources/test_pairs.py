"""Two heads in tiles of any shape give what the pair operators give of all logits at once."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from crossent.spec import Scores, Target
from crossent.torch.base.values import PairResults, loss_dtype, new_record
from crossent.torch.operators.pair import PairCall, PairGradCall, TeacherScores, pair_grad, pair_stats
from crossent.torch.operators.rows import RowCall
from crossent.torch.sources import pairs
from crossent.torch.sources.beside import without_target
from crossent.torch.sources.driver import TiledRows
from crossent.torch.sources.linear import LinearSource
from crossent.torch.sources.pairs import HeadCotangents, HeadsWanted, HeadTiles, PairedRows, PairRecords
from crossent.torch.sources.plan import TileShape
from crossent.torch.sources.source import Wanted
from tests.torch import plain

N, V, D, D2 = 11, 37, 5, 3
ALL = Wanted(input=True, linear_weight=True, linear_bias=True)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


@dataclasses.dataclass
class Drawn:
    """Two layers with a target, as the driver takes them and as the pair operators take their logits."""

    task: PairedRows
    call: PairCall
    layers: list[tuple[Tensor, Tensor]]


def draw(dtype: torch.dtype, beta: float | None, positions: int = 1) -> Drawn:
    layers, logits = [], []
    for size in (D, D2):
        x, weight, bias = (torch.randn(*s, dtype=dtype) for s in ((N, size), (V * positions, size), (V * positions,)))
        layers.append((x, weight, bias))
        z = x @ weight.T + bias
        logits.append(z if positions == 1 else z.unflatten(1, (V, positions)))
    rows = N * positions
    index = torch.randint(V, (rows,))
    index[::4] = -100
    scores = Scores(0.7, 3.0), Scores(1.0, None, torch.rand(rows, dtype=torch.float64) + 0.5)
    target = Target(index, ignore_index=-100)
    beside = without_target(target, rows, index.device)
    of_heads = zip(layers, (target, beside), scores, strict=True)
    tasks = [TiledRows(LinearSource(*layer, positions=positions), t, s) for layer, t, s in of_heads]
    call = PairCall(RowCall(logits[0], target, scores[0], recorded=True), logits[1], TeacherScores.of(scores[1]), beta)
    return Drawn(PairedRows(*tasks, beta), call, layers)


def tiles(drawn: Drawn, shape: TileShape) -> HeadTiles:
    return HeadTiles(*(task.source.tiles(shape) for task in (drawn.task.student, drawn.task.teacher)))


def memory(rows: int, dtype: torch.dtype) -> PairResults:
    like = torch.empty(0, dtype=dtype)
    (a, own), (b, other) = new_record(rows, like), new_record(rows, like)
    vectors = [torch.empty(rows, dtype=loss_dtype(dtype)) for _ in range(6)]
    return PairResults(a, vectors[0], vectors[1], own, vectors[2], b, other, *vectors[3:], own.new_empty((4, rows)))


def cotangents(rows: int, dtype: torch.dtype, without: tuple[str, ...] = ()) -> HeadCotangents:
    g = {name: torch.randn(rows, dtype=dtype) for name in HeadCotangents._fields if name not in without}
    return HeadCotangents(**g)


def whole_gradients(drawn: Drawn, found: PairResults, g: HeadCotangents) -> list[Tensor]:
    """The gradients of all logits of both heads, by the operator, in the form of matrices."""
    call = drawn.call
    own = PairGradCall(call, found.record, found.teacher_record, found.sums, *g.of_student)
    sums = found.sums[[1, 0, 3, 2]]
    other = PairGradCall(call.swapped, found.teacher_record, found.record, sums, *g.of_teacher)
    return [pair_grad(x).flatten(1) for x in (own, other)]


def of_operands(drawn: Drawn, gradients: list[Tensor]) -> list[Any]:
    """The gradients of the operands of both layers, from those of their logits."""
    pairs_of = zip(drawn.layers, gradients, strict=True)
    return [(g @ layer[1], g.T @ layer[0], g.sum(0)) for layer, g in pairs_of]


def agree(found: Any, want: Any, dtype: torch.dtype) -> None:
    for of_head, exact in zip(found, want, strict=True):
        for a, b in zip(of_head[:3], exact, strict=True):
            assert plain.off(a, b) <= (1e-12 if dtype == torch.float64 else 1e-5)


@each_dtype
@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize("beta", [None, 0.3])
@pytest.mark.parametrize("most", [1, 4, N])
def test_statistics_whole_chunks_are_those_of_all_rows(most, beta, positions, dtype):
    drawn = draw(dtype, beta, positions)
    results = memory(N * positions, dtype)
    pairs.statistics(drawn.task, tiles(drawn, TileShape(most, V)), most, results)
    for name, a, b in zip(PairResults._fields, results, pair_stats(drawn.call), strict=True):
        if name != "sums" or beta is not None:
            assert plain.off(a.double(), b.double()) <= (1e-12 if dtype == torch.float64 else 2e-5), name


@each_dtype
@pytest.mark.parametrize("positions", [1, 2])
def test_gradients_in_tiles_are_those_of_all_logits(positions, dtype):
    drawn = draw(dtype, 0.3, positions)
    found, g = pair_stats(drawn.call), cotangents(N * positions, dtype)
    want = of_operands(drawn, whole_gradients(drawn, found, g))
    records = PairRecords(found.record, found.teacher_record, found.sums)
    for rows, classes in itertools.product((1, 4, N), (1, 8, V)):
        shape = TileShape(rows, classes)
        got = pairs.gradients(drawn.task, tiles(drawn, shape), shape, records, g, HeadsWanted(ALL, ALL))
        agree(got, want, dtype)


class Known:
    """A closing with given cotangents."""

    def __init__(self, cotangents: HeadCotangents) -> None:
        self.cotangents, self.whole_chunks = cotangents, True
        self.seen: list[slice] = []

    def __call__(self, rows: slice, chunk: Any) -> HeadCotangents:
        self.seen.append(rows)
        return self.cotangents.at(rows)


@each_dtype
@pytest.mark.parametrize(
    "wanted", [(ALL, ALL), (ALL, Wanted()), (Wanted(), ALL), (Wanted(input=True), Wanted())], ids=str
)
@pytest.mark.parametrize("without", [(), ("kl", "reverse_kl", "js"), ("loss", "lse", "entropy"), ("teacher_lse", "js")])
def test_one_sweep_does_both(without, wanted, dtype):
    drawn = draw(dtype, 0.3)
    g, results = Known(cotangents(N, dtype, without)), memory(N, dtype)
    found = pairs.one_sweep(drawn.task, tiles(drawn, TileShape(4, V)), 4, g, results, HeadsWanted(*wanted))
    assert [x.start for x in g.seen] == [0, 4, 8]
    exact = pair_stats(drawn.call)
    for a, b in zip(results, exact, strict=True):
        assert plain.off(a.double(), b.double()) <= (1e-12 if dtype == torch.float64 else 2e-5)
    want = of_operands(drawn, whole_gradients(drawn, exact, g.cotangents))
    for of_head, exact_of_head, want_of_head in zip(found, want, wanted, strict=True):
        assert (of_head is None) == (not want_of_head.of_source)
        for a, b, asked in zip(of_head or (), exact_of_head, want_of_head, strict=False):
            assert (a is None) == (not asked)
            if a is not None:
                assert plain.off(a, b) <= (1e-12 if dtype == torch.float64 else 1e-5)


def test_rows_of_nan_that_do_not_count_reach_no_weight():
    """0 · NaN is NaN: ignored rows are left out of the products, of both heads."""
    drawn = draw(torch.float64, 0.3)
    for x, *_ in drawn.layers:
        x[::4] = float("nan")
    g, results = Known(cotangents(N, torch.float64)), memory(N, torch.float64)
    found = pairs.one_sweep(drawn.task, tiles(drawn, TileShape(4, V)), 4, g, results, HeadsWanted(ALL, ALL))
    for of_head in found:
        assert of_head.linear_weight.isfinite().all()
        assert of_head.linear_bias.isfinite().all()
    assert (results.kl[::4] == 0).all()
