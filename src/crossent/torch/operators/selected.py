"""crossent::selected_stats: log-probabilities of K classes of each row of logits, and crossent::selected_grad.

Each output is differentiable with any cotangent. The backward reads the logits once, as for `row_stats`, and then
rewrites the entries of the K classes (`sources.selected`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.spec import NO_CLASS
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Gradients, Wants, register
from crossent.torch.base.transforms import look_at
from crossent.torch.base.values import aliases, derivatives, loss_dtype
from crossent.torch.operators import plain
from crossent.torch.operators.rows import RowCall, RowGradCall, row_grad, row_stats
from crossent.torch.ranks.collectives import add_up, sum_over
from crossent.torch.sources import selected
from crossent.torch.sources.probabilities import scores_of
from crossent.torch.sources.selected import RowCotangents, SelectedRows
from crossent.torch.sources.source import Span


@operator_call
class SelectedCall(OperatorCall):
    """Rows of a matrix of logits without a target, and K classes of each: (N, K) int64, `NO_CLASS` for no entry.

    The rows' own target is a class that stands in, and their record is wanted.
    """

    rows: RowCall
    classes: Tensor

    @property
    def number(self) -> int:
        """Number of all classes."""
        return self.rows.target.num_classes or self.rows.logits.shape[1]

    @property
    def held(self) -> Span:
        """The classes of the columns at hand."""
        first = self.rows.target.first_class
        return Span(first, first + self.rows.source.classes)


@operator_call
class SelectedGradCall(OperatorCall):
    """A call with the record of its rows, and cotangents of lse (N,), entropy (N,) and log-probabilities (N, K)."""

    selected: SelectedCall
    record: Tensor
    g_lse: Tensor | None
    g_entropy: Tensor | None
    g_logprob: Tensor | None


class SelectedResults(NamedTuple):
    """Lse and entropy of each row, log-probabilities (N, K), the logits (N, K) in float64, and the record."""

    lse: Tensor
    entropy: Tensor
    logprob: Tensor
    z: Tensor
    record: Tensor


def _selected_stats(call: SelectedCall) -> SelectedResults:
    rows, classes = call.rows, call.classes
    if classes.is_cpu:
        selected.check_classes(classes, call.number)
    found, source = row_stats(rows, plain=True), rows.source
    if source.classes:
        z = selected.logits_at(source.logits, selected.columns_of(classes, call.held))
    else:
        z = torch.zeros_like(classes, dtype=torch.float64)
    add_up((z,), rows.groups)
    logprob = selected.log_probabilities(z, rows.scores, found.record, classes, call.number)
    return SelectedResults(found.lse, found.entropy, logprob.to(found.lse.dtype), z, found.record)


def _selected_stats_fake(call: SelectedCall) -> SelectedResults:
    lse, record = call.rows.new_record
    shape = call.classes.shape
    return SelectedResults(
        lse, torch.empty_like(lse), lse.new_empty(shape), lse.new_empty(shape, dtype=torch.float64), record
    )


def _selected_stats_plain(call: SelectedCall) -> SelectedResults:
    classes, rows = call.classes, call.rows
    look_at(lambda x: selected.check_classes(x.reshape(-1, x.shape[-1]), call.number), classes)
    results = plain.row_results(rows.source.logits, rows.target_of(rows.source), rows.scores, rows.groups)
    logprob, z = plain_logprob(call, results.lse)
    return SelectedResults(results.lse, results.entropy, logprob, z, results.record)


def plain_logprob(call: SelectedCall, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and logits of selected classes in plain torch operations, from the lse of the rows."""
    rows, classes = call.rows, call.classes
    logits = rows.source.logits
    if logits.shape[1] == 0:
        logits = torch.nn.functional.pad(logits, (0, 1))
    at, here = selected.columns_of(classes, call.held)
    z = logits.to(loss_dtype(logits.dtype)).gather(1, at)
    s = scores_of(z, rows.scores)  # one entry for each row and class, as logits have
    s, z = (sum_over(x.masked_fill(~here, 0.0), rows.groups) for x in (s, z.detach().double()))
    exists, left_out = (classes >= 0) & (classes < call.number), classes == NO_CLASS
    logprob = torch.where(exists, s - lse[:, None], torch.where(left_out, 0.0, torch.nan).to(s.dtype))
    return logprob, z


