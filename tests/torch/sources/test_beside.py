"""What is read from tiles beside the row statistics is that of all logits at once, however these are cut."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from crossent.kernels.backend import Cotangents, LossScale
from crossent.spec import Scores, Target
from crossent.torch.base.values import RowResults, new_record
from crossent.torch.ranks.records import ClassRange
from crossent.torch.sources import driver
from crossent.torch.sources.beside import PredictionReaders, SelectedReader, SquaresPart, doubled, without_target
from crossent.torch.sources.linear import LinearSource
from crossent.torch.sources.plan import Sweep, TileShape
from crossent.torch.sources.source import Wanted
from crossent.torch.sources.squares import SquaresRecords

N, D, V = 12, 4, 30


def task_of(positions=1, target=None):
    x = torch.randn(N, D, dtype=torch.float64)
    w, b = torch.randn(V * positions, D, dtype=torch.float64), torch.randn(V * positions, dtype=torch.float64)
    target = target or Target(torch.randint(V, (N * positions,)))
    source = LinearSource(x, w, b, positions)
    logits = torch.nn.functional.linear(x, w, b).unflatten(1, (V, positions)).movedim(1, -1).reshape(-1, V)
    return driver.TiledRows(source, target, Scores(0.7, 6.0)), logits


def results_for(task):
    loss, record = new_record(N * task.source.positions, task.source.input)
    return RowResults(loss, torch.empty_like(loss), torch.empty_like(loss), record)


def scores(logits):
    return 6.0 * torch.tanh(logits / (0.7 * 6.0))


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("shape", [TileShape(12, 30), TileShape(5, 7), TileShape(1, 30), TileShape(12, 1)], ids=str)
def test_predictions_are_read_however_tiles_are_cut(shape, positions):
    task, logits = task_of(positions)
    predictions = PredictionReaders(task, task.source.input)
    task = dataclasses.replace(task, readers=predictions.readers)
    results = results_for(task)
    driver.statistics(task, task.source.tiles(shape), shape, results)
    value, record, predicted, peak = predictions.results(results.record, (), ClassRange(0, V, V))
    s = scores(logits)
    torch.testing.assert_close(value, (2 * s.log_softmax(1)).logsumexp(1))
    torch.testing.assert_close(record[0] + record[1].log(), (2 * s).logsumexp(1))
    assert torch.equal(predicted, logits.argmax(1))
    torch.testing.assert_close(peak, logits.amax(1))


@pytest.mark.parametrize("sweep", [Sweep(12), Sweep(5), Sweep(1)], ids=str)
def test_one_sweep_is_read_before_gradients_take_the_place_of_logits(sweep):
    task, logits = task_of()
    predictions, z = PredictionReaders(task, task.source.input), torch.zeros(N, 2, dtype=torch.float64)
    classes = torch.randint(V, (N, 2))
    task = dataclasses.replace(task, readers=(*predictions.readers, SelectedReader(task, classes, z)))
    scale, results = LossScale(torch.ones(N, dtype=torch.float64)), results_for(task)
    _ = driver.one_sweep(task, sweep, scale, results, Wanted(True, True, True))
    value, _, predicted, _ = predictions.results(results.record, (), ClassRange(0, V, V))
    torch.testing.assert_close(value, (2 * scores(logits).log_softmax(1)).logsumexp(1))
    assert torch.equal(predicted, logits.argmax(1))
    torch.testing.assert_close(z, logits.gather(1, classes))


@pytest.mark.parametrize("shape", [TileShape(12, 30), TileShape(5, 7)], ids=str)
def test_the_part_of_squares_is_added_to_the_gradient(shape):
    task, _ = task_of()
    results = results_for(task)
    predictions = PredictionReaders(task, task.source.input)
    reading = dataclasses.replace(task, readers=predictions.readers)
    driver.statistics(reading, task.source.tiles(shape), shape, results)
    _, record, _, _ = predictions.results(results.record, (), ClassRange(0, V, V))
    g_squares, g_lse = torch.randn(2, N, dtype=torch.float64)
    g_squares[3] = 0.0
    adding = dataclasses.replace(task, parts=(SquaresPart(task, SquaresRecords(results.record, record), g_squares),))
    found = driver.gradients(
        adding, task.source.tiles(shape), shape, results.record, Cotangents(None, g_lse, None), Wanted(True, True, True)
    )
    leaves = [a.clone().requires_grad_() for a in (task.source.input, task.source.weight, task.source.bias)]
    s = scores(torch.nn.functional.linear(*leaves))
    want = torch.autograd.grad([s.logsumexp(1), (2 * s.log_softmax(1)).logsumexp(1)], leaves, [g_lse, g_squares])
    for got, exact in zip(found[:3], want, strict=True):
        torch.testing.assert_close(got, exact)


def test_a_row_counts_for_the_weight_if_only_a_part_has_a_cotangent():
    task, _ = task_of()
    with torch.no_grad():
        task.source.input[0] = torch.nan
    results, shape = results_for(task), TileShape(N, V)
    predictions = PredictionReaders(task, task.source.input)
    reading = dataclasses.replace(task, readers=predictions.readers)
    driver.statistics(reading, task.source.tiles(shape), shape, results)
    _, record, _, _ = predictions.results(results.record, (), ClassRange(0, V, V))
    g = torch.zeros(N, dtype=torch.float64)
    g[4] = 1.0
    adding = dataclasses.replace(task, parts=(SquaresPart(task, SquaresRecords(results.record, record), g),))
    found = driver.gradients(
        adding, task.source.tiles(shape), shape, results.record, Cotangents(), Wanted(linear_weight=True)
    )
    assert found.linear_weight.isfinite().all()
    assert (found.linear_weight != 0).any()


def test_only_ignored_rows_are_left_of_a_target():
    index = torch.tensor([1, -100, 2])
    of_classes = Target(index, weight=torch.ones(4), smoothing=0.1, ignore_index=-100, first_class=4, num_classes=9)
    left = without_target(of_classes, 3, index.device)
    assert left.index is index
    assert (left.weight, left.smoothing, left.ignore_index, left.first_class, left.num_classes) == (None, 0, -100, 4, 9)
    left = without_target(Target(prob=torch.rand(3, 4), first_class=4, num_classes=9), 3, index.device)
    assert (left.kind, left.first_class, left.num_classes) == ("index", 4, 9)
    assert torch.equal(left.index, torch.zeros(3).long())
    task, _ = task_of(target=Target(prob=torch.rand(N, V, dtype=torch.float64)))
    assert doubled(task).target.kind == "index"
    assert doubled(task).scores == Scores(0.35, 12.0)
