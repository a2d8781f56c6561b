"""What is remembered of a call serves only calls like it: with and without memory, results have the same bits."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from crossent.kernels.backend import BinaryOperands, Cotangents, LossScale, RowOutputs
from crossent.kernels.triton import arguments
from crossent.kernels.triton.launch import Launch
from crossent.spec import Scores, Target
from crossent.stats import FIELDS
from tests.kernels.triton.calls import DEVICE, backend

ROWS, V = 4, 80


def new(*shape: int, dtype: Any = torch.float32, pad: int = 0) -> Any:
    """NaN in rows that are `pad` numbers apart."""
    return torch.full((*shape[:-1], shape[-1] + pad), torch.nan, dtype=dtype, device=DEVICE)[..., : shape[-1]]


def statistics(z: Any, target: Target, pad: int, wanted: int, extend: bool) -> list[Any]:
    record = new(len(FIELDS), ROWS, dtype=torch.float64, pad=pad)
    outputs = [new(ROWS) if wanted >> k & 1 else None for k in range(3)]
    if extend:
        backend.module.row_stats(z - 1, target, Scores(), record)
    backend.module.row_stats(z, target, Scores(), record, RowOutputs(*outputs), extend=extend)
    return [record, *(x for x in outputs if x is not None)]


def gradient(z: Any, target: Target, given: Any, pad: int, to: torch.dtype, in_place: bool) -> list[Any]:
    (record,) = statistics(z, target, pad, 0, False)
    grad = z.clone() if in_place else new(ROWS, V, dtype=to, pad=pad)
    backend.module.row_grad(grad if in_place else z, target, Scores(), record, given, grad)
    return [grad]


def fused(z: Any, target: Target, scale: LossScale, pad: int, to: torch.dtype, in_place: bool) -> list[Any]:
    record, loss, grad = (
        new(len(FIELDS), ROWS, dtype=torch.float64, pad=pad),
        new(ROWS),
        new(ROWS, V, dtype=to, pad=pad),
    )
    given = z.clone()
    grad = given if in_place else grad
    backend.module.row_fused(given, target, Scores(), scale, record, grad, RowOutputs(loss))
    return [record, loss, grad]


def test_calls_that_differ_do_not_share_what_is_remembered():
    random = torch.Generator().manual_seed(0)
    z = torch.randn(ROWS, V, generator=random).to(DEVICE)
    labels = torch.randint(V, (ROWS, 2), generator=random).to(DEVICE)
    g = torch.rand(2 * ROWS, generator=random).to(DEVICE)
    one, apart, double = g[:1].expand(ROWS), g[::2], g[:ROWS].double()
    calls: list[Any] = []
    for target in (Target(labels[:, 0].contiguous()), Target(labels, torch.full((ROWS, 2), 0.5, device=DEVICE))):
        calls += [
            (statistics, z, target, pad, wanted, extend)
            for pad, wanted, extend in itertools.product((0, 3), (0, 1, 6), (False, True))
        ]
        for pad, to, in_place in ((0, torch.float32, False), (0, torch.float32, True), (2, torch.bfloat16, False)):
            for given in (
                Cotangents(one), Cotangents(apart), Cotangents(double, None, None), Cotangents(one, apart, None),
                Cotangents(one, None, apart),
            ):  # fmt: skip
                calls.append((gradient, z, target, given, pad, to, in_place))
            for scale in (LossScale(one), LossScale(apart, one)):
                calls.append((fused, z, target, scale, pad, to, in_place))

    def made(call: Any) -> list[Any]:
        function, *given = call
        return function(*given)

    alone = []
    for call in calls:
        arguments.forget()
        alone.append(made(call))
    arguments.forget()
    order = torch.randperm(2 * len(calls), generator=random) % len(calls)
    for k in order.tolist():
        for got, want in zip(made(calls[k]), alone[k], strict=True):
            assert torch.equal(got.isnan(), want.isnan())
            assert torch.equal(got.nan_to_num(), want.nan_to_num()), calls[k]


def test_a_call_like_the_one_before_prepares_no_launch(monkeypatch):
    z, labels, loss = torch.randn(ROWS, V, device=DEVICE), torch.zeros(ROWS, dtype=torch.long, device=DEVICE), new(ROWS)
    arguments.forget()
    made, begin = [], Launch.__init__

    def noted(self: Launch, kernel: Any, *rest: Any, **options: Any) -> None:
        made.append(kernel.fn.__name__)
        begin(self, kernel, *rest, **options)

    monkeypatch.setattr(Launch, "__init__", noted)
    for _ in range(2):
        record = new(len(FIELDS), ROWS, dtype=torch.float64)
        backend.module.row_stats(z.clone(), Target(labels.clone()), Scores(), record, RowOutputs(loss))
        grad = torch.empty_like(z)
        backend.module.row_grad(z.clone(), Target(labels.clone()), Scores(), record, Cotangents(loss), grad)
    assert made == ["row_stats", "finish", "row_grad"]


def test_the_usual_binary_loss_has_a_kernel_that_knows_its_arrays_to_be_aligned(monkeypatch):
    names, begin = [], Launch.__init__

    def noted(self: Launch, kernel: Any, grid: Any, numbers: Any, constants: Any, **options: Any) -> None:
        names.append(constants["PLAIN"])
        begin(self, kernel, grid, numbers, constants, **options)

    monkeypatch.setattr(Launch, "__init__", noted)
    x, one = torch.rand(8, 16, device=DEVICE), torch.ones((), device=DEVICE)
    for target, weight, plain in ((x, None, True), (x[:, :1].expand(8, 16), None, False), (x, x, False)):
        names.clear()
        operands = BinaryOperands(x, target, weight)
        backend.module.binary_loss("logits", operands, None)
        for g in (one.expand(8, 16), x, x[:, :1].expand(8, 16)):
            backend.module.binary_grad("logits", operands, g, torch.empty_like(x))
        assert names == [plain, plain, plain, False]
