"""Calls of operators: their schemas, flat lists and gradients by name, and what a backward gets from its forward."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import crossent.torch  # noqa: F401  registers all operators
from crossent.spec import Scores, Target
from crossent.torch.base.operator_call import UNREAD, OperatorCall, keep, kept, operator_call
from crossent.torch.operators.binary import BinaryCall
from crossent.torch.operators.linear_call import LinearCall
from crossent.torch.operators.linear_stats import LinearGradCall
from crossent.torch.operators.rows import RowCall, RowGradCall


@operator_call
class Inner(OperatorCall):
    """A value with a tensor and a number."""

    x: Tensor
    scale: float


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A value without tensors."""

    count: int
    limit: float | None
    names: tuple[str, ...]


@operator_call
class Outer(OperatorCall):
    """Values with fields between tensors and numbers."""

    first: Tensor | None
    inner: Inner
    flag: bool
    numbers: Numbers
    last: Tensor
    which: tuple[bool, ...]


def outer() -> Outer:
    x, last = torch.randn(3), torch.randn(2)
    return Outer(None, Inner(x, 2.5), True, Numbers(7, None, ("a", "b")), last, (True, False))


def classes_of_calls() -> list[type[OperatorCall]]:
    """Every class of calls of crossent, with those of which calls are made."""
    found: list[type[OperatorCall]] = []
    for cls in OperatorCall.__subclasses__():
        if cls.__module__.startswith("crossent.torch."):
            found.append(cls)
    assert len(found) >= 10
    return found


CALLS = classes_of_calls()
OPERATORS = {
    "row_stats": "RowCall", "row_loss": "RowLossCall", "row_grad": "RowGradCall", "binary_loss": "BinaryLossCall",
    "binary_grad": "BinaryGradCall", "linear_stats": "LinearStatsCall", "linear_grad": "LinearGradCall",
    "linear_loss": "LinearLossCall", "all_reduced": "ReduceCall", "most_probable": "MostProbableCall",
    "log_sum_squares": "SquaresCall", "log_sum_squares_grad": "SquaresGradCall", "selected_stats": "SelectedCall",
    "selected_grad": "SelectedGradCall", "linear_selected": "LinearSelectedCall",
    "linear_selected_grad": "LinearSelectedGradCall", "pair_stats": "PairCall", "pair_grad": "PairGradCall",
    "linear_pair_stats": "LinearPairStatsCall", "linear_pair_grad": "LinearPairGradCall",
    "linear_pair_loss": "LinearPairLossCall",
}  # fmt: skip
TARGET = (
    "Tensor? index, Tensor? prob, Tensor? weight, float smoothing, int ignore_index, int first_class, int? num_classes"
)
SCORES = "float temperature, float? softcap, Tensor? row_temperature"
NUMBERS = "Tensor? unread=None"
SWEEP = "bool[] wants, int chunk_bytes"
COTANGENTS = "Tensor? g_loss, Tensor? g_lse, Tensor? g_entropy"
ROWS = f"Tensor logits, {TARGET}, {SCORES}, str[] groups, bool recorded"
HEAD = (
    f"Tensor input, Tensor linear_weight, Tensor? linear_bias, int positions, {TARGET}, {SCORES}, "
    "str[] groups, str[] row_groups, Tensor? gathered, Tensor? order, int each, Tensor? linear_adapter"
)


# Schemas


def test_the_schema_of_a_nested_call_is_its_fields_in_order():
    assert Outer.schema() == (
        "Tensor? first, Tensor x, float scale, bool flag, int count, float? limit, str[] names, Tensor last, "
        "bool[] which, Tensor? unread=None"
    )


@pytest.mark.parametrize(
    ("cls", "schema"),
    [
        (RowCall, f"{ROWS}, {NUMBERS}"),
        (RowGradCall, f"{ROWS}, Tensor record, {COTANGENTS}, {NUMBERS}"),
        (LinearCall, f"{HEAD}, {NUMBERS}"),
        (
            LinearGradCall,
            (
                f"{HEAD}, Tensor record, Tensor logits, {COTANGENTS}, bool[] wants, int chunk_bytes, "
                f"Tensor? squares_record, Tensor? g_squares, {NUMBERS}"
            ),
        ),
        (BinaryCall, "str kind, Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight"),  # takes no float
    ],
)
def test_schemas_of_the_losses(cls, schema):
    assert cls.schema() == schema


