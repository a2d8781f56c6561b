"""DTensors: what a call of global tensors is on this rank, and what becomes of its results.

torch's own engine moves and places everything here; the losses themselves only see tensors of this rank, and `Shards`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crossent.torch.call.checks import (
    Logits,
    TopK,
    check_options,
    is_dtensor,
    logits_of,
    logits_of_layer,
    rows_of,
    sample_weight_of,
)
from crossent.torch.call.results import Closing, Options, Stats
from crossent.torch.ranks.collectives import sum_over
from crossent.torch.ranks.shards import Shards

Finish = Callable[[Any], Any]
"""Makes DTensors of the results of a call."""


def check_no_group(process_group: Any, first_class: int | None) -> None:
    """Raise if a call of DTensors is told what these know."""
    if process_group is not None or first_class is not None:
        raise ValueError("a DTensor knows its shards: leave process_group and first_class out")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Mesh:
    """A mesh, and which of its dimensions split the classes, and which an axis of the rows."""

    mesh: Any
    classes: tuple[int, ...]
    rows: dict[int, int]

    def placements(self, classes: int | None = None) -> list[Any]:
        """Return how an array of the rows is placed, which has the classes on this axis."""
        tensor = sys.modules["torch.distributed.tensor"]
        placed: list[Any] = [tensor.Replicate() for _ in range(self.mesh.ndim)]
        for at, axis in self.rows.items():
            placed[at] = tensor.Shard(axis if classes is None or axis < classes else axis + 1)
        for at in self.classes if classes is not None else ():
            placed[at] = tensor.Shard(classes)
        return placed

    def local(self, x: Any, placements: Sequence[Any]) -> Any:
        """Return this rank's part of an array so placed; a plain tensor is one that every rank has whole."""
        if x is None:
            return None
        if not is_dtensor(x):
            tensor = sys.modules["torch.distributed.tensor"]
            x = tensor.DTensor.from_local(x, self.mesh, [tensor.Replicate()] * self.mesh.ndim, run_check=False)
        return x.redistribute(self.mesh, placements).to_local(grad_placements=placements)

    def target(self, target: Any, logits: Logits) -> Any:
        """Return this rank's part of a target."""
        if isinstance(target, TopK):
            placed = dataclasses.replace(self, classes=()).placements(logits.axis)
            return TopK(self.local(target.index, placed), self.local(target.prob, placed))
        return self.local(target, self.placements(logits.axis if target.shape == logits.shape else None))

    def groups(self, dimensions: Sequence[int]) -> tuple[str, ...]:
        """Return the names of this rank's groups along dimensions of the mesh, but not those of one rank."""
        return tuple(self.mesh.get_group(at).group_name for at in dimensions if self.mesh.size(at) > 1)

    def finish(self, shape: torch.Size, mode: str) -> Finish:
        """Return what makes DTensors of results, whose rows have this shape in all."""
        tensor = sys.modules["torch.distributed.tensor"]
        one = [tensor.Replicate()] * self.mesh.ndim
        stride = torch.empty(shape, device="meta").stride()

        def distributed(x: Any, each: bool) -> Any:
            if not each:
                return tensor.DTensor.from_local(x, self.mesh, one, run_check=False)
            return tensor.DTensor.from_local(
                x.contiguous(), self.mesh, self.placements(), run_check=False, shape=shape, stride=stride
            )

        def finish(result: Any) -> Any:
            loss, stats = result if isinstance(result, tuple) else (result, None)
            loss = distributed(loss, mode == "none")
            fields = () if stats is None else (getattr(stats, f.name) for f in dataclasses.fields(stats))
            return loss if stats is None else (loss, Stats(*(distributed(x, True) for x in fields)))

        return finish


