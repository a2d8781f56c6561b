"""Shards of the classes and of the rows: which of them this rank has, and how records of the same rows become one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from crossent.spec import Target
from crossent.stats import RowStats
from crossent.torch.ranks.collectives import extreme_over, group_of

if TYPE_CHECKING:
    from crossent.torch.call.checks import Rows
    from crossent.torch.call.results import Closing, Options


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """Where the columns at hand lie among all classes and the rows among all rows, and who has the others."""

    groups: tuple[str, ...] = ()
    """Groups of ranks that have the same rows of other classes."""
    first_class: int = 0
    num_classes: int = 0
    """0: the columns at hand are all there are."""
    row_groups: tuple[str, ...] = ()
    """Groups of ranks that have other rows of the same classes."""
    gathered: Tensor | None = None
    """The rows of all ranks of the last of `groups`, if each brings rows of its own to a linear loss."""
    order: Tensor | None = None
    """Where the first rank's rows lie among them, then the second's and so on; None for one after the other."""
    each: int = 0
    """How many rows each of them brings, the last ones padded."""

    def held(self, columns: int) -> int:
        """Return how many of the columns at hand are classes; the rest pad them to an equal number."""
        return held(columns, self.first_class, self.num_classes)

    def told_to(self, options: Any) -> Any:
        """Return the options of a call with where its columns lie."""
        first = min(self.first_class, self.num_classes)  # beyond them there is only padding
        return options._replace(first_class=first, num_classes=self.num_classes, groups=list(self.groups))

    def local(self, weight: Tensor | None, columns: int) -> Tensor | None:
        """Return the weights of the classes at hand."""
        end = self.first_class + self.held(columns)
        return weight if weight is None or self.num_classes == 0 else weight[self.first_class : end]

    def check_agreement(self, rows: Rows, options: Options, how: Closing, **more: Any) -> None:
        """Raise on every rank if the ranks do not make the same call; only if debugging is on, for this takes time."""
        if torch.compiler.is_compiling() or not debugging():
            return
        kind = "index" if rows.prob is None else "dense" if rows.index is None else "topk"
        call = {
            "num_classes": self.num_classes,
            "reduction": how[0],
            "the kind of target": kind,
            "weight": None if options.weight is None else list(options.weight.shape),
            "label_smoothing": options.smoothing,
            "ignore_index": options.ignore_index,
            "temperature": options.temperature,
            "softcap": options.softcap or None,
            "sample_weight": how[1] is not None,
            "z_loss": how[2],
            **more,
        }
        for name in self.groups:
            _agree(name, {"the number of rows": rows.logits.rows.numel(), **call})
        for name in self.row_groups:
            _agree(name, call)


NO_SHARDS = Shards()


def held(columns: int, first_class: int, num_classes: int) -> int:
    """Return how many columns are classes, of so many that begin with `first_class`; num_classes = 0 is all."""
    return columns if num_classes == 0 else min(columns, max(0, num_classes - first_class))


def shards_of(group: Any, first_class: int | None, num_classes: int | None, columns: int) -> Shards:
    """Return where this rank's columns lie, by default equal shards in the order of the ranks.

    Raises
    ------
    TypeError
        If the group is no process group, or a number is no whole number.
    ValueError
        If the numbers do not fit the columns, or this rank is not in the group.
    """
    for name, value in (("first_class", first_class), ("num_classes", num_classes)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):  # pyright: ignore
            raise TypeError(f"{name} must be a whole number, got {value!r}")
        if value is not None and value < (name == "num_classes"):
            raise ValueError(f"{name} must not be less than {int(name == 'num_classes')}, got {value}")
    if group is None:
        if first_class is not None:
            raise ValueError("first_class says which classes this rank's columns are, and goes with process_group")
        if num_classes is not None and num_classes > columns:
            raise ValueError(
                f"num_classes is {num_classes}, but there are {columns} classes here; it may leave out padding, and "
                "with process_group it counts the classes of all ranks"
            )
        return Shards(num_classes=0 if num_classes == columns else num_classes or 0)
    if not isinstance(group, dist.ProcessGroup):
        hint = "; use mesh.get_group()" if hasattr(group, "get_group") else ""
        raise TypeError(f"process_group must be a torch.distributed.ProcessGroup, got {type(group).__name__}{hint}")
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    if rank < 0:
        raise ValueError("this rank is not in process_group, and has no shard of these classes")
    first = rank * columns if first_class is None else first_class
    classes = ranks * columns if num_classes is None else num_classes
    if ranks > 1:
        return Shards((group.group_name,), first, classes)
    if held(columns, first, classes) != classes:
        raise _missing_classes(held(columns, first, classes), classes)
    return Shards(num_classes=classes)


def _missing_classes(found: int, classes: int) -> ValueError:
    found_out = f"hold {found} classes together, not {classes}" if found != classes else "overlap"
    return ValueError(
        f"the shards {found_out}; shards of unequal length need first_class= (the first class of this rank) and "
        "num_classes= (of all ranks)"
    )


def debugging() -> bool:
    """Return whether calls are checked at some cost: CROSSENT_VALIDATE=1, or TORCH_DISTRIBUTED_DEBUG=DETAIL."""
    torch_says: Any = dist
    return os.environ.get("CROSSENT_VALIDATE") == "1" or torch_says.get_debug_level() == torch_says.DebugLevel.DETAIL


def _agree(name: str, call: dict[str, Any]) -> None:
    """Raise on every rank of a group if the ranks do not make the same call."""
    group = group_of(name)
    calls: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(calls, call, group=group)
    wrong = [key for key in call if any(other[key] != calls[0][key] for other in calls)]
    if wrong:
        ranks = dist.get_process_group_ranks(group)
        said = [f"{key} is {_by_rank([other[key] for other in calls], ranks)}" for key in wrong]
        raise ValueError(f"the ranks of a group must make the same call, but {'; '.join(said)}")


def _by_rank(values: list[Any], ranks: list[int]) -> str:
    parts: list[str] = []
    for value in dict.fromkeys(map(repr, values)):
        those = [str(rank) for rank, own in zip(ranks, values, strict=True) if repr(own) == value]
        parts.append(f"{value} on rank{'s' * (len(those) > 1)} {', '.join(those)}")
    return " and ".join(parts)


# Records of the same rows ------------------------------------------------------------------------------------------


def merge(record: Tensor, groups: Sequence[str], classes: tuple[int, int, int]) -> None:
    """Merge the records (5, N) of the same rows of all ranks in place, by one MAX of N numbers and one SUM of 4 N + 2.

    `classes` are the first of this rank, how many it holds, and how many there are; on a GPU, rows become NaN if these
    do not add up, because nobody waits for their sum.
    """
    if not groups:
        return
    peak = torch.where(record[0].isnan(), -torch.inf, record[0])  # a NaN is left to the sums
    for name in groups:
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=group_of(name))
    nothing = torch.zeros_like(peak)
    own = RowStats(*record).merge(RowStats(peak, nothing, nothing, nothing, nothing))
    first, here, classes_of_all = classes
    indices = here * first + here * (here - 1) / 2  # their sum
    held = (record.new_full((1,), x) for x in (here, indices))  # filled there: a copy would wait for a GPU
    sums = torch.cat((own.total, own.target_score, own.mass, own.tilt, *held))
    for name in groups:
        dist.all_reduce(sums, group=group_of(name))
    _ = record[0].copy_(peak)
    _ = record[1:].copy_(sums[:-2].view(4, -1))
    wrong = (sums[-2] != classes_of_all) | (sums[-1] != classes_of_all * (classes_of_all - 1) / 2)
    if not sums.is_cpu:
        record[1] += torch.where(wrong, torch.nan, 0.0)
    elif wrong:
        raise _missing_classes(int(sums[-2]), classes_of_all)


def summary(record: Tensor, target: Target, out: Sequence[Tensor]) -> None:
    """Write loss, lse and entropy of the rows of a merged record; a row without a target gets an empty row's record."""
    if target.kind == "index":
        index: Any = target.index
        _ = record[1].masked_fill_(index.long() == target.ignore_index, 1.0)
    stats = RowStats(*record)
    for to, values in zip(out, (stats.loss, stats.lse, stats.entropy), strict=True):
        _ = to.copy_(values)


