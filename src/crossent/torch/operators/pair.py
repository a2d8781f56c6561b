"""crossent::pair_stats and crossent::pair_grad: a student and a teacher, both logits that exist, and how far apart.

A row has two records. From both, a second visit of the two heads' logits gives the `pair` sums: KL both ways, and the
divergences from the mixture. Every output takes any cotangent. The teacher's gradient is the student's with the roles
swapped, and costs nothing unless required.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.backend import PairCotangents, Teacher
from crossent.spec import Array, Scores
from crossent.stats import FIELDS, PAIR_SUMS
from crossent.torch.base.backends import backend
from crossent.torch.base.operator_call import OperatorCall, keep, kept, operator_call
from crossent.torch.base.register import Backward, Forward, Gradients, Wants, in_plain_backward, register
from crossent.torch.base.values import (
    SWAPPED,
    PairResults,
    aliases,
    derivatives,
    loss_dtype,
    pair_results,
    without_autocast,
)
from crossent.torch.operators import plain, plain_pair
from crossent.torch.operators.rows import RowCall, RowGradCall, prob_gradient, row_grad, row_stats
from crossent.torch.ranks.collectives import add_up
from crossent.torch.sources.beside import without_target


@dataclasses.dataclass(frozen=True, slots=True)
class TeacherScores:
    """The scores of a teacher, in fields whose names differ from those of the student's `Scores`."""

    teacher_temperature: float = 1.0
    teacher_softcap: float | None = None
    teacher_row_temperature: Array | None = None

    @staticmethod
    def of(scores: Scores) -> TeacherScores:
        """Return the scores of a head as a teacher's."""
        return TeacherScores(scores.temperature, scores.softcap, scores.row_temperature)

    @property
    def scores(self) -> Scores:
        """The scores of the teacher."""
        return Scores(self.teacher_temperature, self.teacher_softcap, self.teacher_row_temperature)


@operator_call
class PairCall(OperatorCall):
    """Rows of a student's logits with their target, a teacher's logits of the same rows and classes, and its scores.

    With β the divergences from the mixture β p + (1 − β) q are wanted too. Padding of both heads begins after the last
    class.
    """

    rows: RowCall
    teacher_logits: Tensor
    teacher: TeacherScores
    beta: float | None = None

    @property
    def teacher_rows(self) -> RowCall:
        """The rows of the teacher's logits, with the same rows ignored."""
        rows = self.rows
        target = without_target(rows.target, rows.number, rows.logits.device)
        return RowCall(self.teacher_logits, target, self.teacher.scores, rows.groups, recorded=True)

    @property
    def swapped(self) -> PairCall:
        """The call with student and teacher in each other's place."""
        beta = None if self.beta is None else 1 - self.beta
        return PairCall(self.teacher_rows, self.rows.logits, TeacherScores.of(self.rows.scores), beta)

    @property
    def ignored(self) -> Tensor | None:
        """Which rows are ignored; None if no row can be."""
        target = self.rows.target
        if target.kind != "index":
            return None
        index: Any = target.index
        return index.long() == target.ignore_index


@operator_call
class PairGradCall(OperatorCall):
    """A call with both records and the pair sums, and cotangents (N,) of values of the student's logits."""

    pair: PairCall
    record: Tensor
    teacher_record: Tensor
    sums: Tensor
    g_loss: Tensor | None = None
    g_lse: Tensor | None = None
    g_entropy: Tensor | None = None
    g_kl: Tensor | None = None
    g_reverse_kl: Tensor | None = None
    g_js: Tensor | None = None

    @property
    def cotangents(self) -> PairCotangents:
        """The cotangents as a backend takes them."""
        return PairCotangents(self.g_loss, self.g_lse, self.g_entropy, self.g_kl, self.g_reverse_kl, self.g_js)

    @property
    def of_rows(self) -> RowGradCall:
        """The same without a teacher."""
        return RowGradCall(self.pair.rows, self.record, self.g_loss, self.g_lse, self.g_entropy)


