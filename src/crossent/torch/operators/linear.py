"""The linear loss as torch operators: registered, with fake kernels and autograd, over the chunk driver.

crossent::linear_stats gives loss, lse and entropy of each row, each differentiable with any cotangent; its backward is
crossent::linear_grad, which multiplies the logits again. crossent::linear_loss computes the sum or mean and the
gradients of it in one sweep, which its backward only has to scale. With create_graph both recompute everything in
differentiable torch operations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from crossent.spec import Target
from crossent.torch.base.register import is_batched, is_watched, register
from crossent.torch.call import results as _closing
from crossent.torch.call.checks import Logits, Rows, has_autocast
from crossent.torch.call.results import Closing, Options, RowStats
from crossent.torch.operators import rows as _rows
from crossent.torch.operators.plain import loss_dtype
from crossent.torch.operators.rows import OPTIONS, aliases, scores_of
from crossent.torch.ranks.collectives import gather_rows, share
from crossent.torch.ranks.shards import Shards, merge, summary
from crossent.torch.sources import driver as _tiles
from crossent.torch.sources.driver import Head
from crossent.torch.sources.plan import Sweep, one_sweep

_Optional = Tensor | None
_HEAD = (
    f"Tensor input, Tensor linear_weight, Tensor? linear_bias, int positions, {OPTIONS}, "
    "str[] row_groups, Tensor? gathered, Tensor? order, int each"
)
_TENSORS = (0, 1, 2, 4, 5, 6, 15, 16)
_ARGUMENTS = 18
"""Which arguments in _HEAD are tensors, and how many there are."""
_Gradients = tuple[_Optional, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """The arguments in _HEAD, by name."""

    input: Tensor
    weight: Tensor
    bias: _Optional
    positions: int
    index: _Optional
    prob: _Optional
    options: Options
    shards: Shards

    @classmethod
    def of(cls, arguments: Sequence[Any]) -> _Call:
        options = Options(*arguments[6:14])  # pyright: ignore[reportCallIssue]
        row_groups, *rows = arguments[14:_ARGUMENTS]
        shards = Shards(tuple(options.groups), *options[5:7], tuple(row_groups), *rows)
        return cls(*arguments[:6], options, shards)  # pyright: ignore[reportCallIssue]

    @property
    def features(self) -> Tensor:
        """The rows of the loss: the input's, or those that all ranks brought."""
        return self.input if self.shards.gathered is None else self.shards.gathered

    def results(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return memory for loss, lse, entropy and record, of some rows or of all."""
        number = (self.features if rows is None else rows).shape[0] * self.positions
        loss = self.input.new_zeros((number,), dtype=loss_dtype(self.input.dtype))
        record = self.input.new_zeros((5, number), dtype=torch.float64)
        return loss, torch.zeros_like(loss), torch.zeros_like(loss), record

    def classes(self) -> tuple[Tensor, _Optional, _Optional]:
        """Return weight, bias and target probabilities without padding."""
        P = self.positions
        columns = self.weight.shape[0] // max(1, P)
        here = self.shards.held(columns)
        if columns == here:
            return self.weight, self.bias, self.prob
        bias = None if self.bias is None else self.bias[: here * P]
        prob = self.prob[:, :here] if self.prob is not None and self.index is None else self.prob
        return self.weight[: here * P], bias, prob

    def packed(self) -> tuple[Head, Tensor | None]:
        """Return the head without the rows that are ignored, and which of the input's rows are left (None: all).

        On a GPU all are left.
        """
        o, P = self.options, self.positions
        index = None if self.index is None else self.index.long()
        weight, bias, prob = self.classes()
        target = Target(index, prob, o.weight, o.smoothing, o.ignore_index, o.first_class, o.num_classes or None)
        scores = scores_of(o.temperature, o.softcap)
        head = Head(self.features, weight, bias, target, scores, positions=P, shards=self.shards)
        _tiles.check_head(head)
        if index is None or self.prob is not None:
            return head, None
        valid = (index != o.ignore_index).view(-1, P).any(1) if P else index.new_ones(len(head.input)).bool()
        if not head.input.is_cpu:  # to count them is to wait for the device
            return dataclasses.replace(head, valid=valid), None
        if valid.all():
            return head, None
        rows = valid.nonzero().squeeze(1)
        return head.of_rows(rows), rows


class _Packed:
    """Vectors of all rows, and those of the rows that were packed."""

    def __init__(self, rows: Tensor | None, positions: int) -> None:
        self.places = None
        if rows is not None:
            each = torch.arange(positions, device=rows.device)
            self.places = rows if positions == 1 else (rows[:, None] * positions + each).view(-1)

    def take(self, vectors: _Optional) -> _Optional:
        return vectors if vectors is None or self.places is None else vectors[..., self.places]

    def put(self, vectors: Sequence[Tensor], packed: Sequence[Tensor]) -> None:
        if self.places is not None:
            for to, part in zip(vectors, packed, strict=True):
                to[..., self.places] = part


def _given(gradients: Sequence[_Optional], like: Tensor) -> tuple[Tensor, ...]:
    return tuple(like.new_empty((0,)) if g is None else g for g in gradients)


def _given_fake(inputs: Sequence[Any], needs: Sequence[bool]) -> tuple[Tensor, ...]:
    like = torch.contiguous_format
    found = [torch.empty_like(x, memory_format=like) if want else None for x, want in zip(inputs, needs, strict=True)]
    return _given(found, inputs[0])


# Loss, lse and entropy of each row ---------------------------------------------------------------------------------


def _linear_stats(*arguments: Any) -> tuple[Tensor, ...]:
    call, (keep, chunk_bytes) = _Call.of(arguments), arguments[_ARGUMENTS:]
    *results, logits = _linear_stats_fake(*arguments)
    results[3][1] = 1.0
    head, rows = call.packed()
    packed = _Packed(rows, head.positions)
    parts = results if rows is None else call.results(rows)
    kept = logits[: head.size] if keep else None
    _tiles.statistics(head, chunk_bytes, parts[3], (parts[0], parts[1], parts[2]), kept)
    if call.shards.groups:
        where = (call.shards.first_class, head.classes, call.shards.num_classes)
        merge(parts[3], call.shards.groups, where)
        summary(parts[3], head.target, parts[:3])
    packed.put(results, parts)
    return *results, logits


def _linear_stats_fake(*arguments: Any) -> tuple[Tensor, ...]:
    call, keep = _Call.of(arguments), arguments[_ARGUMENTS]
    loss, lse, entropy, record = call.results()
    shape = (call.features.shape[0], call.weight.shape[0]) if keep else (0,)
    return loss, lse, entropy, record, loss.new_empty(shape)


def _save_linear_stats(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs, *output[3:])
    ctx.keep, ctx.chunk_bytes = inputs[_ARGUMENTS:]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[3:])


def _save(ctx: Any, inputs: tuple[Any, ...], *rest: Any) -> None:
    ctx.save_for_backward(*(inputs[at] for at in _TENSORS), *rest)
    ctx.numbers = [None if at in _TENSORS else x for at, x in enumerate(inputs[:_ARGUMENTS])]


def _saved(ctx: Any) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    """Return the arguments in _HEAD, and what else was saved."""
    arguments, saved = list(ctx.numbers), ctx.saved_tensors
    for at, x in zip(_TENSORS, saved, strict=False):
        arguments[at] = x
    return tuple(arguments), saved[len(_TENSORS) :]


def _linear_stats_backward(ctx: Any, *cotangents: _Optional) -> tuple[_Optional, ...]:
    arguments, (record, logits) = _saved(ctx)
    found = _stats_gradients(ctx, arguments, record, logits, cotangents[:3])
    return *_aligned(found), None, None


def _aligned(gradients: _Gradients) -> tuple[_Optional, ...]:
    """Return gradients of input, weight, bias and probabilities in the order of the arguments in _HEAD."""
    g_input, g_weight, g_bias, g_prob = gradients
    return g_input, g_weight, g_bias, None, None, g_prob, *(None,) * (_ARGUMENTS - 6)


def _stats_gradients(
    ctx: Any, arguments: tuple[Any, ...], record: Tensor, logits: Tensor, cotangents: tuple[_Optional, ...]
) -> _Gradients:
    if torch.is_grad_enabled():
        return _recomputed(arguments, lambda stats: stats[:3], cotangents)
    needs = [*ctx.needs_input_grad[:3], ctx.needs_input_grad[5] and cotangents[0] is not None]
    found = linear_grad(*arguments, record, logits, *cotangents, needs, ctx.chunk_bytes)
    return tuple(g if want else None for g, want in zip(found, needs, strict=True))


def _recomputed(arguments: tuple[Any, ...], close: Any, cotangents: tuple[_Optional, ...]) -> _Gradients:
    """Return differentiable gradients: everything once more, in differentiable operations, with all of the logits."""
    call = _Call.of(arguments)
    with torch.enable_grad():
        *layer, prob = inputs = aliases(call.input, call.weight, call.bias, call.prob)
        again = dataclasses.replace(call, input=layer[0], weight=layer[1], bias=layer[2], prob=prob)
        outputs = close(_linear_stats_plain(again))
        pairs = [(out, g) for out, g in zip(outputs, cotangents, strict=True) if g is not None]
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        found = iter(
            torch.autograd.grad(
                [out for out, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
            )
        )
        return tuple(next(found) if x is not None and x.requires_grad else None for x in inputs)


def _linear_stats_plain(call: _Call) -> RowStats:
    """Return what linear_stats does from logits that exist: its slow twin, differentiable as often as one likes."""
    shards, wide = call.shards, loss_dtype(call.input.dtype)
    weight, bias, prob = call.classes()
    weight, bias = share(weight, shards.row_groups), share(bias, shards.row_groups)
    if shards.gathered is None:
        features = share(call.input, shards.groups)
    else:
        features = share(gather_rows(call.input, shards), shards.groups[:-1])
    with torch.autocast(features.device.type, enabled=False) if has_autocast(features) else nullcontext():
        bias = None if bias is None else bias.to(wide)
        logits = torch.nn.functional.linear(features.to(wide), weight.to(wide), bias)
    P = call.positions
    logits = logits if P == 1 else logits.unflatten(1, (weight.shape[0] // max(1, P), P))
    return _rows.row_stats(logits, call.index, prob, *call.options)


# Their gradient ----------------------------------------------------------------------------------------------------


def _linear_grad(*arguments: Any) -> tuple[Tensor, ...]:
    call = _Call.of(arguments)
    record, logits, *cotangents, needs, chunk_bytes = arguments[_ARGUMENTS:]
    head, rows = call.packed()
    packed = _Packed(rows, head.positions)
    kept = logits[: head.size] if logits.ndim == 2 else None
    parts = tuple(packed.take(g) for g in cotangents)
    found = _tiles.gradients(head, chunk_bytes, packed.take(record), parts, tuple(needs), kept)  # pyright: ignore[reportArgumentType]
    return _given(_cut_and_padded(found, call), call.input)


def _cut_and_padded(found: list[_Optional], call: _Call) -> list[_Optional]:
    """Return gradients of input, weight, bias and probabilities in the shapes of the operands."""
    g_input, g_weight, g_bias, g_prob = found
    if g_input is not None:
        g_input = g_input[: call.input.shape[0]]
    padding = call.weight.shape[0] - call.positions * call.shards.held(call.weight.shape[0] // max(1, call.positions))
    if padding:
        pad = torch.nn.functional.pad
        g_weight = None if g_weight is None else pad(g_weight, (0, 0, 0, padding))
        g_bias = None if g_bias is None else pad(g_bias, (0, padding))
        if g_prob is not None and call.index is None:
            g_prob = pad(g_prob, (0, 0) * (g_prob.ndim - 2) + (0, padding // call.positions))
    return [g_input, g_weight, g_bias, g_prob]


def _linear_grad_fake(*arguments: Any) -> tuple[Tensor, ...]:
    call, needs = _Call.of(arguments), arguments[-2]
    return _given_fake((call.input, call.weight, call.bias, call.prob), needs)


# Sum or mean and its gradients in one sweep ------------------------------------------------------------------------


def _closing_of(call: _Call, rest: tuple[Any, ...]) -> tuple[Rows, Closing]:
    samples, z_loss, mean = rest
    shape = torch.Size((call.input.shape[0] * call.positions, call.weight.shape[0] // max(1, call.positions)))
    rows = Rows(Logits(shape, 1, shape[:1]), call.index, call.prob)
    return rows, ("mean" if mean else "sum", samples, z_loss)


def _linear_loss(*arguments: Any) -> tuple[Tensor, ...]:
    call, (*rest, needs, chunk_bytes) = _Call.of(arguments), arguments[_ARGUMENTS:]
    results = call.results()
    results[3][1] = 1.0
    head, rows = call.packed()
    packed = _Packed(rows, head.positions)
    parts = results if rows is None else call.results(rows)
    how = _closing_of(call, tuple(rest))
    scales = _closing.shares(*how, call.options, call.input)
    taken = (packed.take(scales[0]), packed.take(scales[1]))
    sweep = one_sweep(call.input, call.weight, chunk_bytes) or Sweep(max(1, head.size))
    found = _tiles.one_sweep(head, sweep, taken, parts[3], parts[:3], (*needs, False))  # pyright: ignore[reportArgumentType]
    packed.put(results, parts)
    loss = _closing.reduced(how[0], call.options, how[1], results)
    return loss, *results, *_given(_cut_and_padded(found, call)[:3], call.input)


def _linear_loss_fake(*arguments: Any) -> tuple[Tensor, ...]:
    call, needs = _Call.of(arguments), arguments[-2]
    results = call.results()
    return results[0].new_empty(()), *results, *_given_fake((call.input, call.weight, call.bias), needs)


def _save_linear_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs, inputs[_ARGUMENTS], output[4])
    ctx.z_loss, ctx.mean, ctx.needs, ctx.chunk_bytes = inputs[_ARGUMENTS + 1 :]
    # not saved with the others: the backward hands them over, and scales them in place where nobody else has them
    ctx.gradients = [g if want else None for g, want in zip(output[5:], ctx.needs, strict=True)]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[4:])


def _linear_loss_backward(ctx: Any, g: _Optional, *cotangents: _Optional) -> tuple[_Optional, ...]:
    of_rows = cotangents[:3]
    found: _Gradients = (None, None, None, None)
    if torch.is_grad_enabled():
        arguments, (*samples, _) = _saved(ctx)
        rows, how = _closing_of(_Call.of(arguments), (samples[0], ctx.z_loss, ctx.mean))
        options = _Call.of(arguments).options
        found = _recomputed(
            arguments, lambda stats: (_closing.reduced(rows, options, how, stats), *stats[:3]), (g, *of_rows)
        )
    else:
        if g is not None:
            found = (*_scaled(ctx, g), None)
        elif not _keeps_graph():
            ctx.gradients = None
        if any(x is not None for x in of_rows):
            arguments, (_, record) = _saved(ctx)
            more = _stats_gradients(ctx, arguments, record, record.new_empty((0,)), of_rows)
            found = tuple(a if b is None else b if a is None else a + b for a, b in zip(found, more, strict=True))
    return *_aligned(found), None, None, None, None, None


def _scaled(ctx: Any, g: Tensor) -> list[_Optional]:
    """Return g times the gradients that the forward computed, in their own memory if this is the last backward."""
    if ctx.gradients is None:
        _ = ctx.saved_tensors  # raises what torch raises when a graph is gone
        raise RuntimeError("the gradients of this linear_cross_entropy are gone; use backward(retain_graph=True)")
    alone = getattr(ctx, "direct", False) and type(g) is Tensor and not is_batched(g) and not is_watched()
    if not alone or _keeps_graph():
        return [None if x is None else (x.to(g.dtype) * g).to(x.dtype) for x in ctx.gradients]
    gradients, ctx.gradients = ctx.gradients, None
    scale = g.item() if g.is_cpu else g
    if scale is g or scale != 1:
        gradients = [None if x is None else x.mul_(scale) for x in gradients]
    return gradients


def _keeps_graph() -> bool:
    """Return whether the backward that runs may be run again, or nobody knows."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)  # pyright: ignore
    return ask is None or ask()


_RESULTS = "Tensor loss, Tensor lse, Tensor entropy, Tensor record"
linear_grad = register(
    f"linear_grad({_HEAD}, Tensor record, Tensor logits, Tensor? g_loss, Tensor? g_lse, Tensor? g_entropy, "
    "bool[] needs, int chunk_bytes) -> (Tensor input, Tensor linear_weight, Tensor linear_bias, Tensor prob)",
    _linear_grad,
    _linear_grad_fake,
)
linear_stats = register(
    f"linear_stats({_HEAD}, bool keep, int chunk_bytes) -> ({_RESULTS}, Tensor logits)",
    _linear_stats,
    _linear_stats_fake,
    _save_linear_stats,
    _linear_stats_backward,
)
linear_loss = register(
    f"linear_loss({_HEAD}, Tensor? sample_weight, float z_loss, bool mean, bool[] needs, int chunk_bytes) -> "
    f"(Tensor reduced, {_RESULTS}, Tensor g_input, Tensor g_weight, Tensor g_bias)",
    _linear_loss,
    _linear_loss_fake,
    _save_linear_loss,
    _linear_loss_backward,
)
