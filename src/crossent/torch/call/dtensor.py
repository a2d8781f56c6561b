"""DTensors: the part of a global call on this rank, and the placement of its results.

torch's own engine moves and places everything here; the losses themselves only see tensors of this rank, and `Shards`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import BinaryOperands
from crossent.torch.base.values import is_dtensor
from crossent.torch.call.arguments import Arguments, check_options, row_scores, sample_weight_of
from crossent.torch.call.closings import checked_function
from crossent.torch.call.layout import (
    LayerNames,
    LayerOperands,
    LogitsLayout,
    layout_of,
    layout_of_layer,
    layout_of_rows,
)
from crossent.torch.call.targets import TargetKind, target_rows
from crossent.torch.ranks.collectives import sum_over
from crossent.torch.ranks.shards import NO_RANKS, Ranks, Shards

Finish = Callable[[Any], Any]
"""Makes DTensors of the results of a call."""


class LocalCall(NamedTuple):
    """The local part of a global call on this rank, and the function that makes DTensors of its results."""

    arguments: Arguments
    finish: Finish


class LocalHeads(NamedTuple):
    """The local part of a global call with classes on the last axis, and functions to place more tensors.

    The last two return this rank's part of an array, or of a target, with the axes of the logits, and with those of the
    rows.
    """

    arguments: Arguments
    finish: Finish
    of_classes: Callable[[Any], Any]
    of_rows: Callable[[Any], Any]


class LocalElements(NamedTuple):
    """Operands of a binary loss on this rank, and the function that makes a DTensor of its result."""

    operands: BinaryOperands
    finish: Finish


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

    def target(self, target: Any, layout: LogitsLayout) -> Any:
        """Return this rank's part of a target."""
        if isinstance(target, TargetKind):
            placed = dataclasses.replace(self, classes=()).placements(layout.axis if target.class_axis else None)
            return target.map(lambda x: self.local(x, placed))
        return self.local(target, self.placements(layout.axis if target.shape == layout.shape else None))

    def arguments(self, arguments: Arguments, layout: LogitsLayout, shards: Shards) -> Arguments:
        """Return this rank's part of the arguments of a call."""
        closing, scores = arguments.closing, arguments.scores
        samples, function = self.local(closing.sample_weight, self.placements()), closing.function
        if function is not None:
            function = function.map(lambda x: self.local(x, self.placements()))
        if scores.row_temperature is not None:
            own = self.local(scores.row_temperature, self.placements())
            scores = dataclasses.replace(scores, row_temperature=own)
        return arguments._replace(
            target=self.target(arguments.target, layout),
            scores=scores,
            closing=closing._replace(sample_weight=samples, function=function),
            shards=shards,
        )

    def groups(self, dimensions: Sequence[int]) -> tuple[str, ...]:
        """Return the names of this rank's groups along dimensions of the mesh, without groups of one rank."""
        return tuple(self.mesh.get_group(at).group_name for at in dimensions if self.mesh.size(at) > 1)

    def finish(self, shape: torch.Size, mode: str) -> Finish:
        """Return the function that makes DTensors of results, with this global shape of rows."""
        tensor = sys.modules["torch.distributed.tensor"]
        one = [tensor.Replicate()] * self.mesh.ndim

        def distributed(x: Any, each: bool) -> Any:
            if not each:
                return tensor.DTensor.from_local(x, self.mesh, one, run_check=False)
            whole = torch.Size((*shape, *x.shape[len(shape) :]))  # log-probabilities have an axis of classes
            stride = torch.empty(whole, device="meta").stride()
            return tensor.DTensor.from_local(
                x.contiguous(), self.mesh, self.placements(), run_check=False, shape=whole, stride=stride
            )

        def finish(result: Any) -> Any:
            loss, stats = result if isinstance(result, tuple) else (result, None)
            loss = distributed(loss, mode == "none")
            fields = () if stats is None else (getattr(stats, f.name) for f in dataclasses.fields(stats))
            placed = (None if x is None else distributed(x, True) for x in fields)
            return loss if stats is None else (loss, type(stats)(*placed))  # pyright: ignore[reportArgumentType]

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
    """Return a tensor of the same shape and dtype without memory, for checks."""
    if isinstance(x, TargetKind):
        return x.map(stand_in)
    if not isinstance(x, Tensor):
        return x
    return torch.empty(x.shape, dtype=x.dtype, device="meta", requires_grad=x.requires_grad)


