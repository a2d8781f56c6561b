"""Rows that several programs share: each column, the label's too, belongs to the program of one part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from crossent.kernels.backend import RowOutputs
from crossent.kernels.triton.functions import SHORTEST_PART
from crossent.kernels.triton.task import Task
from crossent.spec import Scores, Target
from tests.kernels.triton.calls import NAN, PLAIN, backend, bound, evaluate

each = pytest.mark.parametrize
CAP = 30.0


def softmax_gradient(z: Any, p: Any, capped: bool) -> Any:
    """torch's own loss and gradient in float64."""
    z = z.double().requires_grad_()
    s = CAP * torch.tanh(z / CAP) if capped else z
    loss = nnf.cross_entropy(s, p, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), z)
    return loss.detach().numpy(), grad.numpy().T


@each("label", [5002, 17])
@each("kind", ["plain", "smoothing", "softcap", "topk"])
def test_a_label_at_the_edge_of_a_row_of_several_parts_has_its_gradient(kind, label):
    z = torch.randn(2, 5003, generator=torch.Generator().manual_seed(0))
    labels, smoothing = torch.full((2,), label), 0.1 if kind == "smoothing" else 0.0
    target, scores = Target(labels, smoothing=smoothing), Scores(1.0, CAP if kind == "softcap" else None)
    p = nnf.one_hot(labels, 5003).double()
    if kind == "topk":
        index = labels[:, None] - torch.arange(2)
        target, p = Target(index, torch.full((2, 2), 0.5)), torch.zeros_like(p).scatter(1, index, 0.5)
    got = evaluate(z, target, scores)
    loss, grad = softmax_gradient(z, (1 - smoothing) * p + smoothing / 5003, kind == "softcap")
    for name, want in (("loss", loss), ("grad", grad), ("fused", grad)):
        np.testing.assert_allclose(got[name], want, rtol=0, atol=bound(z), err_msg=name)


@each(("V", "rows", "lowest"), [(147455, 2, None), (50257, 1, 36000)], ids=["empty", "masked"])
def test_a_part_without_any_number_but_the_label_has_a_finite_loss(V, rows, lowest):
    z = torch.randn(rows, V, generator=torch.Generator().manual_seed(0))
    if lowest is not None:
        z[:, lowest : V - 1] = -torch.inf
    labels = torch.full((rows,), V - 1)
    task = Task.of(z, Target(labels), PLAIN)
    assert task.fixed_parts(task.tile(), SHORTEST_PART).number > 1
    loss, record = torch.full((rows,), NAN), torch.full((5, rows), NAN, dtype=torch.float64)
    backend.row_stats(z, Target(labels), PLAIN, record, RowOutputs(loss))
    want = nnf.cross_entropy(z.double(), labels, reduction="none")
    np.testing.assert_allclose(loss.numpy(), want.numpy(), rtol=0, atol=bound(z))
