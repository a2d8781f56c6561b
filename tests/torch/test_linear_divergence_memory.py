"""What a divergence of two heads costs: products, as torch's counter of operations sees them, and memory."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain, teaching, two_heads
from tests.torch.lazily import Largest
from tests.torch.test_linear_products import peak_of

N, V, WIDTHS = 256, 40, (6, 4)
STUDENT, TEACHER = (2 * N * V * D for D in WIDTHS)
"""Operations of one product of either head."""
SWEEP = 3 * 8 * V * 128
"""Bytes of 128 rows of float64 logits of both heads and of a gradient: half of the rows, enough for one sweep."""
each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))
LEARNING = {
    "student": two_heads.STUDENT,
    "both": two_heads.NAMES,
    "features": ("input",),
    "weight": ("linear_weight", "linear_bias"),
    "bias": ("linear_bias",),
    "teacher": two_heads.TEACHER,
    "features of both": ("input", "teacher_input"),
}
PRODUCTS = {
    "student": 3 * STUDENT + TEACHER,
    "both": 3 * STUDENT + 3 * TEACHER,
    "features": 2 * STUDENT + TEACHER,
    "weight": 2 * STUDENT + TEACHER,
    "bias": STUDENT + TEACHER,
    "teacher": STUDENT + 3 * TEACHER,
    "features of both": 2 * STUDENT + 2 * TEACHER,
}
"""Each head is multiplied once, and once for each gradient of a matrix."""


def heads(learning: str, dtype: torch.dtype = torch.float64, rows: int = N, **how: Any) -> two_heads.Given:
    given = two_heads.draw((rows,), how.pop("classes", V), dtype=dtype, widths=how.pop("widths", WIDTHS), **how)
    return two_heads.copied(given, frozen=[name for name in given if name not in LEARNING[learning]])


def counted(step: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def a_step(given: two_heads.Given, **options: Any) -> Any:
    return lambda: two_heads.ours(given, **options).sum().backward()


@pytest.fixture
def kernels_in_sight(monkeypatch):
    """Run kernels without the dispatcher, so that a counter sees their products."""

    def directly():
        for name, module in list(sys.modules.items()):
            if name.startswith("crossent.torch.") and hasattr(module, "is_watched"):
                monkeypatch.setattr(module, "is_watched", lambda: False)

    return directly


# Products


@each_kind
@pytest.mark.parametrize("learning", LEARNING)
@pytest.mark.parametrize("chunk_bytes", [None, SWEEP])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_each_head_is_multiplied_once_and_once_for_each_gradient(kind, learning, chunk_bytes, dtype, kernels_in_sight):
    steps = [
        a_step(heads(learning, dtype), kind=kind, reduction=reduction, chunk_bytes=chunk_bytes, temperature=0.7)
        for reduction in ("mean", "sum")
    ]
    assert [counted(step) for step in steps] == [PRODUCTS[learning]] * 2
    kernels_in_sight()
    assert [counted(step) for step in steps] == [PRODUCTS[learning]] * 2


@pytest.mark.parametrize("learning", LEARNING)
def test_a_closing_costs_no_product_more(learning, products):
    def closing(rows: Any) -> torch.Tensor:
        return rows.kl - 0.1 * rows.logprob

    a_step(heads(learning), closing=closing, target=torch.arange(N) % V)()
    assert 2 * sum(products) == PRODUCTS[learning]


def test_a_frozen_pair_is_multiplied_once():
    given = two_heads.copied(heads("student"), frozen=two_heads.NAMES)
    for reduction in ("mean", "none"):
        assert counted(lambda reduction=reduction: two_heads.ours(given, reduction=reduction)) == STUDENT + TEACHER


@pytest.mark.parametrize("learning", LEARNING)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_two_sweeps_multiply_each_head_once_more(learning, reduction, kernels_in_sight):
    most = PRODUCTS[learning] + STUDENT + TEACHER
    step = a_step(heads(learning), reduction=reduction, chunk_bytes=2 * 8 * V * 8)
    got = counted(step)
    kernels_in_sight()
    assert PRODUCTS[learning] <= counted(step) == got <= most


def test_rows_that_are_ignored_are_not_multiplied():
    target = torch.arange(N) % V
    target[: N // 2] = -100
    for reduction in ("mean", "none"):
        options = {"target": target, "reduction": reduction, "chunk_bytes": SWEEP}
        whole = counted(a_step(heads("both"), reduction=reduction, chunk_bytes=SWEEP))
        assert counted(a_step(heads("both"), **options)) == whole // 2


def test_a_sparse_teacher_costs_the_products_of_a_student():
    given = heads("student")
    teacher = TopK(torch.arange(3).expand(N, 3), torch.full((N, 3), 0.2, dtype=torch.float64))

    def step() -> None:
        F.linear_divergence(given["input"], given["linear_weight"], teacher).backward()

    assert 3 * STUDENT <= counted(step) <= 4 * STUDENT


# Memory


def largest(step: Any) -> int:
    with Largest() as seen:
        step()
    return seen.elements


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("learning", ["student", "both", "features"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_operator_hands_out_logits(kind, learning, reduction, dtype, kernels_in_sight):
    def closing(rows: Any) -> torch.Tensor:
        return rows.kl + rows.js

    given = heads(learning, dtype)
    steps = [
        a_step(given, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes, **more)
        for chunk_bytes in (8 * V * 8, 8 * V * 40)
        for more in ({}, {"closing": closing}, {"target": torch.arange(N) % V})
    ]
    steps += [lambda: two_heads.stats(given, chunk_bytes=8 * V * 20, kind=kind).js.sum().backward()]
    assert max(map(largest, steps)) < N * V
    kernels_in_sight()
    assert max(map(largest, steps)) < N * V


@pytest.mark.slow
@pytest.mark.parametrize("learning", ["student", "both", "features"])
@pytest.mark.parametrize(
    ("reduction", "dtype", "rows_of_a_chunk"),
    [
        ("mean", torch.float32, 300),
        ("none", torch.float32, 20),
        ("mean", torch.bfloat16, 20),
        ("sum", torch.float32, 20),
    ],
    ids=str,
)
def test_memory_is_that_of_chunks(learning, reduction, dtype, rows_of_a_chunk):
    rows, classes = 3000, 6000
    chunk, logits = 4 * classes * rows_of_a_chunk, 4 * classes * rows
    given = heads(learning, dtype, rows, classes=classes, widths=(16, 16))
    most = 0
    for kind, closing in (("forward", None), ("js", None), ("forward", lambda rows: rows.js * rows.entropy)):
        step = a_step(given, kind=kind, closing=closing, reduction=reduction, chunk_bytes=chunk)
        most = max(most, peak_of(step))
    # tiles of two heads and of two gradients, all of several MiB at least; and what operands and gradients weigh
    operands = 2 * sum(4 * x.numel() for x in given.values())
    assert most <= 4 * max(chunk, 2**23) + operands
    assert most < logits


@pytest.mark.slow
def test_memory_by_default():
    given = heads("student", torch.float32, 2048, classes=65536, widths=(128, 128), bias=False)
    for kind in teaching.KINDS:
        assert peak_of(a_step(given, kind=kind)) <= 320 * 2**20, kind


def test_the_truth_makes_both_logits():
    given = heads("both")
    assert largest(lambda: two_heads.eager(given).backward()) >= N * V
    assert plain.off(two_heads.ours(given), two_heads.eager(given)) <= teaching.BAR[torch.float64]
