"""The law that ties the sources: whatever makes the logits, and in tiles of whatever shape, the numbers are the same.

Over logits that exist the driver gives what the row operators give of all of them at once. Over a linear layer it gives
what it gives over the logits of the layer; the gradient of the logits, multiplied by the weight and by the input, is
that of the operands.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from crossent.kernels.backend import Cotangents, LossScale
from crossent.torch.base.values import RowResults, loss_dtype
from crossent.torch.operators.rows import RowGradCall, row_grad, row_stats
from crossent.torch.sources import driver
from crossent.torch.sources.driver import TiledRows
from crossent.torch.sources.layer_sums import LayerGradients
from crossent.torch.sources.linear import KeptTiles, LinearTiles
from crossent.torch.sources.plan import Rest, Sweep, TileShape
from crossent.torch.sources.products import operand_dtype
from crossent.torch.sources.source import Span, Wanted
from crossent.torch.sources.tensor import TensorSource
from tests.torch import plain
from tests.torch.sources.tasks import (
    IGNORED,
    KINDS,
    OPTIONS,
    Rows,
    agree,
    cotangents_of,
    draw,
    results_of,
    shapes,
)

EVERYTHING = Wanted(input=True, linear_weight=True, linear_bias=True)
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
kinds = pytest.mark.parametrize("kind", KINDS)
options = pytest.mark.parametrize("option", OPTIONS)


def statistics(task: TiledRows, shape: TileShape, rows: int, like: Tensor, tiles: Any = None) -> RowResults:
    results = results_of(rows, like)
    driver.statistics(task, tiles or task.source.tiles(shape), shape, results)
    return results


def gradients(
    task: TiledRows, shape: TileShape, record: Tensor, cotangents: Cotangents, wanted: Wanted = EVERYTHING
) -> Any:
    return driver.gradients(task, task.source.tiles(shape), shape, record, cotangents, wanted)


def whole_gradient(rows: Rows, record: Tensor, cotangents: Cotangents) -> Tensor:
    """The gradient of all logits at once, by the row operator."""
    return row_grad(RowGradCall(rows.call(), record, *cotangents))


def of_scale(scale: LossScale, results: RowResults) -> Cotangents:
    """The cotangents of Σ scale.loss · loss + scale.lse_squared · lse²."""
    factor: Any = scale.lse_squared
    return Cotangents(scale.loss, None if factor is None else 2 * factor * results.lse)


# Logits that exist


@dtypes
@kinds
@options
def test_over_logits_the_driver_is_the_row_operators(option, kind, dtype):
    rows = draw(kind, option)
    logits, g = rows.logits().to(dtype), cotangents_of(rows.number, dtype)
    task = TiledRows(TensorSource(logits), rows.target, rows.scores)
    call = dataclasses.replace(rows.call(), logits=logits)
    want = row_stats(call)
    wanted = row_grad(RowGradCall(call, want.record, *g))
    for shape in shapes(rows.number, rows.classes):
        got = statistics(task, shape, rows.number, logits)
        agree(got, want, loss_dtype(dtype))
        found = gradients(task, shape, got.record, g).logits
        assert found.dtype == dtype
        plain.agree("gradient", found, wanted, None, plain.FLOOR[dtype])


@kinds
@options
@pytest.mark.parametrize("squared", [False, True])
def test_one_sweep_over_logits_is_statistics_and_gradients(squared, option, kind):
    rows = draw(kind, option)
    task, logits = rows.tensor(), rows.logits()
    scale = LossScale(torch.rand(rows.number).double(), torch.rand(rows.number).double() if squared else None)
    want = row_stats(rows.call())
    wanted = whole_gradient(rows, want.record, of_scale(scale, want))
    for number in (1, 3, rows.number, 100):
        got = results_of(rows.number, logits)
        found = driver.one_sweep(task, Sweep(number), scale, got, EVERYTHING).logits
        agree(got, want, torch.float64)
        plain.agree("gradient", found, wanted, None, plain.FLOOR[torch.float64])
    assert torch.equal(rows.logits(), logits)


@kinds
def test_columns_after_the_last_class_are_padding(kind):
    rows = draw(kind, "everything")
    logits, pad = rows.logits(), torch.full((rows.number, 3), torch.nan, dtype=torch.float64)
    task = dataclasses.replace(rows.tensor(), source=TensorSource(torch.cat([logits, pad], 1), rows.classes))
    g, want = cotangents_of(rows.number, torch.float64), row_stats(rows.call())
    for shape in shapes(rows.number, rows.classes):
        got = statistics(task, shape, rows.number, logits)
        agree(got, want, torch.float64)
        found = gradients(task, shape, got.record, g).logits
        assert torch.equal(found[:, rows.classes :], torch.zeros_like(pad))
        plain.agree(
            "gradient", found[:, : rows.classes], whole_gradient(rows, want.record, g), None, plain.FLOOR[torch.float64]
        )


def test_logits_of_any_strides():
    rows = draw("topk", "everything")
    logits = rows.logits().t().contiguous().t()
    assert not logits.is_contiguous()
    task = dataclasses.replace(rows.tensor(), source=TensorSource(logits))
    want = row_stats(rows.call())
    for shape in shapes(rows.number, rows.classes):
        agree(statistics(task, shape, rows.number, logits), want, torch.float64)


# A linear layer


@dtypes
@kinds
@options
@pytest.mark.parametrize("positions", [1, 3])
def test_over_a_layer_the_driver_is_itself_over_the_logits_of_the_layer(positions, option, kind, dtype):
    rows = draw(kind, option, dtype=dtype, positions=positions)
    wide = loss_dtype(dtype)
    like, g = rows.logits(), cotangents_of(rows.number, dtype)
    all_at_once = TileShape(rows.number, rows.classes)
    want = statistics(rows.tensor(), all_at_once, rows.number, like)
    g_logits = rows.packed(gradients(rows.tensor(), all_at_once, want.record, g).logits)
    wanted = LayerGradients(
        g_logits @ rows.weight.to(wide),
        g_logits.t() @ rows.input.to(wide),
        None if rows.bias is None else g_logits.sum(0),
    )
    for shape in shapes(len(rows.input), rows.classes):
        got = statistics(rows.linear(), shape, rows.number, like)
        agree(got, want, wide)
        found = gradients(rows.linear(), shape, got.record, g, EVERYTHING._replace(linear_bias=rows.bias is not None))
        assert {x.dtype for x in found if x is not None} == {dtype}
        agree(found, wanted, dtype)


@dtypes
@kinds
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("squared", [False, True])
def test_one_sweep_over_a_layer_is_one_over_the_logits_of_the_layer(squared, positions, kind, dtype):
    rows = draw(kind, "everything", dtype=dtype, positions=positions)
    wide, like = loss_dtype(dtype), rows.logits()
    factors = torch.rand(2, rows.number, dtype=torch.float64).to(wide)
    scale = LossScale(factors[0], factors[1] if squared else None)
    want = results_of(rows.number, like)
    found = driver.one_sweep(rows.tensor(), Sweep(rows.number), scale, want, EVERYTHING)
    g_logits = rows.packed(found.logits)
    wanted = LayerGradients(g_logits @ rows.weight.to(wide), g_logits.t() @ rows.input.to(wide), g_logits.sum(0))
    size, last = len(rows.input), positions * (rows.classes - 1)
    sweeps = [Sweep(1), Sweep(3), Sweep(3, size), Sweep(2, 4), Sweep(1, 2), Sweep(size), Sweep(100, 100)]
    if operand_dtype(dtype) == dtype:
        sweeps += [Sweep(3, size, Rest(positions, positions)), Sweep(100, size, Rest(2 * positions, 100))]
        sweeps += [Sweep(1, size, Rest(last, 2 * positions)), Sweep(2, size, Rest(last - 1, positions))]
    for sweep in sweeps:
        got = results_of(rows.number, like)
        grads = driver.one_sweep(rows.linear(), sweep, scale, got, EVERYTHING)
        agree(got, want, wide)
        # whoever knows their cotangent rounds them, but for a gradient that one product of the second sweep makes whole
        assert {x.dtype for x in grads[:3]} <= ({wide} if sweep.rest is None else {wide, dtype})
        agree(grads, wanted, dtype)


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("held", [torch.nan, torch.inf])
def test_ignored_rows_that_are_multiplied_may_hold_anything(held, positions):
    """As on a GPU, where to leave them out would be to wait for it."""
    rows = draw("index", "everything", positions=positions, N=9, ignored=0.2)
    index: Any = rows.target.index
    index.view(-1, positions)[[1, 4]] = -100
    clean, like = dataclasses.replace(rows, input=rows.input.clone()), rows.logits()
    rows.input[[1, 4]] = held
    scale = LossScale(torch.rand(rows.number).double(), torch.rand(rows.number).double())
    sweeps = (Sweep(2), Sweep(9), Sweep(2, 4), Sweep(3, 9), Sweep(2, 9, Rest(2 * positions, positions)))
    for sweep in sweeps:
        want, got = results_of(rows.number, like), results_of(rows.number, like)
        wanted = driver.one_sweep(clean.linear(), sweep, scale, want, EVERYTHING)
        found = driver.one_sweep(rows.linear(), sweep, scale, got, EVERYTHING)
        assert all(torch.equal(a, b) for a, b in zip((*got, *found[:3]), (*want, *wanted[:3]), strict=True))
    g = cotangents_of(rows.number, torch.float64)
    for shape in shapes(9, rows.classes):
        want, got = (statistics(task, shape, rows.number, like) for task in (clean.linear(), rows.linear()))
        pairs = zip(
            *(gradients(task, shape, got.record, g)[:3] for task in (clean.linear(), rows.linear())), strict=True
        )
        assert all(torch.equal(a, b) for a, b in [*zip(got, want, strict=True), *pairs])


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_packed_rows_are_the_rows_without_the_others(positions, dtype):
    rows = draw("index", "everything", dtype=dtype, positions=positions, N=9, ignored=0.2)
    which = torch.tensor([0, 2, 3, 7])
    rows.input[[1, 4, 5, 6, 8]] = torch.nan
    index: Any = rows.target.index
    target = dataclasses.replace(rows.target, index=index.view(-1, positions)[which].view(-1))
    less = dataclasses.replace(rows, input=rows.input[which], target=target)
    packed = dataclasses.replace(rows, target=target).linear(rows=which)
    assert packed.source.size == len(which)
    g, like = cotangents_of(less.number, dtype), less.logits()
    scale = LossScale(g.loss, None)
    for shape in shapes(len(which), rows.classes):
        want, got = (statistics(task, shape, less.number, like) for task in (less.linear(), packed))
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        pairs = [[gradients(task, shape, want.record, g) for task in (less.linear(), packed)]]
        sweep = Sweep(shape.rows)
        pairs += [
            [
                driver.one_sweep(task, sweep, scale, results_of(less.number, like), EVERYTHING)
                for task in (less.linear(), packed)
            ]
        ]
        for wanted, found in pairs:
            assert torch.equal(found.input[which], wanted.input)
            assert found.input.count_nonzero() == wanted.input.count_nonzero()
            assert torch.equal(found.linear_weight, wanted.linear_weight)
            assert torch.equal(found.linear_bias, wanted.linear_bias)


@dtypes
@pytest.mark.parametrize("positions", [1, 3])
def test_logits_that_are_kept_are_read_and_left_alone(positions, dtype):
    rows = draw("index", "everything", dtype=dtype, positions=positions)
    wide, like, task = loss_dtype(dtype), rows.logits(), rows.linear()
    g = cotangents_of(rows.number, dtype)
    for shape in shapes(len(rows.input), rows.classes):
        kept = torch.full((len(rows.input), len(rows.weight)), torch.nan, dtype=wide)
        results = statistics(task, shape, rows.number, like, LinearTiles(task.source, shape, kept))
        again = statistics(task, shape, rows.number, like)
        assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))
        plain.agree("logits", kept, rows.packed(like), None, plain.FLOOR[wide])
        before = kept.clone()
        tiles = KeptTiles(task.source, shape, kept)
        found = driver.gradients(task, tiles, shape, results.record, g, EVERYTHING)
        want = gradients(task, shape, results.record, g)
        assert torch.equal(kept, before)
        for a, b in zip(found[:3], want[:3], strict=True):
            assert torch.equal(a, b)


def test_gradients_come_where_they_are_wanted():
    rows = draw("dense", "everything")
    record = row_stats(rows.call()).record
    g, whole = cotangents_of(rows.number, torch.float64), EVERYTHING
    all_of_them = gradients(rows.linear(), TileShape(3, 4), record, g)
    for k in range(8):
        wanted = Wanted(*(k >> at & 1 == 1 for at in range(3)))
        found = gradients(rows.linear(), TileShape(3, 4), record, g, wanted)
        for want, a, b in zip(whole._replace(**wanted._asdict())[:3], found[:3], all_of_them[:3], strict=True):
            assert (a is not None) == want
            assert a is None or torch.equal(a, b)


def test_a_shard_without_classes_has_the_record_of_nothing():
    rows = draw("index", N=4, V=0, ignored=1.0)
    results = statistics(rows.linear(), TileShape(1, 1), 4, torch.empty(0, dtype=torch.float64))
    nothing = torch.tensor([-torch.inf, 0, 0, 0, 0], dtype=torch.float64)
    assert torch.equal(results.record, nothing[:, None].expand(5, 4))


# The target's probabilities


@pytest.mark.parametrize("kind", ["dense", "topk"])
@options
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("chunk_bytes", [1, 700, 2**20])
def test_gradients_of_probabilities_are_those_of_autograd(chunk_bytes, positions, option, kind):
    rows = draw(kind, option, positions=positions)
    flat, V = rows.flat_target(), rows.classes
    prob: Any = flat.prob
    leaf = prob.clone().requires_grad_()
    own: Any = rows.scores.row_temperature
    s = rows.logits() / (rows.scores.temperature if own is None else own[:, None])
    if rows.scores.softcap is not None:
        s = rows.scores.softcap * torch.tanh(s / rows.scores.softcap)
    p = leaf if flat.index is None else torch.zeros(rows.number, V).double().scatter_add(1, flat.index, leaf)
    p = (1 - flat.smoothing) * p + flat.smoothing / V
    w: Any = 1.0 if flat.weight is None else flat.weight
    g = cotangents_of(rows.number, torch.float64).loss
    (want,) = torch.autograd.grad(-(g * (w * p * s.log_softmax(1)).sum(1)).sum(), leaf)
    record = row_stats(rows.call()).record
    got = driver.prob_gradient(rows.linear(), chunk_bytes, record, g)
    if kind == "dense" and positions > 1:
        got = got.mT.reshape(-1, V)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
    if positions == 1:
        same = driver.prob_gradient(rows.tensor(), chunk_bytes, record, g)
        torch.testing.assert_close(same, want, rtol=1e-11, atol=1e-13)


# Targets of a tile


@kinds
@pytest.mark.parametrize("positions", [1, 3])
def test_the_target_of_a_tile_is_a_part_of_the_target(positions, kind):
    rows = draw(kind, "everything", positions=positions)
    task = rows.linear()
    part = task.target_of(Span(2, 5), Span(3, 9))
    here = slice(2 * positions, 5 * positions)
    assert (part.first_class, part.num_classes) == (3, rows.classes)
    assert torch.equal(part.weight, rows.target.weight[3:9])
    if kind == "dense":
        assert torch.equal(part.prob, rows.target.prob[2:5, 3:9])
    else:
        assert torch.equal(part.index, rows.target.index[here])
        assert kind == "index" or torch.equal(part.prob, rows.target.prob[here])
    assert (part.smoothing, part.ignore_index) == (rows.target.smoothing, rows.target.ignore_index)


def test_a_shard_counts_its_classes_from_its_first():
    rows = draw("index")
    task = rows.linear()
    task = dataclasses.replace(task, target=dataclasses.replace(rows.target, first_class=20, num_classes=50))
    assert task.target_of(Span(0, 1), Span(3, 9)).first_class == 23
    assert task.target_of(Span(0, 1), Span(3, 9)).num_classes == 50


def test_wrong_targets_are_found_before_anything_is_multiplied(monkeypatch):
    rows = draw("index", positions=3, ignored=0.0)
    index: Any = rows.target.index
    index[8] = rows.classes
    with pytest.raises(IndexError, match=r"class 11 .row 8 of 21"):
        driver.check_targets(rows.linear(), rows.input)
    index[8] = IGNORED
    driver.check_targets(rows.linear(), rows.input)
    rows = draw("dense", positions=3)
    prob: Any = rows.target.prob
    prob[2, 4, 1] = -0.25
    with pytest.raises(ValueError, match=r"-0.25 .row 7, column 4"):
        driver.check_targets(rows.linear(), rows.input)
    # where that would be waiting for a device, only if it is asked for
    elsewhere = rows.input.to("meta")
    driver.check_targets(rows.linear(), elsewhere)
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")
    with pytest.raises(ValueError, match=r"-0.25"):
        driver.check_targets(rows.linear(), elsewhere)
