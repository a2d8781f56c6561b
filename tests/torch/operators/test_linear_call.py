"""The call of a linear loss: its head without padding and ignored rows, and gradients back in the operands' shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from crossent.torch.base.values import RowResults
from crossent.torch.operators.linear_call import LinearCall, LinearGradients, linear_stats_plain, recomputed
from crossent.torch.operators.linear_stats import LinearStatsCall, linear_stats
from crossent.torch.operators.rows import row_stats
from crossent.torch.ranks.shards import NO_RANKS
from tests.torch import plain
from tests.torch.sources.tasks import KINDS, OPTIONS, Rows, agree, draw

kinds = pytest.mark.parametrize("kind", KINDS)
both = pytest.mark.parametrize("positions", [1, 3])


def call_of(rows: Rows, *, padding: int = 0) -> LinearCall:
    """The call of rows; the padding after the last class is NaN."""
    P, target = rows.positions, rows.target

    def padded(x: Any, entries: int) -> Any:
        return None if x is None else torch.cat([x, x.new_full((entries, *x.shape[1:]), torch.nan)])

    prob: Any = target.prob
    if padding and target.kind == "dense":
        prob = torch.cat([prob, prob.new_full((prob.shape[0], padding, *prob.shape[2:]), torch.nan)], 1)
    target = dataclasses.replace(target, prob=prob, num_classes=rows.classes if padding else None)
    weight, bias = padded(rows.weight, padding * P), padded(rows.bias, padding * P)
    return LinearCall(rows.input, weight, bias, P, target, rows.scores, NO_RANKS)


# Padding


@kinds
@both
def test_without_padding_the_call_is_that_of_the_classes(kind, positions):
    rows = draw(kind, "everything", positions=positions)
    call, plain_call = call_of(rows, padding=2), call_of(rows)
    assert (call.columns, call.classes, plain_call.classes) == (rows.classes + 2, rows.classes, rows.classes)
    less = call.unpadded()
    for name, x in (("linear_weight", rows.weight), ("linear_bias", rows.bias)):
        assert torch.equal(getattr(less, name), x)
    if kind == "dense":
        assert torch.equal(less.target.prob, rows.target.prob)
    assert plain_call.unpadded() is plain_call
    assert call.class_range == (0, rows.classes, rows.classes)


@kinds
@both
def test_gradients_are_zero_in_the_padding(kind, positions):
    rows = draw(kind, "everything", positions=positions)
    call = call_of(rows, padding=2)
    prob: Any = rows.target.prob
    found = LinearGradients(*(None if x is None else x + 1 for x in (rows.input, rows.weight, rows.bias, prob)))
    padded = call.padded(found)
    operands = LinearGradients(call.input, call.linear_weight, call.linear_bias, call.target.prob)
    for name, g, want, operand in zip(found._fields, padded, found, operands, strict=True):
        if want is None:
            assert g is None
            continue
        assert g.shape == operand.shape, name
        axis = 1 if name == "prob" else 0
        assert torch.equal(g.narrow(axis, 0, want.shape[axis]), want)
        assert g.narrow(axis, want.shape[axis], g.shape[axis] - want.shape[axis]).count_nonzero() == 0
    assert call.padded(LinearGradients()) == LinearGradients()


def test_gradients_add_up_where_both_are():
    a, b = torch.randn(2, 3)
    total = LinearGradients(a, None, b) + LinearGradients(b, a)
    assert torch.equal(total.input, a + b)
    assert total.linear_weight is a
    assert total.linear_bias is b
    assert total.prob is None
    empty = LinearGradients(a, None, b).filled(a)
    assert [x.shape for x in empty] == [(3,), (0,), (3,), (0,), (0,)]


# Ignored rows


@both
def test_rows_without_a_target_are_packed_out(positions):
    rows = draw("index", positions=positions, N=6)
    index = torch.arange(6 * positions) % rows.classes
    index.view(6, positions)[[1, 2, 5]] = -100
    index[0] = -100 if positions > 1 else index[0]
    rows = dataclasses.replace(rows, target=dataclasses.replace(rows.target, index=index))
    packed = call_of(rows).packed()
    kept = torch.tensor([0, 3, 4])
    assert torch.equal(packed.source.rows, kept)
    assert packed.source.input is rows.input
    assert torch.equal(packed.task.target.index, index.view(6, positions)[kept].view(-1))
    numbers = torch.arange(6 * positions)
    assert torch.equal(packed.take(numbers), numbers.view(6, positions)[kept].view(-1))
    assert torch.equal(packed.take(torch.stack([numbers, 2 * numbers]))[1], 2 * packed.take(numbers))
    assert packed.take(None) is None
    results, parts = call_of(rows).new_results(), call_of(rows).new_results(3)
    for x in parts:
        _ = x.copy_(torch.rand_like(x))
    packed.put(results, parts)
    for whole, part, fresh in zip(results, parts, call_of(rows).new_results(), strict=True):
        assert torch.equal(packed.take(whole), part)
        rest = torch.ones(6 * positions, dtype=torch.bool).index_fill(0, packed.take(numbers), False)
        assert torch.equal(whole[..., rest], fresh[..., rest])


def test_results_begin_as_those_of_rows_without_a_target():
    rows = draw("index", positions=3, ignored=1.0)
    results = call_of(rows).new_results()
    want = row_stats(rows.call())
    for a, b in zip(results, want, strict=True):
        assert torch.equal(a, b)
    assert results.record.shape == (len(FIELDS), rows.number)


@pytest.mark.parametrize("kind", ["topk", "dense"])
def test_soft_targets_have_all_rows(kind):
    packed = call_of(draw(kind)).packed()
    assert packed.places is None
    assert packed.source.rows is None
    x = torch.randn(7)
    assert packed.take(x) is x


def test_on_a_gpu_rows_without_a_target_stay():
    rows = draw("index", positions=3)
    call = call_of(rows)
    elsewhere = dataclasses.replace(call, input=Elsewhere(call.input))
    packed = elsewhere.packed()
    assert packed.places is None
    assert packed.source.rows is None
    assert packed.source.size == len(rows.input)


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on no CPU."""

    @staticmethod
    def __new__(cls, x: torch.Tensor) -> Any:
        return x.as_subclass(cls)

    @property
    def is_cpu(self) -> bool:  # pyright: ignore
        return False