def _checked(arguments: Arguments, layout: LogitsLayout, mesh: Any) -> Arguments:
    """Check a call of global tensors as one of tensors, and return its arguments with the number of classes.

    Raises
    ------
    ValueError
        If an argument does not fit, or shard arguments are passed with DTensors, which already carry them.
    """
    sharding = arguments.sharding
    if sharding.process_group is not None or sharding.first_class is not None:
        raise ValueError("DTensors carry their shards; leave out process_group and first_class")
    target, closing, num_classes = arguments.target, arguments.closing, sharding.num_classes
    parts = target.tensors() if isinstance(target, TargetKind) else [target]
    scores, constants = arguments.scores, () if closing.function is None else closing.function.tensors
    for x in (*parts, arguments.weight, closing.sample_weight, scores.row_temperature, *constants):
        if is_dtensor(x) and x.device_mesh != mesh:  # pyright: ignore
            raise ValueError("the DTensors of a call must be on one mesh, that of the input; distribute them over it")
    ignore_index = -100 if arguments.ignore_index is None else arguments.ignore_index
    _ = target_rows(stand_in(target), layout, ignore_index)
    if closing.sample_weight is not None:
        _ = sample_weight_of(stand_in(closing.sample_weight), layout)
    if scores.row_temperature is not None:
        _ = row_scores(dataclasses.replace(scores, row_temperature=stand_in(scores.row_temperature)), layout)
    if closing.function is not None:
        _ = checked_function(closing.function.map(stand_in), layout)
    if num_classes is not None and not 1 <= num_classes <= layout.classes:
        raise ValueError(f"num_classes is {num_classes}, and must be between 1 and the {layout.classes} classes stored")
    classes = num_classes or layout.classes
    weight: Any = arguments.weight
    if is_dtensor(weight):
        weight = weight.full_tensor()[:classes]
    check_options(arguments._replace(weight=stand_in(weight)), layout, classes)
    return arguments._replace(weight=weight, shards=Shards(NO_RANKS, 0, classes))


def _begin(x: Any) -> tuple[int, ...]:
    """Return where this rank's part begins on each axis."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)[1]


def _here(arguments: Arguments, layout: LogitsLayout, name: str) -> tuple[_Mesh, Arguments]:
    """Return the placement of logits of this name, and their local call."""
    logits = arguments.operands
    arguments = _checked(arguments, layout, logits.device_mesh)
    placed = _placed(name, logits, layout.axis)
    groups, given = placed.groups(placed.classes), arguments.sharding.num_classes
    shards = Shards(
        Ranks(groups, placed.groups(tuple(placed.rows))),
        _begin(logits)[layout.axis] if groups else 0,
        arguments.shards.num_classes if groups or given is not None else None,
    )
    local = placed.local(logits, logits.placements)
    return placed, placed.arguments(arguments, layout, shards)._replace(operands=local)


def of_logits(arguments: Arguments) -> LocalCall:
    """Return the local part of a call of `cross_entropy`.

    Raises
    ------
    ValueError
        If an argument does not fit the input, or the input is placed in a way that has no loss.
    """
    layout = layout_of(stand_in(arguments.operands))
    placed, arguments = _here(arguments, layout, "input")
    return LocalCall(arguments, placed.finish(layout.rows, arguments.closing.reduction))


def of_heads(arguments: Arguments) -> LocalHeads:
    """Return the local part of a call of logits (…, V) with another head.

    Raises
    ------
    ValueError
        If an argument does not fit the logits, or these are placed in a way that has no loss.
    """
    layout = layout_of_rows(stand_in(arguments.operands))
    placed, arguments = _here(arguments, layout, "logits")

    def of_classes(x: Any) -> Any:
        if isinstance(x, TargetKind):
            return placed.target(x, layout)
        if is_dtensor(x) and x.device_mesh != placed.mesh:
            raise ValueError("the DTensors of a call must be on one mesh, that of the logits; distribute them over it")
        return placed.local(x, placed.placements(layout.axis))

    finish = placed.finish(layout.rows, arguments.closing.reduction)
    return LocalHeads(arguments, finish, of_classes, lambda x: placed.local(x, placed.placements()))


def of_layer(arguments: Arguments) -> LocalCall:
    """Return the local part of a call of `linear_cross_entropy`.

    Raises
    ------
    ValueError
        If an argument does not fit the layer, or an operand is placed in a way that has no loss.
    """
    layout, placed, arguments = _layer_here(arguments)
    return LocalCall(arguments, placed.finish(layout.rows, arguments.closing.reduction))


def of_two_layers(arguments: Arguments, names: LayerNames) -> LocalHeads:
    """Return the local part of a call of two layers; `names` are the operands of the other layer.

    Raises
    ------
    ValueError
        If an argument does not fit the layer, or an operand is placed in a way that has no loss.
    NotImplementedError
        If each rank has rows of its own of classes that are shared.
    """
    layer: LayerOperands = arguments.operands
    layout, placed, arguments = _layer_here(arguments)
    if arguments.shards.ranks.gathered is not None:
        raise NotImplementedError(
            "rows and classes are sharded over the same mesh dimension, and a loss of two heads does not gather rows; "
            "use input.redistribute(placements=...) and the same for teacher_input"
        )

    def of_classes(x: Any) -> Any:
        if isinstance(x, TargetKind):
            return placed.target(x, layout)
        _check_all_placed(x, names)
        if any(operand is not None and operand.device_mesh != placed.mesh for operand in x):
            raise ValueError("both layers must be on one mesh, that of the input; distribute their operands over it")
        placements = [y.placements for y in (layer.input, *[layer.linear_weight] * 3)]  # pyright: ignore
        return LayerOperands(*map(placed.local, x, placements))

    finish = placed.finish(layout.rows, arguments.closing.reduction)
    return LocalHeads(arguments, finish, of_classes, lambda x: placed.local(x, placed.placements()))


def _check_all_placed(layer: LayerOperands, names: Sequence[str]) -> None:
    """Raise for a plain tensor among DTensors."""
    for name, x in zip((*names, "b of LowRank"), layer, strict=True):
        if isinstance(x, Tensor) and not is_dtensor(x):
            raise TypeError(
                f"{name} is a plain tensor beside DTensors; use DTensor.from_local({name}, mesh, [Replicate()]) if all "
                "ranks hold the same values, else [Shard(0)]"
            )


def _layer_here(arguments: Arguments) -> tuple[LogitsLayout, _Mesh, Arguments]:
    """Return the layout of a layer's logits, their placement, and the local part of its call."""
    layer: LayerOperands = arguments.operands
    features: Any = layer.input
    weight: Any = layer.linear_weight
    _check_all_placed(layer, layer._fields[:3])
    layout = layout_of_layer(LayerOperands(*map(stand_in, layer)))
    arguments = _checked(arguments, layout, features.device_mesh)
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
    placed = _Mesh(features.device_mesh, heads.classes, spread)
    sharded, classes = bool(placed.groups(heads.classes)), arguments.shards.num_classes
    groups = placed.groups([at for at in heads.classes if at not in gathering] + gathering)
    ranks = Ranks(groups, placed.groups(tuple(spread)))
    if gathering:
        ranks = _gathered(features, rows.rows, gathering, placed, ranks)
    shards = Shards(
        ranks, _begin(weight)[0] if sharded else 0, classes if sharded or classes != layout.classes else None
    )
    of_classes = (placed.local(x, weight.placements) for x in layer[1:])
    local = placed.local(features, features.placements), *of_classes
    arguments = placed.arguments(arguments, layout, shards)._replace(operands=LayerOperands(*local))
    return layout, placed, arguments


