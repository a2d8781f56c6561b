"""Records of arguments: an operator takes one record, and its schema, arguments and gradients follow from the fields.

torch's dispatcher knows flat lists of tensors and numbers. Everybody else names what they mean: a record is a frozen
dataclass whose fields are tensors, numbers, texts or other records (also `spec.Target` and `spec.Scores`), and only
this module and `register` know the order of a flat list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self, get_type_hints

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
    """An argument in the flat list: its name, its type in a schema, and whether it may be a tensor."""

    name: str
    type: str
    is_tensor: bool


class _Layout(NamedTuple):
    """The fields of a record, each with the class of the record that it holds (None for a value), and all leaves."""

    fields: tuple[tuple[str, type | None], ...]
    leaves: tuple[Leaf, ...]
    names: frozenset[str]


_LAYOUTS: dict[type, _Layout] = {}


class Record:
    """Base of the records that operators take; a subclass is a frozen dataclass with slots."""

    __slots__ = ()

    @classmethod
    def leaves(cls) -> tuple[Leaf, ...]:
        """Return the arguments in the order of the schema."""
        return _layout(cls).leaves

    @classmethod
    def schema(cls) -> str:
        """Return the arguments as torch's schemas write them, in the order of the fields."""
        return ", ".join(f"{leaf.type} {leaf.name}" for leaf in cls.leaves())

    @classmethod
    def unflatten(cls, flat: Iterable[Any]) -> Self:
        """Return the record of a flat list of arguments."""
        return _built(cls, iter(flat))

    def flatten(self) -> list[Any]:
        """Return all arguments in the order of the schema."""
        flat: list[Any] = []
        _spread(self, flat)
        return flat

    @classmethod
    def gradients(cls, found: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return gradients by name in the order of the schema: None for every argument that is not named."""
        layout = _layout(cls)
        if not layout.names.issuperset(found):
            raise TypeError(f"{cls.__name__} takes {', '.join(layout.names)}, and a gradient came for {list(found)}")
        return tuple(found.get(leaf.name) for leaf in layout.leaves)

    def tensors(self) -> list[Any]:
        """Return the arguments that may be tensors, in order; those that are not there are None."""
        return [value for leaf, value in zip(self.leaves(), self.flatten(), strict=True) if leaf.is_tensor]


def _layout(cls: type) -> _Layout:
    if cls not in _LAYOUTS:
        types, fields, leaves = get_type_hints(cls), list[tuple[str, type | None]](), list[Leaf]()
        for field in dataclasses.fields(cls):
            kind = types[field.name]
            if dataclasses.is_dataclass(kind):
                record: Any = kind
                fields.append((field.name, record))
                leaves += _layout(record).leaves
            elif kind in _TYPES:
                fields.append((field.name, None))
                leaves.append(Leaf(field.name, _TYPES[kind], _TYPES[kind].startswith("Tensor")))
            else:
                raise TypeError(f"{cls.__name__}.{field.name}: torch's schemas have no word for {kind}")
        names = frozenset(leaf.name for leaf in leaves)
        if len(names) < len(leaves):
            raise TypeError(f"{cls.__name__} has two arguments of one name: {[leaf.name for leaf in leaves]}")
        _LAYOUTS[cls] = _Layout(tuple(fields), tuple(leaves), names)
    return _LAYOUTS[cls]


def _spread(record: Any, flat: list[Any]) -> None:
    for name, inner in _layout(type(record)).fields:
        value = getattr(record, name)
        if inner is None:
            flat.append(value)
        else:
            _spread(value, flat)


def _built(cls: Any, flat: Iterator[Any]) -> Any:
    return cls(*[next(flat) if inner is None else _built(inner, flat) for _, inner in _layout(cls).fields])


# Between forward and backward --------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """What a backward gets from its forward: the call, and further tensors that were saved with it."""

    call: Any
    more: tuple[Tensor, ...]


def keep(ctx: Any, call: Record, *more: Tensor) -> None:
    """Save a call and more tensors for the backward, the tensors as autograd wants them saved."""
    flat, leaves = call.flatten(), call.leaves()
    ctx.save_for_backward(*[value for leaf, value in zip(leaves, flat, strict=True) if leaf.is_tensor], *more)
    ctx.kept = type(call), [None if leaf.is_tensor else value for leaf, value in zip(leaves, flat, strict=True)]


def kept(ctx: Any) -> Kept:
    """Return what `keep` saved."""
    cls, constants = ctx.kept
    saved = iter(ctx.saved_tensors)
    flat = [next(saved) if leaf.is_tensor else x for leaf, x in zip(cls.leaves(), constants, strict=True)]
    return Kept(cls.unflatten(flat), tuple(saved))
