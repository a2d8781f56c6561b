"""Ranking of several predictions of the same rows, with the ties that the rows leave open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from crossent.errors import InputError
from crossent.scoring.compared import PairDifference, Ranked, RankingValues, in_bits
from crossent.scoring.comparison import state_to_compare, values_of
from crossent.scoring.differences import Differences
from crossent.scoring.input.arguments import check_level
from crossent.scoring.pairing import Names, paired
from crossent.scoring.parts import Unit
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, repr=False)
class ModelRanking(RankingValues):
    """Several predictions of the same rows, best first, with losses in nats.

    `models` have loss, interval, rank and the letters of their ties: models that share a letter cannot be
    distinguished. `pairs` has the difference of every pair, better model first, with an interval that allows for all
    pairs. These intervals decide: models that err in the same rows can be distinguished by differences far smaller than
    the intervals of their losses.
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
        >>> y = [1, 0, 1, 0]
        >>> models = {name: crossent.score(y, probs=[q, 1 - q, q, 1 - q]) for name, q in (("x", 0.5), ("y", 0.75))}
        >>> crossent.rank(models).to_dict()["models"][0]["name"]
        'y'
        """
        return values_of(self, unit)

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
        >>> crossent.rank({"x": same, "y": same}).to_json(indent=None)[:24]
        '{"models": [{"name": "x"'
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
            Models and pairs.

        Examples
        --------
        >>> import crossent
        >>> same = crossent.score([1, 0], probs=[0.6, 0.3])
        >>> print(crossent.rank({"x": same, "y": same}).to_text().splitlines()[0])
        2 models of 2 rows, paired
        """
        from crossent.scoring.show.comparison_text import ranking_text

        return ranking_text(self if unit == "nats" else in_bits(self), unit)

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
        >>> path = getfixture("tmp_path") / "ranking.html"
        >>> same = crossent.score([1, 0], probs=[0.6, 0.3])
        >>> crossent.rank({"x": same, "y": same}).to_html(path).read_text(encoding="utf-8")[:15]
        '<!DOCTYPE html>'
        """
        from crossent.scoring.show.comparison_report import write_ranking

        return write_ranking(self if unit == "nats" else in_bits(self), Path(path), title, unit)

    def __repr__(self) -> str:
        return self.to_text()


def rank(scores: Mapping[str, Score | ScoreState], *, ci: float | None = None) -> ModelRanking:
    """Rank predictions of the same rows by their loss, and mark the ones that cannot be distinguished.

    Every pair is compared as by `compare`. K models have K (K − 1) / 2 intervals, widened so that all of them hold
    together with probability `ci` (Bonferroni). So a rank does not come from the number of comparisons.

    Parameters
    ----------
    scores
        Two or more scores, or states made with `rows=True`, by the names of their models.
    ci
        Confidence level; by default that of the first score.

    Returns
    -------
    ModelRanking
        Models, best first, and the differences of all pairs.

    Raises
    ------
    InputError
        If there are fewer than two scores, or the rows of two are not the same.
    InputTypeError
        If one is neither a score nor a state.

    Examples
    --------
    >>> import numpy as np
    >>> import crossent
    >>> rng = np.random.default_rng(0)
    >>> y, z = rng.integers(0, 2, 400), rng.normal(size=400)
    >>> z = z + 2.0 * y - 1.0
    >>> noise = {"good": 0.0, "as good": 0.1, "worse": 2.0}
    >>> models = {name: crossent.score(y, logits=z + s * rng.normal(size=400)) for name, s in noise.items()}
    >>> [(model.name, model.rank, model.letters) for model in crossent.rank(models).models]
    [('good', 1, 'a'), ('as good', 1, 'a'), ('worse', 3, 'b')]

    References
    ----------
    Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons", J. Comput. Graph. Stat. 13
    (2004) 456–466, https://doi.org/10.1198/1061860043515
    """
    if len(scores) < 2:
        raise InputError(f"a ranking needs two scores or more, got {len(scores)}", argument="scores")
    states = {str(name): state_to_compare(each, str(name)) for name, each in scores.items()}
    level = next(iter(states.values())).options.ci if ci is None else ci
    check_level(level)
    own = {name: state.finalize() for name, state in states.items()}
    names = sorted(states, key=lambda name: own[name].loss)
    number = len(names) * (len(names) - 1) // 2
    pairs: list[PairDifference] = []
    clusters: int | None = None
    for a, b in combinations(names, 2):
        found = Differences.of(paired(states[a].sums, states[b].sums, Names(a, b)))
        mean = found.mean(1.0 - (1.0 - level) / number)
        clusters = mean.clusters
        adjusted = min(1.0, number * mean.p_value) if mean.p_value == mean.p_value else mean.p_value
        pairs.append(PairDifference(a, b, mean.value, mean.ci, mean.p_value, adjusted))
    apart = {(pair.a, pair.b) for pair in pairs if pair.ci[0] > 0.0 or pair.ci[1] < 0.0}
    letters = tied(names, apart)
    return ModelRanking(
        models=tuple(
            Ranked(
                name,
                own[name].loss,
                _interval(own[name], level),
                1 + sum((other, name) in apart for other in names[:k]),
                letters[name],
            )
            for k, name in enumerate(names)
        ),
        pairs=tuple(pairs),
        n=own[names[0]].n,
        clusters=clusters,
        level=level,
    )


def _interval(score: Score, level: float) -> tuple[float, float]:
    if score.level == level:
        return score.ci
    sums = getattr(score.state, "sums")  # noqa: B009  the protocol of a state does not have it
    low, high = sums.totals.overall().interval(level, 0.0)
    return float(low[0]), float(high[0])


def tied(names: Sequence[str], apart: set[tuple[str, str]]) -> dict[str, str]:
    """Return letters so that two names share one exactly if they are not apart.

    Examples
    --------
    >>> tied(["x", "y", "z"], {("x", "z")})
    {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    groups = [set(names)]
    for pair in sorted(apart):
        split: list[set[str]] = []
        for group in groups:
            split += [group - {name} for name in pair] if group.issuperset(pair) else [group]
        groups = []
        for group in sorted(split, key=len, reverse=True):  # one that lies in another says nothing new
            if not any(group <= other for other in groups):
                groups.append(group)
    groups.sort(key=lambda group: sorted(names.index(name) for name in group))
    return {name: "".join(_letter(k) for k, group in enumerate(groups) if name in group) for name in names}


def _letter(k: int) -> str:
    """Return a, b, …, z, a1, b1, …."""
    turn, place = divmod(k, len(_LETTERS))
    return _LETTERS[place] + (str(turn) if turn else "")