def _pair_stats(call: PairCall) -> PairResults:
    rows, teacher_rows, source = call.rows, call.teacher_rows, call.rows.source
    own = row_stats(dataclasses.replace(rows, recorded=True), plain=True)
    other = row_stats(teacher_rows, plain=True)
    sums = own.record.new_zeros((PAIR_SUMS, rows.number))
    if source.classes:
        teacher = Teacher(teacher_rows.source.logits, teacher_rows.scores, other.record)
        backend(rows.logits).pair_stats(source.logits, rows.scores, own.record, teacher, call.beta, sums, extend=False)
    add_up((sums if call.beta is not None else sums[:2],), rows.groups)
    return pair_results(own, other, sums, call.beta, call.ignored)


def _pair_stats_fake(call: PairCall) -> PairResults:
    z, t = call.rows.logits, call.teacher_logits
    of_student, of_teacher, double = loss_dtype(z.dtype), loss_dtype(t.dtype), torch.float64
    shapes = (
        ((), of_student), ((), of_student), ((), of_student), ((len(FIELDS),), double),
        ((), of_teacher), ((), of_teacher), ((len(FIELDS),), double),
        ((), of_student), ((), of_student), ((), of_student), ((PAIR_SUMS,), double),
    )  # fmt: skip
    return PairResults._make(z.new_empty((*more, call.rows.number), dtype=dtype) for more, dtype in shapes)


def _pair_stats_plain(call: PairCall) -> PairResults:
    rows, teacher_rows, source = call.rows, call.teacher_rows, call.rows.source
    own = plain.row_results(source.logits, rows.target_of(source), rows.scores, rows.groups)
    other = plain.row_results(teacher_rows.source.logits, teacher_rows.target, teacher_rows.scores, teacher_rows.groups)
    with without_autocast(rows.logits):
        found = _plain_sums(call)
    nothing = torch.zeros_like(found.kl)
    js = nothing if call.beta is None else found.js(call.beta)
    kl, reverse, js = (x.to(own.loss.dtype) for x in (found.kl, found.reverse_kl, js))
    sums = torch.stack([(nothing if x is None else x).detach().double() for x in found])
    return PairResults(
        own.loss, own.lse, own.entropy, own.record, other.lse, other.entropy, other.record, kl, reverse, js, sums
    )


def _plain_sums(call: PairCall) -> plain_pair.PairSums:
    """Return the divergences in plain torch operations; those of ignored rows are 0, for any values."""
    rows, ignored = call.rows, call.ignored
    both = (rows.source.logits, rows.scores), (call.teacher_rows.source.logits, call.teacher.scores)
    shape = rows.logits.shape[:1] + rows.logits.shape[2:]
    removed = None if ignored is None else ignored.reshape(shape).unsqueeze(1)
    logq, logp = (
        plain_pair.log_softmax(z if removed is None else z.masked_fill(removed, 0.0), scores, rows.groups)
        for z, scores in both
    )
    found = plain_pair.pair_sums(logp, logq, call.beta, rows.groups)
    if ignored is None:
        return found
    return plain_pair.PairSums(*(None if x is None else x.masked_fill(ignored, 0.0) for x in found))  # pyright: ignore


def _save_pair_stats(ctx: Any, call: PairCall, output: PairResults) -> None:
    _, _, _, record, _, _, teacher_record, *_, sums = output
    keep(ctx, call, record, teacher_record, sums)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(record, teacher_record, sums)


def _pair_stats_backward(ctx: Any, wants: Wants, *cotangents: Tensor | None) -> Gradients:
    call, (record, teacher_record, sums) = kept(ctx)
    g_loss, g_lse, g_entropy, _, g_teacher_lse, g_teacher_entropy, _, g_kl, g_reverse, g_js, _ = cotangents
    at_once = in_plain_backward(ctx)
    if call.beta is None:
        g_js = None  # the zeros in its place depend on nothing
    found: dict[str, Tensor | None] = {}
    if "logits" in wants:
        of_student = PairGradCall(call, record, teacher_record, sums, g_loss, g_lse, g_entropy, g_kl, g_reverse, g_js)
        found["logits"] = pair_grad(of_student, plain=at_once)
    if "teacher_logits" in wants:
        dtype = loss_dtype(call.teacher_logits.dtype)
        g_kl, g_reverse, g_js = (None if g is None else g.to(dtype) for g in (g_kl, g_reverse, g_js))
        of_teacher = PairGradCall(
            call.swapped, teacher_record, record, sums[SWAPPED],
            None, g_teacher_lse, g_teacher_entropy, g_reverse, g_kl, g_js,
        )  # fmt: skip
        found["teacher_logits"] = pair_grad(of_teacher, plain=at_once)
    if "prob" in wants and g_loss is not None:
        found["prob"] = prob_gradient(call.rows, record, g_loss)
    return found


