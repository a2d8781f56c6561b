"""The slow twins against the reference in NumPy float64: targets, results of rows, binary losses."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from crossent import reference
from crossent.kernels.backend import BinaryOperands
from crossent.spec import Scores, Target
from crossent.torch.operators import plain

KINDS = ("index", "topk", "dense")
SHAPES = ((6, 7), (2, 7, 3))
WARM = np.linspace(0.5, 2, 6)
PHIS = (Scores(), Scores(0.7), Scores(1.7, 3.0), Scores(1.0, None, WARM), Scores(1.0, 3.0, WARM))


def draw(kind, shape, *, weighted=False, smoothing=0.0):
    V = shape[1]
    rows = int(np.prod(shape)) // V
    weight = torch.rand(V, dtype=torch.float64) + 0.5 if weighted else None
    more = {"weight": weight, "smoothing": smoothing, "ignore_index": -100}
    if kind == "dense":
        return Target(prob=torch.rand(shape, dtype=torch.float64), **more)
    if kind == "topk":
        index = torch.randint(V, (rows, 3))
        index[0, 1] = index[0, 0]
        return Target(index, torch.rand(rows, 3, dtype=torch.float64), **more)
    index = torch.randint(V, (rows,))
    index[1] = -100
    return Target(index, **more)


def as_rows(x):
    """(N, V) in NumPy."""
    return (x if x.ndim == 2 else x.movedim(1, -1).flatten(0, 1)).numpy()


def in_numpy(target: Target) -> Target:
    """The same target of rows (N, V), for the reference."""
    prob: Any = target.prob
    parts = {"index": target.index, "weight": target.weight}
    arrays = {name: None if x is None else np.asarray(x) for name, x in parts.items()}
    prob = None if prob is None else as_rows(prob) if target.kind == "dense" else prob.numpy()
    return dataclasses.replace(target, **arrays, prob=prob)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_measure_is_that_of_the_reference(kind, shape):
    for weighted, smoothing in itertools.product((False, True), (0.0, 0.2, 1.0)):
        target = draw(kind, shape, weighted=weighted, smoothing=smoothing)
        like = torch.empty(shape, dtype=torch.float64)
        p, valid = plain.target_measure(target, like)
        want, has_target = reference.target_measure(in_numpy(target), like.numel() // shape[1], shape[1])
        assert p.shape == like.shape
        assert np.array_equal(valid.reshape(-1).numpy(), has_target)
        np.testing.assert_allclose(as_rows(p)[has_target], want[has_target], rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("kind", KINDS)
def test_the_measure_of_a_shard_is_a_part_of_it(kind):
    target, like = draw(kind, (6, 7), weighted=True, smoothing=0.2), torch.empty(6, 7, dtype=torch.float64)
    whole, _ = plain.target_measure(target, like)
    weight: Any = target.weight
    for first, last in ((0, 3), (3, 3), (3, 7)):
        prob: Any = target.prob
        part = dataclasses.replace(
            target,
            prob=prob[:, first:last] if kind == "dense" else prob,
            weight=weight[first:last],
            first_class=first,
            num_classes=7,
        )
        p, _ = plain.target_measure(part, like[:, first:last])
        torch.testing.assert_close(p, whole[:, first:last], rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scores", PHIS, ids=str)
def test_results_and_gradients_are_those_of_the_reference(scores, kind, shape):
    for weighted, smoothing in itertools.product((False, True), (0.0, 0.2)):
        target = draw(kind, shape, weighted=weighted, smoothing=smoothing)
        z = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
        own: Any = scores.row_temperature
        as_tensors = dataclasses.replace(scores, row_temperature=None if own is None else torch.as_tensor(own))
        outputs = plain.row_outputs(z, target, as_tensors)
        rows = as_rows(z.detach())
        want = reference.row_stats(rows, in_numpy(target), scores)
        for name, out in outputs._asdict().items():
            np.testing.assert_allclose(out.detach().numpy(), getattr(want, name), rtol=1e-12, atol=1e-13, err_msg=name)
        g = torch.randn(3, len(rows), dtype=torch.float64)
        (got,) = torch.autograd.grad(outputs, z, list(g))
        wanted = reference.row_grad(rows, in_numpy(target), scores, want, tuple(g.numpy()))
        np.testing.assert_allclose(as_rows(got), wanted, rtol=1e-11, atol=1e-13)


def test_a_temperature_out_of_range_makes_its_row_nan_where_nobody_can_look():
    z, T = torch.randn(4, 5, dtype=torch.float64).requires_grad_(), torch.tensor([1.0, 0.0, 1e16, 0.0])
    target = Target(torch.tensor([0, 1, 2, -100]), ignore_index=-100)
    outputs = plain.row_outputs(z, target, Scores(1.0, None, T))
    assert outputs.loss.isnan().tolist() == [False, True, True, False]
    (g,) = torch.autograd.grad(outputs.loss.sum(), z)
    assert g.isnan().any(1).tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match=r"temperature must be between 1e-15 and 1e15, got 0\.0 \(row 1\)"):
        _ = plain.row_results(z, target, Scores(1.0, None, T))


def test_rows_without_a_target_may_hold_anything():
    z = torch.randn(3, 4, dtype=torch.float64)
    z[1] = torch.nan
    outputs = plain.row_outputs(z.requires_grad_(), Target(torch.tensor([0, 9, 2]), ignore_index=9), Scores())
    (g,) = torch.autograd.grad(sum(x.sum() for x in outputs), z)
    assert all(x[1] == 0 for x in outputs)
    assert torch.equal(g[1], torch.zeros(4, dtype=torch.float64))
    assert g.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_half_precision_is_computed_in_float32(dtype):
    z, target = torch.randn(6, 7).to(dtype), draw("dense", (6, 7))
    got = plain.row_outputs(z, target, Scores())
    want = reference.row_stats(z.double().numpy(), in_numpy(target))
    for name, out in got._asdict().items():
        assert out.dtype == torch.float32
        np.testing.assert_allclose(out.numpy(), getattr(want, name), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_binary_losses_and_gradients_are_those_of_the_reference(weighted):
    x = (5 * torch.randn(40, dtype=torch.float64)).requires_grad_()
    t, w, r = torch.rand(3, 40, dtype=torch.float64)
    t[:4] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    weights = (w, r) if weighted else (None, None)
    loss = plain.binary_loss("logits", BinaryOperands(x, t, *weights))
    numbers = [1.0 if v is None else v.numpy() for v in weights]
    logits = x.detach().numpy()
    np.testing.assert_allclose(loss.detach().numpy(), reference.binary_loss(logits, t.numpy(), *numbers), rtol=1e-13)
    (g,) = torch.autograd.grad(loss.sum(), x)
    np.testing.assert_allclose(g.numpy(), reference.binary_grad(logits, t.numpy(), *numbers), rtol=1e-11, atol=1e-15)


def test_binary_losses_of_probabilities_are_those_of_their_logits():
    x, t, w = torch.randn(40, dtype=torch.float64), torch.rand(40, dtype=torch.float64), torch.rand(40).double()
    t[:4] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    got = plain.binary_loss("probabilities", BinaryOperands(x.sigmoid(), t, w))
    want = reference.binary_loss(x.numpy(), t.numpy(), w.numpy())
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)
    certain = plain.binary_loss("probabilities", BinaryOperands(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])))
    assert certain.tolist() == [0.0, 0.0]
