"""The modules in libraries that look for torch's losses by their class."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import crossent.torch as F

pytestmark = pytest.mark.slow

TASKS = {
    "CrossEntropyLoss": (torch.nn.Linear(4, 3), torch.arange(12) % 3),
    "BCEWithLogitsLoss": (torch.nn.Linear(4, 1), (torch.arange(12) % 2).float()),
    "BCELoss": (torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Sigmoid()), (torch.arange(12) % 2).float()),
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.filterwarnings("ignore")
def test_skorch_predicts_probabilities(name):
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    model, y = TASKS[name]
    x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
    made = skorch.NeuralNetClassifier if name == "CrossEntropyLoss" else skorch.NeuralNetBinaryClassifier
    found = []
    for home in (F, torch.nn):
        net = made(
            copy.deepcopy(model), criterion=getattr(home, name), lr=0.5, max_epochs=3, train_split=None, verbose=0
        )
        _ = net.fit(x, y.numpy())
        found.append(net.predict_proba(x))
    assert np.allclose(found[0].sum(1), 1)
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "BCEWithLogitsLoss"])
@pytest.mark.filterwarnings("ignore")
def test_backpack_extends_the_losses(name):
    backpack = pytest.importorskip("backpack", reason="backpack-for-pytorch, which needs torchvision, is not installed")
    model, y = TASKS[name]
    x, y = torch.randn(12, 4), y if name == "CrossEntropyLoss" else y[:, None]
    model, criterion = (backpack.extend(copy.deepcopy(module)) for module in (model, getattr(F, name)()))
    with backpack.backpack(backpack.extensions.BatchGrad()):
        criterion(model(x), y).backward()
    each = [
        torch.autograd.grad(getattr(torch.nn, name)()(model(x[i : i + 1]), y[i : i + 1]) / 12, model.weight)[0]
        for i in range(12)
    ]
    torch.testing.assert_close(model.weight.grad_batch, torch.stack(each))
