"""The check that all ranks of a group make the same call; it costs time, so it is made only while debugging."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from crossent.torch.ranks.collectives import group_of
from crossent.torch.ranks.shards import Ranks


def debugging() -> bool:
    """Return whether calls are checked at some cost: CROSSENT_VALIDATE=1, or TORCH_DISTRIBUTED_DEBUG=DETAIL."""
    torch_says: Any = dist
    return os.environ.get("CROSSENT_VALIDATE") == "1" or torch_says.get_debug_level() == torch_says.DebugLevel.DETAIL


def check_agreement(ranks: Ranks, rows: int, facts: Mapping[str, Any]) -> None:
    """Raise on every rank if the ranks do not make the same call; does nothing unless debugging is on.

    Ranks that share the classes must agree on the number of rows and on all facts, ranks that share the rows only on
    the facts.

    Raises
    ------
    ValueError
        If a fact differs, with its value on each rank.
    """
    if torch.compiler.is_compiling() or not debugging():
        return
    for name in ranks.groups:
        _agree(name, {"the number of rows": rows, **facts})
    for name in ranks.row_groups:
        _agree(name, dict(facts))


def _agree(name: str, call: dict[str, Any]) -> None:
    group = group_of(name)
    calls: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(calls, call, group=group)
    wrong = [key for key in call if any(other[key] != calls[0][key] for other in calls)]
    if wrong:
        ranks = dist.get_process_group_ranks(group)
        said = [f"{key} is {_by_rank([other[key] for other in calls], ranks)}" for key in wrong]
        raise ValueError(f"the ranks of a group must make the same call, but {'; '.join(said)}")


def _by_rank(values: list[Any], ranks: list[int]) -> str:
    """Return each different value and the ranks that have it."""
    parts: list[str] = []
    for value in dict.fromkeys(map(repr, values)):
        having = [str(rank) for rank, own in zip(ranks, values, strict=True) if repr(own) == value]
        parts.append(f"{value} on rank{'s' * (len(having) > 1)} {', '.join(having)}")
    return " and ".join(parts)
