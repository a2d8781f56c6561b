"""What is wrong or odd about rows: errors at once, warnings counted and said at the end."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crossent.scoring.input.batch import Batch
from crossent.scoring.sums.costs import EXACT, Costs

FAR = 1e-2
_NAMED = 3
SENTINEL = -9999.0
"""What language-model interfaces write in place of a log-probability that they do not tell."""


@dataclass(slots=True)
class Notes:
    """Facts about the rows of a state, which merge."""

    left_out: int = 0
    weightless: int = 0
    off: int = 0
    furthest: float = 0.0
    furthest_row: Hashable = None
    effect: float = 0.0
    hard: bool = True
    distributions: bool = True
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
        self.impossible += other.impossible
        self.impossible_rows = (self.impossible_rows + other.impossible_rows)[:_NAMED]

    def renumbered(self, first: int) -> Notes:
        """Return the same with numbers of rows that begin at `first`."""
        furthest = self.furthest_row + first if isinstance(self.furthest_row, int) else None
        named = [name + first for name in self.impossible_rows if isinstance(name, int)]
        return replace(self, furthest_row=furthest, impossible_rows=named)

    def check(self, batch: Batch, costs: Costs, names: Names, normalize: bool) -> None:
        """Take note of rows that count.

        Raises
        ------
        ValueError
            If the numbers of a row are not what they are said to be.
        """
        kind = batch.kind
        if kind != "probs" or not _plainly_right(batch, costs):
            self._check_all(batch, costs, names, normalize)
        if self.hard:
            self.hard = float(costs.confidence.min()) == 1.0
        if self.distributions:
            self.distributions = kind == "logits" and _are_distributions(batch, costs)
        if float(costs.loss.max()) == math.inf:
            impossible = np.isposinf(costs.loss)
            self.impossible += int(impossible.sum())
            self.impossible_rows += [names[k] for k in np.flatnonzero(impossible)[: _NAMED - len(self.impossible_rows)]]

    def _check_all(self, batch: Batch, costs: Costs, names: Names, normalize: bool) -> None:
        kind = batch.kind
        _refuse(np.isnan(costs.plain), names, f"{kind} hold NaN", _MEND)
        if kind != "logits":
            if not (normalize and not batch.binary and costs.least.min() >= 0.0):
                _check_range(batch, costs, names)
            self._check_sums(batch, costs, names, normalize)
        _refuse(np.isnan(costs.loss), names, f"{kind} hold infinite values", _MEND)

    def _check_sums(self, batch: Batch, costs: Costs, names: Names, normalize: bool) -> None:
        if batch.binary:
            return
        if normalize:
            bad = ~((costs.total > 0) & np.isfinite(costs.total))
            _refuse(bad, names, "the predictions sum to 0 or to infinity", "such a row cannot be normalised")
            return
        away = np.abs(costs.total - 1.0)
        silent = tolerance(batch)
        if not (away > silent).any():
            return
        worst = int(away.argmax())
        if away[worst] > max(FAR, 4.0 * silent):
            hint = "if these are logits, pass logits=; if they are weights or counts, pass normalize=True"
            if batch.kind == "logprobs":
                hint = "if these are logits, pass logits=; if classes are missing, add them; or pass normalize=True"
            raise ValueError(f"the {_THING[batch.kind]} of {names.word(worst)} sum to {costs.total[worst]:.6g}; {hint}")
        off = away > silent
        self.off += int(off.sum())
        if away[worst] > self.furthest:
            self.furthest, self.furthest_row = float(away[worst]), names[worst]
        self.effect += float((np.log(costs.total) * names.weight)[off].sum())

    def warnings(self, weight: float, kind: str, zero: Any) -> list[str]:
        """Return the sentences, for rows of the given total weight."""
        said: list[str] = []
        if self.impossible:
            named = ", ".join(repr(name) for name in self.impossible_rows)
            more = ", …" if self.impossible > len(self.impossible_rows) else ""
            rows = "row" if self.impossible == 1 else "rows"
            if zero == "inf":
                said.append(
                    f"the true class got probability 0 in {self.impossible} {rows} ({named}{more}), so the loss is "
                    "infinite; pass zero=1e-6, say, to charge a smallest probability instead"
                )
            else:
                said.append(
                    f"the true class got less than {zero:g} in {self.impossible} {rows} ({named}{more}), which were "
                    f"charged for {zero:g}"
                )
        if self.off:
            rows = "row" if self.off == 1 else "rows"
            said.append(
                f"the {_THING[kind]} of {self.off} {rows} do not sum to 1 (off by {self.furthest:.2g} in row "
                f"{self.furthest_row!r}); normalize=True would change the loss by {self.effect / weight:+.2g} nats"
            )
        if self.distributions:
            said.append(
                "all logits are distributions (not negative, summing to 1): if they are probabilities, pass probs="
            )
        if self.hard:
            said.append(
                "all predictions are exactly 0 or 1: these look like decided classes, not probabilities; a score needs "
                "what the model gives before it decides (predict_proba, not predict)"
            )
        return said


class Names:
    """How rows are called in errors and tables: by their id, or by number; and what they weigh."""

    def __init__(self, ids: Any | None, first: int, places: Any, weight: Any) -> None:
        self.ids, self.first, self.places, self.weight = ids, first, places, weight

    def __getitem__(self, k: Any) -> Hashable:
        place = int(self.places[k])
        if self.ids is None:
            return self.first + place
        name = self.ids[place]
        return name.item() if isinstance(name, np.generic) else name

    def word(self, k: int) -> str:
        """Return "row 17" or "row 'a17'"."""
        return f"row {self[k]!r}"


_THING = {"probs": "probabilities", "logprobs": "log-probabilities", "logits": "logits"}
_MEND = "drop such rows or mend what made them"


def _plainly_right(batch: Batch, costs: Costs) -> bool:
    """Return whether all rows are probabilities that sum to 1; NaN makes it False."""
    if batch.binary:
        return bool(costs.plain.min() >= 0.0 and costs.plain.max() <= 1.0)
    silent = tolerance(batch)
    total = costs.total
    return bool(costs.least.min() >= 0.0 and total.min() >= 1.0 - silent and total.max() <= 1.0 + silent)


def tolerance(batch: Batch) -> float:
    """Return how far a sum of probabilities may be off as rounding of their type."""
    values = batch.values
    columns = 2 if batch.binary else values.shape[1]
    bits = 52 if values.dtype.itemsize == 8 else 23 if values.dtype.itemsize == 4 else 10
    if str(values.dtype).endswith("bfloat16"):
        bits = 7
    return max(EXACT, 8.0 * 2.0**-bits * math.sqrt(columns))


def _are_distributions(batch: Batch, costs: Costs) -> bool:
    if batch.binary:
        return bool(((costs.plain >= 0.0) & (costs.plain <= 1.0)).all())
    return bool(((costs.least >= 0.0) & (np.abs(costs.plain - 1.0) <= tolerance(batch))).all())


def _check_range(batch: Batch, costs: Costs, names: Names) -> None:
    slack = EXACT if batch.binary else tolerance(batch)
    if batch.kind == "logprobs":
        with np.errstate(divide="ignore"):
            top = costs.plain if batch.binary else np.log(costs.confidence)
        if (top > slack).any():
            row = _row(batch, names, int((top > slack).argmax()))
            hint = "pass probs=" if (row >= 0.0).all() and (row <= 1.0).all() else "if these are logits, pass logits="
            what = f"logprobs hold {row.max():.6g}, and the logarithm of a probability is not positive"
            _refuse(top > slack, names, what, hint)
        sentinel = (costs.loss == -SENTINEL) | (costs.least == SENTINEL)
        hint = "it stands for a value not told, which cannot be scored; for logs of language models see crossent lm"
        _refuse(sentinel, names, f"logprobs hold {SENTINEL:g}", hint)
        return
    high = costs.plain if batch.binary else costs.confidence
    outside = (costs.least < -slack) | (high > 1.0 + max(slack, FAR) if not batch.binary else high > 1.0 + slack)
    if outside.any():
        row = _row(batch, names, int(outside.argmax()))
        extreme = row.min() if row.min() < 0.0 else row.max()
        _refuse(outside, names, f"probs hold {extreme:.6g}, which is outside [0, 1]", _outside_hint(row, batch.binary))


def _row(batch: Batch, names: Names, k: int) -> Any:
    """Return the numbers of a row, as they were given."""
    values = batch.values[int(names.places[k])]
    return np.atleast_1d(np.asarray(values.double() if hasattr(values, "detach") else values, float))


def _outside_hint(row: Any, binary: bool) -> str:
    total = row.sum()
    if (row == SENTINEL).any():
        return f"{SENTINEL:g} stands for a value not told, which cannot be scored; see crossent lm"
    if (row <= 0.0).all() and (binary or abs(np.exp(row).sum() - 1.0) < FAR):
        return "if these are log-probabilities, pass logprobs="
    if (row >= 0.0).all() and ((binary and 1.5 < total <= 100.0) or abs(total - 100.0) < 1.0):
        return "if these are percentages, divide by 100; if they are logits, pass logits="
    if not binary and (row >= 0.0).all():
        return "if these are logits, pass logits=; if they are weights or counts, pass normalize=True"
    return "if these are logits, pass logits="


def _refuse(wrong: Any, names: Names, what: str, fix: str) -> None:
    if wrong.any():
        first, count = int(wrong.argmax()), int(wrong.sum())
        more = f" and {count - 1} more" if count > 1 else ""
        raise ValueError(f"{what} ({names.word(first)}{more}); {fix}")