def _save_selected_stats(ctx: Any, call: SelectedCall, output: SelectedResults) -> None:
    *_, z, record = output
    keep(ctx, call, record)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(z, record)


def _selected_stats_backward(
    ctx: Any, wants: Wants, g_lse: Tensor | None, g_entropy: Tensor | None, g_logprob: Tensor | None, *_: Any
) -> Gradients:
    call, (record,) = kept(ctx)
    if "logits" not in wants:
        return {}
    return {"logits": selected_grad(SelectedGradCall(call, record, g_lse, g_entropy, g_logprob))}


# Their gradient ----------------------------------------------------------------------------------------------------


def _selected_grad(call: SelectedGradCall) -> Tensor:
    own, rows, source = call.selected, call.selected.rows, call.selected.rows.source
    cotangents = RowCotangents(call.g_lse, call.g_entropy)
    if call.g_logprob is None:
        return row_grad(RowGradCall(rows, call.record, None, *cotangents), plain=True)
    of_classes = selected.cotangents_of(call.g_logprob, own.classes, own.number)
    beside = cotangents.beside(of_classes, call.g_logprob)
    gradient = row_grad(RowGradCall(rows, call.record, None, *beside), plain=True)
    if source.classes:
        columns, logits = selected.columns_of(own.classes, own.held), source.logits
        of_rows = SelectedRows(call.record, cotangents, of_classes)
        z = selected.logits_at(logits, columns)
        selected.write_gradient(source.unpadded(gradient), z, columns, rows.scores, of_rows)
    return gradient


def _selected_grad_fake(call: SelectedGradCall) -> Tensor:
    return torch.empty_like(call.selected.rows.logits)


def _save_selected_grad(ctx: Any, call: SelectedGradCall, output: Tensor) -> None:
    keep(ctx, call)


def _selected_grad_backward(ctx: Any, wants: Wants, cotangent: Tensor) -> Gradients:
    """Differentiate the gradient in plain torch operations; the record is recomputed."""
    call, _ = kept(ctx)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs, grad = _differentiable_grad(call, create_graph=True)
        names = ("logits", "g_lse", "g_entropy", "g_logprob")
        return dict(zip(names, derivatives(grad, inputs, cotangent, again=again), strict=True))


def _selected_grad_plain(call: SelectedGradCall) -> Tensor:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        return _differentiable_grad(call, create_graph=again).gradient


class _SelectedGrad(NamedTuple):
    """The gradient of the logits, and the tensors that it can be differentiated by."""

    inputs: list[Any]
    gradient: Tensor


def _differentiable_grad(call: SelectedGradCall, *, create_graph: bool) -> _SelectedGrad:
    own = call.selected
    z, *g = inputs = aliases(own.rows.logits, call.g_lse, call.g_entropy, call.g_logprob)
    rows = dataclasses.replace(own.rows, logits=z)
    source = rows.source
    _, lse, entropy = plain.row_outputs(source.logits, rows.target_of(source), rows.scores, rows.groups)
    logprob, _ = plain_logprob(dataclasses.replace(own, rows=rows), lse)
    pairs = [(out, g_) for out, g_ in zip((lse, entropy, logprob), g, strict=True) if g_ is not None]
    (grad,) = torch.autograd.grad([o for o, _ in pairs], [z], [g_ for _, g_ in pairs], create_graph=create_graph)
    return _SelectedGrad(inputs, grad)


selected_grad = register(
    "selected_grad",
    SelectedGradCall,
    Tensor,
    Forward(_selected_grad, _selected_grad_fake, _selected_grad_plain),
    Backward(_save_selected_grad, _selected_grad_backward),
)
selected_stats = register(
    "selected_stats",
    SelectedCall,
    SelectedResults,
    Forward(_selected_stats, _selected_stats_fake, _selected_stats_plain),
    Backward(_save_selected_stats, _selected_stats_backward),
)
