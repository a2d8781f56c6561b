"""Comparison of two scores of the same rows: which predictions are better, and whether by more than chance."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from crossent.errors import InputError, InputTypeError
from crossent.scoring.compared import ComparisonValues, Regression, in_bits
from crossent.scoring.differences import Differences, by_value
from crossent.scoring.input.arguments import check_level
from crossent.scoring.input.plain import plain
from crossent.scoring.pairing import Names, paired
from crossent.scoring.parts import Unit
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(ComparisonValues):
    """Comparison of the predictions a and b of the same rows: loss of a minus loss of b, negative if a is better.

    Losses are in nats. `ci` covers the expected difference with probability `level`. `p_value` is the probability of a
    difference at least this far from 0 if the models were equal, by the rule of the interval: it is below 1 − `level`
    where the interval leaves 0 out. Both are NaN for a single independent row or cluster. `share_better` and
    `share_worse` are the shares of the weight of rows with a smaller and a larger loss in a. `per_class` and `by` have
    the difference of the rows of each class, and of each value of the columns that a was scored `by`; `histogram` is
    the distribution of the differences of rows, whose first and last bar hold everything beyond the others.
    """

    def to_dict(self, *, unit: Unit = "nats") -> dict[str, Any]:
        """Return every number by its name.

        Parameters
        ----------
        unit
            Unit of all losses, "nats" or "bits".

        Returns
        -------
        dict
            NaN is None, infinities are "inf" and "-inf".

        Raises
        ------
        InputError
            If the unit is neither.

        Examples
        --------
        >>> import crossent
        >>> a, b = crossent.score([1, 0], probs=[0.6, 0.3]), crossent.score([1, 0], probs=[0.5, 0.5])
        >>> crossent.compare(a, b).to_dict()["share_better"]
        1.0
        """
        return values_of(self, unit, leave_out=("names",))

    def to_json(self, *, indent: int | None = 2, unit: Unit = "nats") -> str:
        """Return `to_dict` as JSON.

        Parameters
        ----------
        indent
            Spaces of indentation, or None for one line.
        unit
            Unit of all losses, "nats" or "bits".

        Returns
        -------
        str
            JSON, without NaN and Infinity, which JSON lacks.

        Examples
        --------
        >>> import crossent
        >>> same = crossent.score([1, 0], probs=[0.6, 0.3])
        >>> crossent.compare(same, same).to_json(indent=None)[:19]
        '{"difference": 0.0,'
        """
        return json.dumps(self.to_dict(unit=unit), indent=indent, allow_nan=False, ensure_ascii=False)

    def to_text(self, *, unit: Unit = "nats") -> str:
        """Return aligned tables, as printed by `print`.

        Parameters
        ----------
        unit
            Unit of all losses, "nats" or "bits".

        Returns
        -------
        str
            The difference, its parts by slice, and the rows with the largest increase in loss.

        Examples
        --------
        >>> import crossent
        >>> same = crossent.score([1, 0], probs=[0.6, 0.3])
        >>> print(crossent.compare(same, same).to_text(unit="bits").splitlines()[2].strip())
        difference, bits  0.000  0.000 to 0.000
        """
        from crossent.scoring.show.comparison_text import comparison_text

        return comparison_text(self if unit == "nats" else in_bits(self), unit)

    def to_html(self, path: str | Path, *, title: str = "", unit: Unit = "nats") -> Path:
        """Write a report with pictures to one self-contained HTML file.

        Parameters
        ----------
        path
            The file to write.
        title
            Heading of the page.
        unit
            Unit of all losses, "nats" or "bits".

        Returns
        -------
        Path
            The file written.

        Raises
        ------
        OSError
            If it cannot be written.

        Examples
        --------
        >>> import crossent
        >>> path = getfixture("tmp_path") / "comparison.html"
        >>> a, b = crossent.score([1, 0], probs=[0.6, 0.3]), crossent.score([1, 0], probs=[0.5, 0.5])
        >>> crossent.compare(a, b).to_html(path).read_text(encoding="utf-8")[:15]
        '<!DOCTYPE html>'
        """
        from crossent.scoring.show.comparison_report import write_comparison

        return write_comparison(self if unit == "nats" else in_bits(self), Path(path), title, unit)

    def __repr__(self) -> str:
        return self.to_text()


def values_of(found: Any, unit: Unit, *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return every field of a comparison or a ranking by its name, for JSON, with its losses in a unit."""
    from crossent.scoring.show.text import json_value

    if unit not in ("nats", "bits"):
        raise InputError(f"unit must be 'nats' or 'bits', not {unit!r}", argument="unit")
    values = in_bits(found) if unit == "bits" else found
    whole = {f.name: json_value(getattr(values, f.name)) for f in fields(found) if f.name not in leave_out}
    return {**whole, "unit": unit}


