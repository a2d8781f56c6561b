"""Calls of operators: an operator takes one call, and its schema, flat arguments and gradients follow from the fields.

torch's dispatcher knows flat lists of tensors and numbers. All other code uses names: a call is a class made by
`operator_call` whose fields are tensors, numbers, texts, or values with fields of their own (another call,
`spec.Target`, `spec.Scores`). Only this module and `register` know the order of a flat list.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Self, TypeVar, dataclass_transform, get_type_hints

import torch
from torch import Tensor

from crossent.spec import Array

_TYPES: Mapping[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Array | None: "Tensor?",
    bool: "bool",
    int: "int",
    int | None: "int?",
    float: "float",
    float | None: "float?",
    str: "str",
    tuple[bool, ...]: "bool[]",
    tuple[str, ...]: "str[]",
}
"""How torch's schemas write the types of fields."""


class Leaf(NamedTuple):
    """An argument in the flat list: its name and its type in a schema."""

    name: str
    type: str

    @property
    def is_tensor(self) -> bool:
        """Whether it may be a tensor."""
        return self.type.startswith("Tensor")

    @property
    def is_real(self) -> bool:
        """Whether it may be a float."""
        return self.type.startswith("float")


UNREAD = Leaf("unread", "Tensor?")
"""The last argument of an operator that takes floats: those which change from call to call of a compiled program.

A compiler makes a program for each value of a float that an operator takes, and one program for all values of a tensor.
So a temperature that it does not know is NaN in its own place and comes in this tensor (K,) of float64.
"""


class _Step(NamedTuple):
    """One value to be made: its class, and the selection of its fields from tensors, constants and earlier values."""

    cls: Any
    pick: Callable[[list[Any]], tuple[Any, ...]]


class _Layout(NamedTuple):
    """The fields of a call, each with the class of its value if that has fields too (else None), and all leaves."""

    fields: tuple[tuple[str, type | None], ...]
    leaves: tuple[Leaf, ...]
    names: frozenset[str]
    tensors: Callable[[Any], tuple[Any, ...]]
    """Returns the leaves that may be tensors."""
    constants: Callable[[Any], tuple[Any, ...]]
    """Returns everything else; values with fields but without tensors whole."""
    steps: tuple[_Step, ...]
    """How the call is put together from its tensors and constants."""


_LAYOUTS: dict[type, _Layout] = {}


Cls = TypeVar("Cls", bound=type)


@dataclass_transform(eq_default=False)
def operator_call(cls: Cls) -> Cls:
    """Make a call of a class with annotated fields.

    A call is never written to. It is not frozen because a frozen one takes three times as long to make, and a small
    loss makes five.
    """
    made: Any = dataclasses.dataclass(slots=True, eq=False)(cls)
    return made


