"""Facts of heads: names, shapes, ties, engines; what adapters and quantised weights look like is in test_explain.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossent.torch.head_facts import facts_of, name_of, operand_dtype_of, size
from tests.torch.test_rehearsal import D, Model, V


def test_sizes_in_words():
    assert [size(n) for n in (0, 2**19, 5 * 2**20, 2**30, 3 * 2**39)] == [
        "0.0 MiB", "0.5 MiB", "5.0 MiB", "1.0 GiB", "1,536.0 GiB",
    ]  # fmt: skip


def test_dtypes_by_name():
    assert [name_of(dtype) for dtype in (torch.float32, torch.bfloat16)] == ["float32", "bfloat16"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_facts_are_those_of_the_layer(bias, dtype):
    model = Model(bias=bias).to(dtype)
    facts = facts_of(model, model.head)
    assert (facts.classes, facts.features) == tuple(model.head.weight.shape) == (V, D)
    assert facts.parameter_bytes == sum(x.numel() * x.element_size() for x in model.head.parameters())
    assert (facts.name, facts.tied_to, facts.bias, facts.dtype) == ("head", None, bias, dtype)
    assert operand_dtype_of(model, facts) == dtype
    assert facts_of(model.head, model.head).name == ""


def test_a_frozen_head_and_one_of_a_class_of_its_own():
    class Head(nn.Linear):
        pass

    model = Model().requires_grad_(False)
    model.head = Head(D, V).requires_grad_(False)
    facts = facts_of(model, model.head)
    assert not facts.trains
    assert facts.kind.endswith("Head")
    assert "frozen" in str(facts)


def test_a_weight_that_deepspeed_has_sharded():
    model = Model()
    model.head.weight.ds_id, model.head.weight.ds_shape = 3, (1000, D)
    facts = facts_of(model, model.head)
    assert (facts.classes, facts.features, facts.sharded) == (1000, D, "DeepSpeed ZeRO-3")
    assert "sharded by DeepSpeed ZeRO-3" in str(facts)