def all_reduce(stats: RowStats, group: Any = None) -> RowStats:
    """Return the record of rows whose columns are spread over the ranks of a group, from each rank's record of them.

    This is `RowStats.merge` over ranks, by one MAX and one SUM of vectors.

    Parameters
    ----------
    stats
        Records of this rank's columns, five tensors or arrays (N,); of the same N rows on every rank.
    group
        The process group; None is all ranks.

    Returns
    -------
    RowStats
        The records of all columns, on every rank, as float64 tensors.

    Raises
    ------
    RuntimeError
        If there is no group, because torch.distributed was not initialised.

    Examples
    --------
    >>> import torch
    >>> from crossent.stats import RowStats
    >>> from crossent.torch import all_reduce
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> stats = RowStats(peak=0 * one, total=one, target_score=0 * one, mass=one, tilt=0 * one)
    >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    >>> all_reduce(stats).lse
    tensor([0.], dtype=torch.float64)
    >>> torch.distributed.destroy_process_group()
    """
    parts = (stats.peak, stats.total, stats.target_score, stats.mass, stats.tilt)
    record = torch.stack([torch.as_tensor(x).double() for x in parts])
    merge(record, (_name(group),), (0, 0, 0))
    return RowStats(*record)


def _name(group: Any) -> str:
    if group is None and not dist.is_initialized():
        raise RuntimeError("there are no ranks; call torch.distributed.init_process_group first, or pass a group")
    found: Any = group or dist.group.WORLD
    return found.group_name


def most_probable(prob: Tensor, shards: tuple[int, int], groups: Sequence[str]) -> Tensor:
    """Return the most probable class of each row (N, V) or (outer, V, inner) over the groups, the first if several are.

    `shards` are the first class at hand, and the number of all.
    """
    first, classes = shards
    if prob.shape[1]:
        best, at = prob.max(1)
        best, at = best.reshape(-1).double(), at.reshape(-1) + first
    else:
        best = prob.new_full((prob.sum(1).numel(),), -torch.inf, dtype=torch.float64)
        at = torch.full_like(best, classes, dtype=torch.int64)
    at = torch.where(best == extreme_over(best, "max", groups), at, classes)
    return extreme_over(at, "min", groups).clamp(max=classes - 1)
