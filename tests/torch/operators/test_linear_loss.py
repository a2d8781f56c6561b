"""One sweep: the sum or mean of a linear loss is linear_stats and a closing, and its backward scales what was found."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from crossent.stats import FIELDS
from crossent.torch.call.arguments import Closing, RowClosing
from crossent.torch.operators.linear_call import LinearCall
from crossent.torch.operators.linear_loss import LinearLoss, LinearLossCall, linear_loss
from crossent.torch.operators.linear_stats import LinearStatsCall, linear_stats
from crossent.torch.ranks.shards import NO_RANKS
from tests.torch import plain
from tests.torch.operators.watching import Watching
from tests.torch.sources.tasks import KINDS, Rows, draw

kinds = pytest.mark.parametrize("kind", KINDS)
ALL = (True, True, True)


def call_of(rows: Rows, *, wants: tuple[bool, ...] = ALL, **how: Any) -> LinearLossCall:
    """A call with leaves of its own."""
    leaves = [
        x.clone().requires_grad_(want) for x, want in zip((rows.input, rows.weight, rows.bias), wants, strict=True)
    ]
    head = LinearCall(*leaves, rows.positions, rows.target, rows.scores, NO_RANKS)
    options = {"sample_weight": None, "z_loss": 0.0, "mean": True, "chunk_bytes": 2**20} | how
    return LinearLossCall(head=head, wants=wants, **options)


def operands(call: LinearLossCall) -> list[Tensor]:
    head: Any = call.head
    return [x for x in (head.input, head.linear_weight, head.linear_bias) if x.requires_grad]


def in_two_steps(call: LinearLossCall) -> Tensor:
    """The same loss by the statistics of the rows, and the closing of all of them."""
    rows = linear_stats(LinearStatsCall(call.head, "nothing", call.chunk_bytes)).rows
    closing = Closing("mean" if call.mean else "sum", call.sample_weight, call.z_loss)
    return RowClosing(closing, call.head.target, call.head.target.weight).reduced(rows.loss, rows.lse)


@kinds
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("mean", [True, False])
def test_one_sweep_is_two_steps(mean, positions, kind):
    for z_loss, weighted, chunk_bytes in itertools.product((0.0, 0.1), (False, True), (2**20, 300, 1)):
        rows = draw(kind, "everything", positions=positions)
        s = torch.rand(rows.number, dtype=torch.float64) if weighted else None
        call = call_of(rows, mean=mean, z_loss=z_loss, sample_weight=s, chunk_bytes=chunk_bytes)
        loss, want = linear_loss(call).reduced, in_two_steps(call)
        g = torch.tensor(0.7, dtype=torch.float64)
        plain.agree("loss", loss, want, None, plain.FLOOR[torch.float64])
        found, wanted = (torch.autograd.grad(x, operands(call), g) for x in (loss, want))
        for a, b in zip(found, wanted, strict=True):
            plain.agree("gradient", a, b, None, plain.FLOOR[torch.float64])


def test_the_results_of_the_rows_have_gradients_too():
    rows = draw("topk", "everything", positions=3)
    call = call_of(rows, z_loss=0.1)
    found, statistics = linear_loss(call), linear_stats(LinearStatsCall(call.head, "nothing", 2**20))
    both = []
    for reduced, rows_of in ((found.reduced, found.rows), (in_two_steps(call), statistics.rows)):
        parts = [reduced, *rows_of[:3]]
        gs = [plain.cotangent_like(x, k) for k, x in enumerate(parts)]
        both.append(torch.autograd.grad(parts, operands(call), gs, retain_graph=True))
        both.append(torch.autograd.grad(parts[1:], operands(call), gs[1:]))
    for a, b in zip(both[0] + both[1], both[2] + both[3], strict=True):
        plain.agree("gradient", a, b, None, plain.FLOOR[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradients_of_the_forward_are_handed_over_once(dtype):
    rows = draw("index", "everything", dtype=dtype)
    call = call_of(rows)
    found = linear_loss(call)
    made = [g.data_ptr() for g in (found.g_input, found.g_weight, found.g_bias)]
    loss = found.reduced
    del found
    g = torch.tensor(1.0)
    kept = torch.autograd.grad(loss, operands(call), g, retain_graph=True)
    assert not {x.data_ptr() for x in kept} & set(made)
    last = torch.autograd.grad(loss, operands(call), g)
    assert ([x.data_ptr() for x in last] == made) == (dtype == torch.float32)  # others are rounded now, once
    for a, b in zip(kept, last, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        _ = torch.autograd.grad(loss, operands(call), g)


def test_gradients_that_somebody_else_has_are_left_alone():
    # through the dispatcher the outputs of the forward may be seen by others
    call = call_of(draw("index", "everything"))
    with Watching():
        found = linear_loss(call)
    before = found.g_input.clone()
    (g, *_) = torch.autograd.grad(found.reduced, operands(call), torch.tensor(3.0, dtype=torch.float64))
    assert torch.equal(found.g_input, before)
    torch.testing.assert_close(g, 3 * before)


@pytest.mark.parametrize("wants", [w for w in itertools.product((True, False), repeat=3) if any(w)], ids=str)
def test_a_gradient_only_where_one_is_wanted(wants):
    call = call_of(draw("dense", "everything"), wants=wants)
    found = linear_loss(call)
    gradients = (found.g_input, found.g_weight, found.g_bias)
    assert [g.numel() > 0 for g in gradients] == list(wants)
    assert not any(g.requires_grad for g in (*gradients, found.record))
    grads = torch.autograd.grad(found.reduced, operands(call))
    wanted = torch.autograd.grad(in_two_steps(call), operands(call))
    for a, b in zip(grads, wanted, strict=True):
        plain.agree("gradient", a, b, None, plain.FLOOR[torch.float64])


def test_differentiated_twice_it_is_recomputed():
    rows = draw("topk", "everything")
    call = call_of(rows, z_loss=0.1)
    twice = []
    for loss in (linear_loss(call).reduced, in_two_steps(call)):
        first = torch.autograd.grad(loss, operands(call), create_graph=True)
        seeds = [plain.cotangent_like(x, k) for k, x in enumerate(first)]
        twice.append([*first, *torch.autograd.grad(first, operands(call), seeds)])
    for a, b in zip(*twice, strict=True):
        plain.agree("second derivative", a, b, None, 1e-9)


def test_ignored_rows_have_the_results_of_rows_without_a_target():
    rows = draw("index", "everything", N=9, ignored=0.5)
    index: Any = rows.target.index
    ignored = index == -100
    assert ignored.any()
    found = linear_loss(call_of(rows))
    for x in (found.loss, found.lse, found.entropy):
        assert torch.equal(x[ignored], torch.zeros_like(x[ignored]))
        assert (x[~ignored] != 0).all()
    nothing = torch.tensor([[field == "total"] for field in FIELDS]).double()
    assert torch.equal(found.record[:, ignored].unique(dim=1), nothing)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("positions", [1, 3])
def test_the_operator_keeps_its_contract(positions):
    call = call_of(draw("dense", "everything", positions=positions), z_loss=0.1)
    _ = torch.library.opcheck(torch.ops.crossent.linear_loss.default, tuple(call.flatten()))
    assert isinstance(linear_loss(call), LinearLoss)
    assert dataclasses.is_dataclass(call)
