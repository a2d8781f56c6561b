"""Sparse teachers: the most probable classes of each row with their probabilities; logits of all classes never exist.

The student's log-probabilities of K classes are read from its logits, and the divergence is that of vectors (N, K). The
other classes are ignored, or form one extra class on both sides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.kernels.checks import check_target
from crossent.spec import NO_CLASS, Target
from crossent.torch.base.transforms import look_at
from crossent.torch.base.values import RowResults
from crossent.torch.call.arguments import CheckedRows
from crossent.torch.call.targets import TopK, most_probable_of_topk
from crossent.torch.operators.plain_pair import pair_sums
from crossent.torch.operators.prediction import most_probable
from crossent.torch.operators.rows import RowCall, row_stats
from crossent.torch.operators.selected import SelectedCall, SelectedResults, selected_stats
from crossent.torch.sources import selected
from crossent.torch.sources.beside import without_target
from crossent.torch.teachers.view import DivergenceOptions, PairView, Tail, TeacherArguments

_MOST = 1.01
"""So much may probabilities of one row add up to, by their rounding, beside a class for the rest."""


class SparseTeacher(NamedTuple):
    """Classes (N, K) of a sparse teacher, each once, `NO_CLASS` for no entry, and their probabilities in float64."""

    classes: Tensor
    prob: Tensor
    rounding: float
    """How far the probabilities of a row that add up to 1 may be from it, in the dtype that they came in."""


def sparse_teacher(teacher: TopK, rows: CheckedRows, tail: Tail) -> SparseTeacher:
    """Return a teacher with each class once; entries without a probability are left out.

    Raises
    ------
    IndexError
        If a class of some probability does not exist.
    TypeError, ValueError
        If the teacher does not fit the rows, or its probabilities are none.
    """
    found, number = teacher.rows(rows.layout), rows.target.num_classes or rows.layout.classes
    index: Any = found.index
    prob: Any = found.prob
    if index.shape[1] == 0:
        raise ValueError("a TopK teacher needs at least one class for each row, got K = 0")

    def check(index: Tensor | None, prob: Tensor | None) -> None:
        if index is None or prob is None:
            return
        index, prob = (x.reshape(-1, x.shape[-1]) for x in (index, prob))
        check_target(Target(index, prob), (0, number))
        total = prob.double().sum(1)
        if tail == "bucket" and (total > _MOST).any():
            row = int((total > _MOST).nonzero()[0])
            raise ValueError(
                f"the probabilities of row {row} of the TopK teacher add up to {float(total[row]):.6g}, and leave "
                "nothing for the other classes; they must come from a softmax over all classes"
            )

    look_at(check, index, prob)
    rounding = torch.finfo(prob.dtype).eps
    prob = prob.double()
    index = index.long().masked_fill(prob == 0, NO_CLASS)
    index, order = index.sort(1)
    group = torch.nn.functional.pad((index[:, 1:] != index[:, :-1]).long().cumsum(1), (1, 0))
    once = torch.full_like(index, NO_CLASS).scatter(1, group, index)
    return SparseTeacher(once, torch.zeros_like(prob).scatter_add(1, group, prob.gather(1, order)), rounding)


class StudentRows(NamedTuple):
    """A student's rows at a sparse teacher's classes, and the values computed from them."""

    selected: SelectedResults
    """Of the teacher's classes."""
    results: RowResults
    """Of the target, or of no target if there is none."""
    again: Callable[[Target], RowResults]
    """Returns the results for another target."""
    predicted: Callable[[], Tensor]
    """Returns the most probable classes."""