@pytest.mark.parametrize("name", OPERATORS)
def test_the_schema_that_torch_has_is_that_of_the_call(name):
    cls = next(cls for cls in CALLS if cls.__name__ == OPERATORS[name])
    of_torch = getattr(torch.ops.crossent, name).default._schema.arguments
    arguments = [leaf for leaf in (*cls.leaves(), UNREAD) if f" {leaf.name}" in cls.schema()]
    assert [(x.name, "Tensor" in str(x.type)) for x in of_torch] == [(x.name, x.is_tensor) for x in arguments]


def test_every_operator_is_in_the_table_above():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("crossent::")}
    ours = {name.removeprefix("crossent::") for name in registered if not name.startswith("crossent::test_")}
    assert ours == set(OPERATORS)


def test_a_type_without_a_word_in_schemas_is_refused():
    @operator_call
    class Wrong(OperatorCall):
        x: Tensor
        options: dict[str, float]

    with pytest.raises(TypeError, match=r"Wrong\.options: .*no word for dict"):
        _ = Wrong.schema()


def test_two_arguments_of_one_name_are_refused():
    @operator_call
    class Twice(OperatorCall):
        x: Tensor
        inner: Inner

    with pytest.raises(TypeError, match=r"Twice has two arguments of one name: \['x', 'x', 'scale'\]"):
        _ = Twice.schema()


# Flat lists


def test_a_flat_list_has_the_values_in_the_order_of_the_schema():
    call = outer()
    flat = call.flatten()
    want = [None, call.inner.x, 2.5, True, 7, None, ("a", "b"), call.last, (True, False)]
    assert all(a is b or a == b for a, b in zip(flat, want, strict=True))
    assert [leaf.name for leaf in Outer.leaves()][1] == "x"
    assert [x for x in call.tensors() if x is not None] == [call.inner.x, call.last]
    assert len(call.tensors()) == 3


def value_of(kind: str, at: int) -> Any:
    """A value of a type of schemas that is unlike those at other places."""
    values = {
        "Tensor": torch.tensor([at]), "bool": at % 2 == 0, "int": at, "float": 1 / (1 + at), "str": f"text {at}",
        "bool[]": (at % 2 == 0, True), "str[]": (f"group {at}",),
    }  # fmt: skip
    return values[kind.removesuffix("?")]


def values_of(cls: type[OperatorCall]) -> list[Any]:
    """A flat list of a call; beside temperatures of rows there is no other than 1."""
    return [1.0 if x.name == "temperature" else value_of(x.type, at) for at, x in enumerate(cls.leaves())]


def leaves_of(value: Any) -> list[Any]:
    """Values of all fields, those of values with fields in their place; found without the code under test."""
    if not dataclasses.is_dataclass(value):
        return [value]
    return [leaf for field in dataclasses.fields(value) for leaf in leaves_of(getattr(value, field.name))]


@pytest.mark.parametrize("cls", CALLS, ids=lambda cls: cls.__name__)
def test_every_call_is_that_of_its_flat_list(cls):
    flat = values_of(cls)
    call = cls.unflatten(iter(flat))
    for again in (leaves_of(call), call.flatten(), cls.unflatten(call.flatten()).flatten()):
        assert all(a is b for a, b in zip(again, flat, strict=True))
    tensors = [x for x, leaf in zip(flat, cls.leaves(), strict=True) if leaf.is_tensor]
    assert all(a is b for a, b in zip(call.tensors(), tensors, strict=True))


def test_values_within_a_call_keep_their_classes():
    flat = values_of(RowCall)
    call = RowCall.unflatten(flat)
    assert isinstance(call.target, Target)
    assert isinstance(call.scores, Scores)


