"""The modules: torch's constructors, state, representation, and the functions beneath."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import crossent.torch as F
from tests.torch import plain


def test_modules_are_the_functions_with_their_options_bound():
    z, y, w, s = torch.randn(6, 5), torch.randint(5, (6,)), torch.rand(5), torch.rand(6)
    y[0] = 3
    options = {
        "ignore_index": 3,
        "reduction": "sum",
        "label_smoothing": 0.1,
        "temperature": 0.5,
        "softcap": 4.0,
        "z_loss": 0.01,
    }
    module = F.CrossEntropyLoss(w, **options)
    assert torch.equal(module(z, y, sample_weight=s), F.cross_entropy(z, y, w, sample_weight=s, **options))
    loss, stats = F.CrossEntropyLoss(return_stats=True)(z, y)
    want, other = F.cross_entropy(z, y, return_stats=True)
    assert torch.equal(loss, want)
    assert torch.equal(stats.entropy, other.entropy)
    x, t, r = torch.randn(6, 5), torch.rand(6, 5), torch.rand(5)
    module = F.BCEWithLogitsLoss(w, reduction="none", pos_weight=r)
    want = F.binary_cross_entropy_with_logits(x, t, w, reduction="none", pos_weight=r)
    assert torch.equal(module(x, t), want)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"softcap": -1.0}, {"reduction": "average"}], ids=str)
def test_errors_of_the_linear_module_come_early(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        _ = F.LinearCrossEntropyLoss(3, 4, **options)


def test_the_linear_module_is_the_function_with_its_options_bound():
    options = {"label_smoothing": 0.1, "temperature": 0.5, "softcap": 4.0, "z_loss": 0.01, "weight": torch.rand(5)}
    for out in ((), (2, 3)):
        module = F.LinearCrossEntropyLoss(4, 5, out_features=out, bias=True, ignore_index=3, chunk_bytes=64, **options)
        x, y, s = torch.randn(6, 4), torch.randint(5, (6, *out)), torch.rand(6, *out)
        w, b = module.linear.weight.view(5, *out, 4), module.linear.bias.view(5, *out)
        want = F.linear_cross_entropy(x, w, y, linear_bias=b, sample_weight=s, ignore_index=3, **options)
        torch.testing.assert_close(module(x, y, sample_weight=s), want, rtol=plain.FLOOR[torch.float32], atol=0)
        for name in ("softcap=4.0", "label_smoothing=0.1"):
            assert name in repr(module)
    loss, stats = F.LinearCrossEntropyLoss(4, 5, return_stats=True, dtype=torch.float64)(x.double(), y[:, 0, 0])
    assert loss.dtype == stats.lse.dtype == torch.float64


def test_errors_of_the_modules_come_early():
    for options in ({"temperature": 0.0}, {"softcap": -1.0}, {"reduction": "average"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            _ = F.CrossEntropyLoss(**options)
    with pytest.raises(ValueError, match="reduction"):
        _ = F.BCEWithLogitsLoss(reduction="average")


def twins():
    """Our modules with torch's of the same name, made by the same positional arguments."""
    for name, arguments in {
        "CrossEntropyLoss": (torch.rand(5), None, 3, None, "sum", 0.1),
        "BCEWithLogitsLoss": (torch.rand(5), None, None, "sum", torch.rand(5)),
        "BCELoss": (torch.rand(5), None, None, "sum"),
        "LinearCrossEntropyLoss": (4, 5),
    }.items():
        if hasattr(torch.nn, name):  # torch 2.10 has no LinearCrossEntropyLoss
            yield getattr(F, name)(*arguments), getattr(torch.nn, name)(*arguments)


def operands_of(module):
    x = torch.rand(6, 4 if isinstance(module, F.LinearCrossEntropyLoss) else 5)
    return x, torch.rand(6, 5) if isinstance(module, (F.BCELoss, F.BCEWithLogitsLoss)) else torch.arange(6) % 5


