"""Logits whose bias is added where they are read: every reader of a row, against torch in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf

from crossent.kernels import triton
from crossent.kernels.backend import BiasedLogits, Cotangents, LossScale, RowOutputs
from crossent.kernels.triton.task import Task
from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from tests.kernels.triton.calls import DEVICE, PLAIN, backend, bound

each = pytest.mark.parametrize
ROWS, CAP = 3, 5.0
WIDTHS = (70, 130, 2051, 8205)  # one tile of columns one by one, a warp's, a row read once, a row of two passes
CASES = {  # dtypes of logits and bias, and scores
    "in place": (torch.float32, torch.bfloat16, PLAIN),
    "capped in place": (torch.float32, torch.float32, Scores(0.8, CAP)),
    "half": (torch.bfloat16, torch.float32, Scores(0.8)),
}
KINDS = ("index", "smoothing", "topk", "dense")


def drawn(kind: str, V: int) -> tuple[Target, Any]:
    """A target of some rows, and the probabilities that it stands for, in float64."""
    index = torch.randint(V, (ROWS, 1 if kind in ("index", "smoothing") else 3))
    index[0, 0], index[1, 0] = V - 1, 0
    if kind == "dense":
        prob = torch.rand(ROWS, V) / V
        return Target(prob=prob), prob.double()
    if kind == "topk":
        prob = torch.rand(ROWS, 3)
        return Target(index, prob), torch.zeros(ROWS, V, dtype=torch.float64).scatter_add_(1, index, prob.double())
    smoothing = 0.1 if kind == "smoothing" else 0.0
    p = (1 - smoothing) * nnf.one_hot(index[:, 0], V).double() + smoothing / V
    return Target(index[:, 0], smoothing=smoothing), p


def spaced(x: Any, step: int) -> Any:
    """The rows so many elements apart."""
    held = x.new_zeros(len(x), step)
    held[:, : x.shape[1]] = x
    return held[:, : x.shape[1]]


def exactly(z: Any, p: Any, scores: Scores) -> Any:
    """Loss, lse and entropy of each row in float64, and the gradient of the sum of the losses."""
    z = z.detach().double().requires_grad_()
    s = z / scores.temperature
    s = s if scores.softcap is None else scores.softcap * torch.tanh(s / scores.softcap)
    q = s.log_softmax(1)
    loss = -(p * q).sum(1)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    return {"loss": loss, "lse": s.logsumexp(1), "entropy": -(q.exp() * q).sum(1), "grad": grad}


@pytest.mark.slow
@each("kind", KINDS)
@each("case", CASES)
@each("V", WIDTHS)
def test_a_bias_is_added_where_logits_are_read(kind, case, V):
    dtype, bias_dtype, scores = CASES[case]
    step = -(-V // 32) * 32 if V != 130 else V  # unless rows begin at odd places
    z, bias = spaced((3 * torch.randn(ROWS, V)).to(dtype), step), torch.randn(V).to(bias_dtype)
    target, p = drawn(kind, V)
    want = exactly(z.double() + bias.double(), p, scores)
    limit = bound(torch.cat([z.double() + bias.double(), torch.zeros(ROWS, 1)], 1).float())
    given, target, g = BiasedLogits(z.to(DEVICE), bias.to(DEVICE)), on_device(target), torch.ones(ROWS, device=DEVICE)

    found = new_outputs()
    record = torch.full((len(FIELDS), ROWS), torch.nan, dtype=torch.float64, device=DEVICE)
    backend.module.row_stats(given, target, scores, record, RowOutputs(**found))
    grad = torch.full_like(z, torch.nan, dtype=torch.float32, device=DEVICE)
    backend.module.row_grad(given, target, scores, record, Cotangents(g), grad)
    agree(found | {"grad": grad}, want, limit)

    found, record = new_outputs(), torch.full_like(record, torch.nan)
    grad = given.without_bias if dtype == torch.float32 else torch.full_like(grad, torch.nan)  # in place
    backend.module.row_fused(given, target, scores, LossScale(g), record, grad, RowOutputs(**found))
    agree(found | {"grad": grad}, want, limit)


@pytest.mark.slow
@each("kind", KINDS)
@each("V", WIDTHS)
def test_a_gradient_in_place_of_the_logits_leaves_the_loss_as_it_is(kind, V):
    z, (target, p) = torch.randn(ROWS, V), drawn(kind, V)
    want, limit = exactly(z, p, PLAIN), bound(z)
    found, record = new_outputs(), torch.full((len(FIELDS), ROWS), torch.nan, dtype=torch.float64, device=DEVICE)
    z, target, scale = z.to(DEVICE), on_device(target), LossScale(torch.ones(ROWS, device=DEVICE))
    backend.module.row_fused(z, target, PLAIN, scale, record, z, RowOutputs(**found))
    agree(found | {"grad": z}, want, limit)


def test_a_bias_is_read_in_groups_where_every_row_begins_at_one():
    bias = torch.zeros(2064)
    for width, step, grouped in ((2051, 2056, True), (2051, 2051, False), (2051, 2052, True)):
        task = Task.of(BiasedLogits(spaced(torch.zeros(3, width), step), bias[:width]), Target(torch.zeros(3)), PLAIN)
        assert task.grouped(task.tile()) is grouped
    task = Task.of(BiasedLogits(spaced(torch.zeros(3, 2051), 2056), bias[1:2052]), Target(torch.zeros(3)), PLAIN)
    assert not task.grouped(task.tile())
    assert not Task.of(torch.zeros(3, 2056), Target(torch.zeros(3)), PLAIN).grouped(task.tile())


def test_few_classes_without_a_record_have_their_bias():
    z, bias = torch.randn(ROWS, 5), torch.randn(5)
    target, p = drawn("index", 5)
    want, found = exactly(z.double() + bias.double(), p, PLAIN), new_outputs()
    given, target = BiasedLogits(z.to(DEVICE), bias.to(DEVICE)), on_device(target)
    backend.module.row_stats(given, target, PLAIN, None, RowOutputs(**found))
    grad = torch.full_like(given.without_bias, torch.nan)
    backend.module.row_grad(given, target, PLAIN, None, Cotangents(torch.ones(ROWS, device=DEVICE)), grad)
    agree(found | {"grad": grad}, want, bound(3 * z))


def new_outputs() -> dict[str, Any]:
    return {name: torch.full((ROWS,), torch.nan, device=DEVICE) for name in RowOutputs._fields}


def on_device(target: Target) -> Target:
    arrays: Any = {name: getattr(target, name) for name in ("index", "prob", "weight")}
    moved = {name: None if x is None else x.to(DEVICE) for name, x in arrays.items()}
    return dataclasses.replace(target, **moved)


def agree(found: dict[str, Any], want: dict[str, Any], limit: float) -> None:
    for name, x in want.items():
        torch.testing.assert_close(found[name].cpu().double(), x, rtol=0, atol=limit, msg=lambda m, n=name: f"{n}: {m}")


@each(("V", "few"), [(130, False), (10, True)])
def test_a_mean_loss_takes_a_bias(V, few):
    z, bias = 3 * torch.randn(ROWS, V), torch.randn(V)
    target, p = drawn("index", V)
    record = None if few else torch.empty(len(FIELDS), ROWS, dtype=torch.float64, device=DEVICE)
    losses = None if few else torch.empty(ROWS, device=DEVICE)
    given = BiasedLogits(z.to(DEVICE), bias.to(DEVICE))
    loss, _ = triton.row_loss(given, on_device(target), PLAIN, record, losses, mean=True)
    want = exactly(z.double() + bias.double(), p, PLAIN)["loss"].mean()
    torch.testing.assert_close(loss.double().cpu(), want, rtol=0, atol=bound(z + bias))
