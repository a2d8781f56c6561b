"""Who looks at a call, and the numbers behind the tensors of function transforms."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from crossent.torch.base.transforms import has_tangents, is_watched, look_at, wants_plain_operations
from tests.torch.operators.watching import Watching


def looks(x):
    seen.append((is_watched(), wants_plain_operations()))
    return x.sum()


seen: list[tuple[bool, bool]] = []


def test_who_watches_and_who_wants_plain_operations():
    x = torch.ones(2)
    seen.clear()
    _ = looks(x)
    with Watching():
        _ = looks(x)
    _ = torch.func.grad(looks)(x)
    _ = torch.vmap(looks)(x[:, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _ = torch.jit.trace(looks, x, check_trace=False)
    assert seen == [(False, False), (True, False), (True, True), (True, True), (True, True)]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_tangents():
    others = [torch.ones(1), None, 1.0, "text"]
    assert not has_tangents(others)
    with forward_ad.dual_level():
        assert not has_tangents(others)
        assert has_tangents([*others, forward_ad.make_dual(torch.ones(2), torch.ones(2))])


def numbers(*tensors):
    """What a check is shown: the numbers of each tensor, None, or nothing at all."""
    found = []
    look_at(lambda *x: found.extend(None if a is None else a.tolist() for a in x), *tensors)
    return found


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by the first dual number of a process
def test_numbers_under_transforms():
    x = torch.arange(24.0).reshape(2, 3, 4)
    found = []

    def f(a, b):
        found.append(numbers(a, b))
        return a.square().sum() * b.square().sum()

    _ = torch.func.grad(f)(x, x[0])
    _ = torch.vmap(torch.vmap(f, in_dims=(1, None)), in_dims=(2, 1))(x, x[0])
    _ = torch.vmap(torch.func.hessian(f), in_dims=(None, 1))(x[0], x[0])
    want = [x, x[0]], [x.permute(2, 1, 0), x[0].t()[:, None].expand(4, 3, 3)]
    assert found[:2] == [[a.tolist() for a in pair] for pair in want]
    assert [pair[1] for pair in found[2:]] == [x[0].t().tolist()] * len(found[2:])


def test_numbers_that_are_not_there():
    x = torch.ones(2, requires_grad=True)
    assert numbers(x, None, torch.ones(2, device="meta")) == [[1.0, 1.0], None, None]
    with Watching():
        assert numbers(x) == []
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
    assert numbers(fake) == [None]