# The slow twin


@kinds
@both
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("padding", [0, 2])
def test_the_slow_twin_gives_the_same(padding, option, positions, kind):
    rows = draw(kind, option, positions=positions)
    call = call_of(rows, padding=padding)
    got = linear_stats(LinearStatsCall(call, "nothing", 200)).rows
    agree(linear_stats_plain(call), got, torch.float64)


@kinds
@both
def test_what_is_recomputed_is_the_gradient_of_the_slow_twin(positions, kind):
    rows = draw(kind, "everything", positions=positions)
    leaves = [x.clone().requires_grad_() for x in (rows.input, rows.weight, rows.bias)]
    prob: Any = rows.target.prob
    prob = None if prob is None else prob.clone().requires_grad_()
    target = dataclasses.replace(rows.target, prob=prob)
    call = LinearCall(*leaves, positions, target, rows.scores, NO_RANKS)
    inputs = [*leaves, *([] if prob is None else [prob])]
    g = [plain.cotangent_like(torch.empty(rows.number), k) for k in range(3)]

    def close(_: LinearCall, results: RowResults) -> tuple[torch.Tensor, ...]:
        return results.loss.square(), results.lse, results.entropy

    found = recomputed(call, close, [g[0], None, g[2]])
    outputs = close(call, linear_stats_plain(call))
    wanted = torch.autograd.grad([outputs[0], outputs[2]], inputs, [g[0], g[2]], create_graph=True)
    for a, b in zip([x for x in found if x is not None], wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        assert a.requires_grad
    seeds = [plain.cotangent_like(x, 9) for x in wanted]
    twice = [torch.autograd.grad([x for x in gs if x is not None], inputs, seeds) for gs in (found, wanted)]
    for a, b in zip(*twice, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    frozen = dataclasses.replace(call, linear_weight=rows.weight, linear_bias=rows.bias, target=rows.target)
    found = recomputed(frozen, close, [g[0], None, None])
    assert [x is None for x in found] == [False, True, True, True, True]


def test_a_target_of_another_integer_dtype():
    rows = draw("index")
    index: Any = rows.target.index
    narrow = dataclasses.replace(rows, target=Target(index.to(torch.int8), ignore_index=-100), scores=Scores())
    packed = call_of(narrow).packed()
    assert packed.task.target.index.dtype == torch.int64
    assert torch.equal(packed.task.target.index, index[index != -100])
