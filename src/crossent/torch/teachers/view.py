"""A student's rows with a teacher's: the forms of a teacher, and the view of both heads' rows.

For any teacher, the rows of a call become a `PairView`, which closings, losses and statistics read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from crossent.numbers import real, shown
from crossent.spec import Scores, Target, is_scale
from crossent.torch.base.values import REAL, PairResults, RowResults
from crossent.torch.call.arguments import CheckedRows
from crossent.torch.call.closings import RowView
from crossent.torch.call.layout import LayerOperands, LogitsLayout
from crossent.torch.call.results import DivergenceStats
from crossent.torch.call.targets import NoTarget, TargetKind, TopK

Kind = Literal["forward", "reverse", "js"]
Tail = Literal["ignore", "bucket"]
_KINDS = {"forward": "kl", "reverse": "reverse_kl", "js": "js"}
"""The divergence that each kind is, by its name in statistics and closings."""


class DivergenceOptions(NamedTuple):
    """Which divergence of a student and a teacher is the loss, and β of the mixture."""

    kind: Kind
    beta: float

    @property
    def name(self) -> str:
        """The name of the divergence in statistics and closings."""
        return _KINDS[self.kind]


def options_of(kind: Any, beta: Any, *, others_are_seen: bool) -> DivergenceOptions:
    """Return kind and β of a call.

    `others_are_seen` is whether divergences of other kinds are read: a closing, or statistics.

    Raises
    ------
    ValueError
        If the kind is none, or β is not between 0 and 1, or would change nothing.
    """
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(
            f'kind must be "forward" (KL(teacher‖student)), "reverse" (KL(student‖teacher)) or "js", got {shown(kind)}'
        )
    number = real("beta", beta)
    if not 0.0 < number < 1.0:
        raise ValueError(
            f"beta, the teacher's share of the mixture, must lie between 0 and 1, got {shown(beta)}: at 0 and 1 the "
            'divergence from the mixture is 0; use kind="forward" or kind="reverse"'
        )
    if kind != "js" and number != 0.5 and not others_are_seen:
        raise ValueError(f'beta belongs to kind="js" and has no effect on kind="{kind}"; leave it out')
    return DivergenceOptions(kind, number)  # pyright: ignore[reportArgumentType]


class TeacherArguments(NamedTuple):
    """A teacher as the caller passed it."""

    logits: Tensor | TopK | LayerOperands
    """Or what makes them."""
    temperature: float | Tensor | None
    softcap: float | None
    classes: Tensor | None
    tail: Tail

    def check_tail(self) -> None:
        """Raise unless the tail is one, and belongs to the teacher."""
        if not isinstance(self.tail, str) or self.tail not in ("ignore", "bucket"):  # pyright: ignore
            raise ValueError(f'tail must be "ignore" or "bucket", got {shown(self.tail)}')
        if not isinstance(self.logits, TopK):
            if self.tail != "ignore":
                raise ValueError(
                    'tail="bucket" is for the classes that a TopK teacher lacks; leave it out for a teacher with logits'
                )
            return
        for name in ("temperature", "softcap", "classes"):
            if getattr(self, name) is not None:
                fix = "map TopK.index" if name == "classes" else "apply it before softmax and top-k"
                raise ValueError(
                    f"teacher_{name} is for a teacher with logits; a TopK holds probabilities of classes: {fix}"
                )

    def check_rows(self, layout: LogitsLayout) -> None:
        """Raise unless a teacher's logits are logits, of the rows of the student's."""
        t = self.logits
        if isinstance(t, TopK):
            return
        if not isinstance(t, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"teacher_logits must be a tensor or a TopK, got {type(t).__name__}; use torch.as_tensor")
        if t.dtype not in REAL:
            raise TypeError(
                f"teacher_logits must be float32, float64, bfloat16 or float16, got {t.dtype}; "
                "use teacher_logits.float()"
            )
        if t.ndim == 0 or t.shape[:-1] != layout.rows:
            raise ValueError(
                f"teacher_logits of shape {tuple(t.shape)} do not have the rows {tuple(layout.rows)} of logits, shape "
                f"{tuple(layout.shape)}; the classes of both are on the last axis"
            )

    def check_columns(self, columns: int) -> None:
        """Raise unless a teacher's logits have so many columns: they are cut where the student's are."""
        t = self.logits
        own = (
            t.linear_weight.shape[0]
            if isinstance(t, LayerOperands)
            else t.shape[-1]
            if isinstance(t, Tensor)
            else columns
        )
        if own != columns:
            raise ValueError(
                f"the student has {columns} columns and the teacher {own}, and the classes are "
                "sharded: both must have the same, or other columns would meet; pad the shorter one, with num_classes="
            )

    def placed(self, of_classes: Callable[[Any], Any], of_rows: Callable[[Any], Any]) -> TeacherArguments:
        """Return the teacher with functions applied to values with the axes of logits, and of rows."""
        own = self.temperature
        temperature = of_rows(own) if isinstance(own, Tensor) and own.ndim else own
        return self._replace(logits=of_classes(self.logits), temperature=temperature)

    def scores(self, student: Scores) -> Scores:
        """Return the teacher's scores; its temperature is the student's if it has none of its own."""
        cap, temperature = self.softcap, self.temperature
        if cap is not None:
            cap = _checked_scale("teacher_softcap", cap, "None for no cap")
        if temperature is None:
            return dataclasses.replace(student, softcap=cap)
        if isinstance(temperature, Tensor) and temperature.ndim > 0:
            return Scores(1.0, cap, temperature)
        return Scores(_checked_scale("teacher_temperature", temperature, "None for the student's"), cap)


def _checked_scale(name: str, value: Any, none: str) -> float:
    number = real(name, value)
    if not is_scale(number):
        raise ValueError(f"{name} must be between 1e-15 and 1e15, got {shown(value)}; use {none}")
    return number


def student_target(target: Any, ignore_index: Any) -> Tensor | TargetKind:
    """Return the target of a call, or a replacement for none.

    Raises
    ------
    ValueError
        If rows are to be ignored by a target that is not there.
    """
    if target is not None:
        return target
    if ignore_index != -100:
        raise ValueError("ignore_index needs a target; pass target=, or sample_weight=0")
    return NoTarget()


class PairView(RowView):
    """The rows of a student and of its teacher.

    Divergences are read by name: kl, reverse_kl, js, teacher_entropy, teacher_lse. js is computed when read.
    """

    has_target: bool
    """Whether the rows have a target; else another class stands in for it."""

    def __init__(
        self,
        rows: CheckedRows,
        results: RowResults,
        again: Callable[[Target], RowResults],
        known: dict[str, Tensor | None],
        *,
        has_target: bool,
    ) -> None:
        super().__init__(rows.target, results, again, rows.ranks)
        self._known, self.has_target = known, has_target

    def of_teacher(self, name: str) -> Tensor:
        """Return a divergence, or a statistic of the teacher."""
        if name not in self._known:
            self._known[name] = self.js()
        found = self._known[name]
        if found is None:
            raise AttributeError(f"rows.{name} is not available: a TopK teacher has probabilities, but no normaliser")
        return found

    def js(self) -> Tensor:
        """Return the Jensen–Shannon divergence."""
        raise NotImplementedError

    def agreement(self) -> Tensor:
        """Return whether the most probable classes of student and teacher are the same."""
        raise NotImplementedError

    def check_target(self, name: str) -> None:
        """Raise for an attribute that needs a target where there is none."""
        if not self.has_target:
            raise AttributeError(f"rows.{name} needs a target; pass target=")

    def stats(self, rows: torch.Size) -> DivergenceStats:
        """Return the statistics in the shape of the rows."""
        names = ("teacher_entropy", "kl", "reverse_kl", "js")
        found = {name: self.of_teacher(name) for name in names} | {
            "teacher_lse": self._known["teacher_lse"],
            "lse": self.results.lse,
            "entropy": self.results.entropy,
            "logprob": self.logprob if self.has_target else None,
            "agreement": self.agreement(),
        }
        return DivergenceStats(**{k: None if x is None else x.reshape(rows) for k, x in found.items()})  # pyright: ignore

    def agreed(self, student: Tensor, teacher: Tensor, *normalisers: Tensor) -> Tensor:
        """Return the mask of rows with the same class in both, a normaliser in both, and not ignored."""
        agreed = student == teacher
        for lse in (self.results.lse, *normalisers):
            agreed = agreed & ~lse.isnan()
        return agreed if self.valid is None else agreed & self.valid


class HeadsView(PairView):
    """Rows of two heads, by results computed from the logits of both; `has_js` if the mixture was wanted."""

    def __init__(
        self,
        rows: CheckedRows,
        found: PairResults,
        again: Callable[[Target], RowResults],
        *,
        has_js: bool,
        has_target: bool,
    ) -> None:
        names = ("kl", "reverse_kl", "teacher_lse", "teacher_entropy", *(("js",) if has_js else ()))
        known: dict[str, Tensor | None] = {name: getattr(found, name) for name in names}
        super().__init__(rows, found.student, again, known, has_target=has_target)