def _placed(name: str, x: Any, classes: int | None) -> _Mesh:
    """Return which dimensions of the mesh split the classes, on this axis, and which another axis; or raise."""
    tensor = sys.modules["torch.distributed.tensor"]
    across, rows = [], {}
    for at, placement in enumerate(x.placements):
        if type(placement) is tensor.Shard and placement.dim == classes:
            across.append(at)
        elif type(placement) is tensor.Shard:
            rows[at] = placement.dim - (classes is not None and placement.dim > classes)
        elif not placement.is_replicate():
            raise ValueError(
                f"{name} is placed as {type(placement).__name__} on dimension {at} of its mesh, and must be Shard or "
                f"Replicate; use {name}.redistribute(placements=...)"
            )
    return _Mesh(x.device_mesh, tuple(across), rows)


def stand_in(x: Any) -> Any:
    """Return what has shape and dtype of a tensor, and no memory, to be checked in its place."""
    if isinstance(x, TopK):
        return TopK(stand_in(x.index), stand_in(x.prob))
    if not isinstance(x, Tensor):
        return x
    return torch.empty(x.shape, dtype=x.dtype, device="meta", requires_grad=x.requires_grad)


def _check(
    mesh: Any, logits: Logits, target: Any, options: Options, how: Closing, num_classes: int | None
) -> tuple[Options, Closing, int]:
    """Check a call of global tensors as one of tensors, and return options, closing and the number of classes."""
    like = torch.empty((), device="meta")
    parts = [target.index, target.prob] if isinstance(target, TopK) else [target]
    given: Any = (*parts, options.weight, how[1])
    for x in given:
        if is_dtensor(x) and x.device_mesh != mesh:
            raise ValueError("the DTensors of a call must be on one mesh, that of the input; distribute them over it")
    rows = rows_of(logits, like, stand_in(target), -100 if options.ignore_index is None else options.ignore_index)  # pyright: ignore
    _ = sample_weight_of(stand_in(how[1]), rows, like)
    if num_classes is not None and not 1 <= num_classes <= logits.classes:
        raise ValueError(f"num_classes is {num_classes}, and must be between 1 and the {logits.classes} classes stored")
    classes = num_classes or logits.classes
    if is_dtensor(options.weight):
        options = options._replace(weight=options.weight.full_tensor()[:classes])  # pyright: ignore
    check_options(like, classes, stand_in(options.weight), options.smoothing, how[2])
    return options, how, classes


