"""Teachers that are logits: their classes are the student's, or are mapped to them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from crossent.spec import Scores, Target
from crossent.torch.base.transforms import look_at
from crossent.torch.base.values import INTEGER, PairResults, RowResults
from crossent.torch.call.arguments import CheckedRows, row_scores
from crossent.torch.call.checks import check_companion
from crossent.torch.call.layout import LogitsLayout
from crossent.torch.operators.pair import PairCall, TeacherScores, pair_stats
from crossent.torch.operators.prediction import most_probable
from crossent.torch.operators.rows import RowCall, row_stats
from crossent.torch.ranks.shards import held
from crossent.torch.sources.probabilities import scores_of as scores_of_logits
from crossent.torch.teachers.view import DivergenceOptions, HeadsView, TeacherArguments


class LogitsView(HeadsView):
    """Rows of a student's and of a teacher's logits."""

    def __init__(self, rows: CheckedRows, call: PairCall, beta: float, *, has_target: bool) -> None:
        self._call, self._beta = call, beta
        has_js = call.beta is not None
        super().__init__(rows, pair_stats(call), self._student, has_js=has_js, has_target=has_target)

    def _student(self, target: Target) -> RowResults:
        return row_stats(dataclasses.replace(self._call.rows, target=target))

    def js(self) -> Tensor:
        """Return the Jensen–Shannon divergence, from recomputed logits."""
        found: PairResults = pair_stats(dataclasses.replace(self._call, beta=self._beta))
        return found.js

    def agreement(self) -> Tensor:
        """Return whether the most probable classes of student and teacher are the same."""
        student, teacher = (most_probable(head).at for head in (self._call.rows, self._call.teacher_rows))
        return self.agreed(student, teacher, self.of_teacher("teacher_lse"))


def logits_view(
    logits: Tensor, rows: CheckedRows, teacher: TeacherArguments, options: DivergenceOptions, *, has_target: bool
) -> LogitsView:
    """Return the view of the rows of logits and of a teacher.

    Raises
    ------
    TypeError, ValueError
        If the teacher's logits do not fit the student's.
    """
    layout, target = rows.layout, rows.target
    t: Any = teacher.logits
    check_companion("teacher_logits", t, layout.device)
    scores = teacher.scores(rows.scores)
    own: Any = scores.row_temperature
    if own is not None and teacher.temperature is not None:
        scores = row_scores(scores, layout, "teacher_temperature")
    here = held(layout.classes, target.first_class, target.num_classes)
    t = layout.flat(t)
    if teacher.classes is not None:
        t, scores = _mapped(t, scores, teacher.classes, rows, here)
    elif held(t.shape[1], target.first_class, target.num_classes) != here:
        raise_other_classes(layout, t.shape[1], target)
    student = RowCall(logits, target, rows.scores, rows.ranks.groups, recorded=True)
    beta = options.beta if options.kind == "js" or rows.return_stats else None
    call = PairCall(student, t, TeacherScores.of(scores), beta)
    return LogitsView(rows, call, options.beta, has_target=has_target)


def raise_other_classes(
    layout: LogitsLayout, columns: int, target: Target, names: tuple[str, str] = ("logits", "teacher_logits")
) -> None:
    """Raise for a teacher whose classes are not the student's; the names are of the arguments that hold the classes."""
    own, name = names
    if target.num_classes is None:
        raise ValueError(
            f"{own} of {layout.classes} classes do not fit {name} of {columns}; pass num_classes= if both have the "
            "same classes and one has padding after them, or teacher_classes= with each class's place in the teacher"
        )
    raise ValueError(
        f"of the {target.num_classes} classes, {own} holds {layout.classes} from class {target.first_class} on and "
        f"{name} {columns}; both must hold the same classes, with padding only after the last one"
    )


def _mapped(t: Tensor, scores: Scores, classes: Tensor, rows: CheckedRows, here: int) -> tuple[Tensor, Scores]:
    """Return the teacher's logits of the student's classes, −inf where it has none, and their scores."""
    classes, columns = class_map(classes, t.shape[1], rows, here), t.shape[1]
    if columns == 0:
        t = torch.nn.functional.pad(t, (0, 1))
    t = t.index_select(1, classes.clamp(0, t.shape[1] - 1))
    if scores.softcap is not None:  # a capped −inf is no −inf
        t, scores = scores_of_logits(t, scores), Scores()
    missing = (classes < 0) | (classes >= columns)
    return t.masked_fill(missing, -torch.inf), scores


def class_map(classes: Tensor, columns: int, rows: CheckedRows, here: int) -> Tensor:
    """Return the teacher's column for each of the student's classes at hand, as int64.

    Raises
    ------
    IndexError
        If the teacher does not have one of the columns.
    TypeError, ValueError
        If the map does not fit the student's classes, or these are spread over ranks.
    """
    check_companion("teacher_classes", classes, rows.layout.device)
    if rows.ranks.groups:
        raise ValueError(
            "teacher_classes maps whole vocabularies, and the classes are spread over ranks; pass what the teacher has "
            "of this rank's classes, in their order, without teacher_classes"
        )
    if classes.dtype not in INTEGER:
        raise TypeError(f"teacher_classes must have an integer dtype, got {classes.dtype}; use teacher_classes.long()")
    if classes.shape != (here,):
        raise ValueError(
            f"teacher_classes must have one place in the teacher for each of the {here} classes of the student, and "
            f"−1 for none; got shape {tuple(classes.shape)}"
        )
    classes = classes.long()

    def check(numbers: Tensor | None) -> None:
        if numbers is None:
            return
        wrong = (numbers < -1) | (numbers >= columns)
        if wrong.any():
            at = tuple(wrong.nonzero()[0].tolist())
            raise IndexError(
                f"teacher_classes holds {int(numbers[at])} for class {at[-1]}, and the teacher has the columns "
                f"[0, {columns - 1}]; use −1 for a class that it does not have"
            )

    look_at(check, classes)
    return classes
