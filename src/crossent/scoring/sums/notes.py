"""Row validation: invalid rows raise immediately; suspicious rows become warnings of the result."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crossent.errors import Argument, InputError, Message, quoted
from crossent.scoring.input.batch import Batch
from crossent.scoring.parts import Kind, Zero
from crossent.scoring.sums.costs import EXACT
from crossent.scoring.sums.counted import CountedRows

FAR = 1e-2
_NAMED = 3
SENTINEL = -9999.0
"""The number that servers of language models write where they do not report a log-probability."""

_NOUN: dict[Kind, str] = {"probs": "probabilities", "logprobs": "log-probabilities", "logits": "logits"}
_FIX = "drop such rows or fix what made them"
_IF_LOGITS = Message("if these are logits, pass ", Argument("logits"))
_NORMALIZE = Argument("normalize", True)
_MARGINS = Message(
    "if m are log-odds, such as the margins of XGBoost, pass the second column alone as ", Argument("logits")
)
_UNREPORTED = f"{SENTINEL:g} stands for an unreported value, which cannot be scored; see crossent lm"


@dataclass(slots=True)
class Notes:
    """Facts about suspicious rows, which merge.

    `left_out` rows were ignored, `weightless` rows had a weight of 0. Probabilities of `off` rows do not sum to 1: the
    furthest by `furthest` in `furthest_row`; normalising would change Σ w loss by `effect`. `hard` is whether all
    predictions are 0 or 1, `distributions` whether all logits could be probabilities, `opposite` whether all rows of
    logits are [1 − m, m]. In `impossible` rows the true class has probability 0.
    """

    left_out: int = 0
    weightless: int = 0
    off: int = 0
    furthest: float = 0.0
    furthest_row: Hashable = None
    effect: float = 0.0
    hard: bool = True
    distributions: bool = True
    opposite: bool = True
    impossible: int = 0
    impossible_rows: list[Hashable] = field(default_factory=list[Hashable])

    def merge(self, other: Notes) -> None:
        """Add the facts about other rows."""
        if other.furthest > self.furthest:
            self.furthest, self.furthest_row = other.furthest, other.furthest_row
        self.left_out += other.left_out
        self.weightless += other.weightless
        self.off += other.off
        self.effect += other.effect
        self.hard &= other.hard
        self.distributions &= other.distributions
        self.opposite &= other.opposite
        self.impossible += other.impossible
        self.impossible_rows = (self.impossible_rows + other.impossible_rows)[:_NAMED]

    def renumbered(self, first: int) -> Notes:
        """Return the same facts with numbers of rows that begin at `first`."""
        furthest = self.furthest_row + first if isinstance(self.furthest_row, int) else None
        named = [name + first for name in self.impossible_rows if isinstance(name, int)]
        return replace(self, furthest_row=furthest, impossible_rows=named)

    def check(self, rows: CountedRows, *, normalize: bool) -> None:
        """Take note of rows that count.

        Raises
        ------
        InputError
            If the numbers of a row are not what their argument says.
        """
        batch, costs = rows.batch, rows.costs
        if batch.kind != "probs" or not _plainly_right(rows):
            self._check_all(rows, normalize)
        if self.hard:
            self.hard = float(costs.confidence.min()) == 1.0
        if self.distributions:
            self.distributions = batch.kind == "logits" and _are_distributions(rows)
        if self.opposite:
            two = batch.kind == "logits" and not batch.binary and batch.values.shape[1] == 2
            self.opposite = two and _are_opposite(rows)
        if float(costs.loss.max()) == math.inf:
            impossible = np.flatnonzero(np.isposinf(costs.loss))
            self.impossible += len(impossible)
            self.impossible_rows += [rows.name(k) for k in impossible[: _NAMED - len(self.impossible_rows)]]

    def _check_all(self, rows: CountedRows, normalize: bool) -> None:
        kind, costs = rows.batch.kind, rows.costs
        _refuse(np.isnan(costs.plain), rows, f"{kind} hold NaN", _FIX)
        if kind != "logits":
            if not (normalize and not rows.batch.binary and costs.least.min() >= 0.0):
                _check_range(rows)
            if normalize and not rows.batch.binary:
                bad = ~((costs.total > 0) & np.isfinite(costs.total))
                _refuse(bad, rows, "the predictions sum to 0 or to infinity", "such a row cannot be normalised")
            elif not rows.batch.binary:
                self._check_sums(rows)
        _refuse(np.isnan(costs.loss), rows, f"{kind} hold infinite values", _FIX)

    def _check_sums(self, rows: CountedRows) -> None:
        total = rows.costs.total
        away, silent = np.abs(total - 1.0), tolerance(rows.batch)
        off = away > silent
        if not off.any():
            return
        worst = int(away.argmax())
        if away[worst] > max(FAR, 4.0 * silent):
            kind = rows.batch.kind
            hints = {
                "probs": "; if they are weights or counts, pass ",
                "logprobs": "; if classes are missing, add them; or pass ",
            }
            scaled = _other_logarithms(rows.stored(worst)) if kind == "logprobs" else None
            raise InputError(
                Message(
                    f"the {_NOUN[kind]} of {rows.called(worst)} sum to {total[worst]:.6g}; ",
                    *((scaled,) if scaled else (_IF_LOGITS, hints[kind], _NORMALIZE)),
                ),
                argument=kind,
            )
        self.off += int(off.sum())
        if away[worst] > self.furthest:
            self.furthest, self.furthest_row = float(away[worst]), rows.name(worst)
        self.effect += rows.total(np.log(total)[off], off)

    def warnings(self, weight: float, kind: Kind, zero: Zero) -> list[Message]:
        """Return the warnings, for rows of the given total weight."""
        said: list[Message] = []
        if self.impossible:
            said.append(self._about_impossible(zero))
        if self.off:
            rows = "row" if self.off == 1 else "rows"
            said.append(
                Message(
                    f"the {_NOUN[kind]} of {self.off} {rows} do not sum to 1 (off by {self.furthest:.2g} in row "
                    f"{quoted(self.furthest_row)}); ",
                    _NORMALIZE,
                    f" would change the loss by {self.effect / weight:+.2g} nats",
                )
            )
        if self.distributions:
            said.append(
                Message(
                    "all logits are distributions (not negative, summing to 1): if they are probabilities, pass ",
                    Argument("probs"),
                )
            )
        elif self.opposite:
            said.append(Message("all rows of logits are [1 − m, m]; ", *_MARGINS.parts))
        if self.hard:
            said.append(
                Message(
                    "all predictions are exactly 0 or 1: these look like decided classes, not probabilities; a score "
                    "needs the model's probabilities (predict_proba, not predict)"
                )
            )
        return said

    def _about_impossible(self, zero: Zero) -> Message:
        named = ", ".join(map(quoted, self.impossible_rows))
        more = ", …" if self.impossible > len(self.impossible_rows) else ""
        which = f"{self.impossible} {'row' if self.impossible == 1 else 'rows'} ({named}{more})"
        if zero == "inf":
            return Message(
                f"the true class got probability 0 in {which}, so the loss is infinite; pass ",
                Argument("zero", 1e-6),
                ", for example, to charge at least that probability",
            )
        return Message(f"the true class got less than {zero:g} in {which}, which were charged for {zero:g}")


def tolerance(batch: Batch) -> float:
    """Return how far a sum of probabilities may be off as rounding of their type."""
    values = batch.values
    columns = 2 if batch.binary else values.shape[1]
    bits = 52 if values.dtype.itemsize == 8 else 23 if values.dtype.itemsize == 4 else 10
    if str(values.dtype).endswith("bfloat16"):
        bits = 7
    return max(EXACT, 8.0 * 2.0**-bits * math.sqrt(columns))


def _plainly_right(rows: CountedRows) -> bool:
    """Return whether all rows are probabilities that sum to 1; NaN makes it False."""
    costs = rows.costs
    if rows.batch.binary:
        return bool(costs.plain.min() >= 0.0 and costs.plain.max() <= 1.0)
    silent = tolerance(rows.batch)
    return bool(costs.least.min() >= 0.0 and costs.total.min() >= 1.0 - silent and costs.total.max() <= 1.0 + silent)


def _are_distributions(rows: CountedRows) -> bool:
    costs = rows.costs
    if rows.batch.binary:
        return bool(((costs.plain >= 0.0) & (costs.plain <= 1.0)).all())
    return bool(((costs.least >= 0.0) & (np.abs(costs.plain - 1.0) <= tolerance(rows.batch))).all())


def _are_opposite(rows: CountedRows) -> bool:
    """Return whether all rows of two numbers sum to 1, up to rounding of the larger one."""
    plain, least = rows.costs.plain, rows.costs.least
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(plain - least), np.abs(least))
        return bool((np.abs(plain - 1.0) <= tolerance(rows.batch) * np.maximum(size, 1.0)).all())


def _check_range(rows: CountedRows) -> None:
    """Raise if probabilities lie outside [0, 1], or log-probabilities above 0."""
    batch, costs = rows.batch, rows.costs
    slack = EXACT if batch.binary else tolerance(batch)
    if batch.kind == "logprobs":
        _check_logarithms(rows, slack)
        return
    high = costs.plain if batch.binary else costs.confidence
    outside = (costs.least < -slack) | (high > 1.0 + (slack if batch.binary else max(slack, FAR)))
    if outside.any():
        row = rows.stored(int(outside.argmax()))
        extreme = row.min() if row.min() < 0.0 else row.max()
        hint = _outside_hint(costs.plain) if batch.binary else _outside_hint_of_many(row, rows)
        hint = _UNREPORTED if (row == SENTINEL).any() else hint
        _refuse(outside, rows, f"probs hold {extreme:.6g}, which is outside [0, 1]", hint)


def _check_logarithms(rows: CountedRows, slack: float) -> None:
    """Raise if log-probabilities are positive, or mark an unreported value."""
    costs = rows.costs
    with np.errstate(divide="ignore"):
        positive = (costs.plain if rows.batch.binary else np.log(costs.confidence)) > slack
    if positive.any():
        row = rows.stored(int(positive.argmax()))
        column = costs.plain if rows.batch.binary else row
        probabilities = (column >= 0.0).all() and (column <= 1.0).all() and (rows.batch.binary or _is_one(row.sum()))
        hint = Message("pass ", Argument("probs")) if probabilities else _other_logarithms(row) or _IF_LOGITS
        what = f"logprobs hold {row.max():.6g}, and the logarithm of a probability is not positive"
        _refuse(positive, rows, what, hint)
    sentinel = (costs.loss == -SENTINEL) | (costs.least == SENTINEL)
    hint = "it stands for an unreported value, which cannot be scored; for logs of language models see crossent lm"
    _refuse(sentinel, rows, f"logprobs hold {SENTINEL:g}", hint)


def _outside_hint(column: Any) -> str:
    """Return a hint at the likely kind of numbers in a column, one for each row, if they are not probabilities."""
    if (column <= 0.0).all():
        return Message(
            "if these are log-probabilities, pass ",
            Argument("logprobs"),
            "; if they are logits, pass ",
            Argument("logits"),
        )
    if (column >= 0.0).all() and 1.5 < column.max() <= 100.0:
        return Message("if these are percentages, divide by 100; if they are logits, pass ", Argument("logits"))
    return _IF_LOGITS


def _outside_hint_of_many(row: Any, rows: CountedRows) -> str:
    """Return a hint at the likely kind of numbers in a row, one for each class, if they are not probabilities."""
    if (row <= 0.0).all() and _is_one(np.exp(row).sum()):
        return Message("if these are log-probabilities, pass ", Argument("logprobs"))
    if logarithms := _other_logarithms(row):
        return logarithms
    if len(row) == 2 and _are_opposite(rows):
        return Message("all rows are [1 − m, m]; ", *_MARGINS.parts)
    if (row >= 0.0).all() and abs(row.sum() - 100.0) < 1.0:
        return Message("if these are percentages, pass ", _NORMALIZE, "; if they are logits, pass ", Argument("logits"))
    if (row >= 0.0).all():
        return Message(_IF_LOGITS, "; if they are weights or counts, pass ", _NORMALIZE)
    return _IF_LOGITS


def _other_logarithms(row: Any) -> Message | None:
    """Return a hint if the numbers of a row are logarithms of probabilities with another sign or base, else None."""
    if (row >= 0.0).all() and _is_one(np.exp(-row).sum()):
        return Message("if these are −log of probabilities, pass them with the other sign as ", Argument("logprobs"))
    for base in (2, 10):
        if (row <= 0.0).all() and _is_one((float(base) ** row).sum()):
            return Message(
                f"if these are logarithms to base {base}, multiply them by log({base}) and pass that as ",
                Argument("logprobs"),
            )
    return None


def _is_one(total: float) -> bool:
    return abs(total - 1.0) < FAR


def _refuse(wrong: Any, rows: CountedRows, what: str, fix: str) -> None:
    """Raise if any row is wrong, with the first of them and the fix."""
    if wrong.any():
        first, count = int(wrong.argmax()), int(wrong.sum())
        more = f" and {count - 1} more" if count > 1 else ""
        raise InputError(Message(f"{what} ({rows.called(first)}{more}); ", fix), argument=rows.batch.kind)