def test_modules_are_instances_of_torch_s_with_its_arguments_attributes_and_results():
    for ours, theirs in twins():
        assert isinstance(ours, type(theirs))
        assert isinstance(ours, torch.nn.modules.loss._Loss)
        assert ours.__constants__ == theirs.__constants__ if hasattr(theirs, "__constants__") else True
        missing = {name for name in vars(theirs) if not hasattr(ours, name)}
        assert not missing
        _ = ours.load_state_dict(theirs.state_dict())
        x, target = operands_of(ours)
        torch.testing.assert_close(ours(x, target), theirs(x, target))


def test_attributes_may_change_after_construction():
    for ours, theirs in twins():
        _ = ours.load_state_dict(theirs.state_dict())
        x, target = operands_of(ours)
        changes = {"reduction": "none", "weight": torch.rand(5), "ignore_index": 2, "label_smoothing": 0.3}
        if hasattr(theirs, "pos_weight"):
            changes["pos_weight"] = torch.rand(5)
        for name, value in changes.items():
            if hasattr(theirs, name):
                for module in (ours, theirs):
                    setattr(module, name, value)
                torch.testing.assert_close(ours(x, target), theirs(x, target))
        for module in (ours, theirs):
            module.weight = None
        torch.testing.assert_close(ours(x, target), theirs(x, target))


def test_the_weight_of_classes_is_a_tensor():
    for wrong in (True, [1.0] * 5, "balanced"):
        with pytest.raises(TypeError, match="weight"):
            _ = F.LinearCrossEntropyLoss(4, 5, weight=wrong)


def test_options_of_torch_s_linear_loss_are_refused_not_ignored():
    module = F.LinearCrossEntropyLoss(4, 5)
    module.options = object()
    with pytest.raises(NotImplementedError, match="chunk_bytes"):
        _ = module(*operands_of(module))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_torchscript_is_refused_with_what_to_do():
    for ours, theirs in twins():
        for model in (ours, torch.nn.Sequential(ours)):
            with pytest.raises(NotImplementedError, match=rf"torch\.compile.*torch\.nn\.{type(theirs).__name__}"):
                _ = torch.jit.script(model)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "BCEWithLogitsLoss", "BCELoss"])
def test_state_travels_to_and_from_torch(name):
    w = torch.rand(5)
    ours, theirs = getattr(F, name)(w), getattr(torch.nn, name)(w)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    _ = ours.load_state_dict(theirs.state_dict())
    _ = theirs.load_state_dict(ours.state_dict())
    assert ours.double().weight.dtype == torch.float64
    assert ours.to("meta").weight.device.type == "meta"
    assert list(ours.parameters()) == []
    assert isinstance(ours, torch.nn.Module)


def test_modules_are_copied_and_saved():
    ours = [module for module, _ in twins()]
    for module in (F.CrossEntropyLoss(torch.rand(5), label_smoothing=0.1, softcap=3.0), *ours):
        x, target = operands_of(module)
        file = io.BytesIO()
        torch.save(module, file)
        _ = file.seek(0)
        saved = torch.load(file, weights_only=False)
        for other in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module)), saved):
            assert torch.equal(other(x, target), module(x, target))


def test_representations_show_what_was_chosen():
    for name in ("CrossEntropyLoss", "BCEWithLogitsLoss", "BCELoss"):
        assert repr(getattr(F, name)()) == f"{name}()"
        assert repr(getattr(F, name)(reduction="sum")) == f"{name}(reduction='sum')"
    text = repr(F.CrossEntropyLoss(label_smoothing=0.1, z_loss=1e-4, reduction="sum"))
    for part in ("label_smoothing=0.1", "z_loss=0.0001", "reduction='sum'"):
        assert part in text


def test_a_softmax_classifier_learns():
    _ = torch.manual_seed(0)
    x = torch.randn(200, 4)
    y = (x @ torch.randn(4, 3)).argmax(1)
    model = torch.nn.Linear(4, 3)
    losses = []
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=40)
    criterion = F.CrossEntropyLoss()

    def closure():
        optimiser.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss

    optimiser.step(closure)
    assert losses[-1] < 0.05 < losses[0]
    plain.agree("loss", criterion(model(x), y), torch.nn.CrossEntropyLoss()(model(x).double(), y), None, 2e-6)