def _gathered(input: Any, rows: dict[int, int], gathering: list[int], placed: _Mesh, ranks: Ranks) -> Ranks:
    """Return the ranks with the rows of all that share the classes."""
    at, axis = gathering[0], rows[gathering[0]]
    if len(gathering) > 1 or any(other > at and rows[other] == axis for other in rows):
        raise NotImplementedError(
            "rows and classes may share one mesh dimension, and no later one may shard the same axis of the rows; use "
            "input.redistribute(placements=...)"
        )
    with torch.no_grad():
        whole = input.detach().redistribute(placed.mesh, placed.placements()).to_local()
    batch = whole.shape[:-1]
    part = math.ceil(batch[axis] / placed.mesh.size(at))
    order = None
    if math.prod(batch[:axis]) > 1:
        places = torch.arange(math.prod(batch), device=whole.device).view(batch)
        order = torch.cat([x.reshape(-1) for x in places.split(max(1, part), dim=axis)])
    each = part * math.prod(batch[:axis]) * math.prod(batch[axis + 1 :])
    return dataclasses.replace(ranks, gathered=whole, order=order, each=each)


def of_elements(operands: BinaryOperands, mode: str) -> LocalElements:
    """Return the operands of a binary loss on this rank, and the function that makes its result a DTensor.

    The latter takes the losses of this rank's elements with the mode "none", else their sum.

    Raises
    ------
    ValueError
        If the input is placed in a way that has no loss.
    """
    whole: Any = operands.input
    placed = _placed("input", whole, None)
    local, target = placed.local(whole, whole.placements), placed.local(operands.target, whole.placements)
    begin = _begin(whole)

    def part(weight: Any) -> Any:
        if weight is None:
            return None
        weight = weight.full_tensor() if is_dtensor(weight) else weight
        for axis in range(-weight.ndim, 0):
            if weight.shape[axis] != 1:
                weight = weight.narrow(axis, begin[axis], local.shape[axis])
        return weight

    groups = placed.groups(tuple(placed.rows))
    finish = placed.finish(whole.shape, mode)

    def finish_sum(loss: Tensor) -> Any:
        if mode == "none":
            return finish(loss)
        return finish(sum_over(loss, groups) / (whole.numel() if mode == "mean" else 1))

    weights = part(operands.weight), part(operands.pos_weight)
    return LocalElements(BinaryOperands(local, target, *weights), finish_sum)
