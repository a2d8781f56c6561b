"""The cases of few classes and small calls, and of the sweeps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.logits import contenders, everyday
from benchmarks.logits.everyday import EverydayCase, GrowthCase

CASES = everyday.everyday()


def test_every_shape_has_both_types_and_all_targets():
    few = [case for case in CASES if case.repeat == 1]
    of_shape = {
        shape: {(case.dtype, case.target, case.ignored) for case in few if case.shape == shape}
        for shape in {case.shape for case in few}
    }
    assert len(of_shape) == 10
    for found in of_shape.values():
        assert found == {
            (dtype, target, ignored)
            for dtype in ("float32", "bfloat16")
            for target, ignored in (("index", 0.0), ("index", 0.9), ("prob", 0.0))
        }
    assert {case.shape for case in CASES if case.repeat > 1} == {(1, 10), (64, 10), (32, 1000), (256, 100)}
    assert all((case.threads, case.clock) == (1, "cpu") for case in CASES)


def test_ignored_rows_are_a_share_of_all_and_the_other_targets_are_those_without_them():
    case = EverydayCase("few", "none", (20, 3, 40, 50), ignored=0.9)
    with_some, without = case.make(), replace(case, ignored=0.0).make()
    ignored = with_some.target == -100
    N = 20 * 40 * 50
    assert float(ignored.double().mean()) == pytest.approx(0.9, abs=5 * math.sqrt(0.9 * 0.1 / N))
    assert torch.equal(with_some.logits, without.logits)
    assert torch.equal(with_some.target[~ignored], without.target[~ignored])


def test_a_compiled_loss_takes_part_where_targets_are_soft_and_for_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contenders, "compiled_by_torch", lambda loss: loss)
    plain = EverydayCase("few", "none", (50, 3))
    image = replace(plain, shape=(2, 3, 4, 4))
    compiled = [replace(plain, target="prob"), image, replace(image, target="prob")]
    assert all("compile" in contenders.losses(case, compiled=True) for case in compiled)
    without = [plain, replace(image, ignored=0.9), replace(plain, repeat=5), GrowthCase("V", "a sweep", (5, 2))]
    assert not any("compile" in contenders.losses(case, compiled=True) for case in without)
    assert not any("compile" in contenders.losses(case, compiled=False) for case in compiled)


def test_sweeps_keep_the_number_of_logits_and_that_of_classes():
    cases = everyday.growth()
    shapes = [case.shape for case in cases]
    assert len(set(shapes)) == len(shapes)
    for V in everyday.CLASSES:
        (N,) = [N for N, of in shapes if of == V and abs(N * of - everyday.LOGITS) < 0.1 * everyday.LOGITS]
        assert N == everyday.LOGITS // V
    logits = sorted(N * V for N, V in shapes if V == everyday.FEW)
    assert (logits[0], logits[-1]) == (10, 10**7)
    # a call that is timed alone has many logits; of the others so many are timed that they have as many
    for case in cases:
        assert case.repeat == 1 or case.repeat == 200 or case.repeat * math.prod(case.shape) >= everyday.ONE_CALL
