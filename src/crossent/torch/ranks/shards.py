"""Shards of the classes and of the rows: the part of this rank, and the ranks of the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch.distributed as dist
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """The groups of ranks that share a call, by name, and the rows that they brought together."""

    groups: tuple[str, ...] = ()
    """Groups of ranks that have the same rows of other classes."""
    row_groups: tuple[str, ...] = ()
    """Groups of ranks that have other rows of the same classes."""
    gathered: Tensor | None = None
    """The rows of all ranks of the last of `groups`, if each brings rows of its own to a linear loss."""
    order: Tensor | None = None
    """Where the first rank's rows lie among them, then the second's and so on; None for one after the other."""
    each: int = 0
    """How many rows each of them brings, the last ones padded."""

    @property
    def alone(self) -> bool:
        """Whether this rank needs no other rank."""
        return not (self.groups or self.row_groups)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """Positions of the local columns among all classes and of the rows among all rows, and the ranks of the others."""

    ranks: Ranks
    first_class: int
    num_classes: int | None
    """Number of all classes; None if the columns at hand are all there are."""

    def held(self, columns: int) -> int:
        """Return how many of the columns at hand are classes; the rest pad them to an equal number."""
        return held(columns, self.first_class, self.num_classes)

    def local(self, weight: Tensor | None, columns: int) -> Tensor | None:
        """Return the weights of the classes at hand."""
        if weight is None or self.num_classes is None:
            return weight
        return weight[self.first_class : self.first_class + self.held(columns)]


NO_RANKS = Ranks()
"""A call of one rank."""
NO_SHARDS = Shards(NO_RANKS, 0, None)
"""A call of one rank that has all classes."""


def held(columns: int, first_class: int, num_classes: int | None) -> int:
    """Return how many columns are classes, of so many that begin with `first_class`; without num_classes all are."""
    return columns if num_classes is None else min(columns, max(0, num_classes - first_class))


def shards_of(group: Any, first_class: int | None, num_classes: int | None, columns: int) -> Shards:
    """Return where this rank's columns lie, by default equal shards in the order of the ranks.

    Raises
    ------
    TypeError
        If the group is not a process group.
    ValueError
        If the numbers do not fit the columns, or this rank is not in the group.
    """
    if group is None and first_class is None and num_classes is None:
        return NO_SHARDS
    for name, value in (("first_class", first_class), ("num_classes", num_classes)):
        if value is not None and value < (name == "num_classes"):
            raise ValueError(f"{name} must not be less than {int(name == 'num_classes')}, got {value}")
    if group is None:
        if first_class is not None:
            raise ValueError("first_class names this rank's first class, so it needs process_group=; pass both or none")
        if num_classes is not None and num_classes > columns:
            raise ValueError(
                f"num_classes is {num_classes}, but there are {columns} classes here; it may leave out padding, and "
                "with process_group it counts the classes of all ranks"
            )
        return NO_SHARDS if num_classes == columns else Shards(NO_RANKS, 0, num_classes)
    groups = check_group("process_group", group)
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    first = rank * columns if first_class is None else first_class
    classes = ranks * columns if num_classes is None else num_classes
    if groups:
        return Shards(Ranks(groups), first, classes)
    if held(columns, first, classes) != classes:
        raise missing_classes(held(columns, first, classes), classes)
    return Shards(NO_RANKS, 0, classes)


def check_group(name: str, group: Any) -> tuple[str, ...]:
    """Return the name of a process group, or nothing for a group of one rank.

    Raises
    ------
    TypeError
        If it is not a process group.
    ValueError
        If this rank is not in it.
    """
    if not isinstance(group, dist.ProcessGroup):
        hint = "; use mesh.get_group()" if hasattr(group, "get_group") else ""
        raise TypeError(f"{name} must be a torch.distributed.ProcessGroup, got {type(group).__name__}{hint}")
    if dist.get_rank(group) < 0:
        raise ValueError(f"this rank is not in {name}; pass a group that contains this rank, or None")
    return (group.group_name,) if dist.get_world_size(group) > 1 else ()


def missing_classes(found: int, classes: int) -> ValueError:
    """Return the error for shards that together are not all classes."""
    problem = f"hold {found} classes together, not {classes}" if found != classes else "overlap"
    return ValueError(
        f"the shards {problem}; shards of unequal length need first_class= (the first class of this rank) and "
        "num_classes= (of all ranks)"
    )
