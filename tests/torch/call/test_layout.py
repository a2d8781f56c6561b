"""Axes of logits, of a tensor and of a linear layer: what torch makes of the same shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from crossent.torch.call.layout import LayerOperands, layout_of, layout_of_layer, layout_of_rows
from tests.torch import linear

SHAPES = ((7,), (4, 7), (4, 7, 3), (4, 7, 3, 2), (0, 7), (4, 7, 0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_have_the_shape_of_torch_s_losses(shape):
    z = torch.randn(shape, dtype=torch.float16)
    layout = layout_of(z)
    y = torch.zeros(layout.rows, dtype=torch.long)
    assert nnf.cross_entropy(z.float(), y, reduction="none").shape == layout.rows
    assert layout.classes == 7
    assert (layout.shape, layout.dtype, layout.device, layout.name) == (z.shape, z.dtype, z.device, "input")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flat_logits_have_the_same_rows_in_the_same_order(shape):
    z = torch.randn(shape)
    layout = layout_of(z)
    flat = layout.flat(z)
    assert flat.ndim == (3 if len(shape) > 2 else 2)
    assert flat.shape[1] == 7
    assert z.numel() == 0 or flat.data_ptr() == z.data_ptr()
    rows = (flat if flat.ndim == 2 else flat.movedim(1, -1)).reshape(-1, 7)
    want = z.movedim(layout.axis, -1).reshape(-1, 7)
    assert torch.equal(rows, want)


def test_logits_without_a_class_axis_or_without_classes():
    with pytest.raises(ValueError, match=r"class axis.*got a number"):
        _ = layout_of(torch.tensor(1.0))
    for shape in ((4, 0), (0,), (4, 0, 3)):
        with pytest.raises(ValueError, match="no classes"):
            _ = layout_of(torch.zeros(shape))
        assert layout_of(torch.zeros(shape), shard=True).classes == 0
    assert layout_of(torch.zeros(0, 0)).classes == 0


# Linear layers

LAYERS = {
    "vector": ((3,), (7, 3)),
    "rows": ((4, 3), (7, 3)),
    "tokens": ((2, 5, 3), (7, 3)),
    "pixels": ((4, 3), (7, 2, 3)),
    "both": ((2, 5, 3), (7, 2, 6, 3)),
    "no rows": ((0, 3), (7, 3)),
}


@pytest.mark.parametrize(("x", "w"), LAYERS.values(), ids=LAYERS)
def test_rows_of_a_layer_have_the_shape_of_the_losses_of_its_logits(x, w):
    layer = LayerOperands(torch.randn(x), torch.randn(w), torch.randn(w[:-1]))
    layout = layout_of_layer(layer)
    y = torch.zeros(layout.rows, dtype=torch.long)
    theirs = linear.linear_cross_entropy(*layer[:2], y, layer.linear_bias, reduction="none")
    assert theirs.shape == layout.rows
    assert layout.classes == 7
    assert layout.axis == len(x) - 1
    assert layout.shape == (*x[:-1], 7, *w[1:-1])
    assert (layout.dtype, layout.name) == (torch.float32, "logits")


@pytest.mark.parametrize(("x", "w"), LAYERS.values(), ids=LAYERS)
def test_flat_arrays_beside_the_logits_of_a_layer(x, w):
    layout = layout_of_layer(LayerOperands(torch.randn(x), torch.randn(w), None))
    prob = torch.randn(layout.shape)
    flat = layout.flat(prob)
    rows = (flat if flat.ndim == 2 else flat.movedim(1, -1)).reshape(-1, 7)
    assert torch.equal(rows, prob.movedim(layout.axis, -1).reshape(-1, 7))


X, W, B = torch.zeros(4, 3), torch.zeros(7, 3), torch.zeros(7)
WRONG = {
    "features": (ValueError, ["(4, 3)", "(7, 2)", "(V, D)"], (X, torch.zeros(7, 2), None)),
    "number": (ValueError, ["()", "(7, 3)"], (torch.tensor(1.0), W, None)),
    "vector of weights": (ValueError, ["(3,)"], (X, torch.zeros(3), None)),
    "bias": (ValueError, ["linear_bias", "(7,)", "(6,)"], (X, W, B[:6])),
    "positions without a batch": (ValueError, ["(7, 2, 3)", "unsqueeze(0)"], (X[0], torch.zeros(7, 2, 3), None)),
    "no classes": (ValueError, ["(0, 3)", "no classes"], (X, W[:0], None)),
    "dtype of the weight": (TypeError, ["linear_weight", "float64", "float32"], (X, W.double(), None)),
    "dtype of the bias": (TypeError, ["linear_bias", "float16", "float32"], (X, W, B.half())),
    "device": (ValueError, ["linear_weight is on meta", "cpu"], (X, W.to("meta"), None)),
    "list": (TypeError, ["linear_weight", "list"], (X, W.tolist(), None)),
}


@pytest.mark.parametrize("name", WRONG)
def test_operands_that_do_not_fit_each_other(name):
    error, words, operands = WRONG[name]
    with pytest.raises(error) as caught:
        _ = layout_of_layer(LayerOperands(*operands))
    for word in words:
        assert word in str(caught.value)


def test_a_shard_of_a_layer_may_have_no_classes():
    assert layout_of_layer(LayerOperands(X, W[:0], None), shard=True).classes == 0


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (2, 1, 3, 7)])
def test_rows_before_the_classes(shape):
    z = torch.randn(shape)
    layout = layout_of_rows(z)
    assert layout.rows == shape[:-1]
    assert layout.classes == 7
    assert torch.equal(layout.flat(z), z.reshape(-1, 7))
    assert layout_of_rows(z[..., :0], shard=True).classes == 0
    with pytest.raises(ValueError, match="have no classes; the class axis is the last one"):
        _ = layout_of_rows(z[..., :0])
