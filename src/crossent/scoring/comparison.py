"""Comparison of two scores of the same rows: which predictions are better, and whether by more than chance."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from crossent.errors import InputError, InputTypeError, shown
from crossent.scoring.input.arguments import check_level
from crossent.scoring.input.plain import plain
from crossent.scoring.pairing import Names, paired
from crossent.scoring.parts import Interval
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState
from crossent.scoring.sums.interval import p_value, ratio


@dataclass(frozen=True, slots=True)
class Regression:
    """A row that costs more in a than in b: its id and both losses, in nats."""

    id: Hashable
    a: float
    b: float

    @property
    def difference(self) -> float:
        """The loss in a less the loss in b."""
        return self.a - self.b


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """Comparison of the predictions a and b of the same rows: loss of a less loss of b, negative if a is better.

    Losses are in nats. `ci` covers the expected difference with probability `level`. `p_value` is the probability of a
    difference as far from 0 if none were expected, by the rule of the interval: it is below 1 − `level` where the
    interval leaves 0 out. Both are NaN for a single independent row or cluster. `share_better` and `share_worse` are
    the shares of the weight of rows that cost less and more in a than in b.
    """

    difference: float
    ci: Interval
    se: float
    p_value: float
    share_better: float
    share_worse: float
    n: int
    clusters: int | None
    level: float
    loss_a: float
    loss_b: float
    worst_regressions: tuple[Regression, ...]
    names: tuple[str, str] = ("a", "b")

    def to_dict(self) -> dict[str, Any]:
        """Return every number by its name.

        Returns
        -------
        dict
            NaN is None, infinities are "inf" and "-inf".

        Examples
        --------
        >>> import crossent
        >>> a, b = crossent.score([1, 0], probs=[0.6, 0.3]), crossent.score([1, 0], probs=[0.5, 0.5])
        >>> crossent.compare(a, b).to_dict()["share_better"]
        1.0
        """
        from crossent.scoring.show.text import json_value

        return {f.name: json_value(getattr(self, f.name)) for f in fields(self) if f.name != "names"}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON.

        Parameters
        ----------
        indent
            Spaces of indentation, or None for one line.

        Returns
        -------
        str
            JSON without NaN or Infinity, which it does not know.

        Examples
        --------
        >>> import crossent
        >>> same = crossent.score([1, 0], probs=[0.6, 0.3])
        >>> crossent.compare(same, same).to_json(indent=None)[:19]
        '{"difference": 0.0,'
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False, ensure_ascii=False)

    def __repr__(self) -> str:
        from crossent.scoring.show import words
        from crossent.scoring.show.text import aligned

        places = words.places(self.se)
        clusters = "" if self.clusters is None else f" in {words.counted(self.clusters, 'cluster')}"
        a, b = ("NEW", "OLD") if self.names != ("a", "b") else self.names
        table = [
            ("", "", f"{100 * self.level:g} % interval"),
            ("difference, nats", words.number(self.difference, places), words.interval(self.ci, places)),
            (f"loss of {a}, nats", words.number(self.loss_a, places), ""),
            (f"loss of {b}, nats", words.number(self.loss_b, places), ""),
            ("p-value", words.number(self.p_value, 4), "of no difference"),
            (f"cheaper in {a}", words.share(self.share_better), "of the rows"),
            (f"dearer in {a}", words.share(self.share_worse), "of the rows"),
        ]
        said = [f"{a} less {b}: {words.counted(self.n, 'row')}{clusters}, in pairs", *aligned(table, (0, 2))]
        if self.worst_regressions:
            head = ("row", f"{a}, nats", f"{b}, nats", "difference")
            worst = [
                (shown(r.id), *(words.number(x) for x in (r.a, r.b, r.difference))) for r in self.worst_regressions
            ]
            said += ["", "the rows that got dearest", *aligned([head, *worst])]
        return "\n".join(said)


def compare(a: Score | ScoreState, b: Score | ScoreState, *, ci: float | None = None) -> Comparison:
    """Compare two predictions of the same rows: return the mean difference of their losses, Σ w (l_a − l_b) / Σ w.

    Rows are paired by id if both scores have them, else by their order; the classes and weights of a pair must agree.

    Parameters
    ----------
    a, b
        Scores from `crossent.score`, or states made with `rows=True`; b is the baseline that a is compared with.
    ci
        Level of confidence, by default that of a.

    Returns
    -------
    Comparison
        Difference in nats with interval, p-value, shares of better and worse rows, and the worst regressions.

    Raises
    ------
    InputError
        If the rows of the two are not the same, or one has an infinite loss in a row where the other has one too.
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
    first, second = _state(a, called.a), _state(b, called.b)
    level = first.options.ci if ci is None else ci
    check_level(level)
    mine, theirs = paired(first.sums, second.sums, called)
    difference = mine.loss - theirs.loss
    n = len(difference)
    weight = np.ones(n) if mine.weight is None else mine.weight
    with np.errstate(invalid="ignore"):
        total, share = weight * difference, weight
        if mine.cluster is not None:
            _, place = np.unique(mine.cluster, return_inverse=True)
            total, share = (np.bincount(place.reshape(-1), part) for part in (total, share))
        mean = ratio(total, share)
        low, high = (float(end) for end in mean.interval(level))
        value = float(mean.value)
    if not np.isfinite(value):
        low = high = value
    order = np.argsort(-difference, kind="stable")[: first.options.worst]
    regressions = [
        Regression(plain(mine.id[k]), float(mine.loss[k]), float(theirs.loss[k])) for k in order if difference[k] > 0
    ]
    return Comparison(
        difference=value,
        ci=(low, high),
        se=float(mean.se),
        p_value=p_value(mean),
        share_better=float(weight @ (difference < 0) / weight.sum()),
        share_worse=float(weight @ (difference > 0) / weight.sum()),
        n=n,
        clusters=None if mine.cluster is None else len(total),
        level=level,
        loss_a=float(weight @ mine.loss / weight.sum()),
        loss_b=float(weight @ theirs.loss / weight.sum()),
        worst_regressions=tuple(regressions),
        names=names,
    )


def _state(score: Any, name: str) -> ScoreState:
    if not isinstance(score, Score | ScoreState):
        raise InputTypeError(f"{name} must be a Score of crossent.score, got {type(score).__name__}", argument=name)
    state = score.state if isinstance(score, Score) else score
    if not isinstance(state, ScoreState) or state.sums.kept is None:
        raise InputError(
            f"{name} has no losses of rows to pair; score with crossent.score, or ScoreState(rows=True)", argument=name
        )
    if not state.sums.kept.blocks:
        raise InputError(f"{name} has no rows", argument=name)
    return state
