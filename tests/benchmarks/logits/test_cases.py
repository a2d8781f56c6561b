"""The arguments that cases of logits make."""

from __future__ import annotations

import pytest
import torch

from benchmarks.logits.cases import CASES
from tests.benchmarks.tiny import LOGITS, logits_case


@pytest.mark.parametrize("name", LOGITS)
def test_a_case_makes_the_same_arguments_at_every_call_and_of_its_shape(name: str):
    case = logits_case(name)
    data, again = case.make(), case.make()
    assert torch.equal(data.logits, again.logits)
    assert tuple(data.logits.shape) == case.shape
    assert data.logits.requires_grad
    N, V, *places = case.shape
    assert case.rows == (data.logits.numel() if case.target == "binary" else data.logits.numel() // V)
    if case.target == "topk":
        assert data.target.index.shape == (N, 32)
        assert all(len(set(row)) == 32 and max(row) < V for row in data.target.index.tolist())
    else:
        assert tuple(data.target.shape) == ((N, *places) if case.target == "index" else case.shape)


def test_probabilities_of_a_target_sum_to_one():
    for name in ("prob", "topk"):
        target = logits_case(name).make().target
        p = target if name == "prob" else target.prob
        torch.testing.assert_close(p.sum(1), torch.ones(len(p)))


def test_small_cases_are_quick():
    assert {case.name for case in CASES if case.quick} >= {"digits", "gpt2", "tags"}
