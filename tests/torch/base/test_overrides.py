"""Objects with `__torch_function__` have their say in our functions as in torch's own."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.utils._pytree as pytree
from torch.overrides import TorchFunctionMode

import crossent.torch as F
from crossent.torch.base.overrides import KNOWN, overridable

Z, Y, T = torch.randn(4, 5), torch.tensor([0, 3, 2, 1]), torch.rand(4, 5)
CALLS = {
    "cross_entropy": ((Z, Y), {"sample_weight": torch.rand(4), "temperature": 2.0}),
    "linear_cross_entropy": ((Z, T, Y), {"weight": torch.rand(4)}),
    "binary_cross_entropy": ((T, T), {"weight": torch.rand(5)}),
    "binary_cross_entropy_with_logits": ((Z, T), {"pos_weight": torch.rand(5)}),
}


class Own:
    """No tensor, and answers for one."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func, types, args, kwargs


class Tagged(torch.Tensor):
    pass


class Listening(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.heard = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.heard.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CALLS)
def test_an_object_in_any_place_answers(name):
    function, (args, options) = getattr(F, name), CALLS[name]
    for place in range(len(args)):
        given = [Own() if k == place else a for k, a in enumerate(args)]
        assert_same(function(*given, **options), (function, tuple(given), options))
    for key in options:
        given = options | {key: Own()}
        assert_same(function(*args, **given), (function, args, given))


def assert_same(got, want):
    """Compare function and arguments by identity: those that are tensors have no other equality."""
    function, types, args, options = got
    assert Own in types
    a, b = (pytree.tree_leaves(x) for x in ((function, args, options), want))
    assert list(map(id, a)) == list(map(id, b))


@pytest.mark.parametrize("name", CALLS)
def test_a_subclass_stays_one_as_in_torch(name):
    function, (args, options) = getattr(F, name), CALLS[name]
    got = function(args[0].as_subclass(Tagged), *args[1:], **options)
    assert type(got) is Tagged
    torch.testing.assert_close(got.as_subclass(torch.Tensor), function(*args, **options), rtol=0, atol=0)
    twin = getattr(torch.nn.functional, name, None)
    if name.startswith("binary"):
        assert type(twin(args[0].as_subclass(Tagged), *args[1:], **options)) is Tagged


@pytest.mark.parametrize("name", CALLS)
def test_a_mode_hears_one_function(name):
    function, (args, options) = getattr(F, name), CALLS[name]
    with Listening() as mode:
        got = function(*args, **options)
    assert mode.heard == [function]
    torch.testing.assert_close(got, function(*args, **options), rtol=0, atol=0)


def test_parameters_and_lazy_logits_are_no_others():
    head = F.fuse_lm_head(torch.nn.Linear(5, 5))
    assert type(head(Z)) in KNOWN
    with Listening() as mode:
        _ = F.cross_entropy(head(Z), Y)
    assert F.cross_entropy in mode.heard
    assert type(F.cross_entropy(torch.nn.Parameter(Z), Y)) is torch.Tensor


def test_the_face_keeps_signature_and_text():
    @overridable
    def loss(input, *, weight=None):  # noqa: A002
        """A loss."""
        return input, weight

    assert str(inspect.signature(loss)) == "(input, *, weight=None)"
    assert loss.__doc__ == "A loss."
    assert loss(1, weight=2) == (1, 2)
