"""Rows of quantised weights of libraries are those of the whole weight, dequantised by the library."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch import nn

from crossent.torch.base.quantised import is_4bit, is_8bit, is_dequantised_by_rows, rows_of

pytestmark = pytest.mark.slow  # for the imports


@pytest.fixture
def bnb():
    return pytest.importorskip("bitsandbytes", reason="bitsandbytes is a requirement on Linux alone")


RANGES = list(itertools.combinations((0, 1, 7, 64, 90, 101), 2))


def check(rows, whole):
    assert rows.shape == tuple(whole.shape)
    for begin, end in RANGES:
        assert torch.equal(rows.make(begin, end).to(whole.dtype), whole[begin:end])


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("features", [64, 50])  # a block of 64 numbers is a row, or begins within one
def test_4_bits(bnb, features, nested):
    layer = bnb.nn.Linear4bit(features, 101, bias=False, quant_type="nf4", compress_statistics=nested)
    layer.load_state_dict({"weight": torch.randn(101, features)})
    weight = layer.to("cpu").weight
    assert is_4bit(weight)
    check(rows_of(weight), bnb.functional.dequantize_4bit(weight.data, weight.quant_state))


def test_8_bits_before_and_after_the_layer_takes_the_scales(bnb):
    layer = bnb.nn.Linear8bitLt(24, 101, bias=False, has_fp16_weights=False).to("cpu")
    weight, scales = layer.weight, layer.weight.SCB.clone()
    assert is_8bit(weight)
    whole = bnb.functional.int8_vectorwise_dequant(weight.data, scales)
    for begin, end in RANGES:
        torch.testing.assert_close(rows_of(weight).make(begin, end), whole[begin:end], rtol=1e-6, atol=0)
    _ = layer(torch.randn(2, 24, dtype=torch.float16))
    with pytest.raises(TypeError, match=r"SCB"):
        _ = rows_of(weight)
    torch.testing.assert_close(rows_of(weight, layer.state.SCB).make(3, 9), whole[3:9], rtol=1e-6, atol=0)


def test_torchao():
    torchao = importlib.import_module("torchao.quantization")
    for config in (torchao.Int8WeightOnlyConfig(), torchao.Float8WeightOnlyConfig()):
        model = nn.Sequential(nn.Linear(24, 101, bias=False))
        torchao.quantize_(model, config)
        weight = model[0].weight
        assert is_dequantised_by_rows(weight)
        check(rows_of(weight), weight.dequantize())


def test_what_is_no_quantised_weight_is_refused():
    for weight in (torch.zeros(3, 4), nn.Parameter(torch.zeros(3, 4)), "a name", None):
        assert not any(known(weight) for known in (is_4bit, is_8bit, is_dequantised_by_rows))
        with pytest.raises(TypeError, match=r"not a quantised weight.*Dequantized\(function, shape, dtype\)"):
            _ = rows_of(weight)
