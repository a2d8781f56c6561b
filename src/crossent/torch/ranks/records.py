"""Records of the same rows on several ranks are merged, with derived values: outputs, the most probable class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from crossent.kernels.backend import RowOutputs
from crossent.spec import Target
from crossent.stats import FIELDS, RowStats
from crossent.torch.ranks.collectives import extreme_over, group_of
from crossent.torch.ranks.shards import missing_classes


class ClassRange(NamedTuple):
    """The classes that this rank holds: the first, how many, and how many there are on all ranks."""

    first: int
    here: int
    total: int


def merge(record: Tensor, groups: Sequence[str], classes: ClassRange) -> None:
    """Merge the records (5, N) of the same rows of all ranks in place.

    Each group sends one MAX of N numbers (the peaks), then one SUM of 4 N + 2 (the other four fields relative to the
    common peak, and a check that the shards hold each class exactly once).

    Raises
    ------
    ValueError
        If the ranks do not hold every class once. On a GPU all rows become NaN instead, because an error would have to
        wait for the device.
    """
    if not groups:
        return
    peak = torch.where(record[0].isnan(), -torch.inf, record[0])  # a NaN is left to the sums
    for name in groups:
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=group_of(name))
    nothing = torch.zeros_like(peak)
    own = RowStats(*record).merge(RowStats(peak, *[nothing for _ in FIELDS[1:]]))
    sum_of_classes = classes.here * classes.first + classes.here * (classes.here - 1) / 2
    held = (record.new_full((1,), x) for x in (classes.here, sum_of_classes))  # filled there: a copy would wait
    sums = torch.cat((*(getattr(own, field) for field in FIELDS[1:]), *held))
    for name in groups:
        dist.all_reduce(sums, group=group_of(name))
    _ = record[0].copy_(peak)
    _ = record[1:].copy_(sums[:-2].view(len(FIELDS) - 1, -1))
    wrong = (sums[-2] != classes.total) | (sums[-1] != classes.total * (classes.total - 1) / 2)
    if not sums.is_cpu:
        record[1] += torch.where(wrong, torch.nan, 0.0)
    elif wrong:
        raise missing_classes(int(sums[-2]), classes.total)


def write_outputs(record: Tensor, target: Target, outputs: RowOutputs) -> None:
    """Write loss, lse and entropy of a merged record, whichever are wanted.

    A row without a target first gets the record of an ignored row.
    """
    if target.kind == "index":
        index: Any = target.index
        _ = record[1].masked_fill_(index.long() == target.ignore_index, 1.0)
    stats = RowStats(*record)
    for to, values in zip(outputs, (stats.loss, stats.lse, stats.entropy), strict=True):
        array: Any = to
        if array is not None:
            array.copy_(values)


def all_reduce(stats: RowStats, group: Any = None) -> RowStats:
    """Merge the row records of all ranks of a group, where each rank holds some columns of the rows.

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
    >>> from crossent.stats import FIELDS, RowStats
    >>> from crossent.torch import all_reduce
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> stats = RowStats(peak=0 * one, total=one, target_score=0 * one, mass=one, tilt=0 * one)
    >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    >>> all_reduce(stats).lse
    tensor([0.], dtype=torch.float64)
    >>> torch.distributed.destroy_process_group()
    """
    record = torch.stack([torch.as_tensor(getattr(stats, field)).double() for field in FIELDS])
    merge(record, (_name(group),), ClassRange(0, 0, 0))
    return RowStats(*record)


def _name(group: Any) -> str:
    if group is None and not dist.is_initialized():
        raise RuntimeError("there are no ranks; call torch.distributed.init_process_group first, or pass a group")
    found: Any = group or dist.group.WORLD
    return found.group_name


def most_probable(prob: Tensor, target: Target, groups: Sequence[str]) -> Tensor:
    """Return the most probable class of each row of dense probabilities over the groups, the first of equal ones.

    `prob` are the probabilities (N, V) or (outer, V, inner) of the classes at hand; the target names these.
    """
    first, classes = target.first_class, target.num_classes or prob.shape[1]
    if prob.shape[1]:
        best, at = prob.max(1)
        best, at = best.reshape(-1).double(), at.reshape(-1) + first
    else:
        best = prob.new_full((prob.sum(1).numel(),), -torch.inf, dtype=torch.float64)
        at = torch.full_like(best, classes, dtype=torch.int64)
    at = torch.where(best == extreme_over(best, "max", groups), at, classes)
    return extreme_over(at, "min", groups).clamp(max=classes - 1)