class TopKView(PairView):
    """Rows of a student, and the classes of a sparse teacher."""

    def __init__(
        self, rows: CheckedRows, student: StudentRows, teacher: SparseTeacher, options: DivergenceOptions, tail: Tail,
        *, has_target: bool,
    ) -> None:  # fmt: skip
        self._teacher, self._beta, self._predicted = teacher, options.beta, student.predicted
        super().__init__(rows, student.results, student.again, {}, has_target=has_target)
        found, number = student.selected, rows.target.num_classes or rows.layout.classes
        exact = selected.log_probabilities(found.z, rows.scores, found.record, teacher.classes, number)
        logq = found.logprob.double()
        # the digits of float64, the gradient through the operator
        logq = logq + torch.where(exact.isfinite(), exact - logq, 0.0).detach()
        # rows without a normaliser and ignored rows must not pass gradients back
        self._lost = logq.isnan().any(1)
        unread = self._lost if self.valid is None else self._lost | ~self.valid
        logq = logq.masked_fill(unread[:, None] | (teacher.classes == NO_CLASS), 0.0)
        self._logp, self._logq = with_tail(logq, teacher, tail, max(teacher.rounding, torch.finfo(found.lse.dtype).eps))
        sums = pair_sums(self._logp, self._logq, None)
        share = self._logp.exp() * self._logp.masked_fill(self._logp == -torch.inf, 0.0)
        self._known = {
            "kl": self._finished(sums.kl),
            "reverse_kl": self._finished(sums.reverse_kl),
            "teacher_lse": None,
            "teacher_entropy": self._removed(-share.sum(1).to(found.lse.dtype)),
        }

    def _finished(self, x: Any) -> Tensor:
        lse = self.results.lse
        return self._removed(torch.where(self._lost, lse, x.to(lse.dtype)))

    def _removed(self, x: Tensor) -> Tensor:
        return x if self.valid is None else x.masked_fill(~self.valid, 0.0)

    def js(self) -> Tensor:
        """Return the Jensen–Shannon divergence of the classes."""
        return self._finished(pair_sums(self._logp, self._logq, self._beta).js(self._beta))

    def agreement(self) -> Tensor:
        """Return whether the most probable classes of student and teacher are the same."""
        teacher = most_probable_of_topk(self._teacher.classes, self._teacher.prob.detach())
        return self.agreed(self._predicted(), teacher)


class LogPair(NamedTuple):
    """Log-probabilities of teacher and student."""

    teacher: Tensor
    student: Tensor


def with_tail(logq: Tensor, teacher: SparseTeacher, tail: Tail, least: float) -> LogPair:
    """Return log-probabilities of the classes, and with "bucket" of all other classes together.

    `logq` has any finite number where there is no entry. What either leaves for the other classes is a difference from
    1, which is not known below the rounding `least`, and is at least that: else two heads that leave nothing would be
    infinitely far apart.
    """
    p, there = teacher.prob, teacher.classes != NO_CLASS
    logp = _log(p.masked_fill(~there, 0.0))
    logq = logq.masked_fill(~there, -torch.inf)
    if tail == "ignore":
        return LogPair(logp, logq)
    rest_p, rest_q = ((1 - x.sum(1, keepdim=True)).clamp(min=least).log() for x in (p, logq.exp()))
    return LogPair(torch.cat((logp, rest_p), 1), torch.cat((logq, rest_q), 1))


def _log(p: Tensor) -> Tensor:
    """Return log p, −inf for 0, through which no derivative comes back."""
    return p.masked_fill(p == 0, 1.0).log().masked_fill(p == 0, -torch.inf)


def topk_view(
    logits: Tensor, rows: CheckedRows, teacher: TeacherArguments, options: DivergenceOptions, *, has_target: bool
) -> TopKView:
    """Return the view of the rows of logits and of a sparse teacher."""
    given: Any = teacher.logits
    sparse = sparse_teacher(given, rows, teacher.tail)
    call = RowCall(logits, rows.target, rows.scores, rows.ranks.groups, recorded=True)
    target = without_target(call.target, call.number, logits.device)
    found = selected_stats(SelectedCall(dataclasses.replace(call, target=target), sparse.classes))
    results = row_stats(call) if has_target else RowResults(found.lse, found.lse, found.entropy, found.record)

    def again(other: Target) -> RowResults:
        return row_stats(dataclasses.replace(call, target=other))

    student = StudentRows(found, results, again, lambda: most_probable(call).at)
    return TopKView(rows, student, sparse, options, teacher.tail, has_target=has_target)