def test_numbers_that_are_tensors_come_last_and_return_to_their_places():
    scale, limit = torch.tensor(0.3, dtype=torch.float64), torch.tensor(7.0, dtype=torch.float64)
    call = outer()
    inner = dataclasses.replace(call.inner, scale=scale)
    for numbers in ([scale], [scale, limit]):
        others = dataclasses.replace(call.numbers, limit=(*numbers, None)[1])
        flat = dataclasses.replace(call, inner=inner, numbers=others).flatten()
        assert math.isnan(flat[2])
        assert flat[-1].tolist() == [x.item() for x in numbers]
        assert len(flat) == len(Outer.leaves()) + 1
        again = Outer.unflatten(flat)
        assert again.inner.scale.item() == 0.3
        assert again.numbers.limit is None if len(numbers) == 1 else again.numbers.limit.item() == 7.0
        assert Outer.unflatten([*flat[:-1], [1.5, 2.5]]).inner.scale == 1.5


# Gradients


def test_gradients_by_name_come_in_the_order_of_the_schema():
    g, h = torch.randn(3), torch.randn(2)
    found = Outer.gradients({"last": h, "x": g, "first": None})
    assert found[1] is g
    assert found[7] is h
    assert [x is None for x in found] == [True, False, True, True, True, True, True, False, True]
    assert Outer.gradients({}) == (None,) * 9


def test_a_gradient_of_no_argument_is_refused():
    with pytest.raises(TypeError, match=r"Outer takes .*last.* came for \['lost'\]"):
        _ = Outer.gradients({"lost": torch.ones(1)})
    with pytest.raises(TypeError, match="inner"):  # which has no gradient of its own
        _ = Outer.gradients({"inner": torch.ones(1)})


# Between forward and backward


class Through(torch.autograd.Function):
    """The sum of a call's tensors and of more, whose backward looks at what it gets."""

    @staticmethod
    def forward(ctx, seen, call, more, *_tensors):
        keep(ctx, call, *more)
        ctx.seen = seen
        return sum(x.sum() for x in (*call.tensors(), *more) if x is not None)

    @staticmethod
    def backward(ctx, g):
        ctx.seen.append(kept(ctx))
        return None, None, None, *(g.expand(n) for n in (3, 2))


def through(call: Outer, *more: Tensor) -> tuple[Tensor, list[Any]]:
    seen: list[Any] = []
    return Through.apply(seen, call, more, call.inner.x, call.last), seen


def leaf_call() -> Outer:
    call = outer()
    return dataclasses.replace(
        call, inner=Inner(call.inner.x.requires_grad_(), call.inner.scale), last=call.last.requires_grad_()
    )


def test_a_backward_gets_the_call_of_its_forward():
    call, extra = leaf_call(), torch.randn(4)
    out, seen = through(call, extra)
    out.backward()
    ((again, more),) = seen
    assert type(again) is Outer
    assert type(again.inner) is Inner
    assert again.numbers is call.numbers
    for a, b in zip(leaves_of(again), leaves_of(call), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    (x,) = more
    assert torch.equal(x, extra)


@pytest.mark.parametrize("cls", CALLS, ids=lambda cls: cls.__name__)
def test_every_call_comes_back(cls):
    flat = values_of(cls)
    call, found = cls.unflatten(flat), []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            keep(ctx, call)
            return x * 1

        @staticmethod
        def backward(ctx, g):
            found.append(kept(ctx).call)
            return g

    Look.apply(torch.ones(1, requires_grad=True)).backward()
    (again,) = found
    assert type(again) is cls
    for a, b in zip(leaves_of(again), flat, strict=True):
        assert torch.equal(a, b) if isinstance(b, Tensor) else a == b


def test_tensors_go_through_the_hooks_of_saved_tensors():
    packed = []
    call = leaf_call()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x) or x.detach() + 1, lambda x: x):
        out, seen = through(call)
    out.backward()
    assert [torch.equal(a, b) for a, b in zip(packed, (call.inner.x, call.last), strict=True)] == [True, True]
    (again, _), *_ = seen
    assert torch.equal(again.last, call.last.detach() + 1)
    assert torch.equal(again.inner.x, call.inner.x.detach() + 1)


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_tensor_that_was_changed_in_place_is_noticed(which):
    call = outer()
    leaves = Inner(call.inner.x.requires_grad_(), 1.0), call.last.requires_grad_()
    held = leaves[1] * 1
    constant = torch.ones(1)
    call = dataclasses.replace(call, inner=leaves[0], last=held, first=constant)
    out, _ = through(call)
    _ = (constant if which == "first" else held).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_a_graph_that_is_gone_keeps_nothing():
    out, seen = through(leaf_call())
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()
    assert len(seen) == 1
