"""crossent::linear_stats: loss, lse and entropy of each row of a linear layer's logits, and crossent::linear_grad.

Each output is differentiable with any cotangent; the backward, linear_grad, multiplies the logits again, or reads them
where the forward kept them. Where the head is frozen, the forward may keep the derivative of each loss with respect to
its row of the input instead, and the backward of the losses multiplies nothing. With create_graph it recomputes
everything in differentiable torch operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import Cotangents, LossScale
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Wants, register
from crossent.torch.base.register import Gradients as ByName
from crossent.torch.base.values import RowResults, loss_dtype
from crossent.torch.operators.linear_call import LinearCall, LinearGradients, linear_stats_plain, recomputed
from crossent.torch.ranks.records import merge, write_outputs
from crossent.torch.sources import driver
from crossent.torch.sources.linear import KeptTiles, LinearTiles
from crossent.torch.sources.plan import Sweep, TileShape, direct, one_sweep
from crossent.torch.sources.source import Wanted


@operator_call
class LinearStatsCall(OperatorCall):
    """A call whose statistics are wanted, and what is kept for the backward: "nothing", "logits" or "derivative".

    The derivative is that of each loss with respect to its row of the input, (N, D) in the dtype of the losses.
    """

    head: LinearCall
    keep: str
    chunk_bytes: int


@operator_call
class LinearGradCall(OperatorCall):
    """A call with the record of its rows, logits that were kept (or none), and the cotangents of its results."""

    head: LinearCall
    record: Tensor
    logits: Tensor
    g_loss: Tensor | None
    g_lse: Tensor | None
    g_entropy: Tensor | None
    wants: tuple[bool, ...]
    """Those of `Wanted`."""
    chunk_bytes: int


class LinearResults(NamedTuple):
    """Results of the rows, and what is kept: the logits (N, V · P), the derivative (N, D), or an empty tensor."""

    loss: Tensor
    lse: Tensor
    entropy: Tensor
    record: Tensor
    kept: Tensor

    @property
    def rows(self) -> RowResults:
        """The results of the rows."""
        return RowResults(*self[:-1])


def wanted_of(wants: Wants) -> Wanted:
    """Return which operands want a gradient, from the names of all arguments that do."""
    return Wanted(*(name in wants for name in Wanted._fields))


def gradients_like(call: LinearCall, wanted: Wanted) -> list[Tensor]:
    """Return fake gradients of the operands that want one, and empty tensors for the others."""
    operands = (call.input, call.linear_weight, call.linear_bias, call.target.prob)
    found: list[Any] = [
        torch.empty_like(x, memory_format=torch.contiguous_format) if want else None  # pyright: ignore
        for x, want in zip(operands, wanted, strict=True)
    ]
    return LinearGradients(*found).filled(call.input)


# Statistics --------------------------------------------------------------------------------------------------------


def _linear_stats(call: LinearStatsCall) -> LinearResults:
    if call.keep == "derivative":
        return _linear_derivative(call)
    head, (*_, logits) = call.head, _linear_stats_fake(call)
    results, packed = head.new_results(), head.packed()
    source, task = packed.source, packed.task
    parts = results if packed.places is None else head.new_results(source.size)
    shape = task.tile_shape(call.chunk_bytes)
    tiles = LinearTiles(source, shape, logits[: source.size] if call.keep == "logits" else None)
    driver.statistics(task, tiles, shape, parts)
    if head.ranks.groups:
        merge(parts.record, head.ranks.groups, head.class_range)
        write_outputs(parts.record, task.target, parts.outputs)
    packed.put(results, parts)
    return LinearResults(*results, logits)


def _linear_derivative(call: LinearStatsCall) -> LinearResults:
    """Compute the statistics, and the derivative of the sum of all losses: each row has the derivative of its own."""
    head = call.head
    results, packed = head.new_results(), head.packed()
    size = packed.source.size
    parts = results if packed.places is None else head.new_results(size)
    each = LossScale(torch.ones(size, dtype=torch.float64, device=head.input.device))
    chunks = one_sweep(packed.source.costs, call.chunk_bytes) or Sweep(max(1, size))
    found = driver.one_sweep(packed.task, chunks, each, parts, Wanted(input=True))
    packed.put(results, parts)
    return LinearResults(*results, found.input)


def _linear_stats_fake(call: LinearStatsCall) -> LinearResults:
    head, rows = call.head, call.head.features.shape[0]
    columns = {"logits": head.linear_weight.shape[0], "derivative": head.input.shape[1]}
    shape = (rows, columns[call.keep]) if call.keep in columns else (0,)
    kept = head.input.new_empty(shape, dtype=loss_dtype(head.input.dtype))
    return LinearResults(*head.new_results(), kept)


def _save_linear_stats(ctx: Any, call: LinearStatsCall, output: LinearResults) -> None:
    *_, record, memory = output
    keep(ctx, call, record, memory)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(record, memory)


def _linear_stats_backward(
    ctx: Any, wants: Wants, g_loss: Tensor | None, g_lse: Tensor | None, g_entropy: Tensor | None, *_: Any
) -> ByName:
    call, (record, memory) = kept(ctx)
    cotangents = (g_loss, g_lse, g_entropy)
    return stats_gradients(call, record, memory, cotangents, wanted_of(wants))._asdict()


def stats_gradients(
    call: LinearStatsCall, record: Tensor, memory: Tensor, cotangents: Sequence[Tensor | None], wanted: Wanted
) -> LinearGradients:
    """Return the gradients of the operands for cotangents of loss, lse and entropy of each row.

    `memory` is what the forward kept.
    """
    if torch.is_grad_enabled():
        return recomputed(call.head, lambda _, results: results[:3], cotangents)
    g_loss, g_lse, g_entropy = cotangents
    of_loss = LinearGradients()
    if call.keep == "derivative":
        if g_loss is not None:
            g_each = g_loss.unsqueeze(1)
            g_input = torch.where(g_each == 0, 0.0, memory * g_each)  # a row without a part in it may hold NaN
            of_loss, g_loss = LinearGradients(g_input.to(call.head.input.dtype)), None
        if g_lse is None and g_entropy is None:
            return of_loss
        memory = memory.new_empty((0,))
    wanted = wanted._replace(prob=wanted.prob and g_loss is not None)
    found = linear_grad(LinearGradCall(call.head, record, memory, g_loss, g_lse, g_entropy, wanted, call.chunk_bytes))
    return of_loss + LinearGradients(*(g if want else None for g, want in zip(found, wanted, strict=True)))


# Their gradient ----------------------------------------------------------------------------------------------------


def _linear_grad(call: LinearGradCall) -> LinearGradients:
    packed, wanted = call.head.packed(), Wanted(*call.wants)
    source, task = packed.source, packed.task
    record = packed.take(call.record)
    cotangents = Cotangents(*(packed.take(g) for g in (call.g_loss, call.g_lse, call.g_entropy)))
    shape = task.tile_shape(call.chunk_bytes)
    if call.logits.ndim == 2:
        if direct(source.costs):
            shape = TileShape(max(1, source.size), max(1, source.classes))
        tiles: LinearTiles = KeptTiles(source, shape, call.logits[: source.size])
    else:
        tiles = LinearTiles(source, shape)
    found = driver.gradients(task, tiles, shape, record, cotangents, wanted)
    g_prob = None
    if wanted.prob and cotangents.loss is not None:
        g_prob = driver.prob_gradient(task, call.chunk_bytes, record, cotangents.loss)
    in_shape = call.head.padded(LinearGradients(found.input, found.linear_weight, found.linear_bias, g_prob))
    return LinearGradients(*in_shape.filled(call.head.input))


def _linear_grad_fake(call: LinearGradCall) -> LinearGradients:
    return LinearGradients(*gradients_like(call.head, Wanted(*call.wants)))


def _linear_grad_plain(call: LinearGradCall) -> LinearGradients:
    found = recomputed(call.head, lambda _, results: results[:3], (call.g_loss, call.g_lse, call.g_entropy))
    return LinearGradients(*found.filled(call.head.input))


def _linear_stats_plain(call: LinearStatsCall) -> LinearResults:
    return LinearResults(*linear_stats_plain(call.head), call.head.input.new_zeros((0,)))


def _linear_stats_flops(call: LinearStatsCall) -> int:
    """Count the logits, and the derivative where it is kept."""
    return call.head.products(2 if call.keep == "derivative" else 1)


def _linear_grad_flops(call: LinearGradCall) -> int:
    """Count the logits where they were not kept, the gradients of input and weight, and the logits for that of p."""
    wanted = Wanted(*call.wants)
    again = wanted.of_source and call.logits.ndim != 2
    return call.head.products(again + wanted.input + wanted.linear_weight + wanted.prob)


linear_grad = register(
    "linear_grad",
    LinearGradCall,
    LinearGradients,
    Forward(_linear_grad, _linear_grad_fake, _linear_grad_plain, _linear_grad_flops),
)
linear_stats = register(
    "linear_stats",
    LinearStatsCall,
    LinearResults,
    Forward(_linear_stats, _linear_stats_fake, _linear_stats_plain, _linear_stats_flops),
    Backward(_save_linear_stats, _linear_stats_backward),
)