class OperatorCall:
    """Base of the arguments of operators."""

    __slots__ = ()

    @classmethod
    def leaves(cls) -> tuple[Leaf, ...]:
        """Return the arguments in the order of the schema."""
        return _layout(cls).leaves

    @classmethod
    def schema(cls) -> str:
        """Return the arguments as torch's schemas write them, in the order of the fields, and the unread numbers."""
        arguments = [f"{leaf.type} {leaf.name}" for leaf in cls.leaves()]
        unread = any(leaf.is_real for leaf in cls.leaves())
        return ", ".join([*arguments, f"{UNREAD.type} {UNREAD.name}=None"] if unread else arguments)

    @classmethod
    def unflatten(cls, flat: Iterable[Any]) -> Self:
        """Return the call of a flat list of arguments, with tensors in place of unread numbers."""
        arguments, number = list(flat), len(cls.leaves())
        if len(arguments) > number and (unread := arguments.pop()) is not None:
            rest = iter(unread)
            arguments = [next(rest) if isinstance(x, float) and math.isnan(x) else x for x in arguments]
        return _unflattened(cls, iter(arguments))

    def flatten(self) -> list[Any]:
        """Return all arguments in the order of the schema; unread numbers come last, if there are any."""
        flat: list[Any] = []
        _spread(self, flat)
        unread: list[Tensor] = []
        for place, leaf in enumerate(self.leaves()):
            if leaf.is_real and (number := _unread(flat[place])) is not None:
                flat[place] = math.nan
                unread.append(number)
        return [*flat, torch.stack(unread)] if unread else flat

    @classmethod
    def gradients(cls, found: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return gradients by name in the order of the schema: None for every argument that is not named."""
        layout = _layout(cls)
        if not layout.names.issuperset(found):
            raise TypeError(f"{cls.__name__} takes {', '.join(layout.names)}, and a gradient came for {list(found)}")
        return tuple(found.get(leaf.name) for leaf in layout.leaves)

    def tensors(self) -> tuple[Any, ...]:
        """Return the arguments that may be tensors, in order; an absent tensor is None."""
        return _layout(type(self)).tensors(self)


def _layout(cls: type) -> _Layout:
    return _LAYOUTS[cls] if cls in _LAYOUTS else _LAYOUTS.setdefault(cls, _new_layout(cls))


def _new_layout(cls: type) -> _Layout:
    types, fields, leaves = get_type_hints(cls), list[tuple[str, type | None]](), list[Leaf]()
    for field in dataclasses.fields(cls):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            inner: Any = kind
            fields.append((field.name, inner))
            leaves += _layout(inner).leaves
        elif kind in _TYPES:
            fields.append((field.name, None))
            leaves.append(Leaf(field.name, _TYPES[kind]))
        else:
            raise TypeError(f"{cls.__name__}.{field.name}: torch's schemas have no word for {kind}")
    names = frozenset(leaf.name for leaf in leaves)
    if len(names) < len(leaves):
        raise TypeError(f"{cls.__name__} has two arguments of one name: {[leaf.name for leaf in leaves]}")
    paths = _paths(cls, types)
    steps = list[_Step]()
    _append_steps(cls, "", [*paths.tensors, *paths.constants], steps)
    return _Layout(tuple(fields), tuple(leaves), names, _getter(paths.tensors), _getter(paths.constants), tuple(steps))


# In eager mode calls are taken apart and put together for every backward. What follows is worked out once for a class,
# so that this takes a microsecond or two.


def _has_tensors(kind: Any) -> bool:
    return any(leaf.is_tensor for leaf in _layout(kind).leaves)


class _Paths(NamedTuple):
    """Dotted names of tensors, and of constants and of values with fields that hold no tensors."""

    tensors: list[str]
    constants: list[str]


def _paths(cls: Any, types: Mapping[str, Any]) -> _Paths:
    found = _Paths([], [])
    for field in dataclasses.fields(cls):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind) and _has_tensors(kind):
            inner = _paths(kind, get_type_hints(kind))
            found.tensors.extend(f"{field.name}.{path}" for path in inner.tensors)
            found.constants.extend(f"{field.name}.{path}" for path in inner.constants)
        else:
            is_tensor = not dataclasses.is_dataclass(kind) and _TYPES[kind].startswith("Tensor")
            (found.tensors if is_tensor else found.constants).append(field.name)
    return found


def _getter(paths: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(paths) > 1:
        return attrgetter(*paths)
    one = attrgetter(*paths) if paths else None
    return lambda call: () if one is None else (one(call),)


def _append_steps(cls: Any, prefix: str, places: list[str], steps: list[_Step]) -> None:
    """Append the steps that make a value, first the steps of its fields; `places` names the content of each place."""
    picked: list[int] = []
    for field in dataclasses.fields(cls):
        path = prefix + field.name
        if path not in places:
            _append_steps(get_type_hints(cls)[field.name], path + ".", places, steps)
        picked.append(places.index(path))
    places.append(prefix.removesuffix("."))
    one = picked[0]
    steps.append(_Step(cls, itemgetter(*picked) if len(picked) > 1 else lambda values: (values[one],)))


def _spread(fields_of: Any, flat: list[Any]) -> None:
    for name, inner in _layout(type(fields_of)).fields:
        value = getattr(fields_of, name)
        if inner is None:
            flat.append(value)
        else:
            _spread(value, flat)


def _unflattened(cls: Any, flat: Iterator[Any]) -> Any:
    return cls(*[next(flat) if inner is None else _unflattened(inner, flat) for _, inner in _layout(cls).fields])


def _unread(number: Any) -> Tensor | None:
    """Return a number as a tensor if it changes from call to call of a compiled program, else None."""
    if number is None or isinstance(number, Tensor):
        return number
    if not torch.compiler.is_compiling():
        return None
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return None if has_static_value(number) else torch.ones((), dtype=torch.float64) * number


# Between forward and backward --------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """Data from a forward for its backward: the call, and further tensors that were saved with it."""

    call: Any
    more: tuple[Tensor, ...]


def keep(ctx: Any, call: OperatorCall, *more: Tensor) -> None:
    """Save a call and more tensors for the backward, the tensors in autograd's way."""
    layout = _layout(type(call))
    tensors = layout.tensors(call)
    ctx.save_for_backward(*tensors, *more)
    ctx.kept = layout, layout.constants(call), len(tensors)


def kept(ctx: Any) -> Kept:
    """Return the data saved by `keep`."""
    layout, constants, number = ctx.kept
    saved = ctx.saved_tensors
    values = [*saved[:number], *constants]
    for step in layout.steps:
        values.append(step.cls(*step.pick(values)))
    return Kept(values[-1], saved[number:])