def _begin(x: Any) -> tuple[int, ...]:
    """Return where this rank's part begins on each axis."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)[1]


def of_logits(
    input: Any, target: Any, options: Options, how: Closing, num_classes: int | None
) -> tuple[tuple[Tensor, Any, Options, Closing, Shards], Finish]:
    """Return a call of `cross_entropy` as it is on this rank, and what makes DTensors of its results.

    Raises
    ------
    ValueError
        If an argument does not fit the input, or the input is placed in a way that has no loss.
    """
    logits = logits_of(stand_in(input))
    options, how, classes = _check(input.device_mesh, logits, target, options, how, num_classes)
    layout = _placed("input", input, logits.axis)
    groups = layout.groups(layout.classes)
    first = _begin(input)[logits.axis] if groups else 0
    padded = classes if groups or classes < logits.classes else 0
    shards = Shards(groups, first, padded, layout.groups(tuple(layout.rows)))
    how = (how[0], layout.local(how[1], layout.placements()), how[2])
    local = layout.local(input, input.placements)
    call = (local, layout.target(target, logits), options, how, shards)
    return call, layout.finish(logits.rows, how[0])


def of_layer(
    layer: tuple[Any, Any, Any], target: Any, options: Options, how: Closing, num_classes: int | None
) -> tuple[tuple[tuple[Tensor, Tensor, Tensor | None], Any, Options, Closing, Shards], Finish]:
    """Return a call of `linear_cross_entropy` as it is on this rank, and what makes DTensors of its results.

    Raises
    ------
    ValueError
        If an argument does not fit the layer, or an operand is placed in a way that has no loss.
    """
    features, weight, bias = layer
    for name, x in zip(("input", "linear_weight", "linear_bias"), layer, strict=True):
        if isinstance(x, Tensor) and not is_dtensor(x):
            raise TypeError(
                f"{name} is a tensor beside DTensors, and nobody knows whether all ranks have the same; use "
                f"DTensor.from_local({name}, mesh, [Replicate()]) if they have, else [Shard(0)]"
            )
    logits = logits_of_layer(*map(stand_in, layer))
    options, how, classes = _check(features.device_mesh, logits, target, options, how, num_classes)
    if weight.device_mesh != features.device_mesh:
        raise ValueError("input and linear_weight must be on one mesh; use a mesh of more dimensions")
    rows, heads = _placed("input", features, None), _placed("linear_weight", weight, 0)
    if heads.rows or features.ndim - 1 in rows.rows.values():
        raise ValueError(
            "linear_weight may be sharded over its classes, Shard(0), and the input over its rows, but neither over "
            "its features; use x.redistribute(placements=...)"
        )
    gathering = [at for at in heads.classes if at in rows.rows and features.device_mesh.size(at) > 1]
    spread = {at: axis for at, axis in rows.rows.items() if at not in heads.classes}
    layout = _Mesh(features.device_mesh, heads.classes, spread)
    shards = Shards(
        layout.groups([at for at in heads.classes if at not in gathering] + gathering),
        _begin(weight)[0] if layout.groups(heads.classes) else 0,
        classes if layout.groups(heads.classes) or classes < logits.classes else 0,
        layout.groups(tuple(spread)),
    )
    if gathering:
        shards = _gathered(features, rows.rows, gathering, layout, shards)
    bias = None if bias is None else layout.local(bias, weight.placements)
    operands = (layout.local(features, features.placements), layout.local(weight, weight.placements), bias)
    how = (how[0], layout.local(how[1], layout.placements()), how[2])
    call = (operands, layout.target(target, logits), options, how, shards)
    return call, layout.finish(logits.rows, how[0])


def _gathered(input: Any, rows: dict[int, int], gathering: list[int], layout: _Mesh, shards: Shards) -> Shards:
    """Return the shards with the rows of all ranks that share the classes."""
    at, axis = gathering[0], rows[gathering[0]]
    if len(gathering) > 1 or any(other > at and rows[other] == axis for other in rows):
        raise NotImplementedError(
            "the rows are sharded over more than one dimension that the classes are sharded over, or over a later one "
            "on the same axis; use input.redistribute(placements=...)"
        )
    with torch.no_grad():
        whole = input.detach().redistribute(layout.mesh, layout.placements()).to_local()
    batch, ranks = whole.shape[:-1], layout.mesh.size(at)
    part = math.ceil(batch[axis] / ranks)
    order = None
    if math.prod(batch[:axis]) > 1:
        places = torch.arange(math.prod(batch), device=whole.device).view(batch)
        order = torch.cat([x.reshape(-1) for x in places.split(max(1, part), dim=axis)])
    each = part * math.prod(batch[:axis]) * math.prod(batch[axis + 1 :])
    return dataclasses.replace(shards, gathered=whole, order=order, each=each)


def of_elements(operands: Sequence[Any], mode: str) -> tuple[tuple[Any, ...], Finish]:
    """Return input, target, weight and pos_weight of a binary loss on this rank, and what makes its result a DTensor.

    The latter takes the losses of this rank's elements with the mode "none", else their sum.

    Raises
    ------
    ValueError
        If the input is placed in a way that has no loss.
    """
    whole, target, *weights = operands
    layout = _placed("input", whole, None)
    local, target = layout.local(whole, whole.placements), layout.local(target, whole.placements)
    begin = _begin(whole)

    def part(weight: Any) -> Any:
        if weight is None:
            return None
        weight = weight.full_tensor() if is_dtensor(weight) else weight
        for axis in range(-weight.ndim, 0):
            if weight.shape[axis] != 1:
                weight = weight.narrow(axis, begin[axis], local.shape[axis])
        return weight

    groups = layout.groups(tuple(layout.rows))
    finish = layout.finish(whole.shape, mode)

    def distributed(loss: Tensor) -> Any:
        if mode == "none":
            return finish(loss)
        return finish(sum_over(loss, groups) / (whole.numel() if mode == "mean" else 1))

    return (local, target, *map(part, weights)), distributed