def compare(a: Score | ScoreState, b: Score | ScoreState, *, ci: float | None = None) -> Comparison:
    """Compare two predictions of the same rows: return the mean difference of their losses, Σ w (l_a − l_b) / Σ w.

    Rows are paired by id if both scores have them, else by their order; the classes and weights of a pair must agree.

    Parameters
    ----------
    a, b
        Scores from `crossent.score`, or states made with `rows=True`; b is the baseline that a is compared with.
    ci
        Confidence level; by default that of a.

    Returns
    -------
    Comparison
        Difference in nats with interval, p-value, shares of better and worse rows, and the worst regressions.

    Raises
    ------
    InputError
        If the rows of the two differ, or a row has an infinite loss in both.
    InputTypeError
        If one is neither a score nor a state.

    Examples
    --------
    >>> import crossent
    >>> y = [1, 0, 1, 0]
    >>> new, old = crossent.score(y, probs=[0.9, 0.2, 0.7, 0.4]), crossent.score(y, probs=[0.8, 0.3, 0.6, 0.3])
    >>> result = crossent.compare(new, old)
    >>> round(result.difference, 4), result.share_better, result.worst_regressions[0].id
    (-0.0628, 0.75, 3)

    References
    ----------
    Hall, "On the removal of skewness by transformation", J. R. Statist. Soc. B 54 (1992) 221–228,
    https://doi.org/10.1111/j.2517-6161.1992.tb01876.x
    """
    return between(a, b, ci=ci)


def between(a: Any, b: Any, *, ci: float | None = None, names: tuple[str, str] = ("a", "b")) -> Comparison:
    """Compare two predictions as `compare` does, with names for the two sides in texts."""
    called = Names(*names)
    first, second = state_to_compare(a, called.a), state_to_compare(b, called.b)
    level = first.options.ci if ci is None else ci
    check_level(level)
    pair = paired(first.sums, second.sums, called)
    mine, theirs = pair
    rows = Differences.of(pair)
    mean = rows.mean(level)
    order = np.argsort(-rows.difference, kind="stable")[: first.options.worst]
    regressions = [
        Regression(plain(mine.id[k]), float(mine.loss[k]), float(theirs.loss[k]))
        for k in order
        if rows.difference[k] > 0
    ]
    sums = first.sums
    assert sums.layout is not None
    names_of = {name: slicing.values.number.items() for name, slicing in sums.by.items()}
    return Comparison(
        difference=mean.value,
        ci=mean.ci,
        se=mean.se,
        p_value=mean.p_value,
        share_better=rows.share(rows.difference < 0),
        share_worse=rows.share(rows.difference > 0),
        n=len(mine),
        clusters=mean.clusters,
        level=level,
        loss_a=float(rows.weight @ mine.loss / rows.weight.sum()),
        loss_b=float(rows.weight @ theirs.loss / rows.weight.sum()),
        worst_regressions=tuple(regressions),
        names=names,
        per_class=tuple(rows.slices(mine.label, ((name, k) for k, name in enumerate(sums.layout.classes)), level)),
        by={name: by_value(rows.slices(mine.by[name], names_of[name], level)) for name in mine.by},
        histogram=rows.histogram(),
    )


def state_to_compare(score: Any, name: str) -> ScoreState:
    """Return the state of a score, whose rows must be kept."""
    if not isinstance(score, Score | ScoreState):
        raise InputTypeError(f"{name} must be a Score of crossent.score, got {type(score).__name__}", argument=name)
    state = score.state if isinstance(score, Score) else score
    if not isinstance(state, ScoreState) or state.sums.kept is None:
        raise InputError(
            f"{name} has no row losses to pair; score with crossent.score, or ScoreState(rows=True)", argument=name
        )
    if not state.sums.kept.blocks:
        raise InputError(f"{name} has no rows", argument=name)
    return state
