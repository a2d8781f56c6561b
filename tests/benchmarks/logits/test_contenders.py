"""The calls that are timed of losses of logits."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.losses import step
from benchmarks.logits import contenders
from tests.benchmarks.tiny import logits_case, measured_logits


def test_bytes_are_those_of_reading_and_writing_each_operand():
    one = 4 * 6 * 11
    assert [record["bytes"] for record in measured_logits("index")] == [one, 2 * one, 3 * one]
    assert [record["bytes"] for record in measured_logits("prob")] == [2 * one, 3 * one, 5 * one]


@pytest.mark.parametrize("name", ["index", "bf16", "prob", "topk", "image", "binary"])
def test_the_gradient_into_warm_memory_is_the_one_of_autograd(name: str):
    case = logits_case(name)
    data = case.make()
    call = contenders.backward(case, data)
    call()
    _ = step(contenders.losses(case, compiled=False)["crossent"], data)
    rounding = 2 * torch.finfo(data.logits.dtype).eps  # of the cotangent and of the result, each half an eps in both
    torch.testing.assert_close(call.args[-1].view_as(data.logits), data.logits.grad, rtol=rounding, atol=0)
