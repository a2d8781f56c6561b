"""Cross-entropy of a linear layer's outputs, which never exist all at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from crossent.spec import Target
from crossent.torch.base.overrides import overridable
from crossent.torch.base.transforms import wants_plain_operations
from crossent.torch.base.values import RowResults, is_dtensor, loss_dtype
from crossent.torch.call.arguments import (
    Arguments,
    CheckedRows,
    Closing,
    check_same_call,
    checked,
    scores_of,
    sharding_of,
)
from crossent.torch.call.checks import chunk_bytes_of
from crossent.torch.call.closings import row_function_of
from crossent.torch.call.dtensor import of_layer
from crossent.torch.call.layout import LayerOperands, layout_of_layer, under_autocast
from crossent.torch.call.low_rank import LowRank, layer_of
from crossent.torch.call.results import Stats, finished, reduction_of, stats_of, view_of
from crossent.torch.call.targets import NOT_OF_PROBABILITIES, TargetKind, is_soft
from crossent.torch.operators.closed_loss import closed_loss
from crossent.torch.operators.linear_call import LinearCall
from crossent.torch.operators.linear_loss import LinearLossCall, linear_loss
from crossent.torch.operators.linear_stats import LinearStatsCall, linear_stats
from crossent.torch.ranks.shards import NO_SHARDS
from crossent.torch.sources.linear import costs_of
from crossent.torch.sources.plan import default_chunk_bytes, one_sweep
from crossent.torch.sources.source import Wanted

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@overload
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor | LowRank, target: Tensor | TargetKind, *, linear_bias: Tensor | None = ...,
    weight: Tensor | None = ..., reduction: str = ..., ignore_index: int | None = ..., label_smoothing: float = ...,
    temperature: float | Tensor = ..., softcap: float | None = ..., z_loss: float = ...,
    sample_weight: Tensor | None = ..., closing: Callable[..., Tensor] | None = ..., operands: Sequence[Tensor] = ...,
    segments: Tensor | None = ..., return_stats: Literal[False] = ..., chunk_bytes: int | None = ...,
    process_group: ProcessGroup | None = ..., first_class: int | None = ..., num_classes: int | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor | LowRank, target: Tensor | TargetKind, *, linear_bias: Tensor | None = ...,
    weight: Tensor | None = ..., reduction: str = ..., ignore_index: int | None = ..., label_smoothing: float = ...,
    temperature: float | Tensor = ..., softcap: float | None = ..., z_loss: float = ...,
    sample_weight: Tensor | None = ..., closing: Callable[..., Tensor] | None = ..., operands: Sequence[Tensor] = ...,
    segments: Tensor | None = ..., return_stats: Literal[True], chunk_bytes: int | None = ...,
    process_group: ProcessGroup | None = ..., first_class: int | None = ..., num_classes: int | None = ...,
) -> tuple[Tensor, Stats]: ...  # fmt: skip
@overridable
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor | LowRank,
    target: Tensor | TargetKind,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    sample_weight: Tensor | None = None,
    closing: Callable[..., Tensor] | None = None,
    operands: Sequence[Tensor] = (),
    segments: Tensor | None = None,
    return_stats: bool = False,
    chunk_bytes: int | None = None,
    process_group: ProcessGroup | None = None,
    first_class: int | None = None,
    num_classes: int | None = None,
) -> Tensor | tuple[Tensor, Stats]:
    r"""Cross-entropy between a target and the softmax of input · linear_weightᵀ + linear_bias, in nats.

    It is `cross_entropy(torch.nn.functional.linear(input, linear_weight, linear_bias), target, …)` with all its
    options, but the logits of a large vocabulary, the memory peak of a training step, are computed in chunks. Shared
    parameters mean the same as in `torch.nn.functional.linear_cross_entropy`.

    Logits and all sums are float32 for operands of any dtype (float64 for float64 operands); the gradients are rounded
    to the dtype of their operand once, at the end. Where the processor has matrix units for bfloat16, the gradient of
    the logits is rounded to it before it is multiplied. Under `torch.autocast` the operands are cast to its dtype.

    With "mean" or "sum" the gradients of float32 operands are computed in the forward already, which saves
    multiplying the logits a second time. A derivative of the gradient (create_graph=True) is recomputed with all
    logits in memory, and slow.

    Parameters
    ----------
    input
        Features, shape (D), (N, D) or (…, D); float32, float64, bfloat16 or float16.
    linear_weight
        Shape (V, D), or (V, d1, …, dk, D), which makes logits (…, V, d1, …, dk); of the dtype of the input. Or a
        `LowRank`, a weight with an adapter; or a `Dequantized`, a weight computed a range of classes at a time.
    target
        Class indices, shape (), (N) or (…, d1, …, dk), any integer dtype; or class probabilities in the shape of the
        logits, (V), (N, V) or (…, V, d1, …, dk), any floating dtype, differentiable; or a `TopK` with K for V.
    linear_bias
        Shape (V) or (V, d1, …, dk), of the dtype of the input.
    weight
        Weight of each class, shape (V). A constant: it gets no gradient.
    reduction, label_smoothing, temperature, softcap, z_loss, return_stats
        As in `cross_entropy`. Stats of soft, smoothed or class-weighted targets cost another product.
    ignore_index
        Rows of this class contribute neither loss nor gradient, nor on CPUs any work; None means −100. Indices only.
    sample_weight
        Weight of each row, in the shape of the loss with reduction="none"; 0 removes the row, for any values.
    closing, operands
        As in `cross_entropy`. With "mean" or "sum" the closing is called with the rows of a chunk at a time, while the
        forward has their logits, so that a loss of any form takes three products. It takes four products under
        `torch.compile` and function transforms, on shards of the classes, where it uses `logprob` with class weights or
        smoothing, and where it uses an outer tensor that requires a gradient.
    segments
        As in `cross_entropy`. Chunks end where sequences do. Where one does not fit into a chunk, or the rows of one
        are apart, the logits are multiplied twice.
    chunk_bytes
        Largest number of bytes of logits at a time, by default 128 MiB, and 512 MiB on GPUs; a tile has at least one
        logit. It changes results only by rounding. If fewer than 128 rows of logits fit (32 or 64 on CPUs with narrower
        vectors, 512 of float32 operands on GPUs), the logits are multiplied twice, in smaller tiles. Half-precision
        operands on CPUs do the same, unless all logits fit. CPUs with matrix units keep all logits of a bfloat16 head
        by default where rows are at most 512 and a quarter of the features. On GPUs gradients of half-precision logits
        and float32 sums may take as much memory again as the weight in float32; the faster way is chosen from the
        shapes.
    process_group, first_class, num_classes
        As in `cross_entropy`: `linear_weight` and `linear_bias` are shards, the rows of some classes. The gradient of
        the input is summed over all classes.

    Returns
    -------
    Tensor or (Tensor, Stats)
        The loss, float64 for float64 input and else float32: shape () or, with reduction="none", that of the rows.

    Raises
    ------
    IndexError
        If a class index is neither `ignore_index` nor in [0, V − 1].
    ValueError
        If shapes do not fit, an option is out of its range, `temperature` or `weight` requires a gradient, a target
        probability is negative, infinite or NaN, or `ignore_index` is passed with probabilities.
    TypeError
        If the operands are not floating-point or differ in dtype, or the target has a dtype for neither indices nor
        probabilities.
    NotImplementedError
        If the input is on a device for which there is no backend.

    Notes
    -----
    Operands may be DTensors: `linear_weight` and `linear_bias` sharded over classes (`Shard(0)`) on any dimensions of
    the mesh, the input on any axis but the last, over the same dimension (sequence parallelism) or others. All three
    are DTensors then. The loss is the same on every rank, and each gradient is placed as its operand.

    For each group of ranks that share the classes, the forward sends one MAX of N numbers and one SUM of 4 N + 2, both
    float64, and the backward one SUM of the input's gradient, N · D numbers in float32, a chunk of rows at a time while
    the next is multiplied. Under sequence parallelism the forward gathers the N · D numbers of the input, and the
    target if that is sharded, and the backward scatters the sum instead. Ranks that have other rows of the same classes
    add up the gradient of the weight in float32. `Stats` send the same as in `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import linear_cross_entropy
    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> head = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> linear_cross_entropy(features, head, torch.tensor([0, 1]))
    tensor(0.4076)
    >>> linear_cross_entropy(features, head, torch.tensor([0, 2]), reduction="none")
    tensor([0.4076, 1.4076])

    References
    ----------
    Chunks of the vocabulary: Wijmans et al. (2025), https://arxiv.org/abs/2411.09009.
    """
    function = row_function_of(closing, operands, segments)
    of_rows = Closing(reduction_of(reduction), sample_weight, z_loss, function)
    scores = scores_of(temperature, softcap)
    chunk_bytes = chunk_bytes_of(chunk_bytes)
    layer = layer_of(input, linear_weight, linear_bias)
    sharding = sharding_of(process_group, first_class, num_classes)
    arguments = Arguments(
        layer, target, weight, ignore_index, label_smoothing, scores, of_rows, return_stats, sharding, NO_SHARDS
    ).bound()
    return loss_of_layer(arguments, chunk_bytes)


def loss_of_layer(arguments: Arguments, chunk_bytes: int | None = None) -> Tensor | tuple[Tensor, Stats]:
    """Return the loss of a layer's logits: `linear_cross_entropy` after its arguments are bound."""
    if any(is_dtensor(x) for x in arguments.operands):
        local = of_layer(arguments)
        return local.finish(_local_loss(local.arguments, chunk_bytes))
    return _local_loss(arguments.sharded(), chunk_bytes)


def _local_loss(arguments: Arguments, chunk_bytes: int | None) -> Tensor | tuple[Tensor, Stats]:
    """Return the loss of a layer on this rank, and of the classes and rows on other ranks."""
    return _in_one_or_two_sweeps(*checked_layer(arguments), chunk_bytes)


class LayerRows(NamedTuple):
    """A call of the operators, and its rows after all checks."""

    call: LinearCall
    rows: CheckedRows


def checked_layer(arguments: Arguments) -> LayerRows:
    """Return the call of a layer on this rank, and its rows; raise if an argument does not fit."""
    layer, ranks = under_autocast(arguments.operands), arguments.shards.ranks
    gathered = None if ranks.gathered is None else ranks.gathered.to(layer.input.dtype)
    whole = layer if gathered is None else layer._replace(input=gathered)
    layout = layout_of_layer(whole, shard=bool(ranks.groups))
    if arguments.ignore_index is not None and is_soft(arguments.target, layout):
        raise ValueError(NOT_OF_PROBABILITIES)
    rows = checked(arguments, layout)
    if gathered is not None:
        gathered = gathered.reshape(-1, gathered.shape[-1])
        rows = rows._replace(ranks=dataclasses.replace(ranks, gathered=gathered))
    return LayerRows(_linear_call(layer, rows), rows)


def _linear_call(layer: LayerOperands, rows: CheckedRows) -> LinearCall:
    """Return the call of the operators: matrices of rows and of classes and positions."""
    positions = math.prod(layer.linear_weight.shape[1:-1])
    x, weight, bias, adapter = layer_matrices(layer)
    target = _of_positions(rows.target, positions)
    return LinearCall(x, weight, bias, positions, target, rows.scores, rows.ranks, adapter)


def layer_matrices(layer: LayerOperands) -> LayerOperands:
    """Return the operands of a layer with one axis of rows, and one of classes and positions."""
    x, weight, bias, adapter = layer
    width = math.prod(weight.shape[:-1])
    return LayerOperands(
        x.reshape(math.prod(x.shape[:-1]), x.shape[-1]),
        weight if weight.ndim == 2 else weight.reshape(width, weight.shape[-1]),
        None if bias is None else bias.reshape(width),
        None if adapter is None else adapter.reshape(width, adapter.shape[-1]),
    )


def _of_positions(target: Target, positions: int) -> Target:
    """Return a target as a layer of so many positions takes it: dense probabilities of one position are a matrix."""
    prob: Any = target.prob
    if prob is None or prob.ndim == 2 or positions != 1:
        return target
    return dataclasses.replace(target, prob=prob.squeeze(2))


def _in_one_or_two_sweeps(
    call: LinearCall, rows: CheckedRows, chunk_bytes: int | None
) -> Tensor | tuple[Tensor, Stats]:
    """Compute the loss by the cheaper plan: a sum or mean in one sweep, anything else in two."""
    closing, alone = rows.closing, rows.ranks.alone
    reduced, samples = closing.reduction != "none", closing.sample_weight
    wanted = Wanted(*map(wants_gradient, call.operands))
    constant = not (wanted.prob or wants_gradient(samples))
    costs = costs_of(call.input, call.linear_weight)
    if chunk_bytes is None:
        chunk_bytes = default_chunk_bytes(costs) if alone else costs.device.chunk_bytes

    def again(target: Target) -> RowResults:
        other = dataclasses.replace(call, target=_of_positions(target, call.positions))
        return linear_stats(LinearStatsCall(other, "nothing", chunk_bytes)).rows

    plainly = wants_plain_operations()  # which are the same for each plan, and so must their graphs be
    sweeps = alone and reduced and wanted.of_source and constant and not plainly
    if sweeps and one_sweep(costs, chunk_bytes) is not None:
        mean = closing.reduction == "mean"
        whole = LinearLossCall(call, samples, closing.z_loss, mean, wanted, chunk_bytes, rows.return_stats)
        found = linear_loss(whole) if closing.function is None else closed_loss(whole, closing.function)
        if found is not None and not rows.return_stats:
            return found.reduced
        if found is not None:
            return found.reduced, stats_of(rows, view_of(rows, found.rows, again), found.prediction)
    if not alone:
        frozen = [name for name in LayerOperands._fields if not getattr(wanted, name)]
        facts = {"the dtype": str(call.input.dtype), "chunk_bytes": chunk_bytes, "what gets no gradient": frozen}
        check_same_call(rows, **facts)
    keep = _kept(call, wanted, chunk_bytes) if wanted.of_source and not plainly else "nothing"
    found = linear_stats(LinearStatsCall(call, keep, chunk_bytes, rows.return_stats))
    return finished(rows, found.rows, again, lambda _: found.prediction)


def _kept(call: LinearCall, wanted: Wanted, chunk_bytes: int) -> str:
    """Return the data of two sweeps for the backward: all logits where they fit, or the derivative of a frozen head.

    The derivative costs a product in the forward, and saves two in the backward.
    """
    rows, itemsize = call.features.shape[0], loss_dtype(call.input.dtype).itemsize
    if rows * call.linear_weight.shape[0] * itemsize <= chunk_bytes:
        return "logits"
    of_input = wanted == Wanted(input=True) and call.positions == 1 and call.ranks.alone
    fits = rows * call.input.shape[1] * itemsize <= chunk_bytes
    if of_input and fits and one_sweep(costs_of(call.input, call.linear_weight), chunk_bytes) is not None:
        return "derivative"
    return "nothing"


def wants_gradient(x: Tensor | None) -> bool:
    """Return whether a gradient of this operand can be asked for."""
    return x is not None and x.requires_grad and torch.is_grad_enabled()