# The gradient of either head's logits ------------------------------------------------------------------------------


def _pair_grad(call: PairGradCall) -> Tensor:
    pair, rows, source = call.pair, call.pair.rows, call.pair.rows.source
    if call.g_kl is None and call.g_reverse_kl is None and call.g_js is None:
        return row_grad(call.of_rows, plain=True)
    gradient = source.new_gradient()
    if source.classes:
        teacher_rows = pair.teacher_rows
        teacher = Teacher(teacher_rows.source.logits, teacher_rows.scores, call.teacher_record)
        backend(rows.logits).pair_grad(
            source.logits, rows.target_of(source), rows.scores, call.record,
            teacher, pair.beta, call.sums, call.cotangents, source.unpadded(gradient),
        )  # fmt: skip
    return gradient


def _pair_grad_fake(call: PairGradCall) -> Tensor:
    return torch.empty_like(call.pair.rows.logits)


def _save_pair_grad(ctx: Any, call: PairGradCall, output: Tensor) -> None:
    keep(ctx, call)


_COTANGENTS = ("g_loss", "g_lse", "g_entropy", "g_kl", "g_reverse_kl", "g_js")


def _pair_grad_backward(ctx: Any, wants: Wants, cotangent: Tensor) -> Gradients:
    """Differentiate the gradient in plain torch operations; records and sums are recomputed."""
    call, _ = kept(ctx)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs, grad = _differentiable_pair_grad(call, create_graph=True)
        names = ("logits", "teacher_logits", "prob", *_COTANGENTS)
        return dict(zip(names, derivatives(grad, inputs, cotangent, again=again), strict=True))


def _pair_grad_plain(call: PairGradCall) -> Tensor:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        return _differentiable_pair_grad(call, create_graph=again).gradient


class _PairGrad(NamedTuple):
    """The gradient of the logits, and the tensors that it can be differentiated by."""

    inputs: list[Any]
    gradient: Tensor


def _differentiable_pair_grad(call: PairGradCall, *, create_graph: bool) -> _PairGrad:
    pair, target = call.pair, call.pair.rows.target
    prob: Any = target.prob
    g = [getattr(call, name) for name in _COTANGENTS]
    z, t, prob, *g = inputs = aliases(pair.rows.logits, pair.teacher_logits, prob, *g)
    rows = dataclasses.replace(pair.rows, logits=z, target=dataclasses.replace(target, prob=prob))
    pair = dataclasses.replace(pair, rows=rows, teacher_logits=t)
    with without_autocast(z):
        of_rows = plain.row_outputs(rows.source.logits, rows.target_of(rows.source), rows.scores, rows.groups)
        found = _plain_sums(pair)
        js = None if pair.beta is None else found.js(pair.beta)
    outputs = (*of_rows, found.kl, found.reverse_kl, js)
    pairs = [(out, g_.to(out.dtype)) for out, g_ in zip(outputs, g, strict=True) if g_ is not None and out is not None]
    (grad,) = torch.autograd.grad([o for o, _ in pairs], [z], [g_ for _, g_ in pairs], create_graph=create_graph)
    return _PairGrad(inputs, grad)


pair_grad = register(
    "pair_grad",
    PairGradCall,
    Tensor,
    Forward(_pair_grad, _pair_grad_fake, _pair_grad_plain),
    Backward(_save_pair_grad, _pair_grad_backward),
)
pair_stats = register(
    "pair_stats",
    PairCall,
    PairResults,
    Forward(_pair_stats, _pair_stats_fake, _pair_stats_plain),
    Backward(_save_pair_stats, _pair_stats_backward),
)
