"""Two scores of the same rows: which predictions are better, and whether by more than chance."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from crossent.errors import one_line
from crossent.scoring.parts import Interval
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState
from crossent.scoring.sums.interval import bend_of, bent, ratio

SMALL = 1000
"""Up to this many independent parts the p-value is that of a permutation test."""
_RESAMPLES = 9999


@dataclass(frozen=True, slots=True)
class Regression:
    """A row that got dearer: its name and what it costs in a and in b, in nats."""

    id: Hashable
    a: float
    b: float

    @property
    def difference(self) -> float:
        """How much dearer it is in a."""
        return self.a - self.b


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """The loss of a less the loss of b, in nats, over the same rows: negative if a is better.

    `ci` covers the expected difference with probability `level`. `p_value` is the probability of a difference as large
    if signs were a matter of chance: of the permutation test that flips them up to 1000 independent parts (rows, or
    clusters), else by Hall's transformation. `share_better` and `share_worse` are the shares of rows that cost less and
    more in a than in b.
    """

    difference: float
    ci: Interval
    se: float
    p_value: float
    test: Literal["permutation", "transformed t"]
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
        from crossent.scoring.show.text import plain

        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "names"}

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
        rows = [
            ("", "", f"{100 * self.level:g} % interval"),
            ("difference, nats", words.number(self.difference, places), words.interval(self.ci, places)),
            (f"loss of {a}, nats", words.number(self.loss_a, places), ""),
            (f"loss of {b}, nats", words.number(self.loss_b, places), ""),
            ("p-value", words.number(self.p_value, 4), f"{self.test} test"),
            (f"cheaper in {a}", words.share(self.share_better), "of the rows"),
            (f"dearer in {a}", words.share(self.share_worse), "of the rows"),
        ]
        said = [f"{a} less {b}: {words.counted(self.n, 'row')}{clusters}, in pairs", *aligned(rows, (0, 2))]
        if self.worst_regressions:
            head = ("row", f"{a}, nats", f"{b}, nats", "difference")
            worst = [
                (one_line(r.id), *(words.number(x) for x in (r.a, r.b, r.difference))) for r in self.worst_regressions
            ]
            said += ["", "the rows that got dearest", *aligned([head, *worst])]
        return "\n".join(said)


def compare(a: Score | ScoreState, b: Score | ScoreState, *, ci: float | None = None) -> Comparison:
    """Return how much dearer the predictions of a are than those of b, Σ w (l_a − l_b) / Σ w, over the same rows.

    Rows are paired by id if both scores have them, else by their order; the classes and weights of a pair must agree.

    Parameters
    ----------
    a, b
        Scores from `crossent.score`, or states made with `rows=True`: what is compared, and what it is compared with.
    ci
        Level of confidence, by default that of a.

    Returns
    -------
    Comparison
        Difference in nats with interval, p-value, share of rows that got better, and rows that got worst.

    Raises
    ------
    ValueError
        If the rows of the two are not the same, or one has an infinite loss in a row where the other has one too.

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
    Good, "Permutation, parametric and bootstrap tests of hypotheses", 3rd ed. (2005), section 3.7.
    """
    return between(a, b, ci=ci)


def between(a: Any, b: Any, *, ci: float | None = None, names: tuple[str, str] = ("a", "b")) -> Comparison:
    """Return what `compare` does, with names for the two."""
    first, second = _state(a, names[0]), _state(b, names[1])
    level: Any = first.options.ci if ci is None else ci
    if not (isinstance(level, float) and 0.0 < level < 1.0):
        raise ValueError(f"ci must be a level of confidence between 0 and 1, such as 0.95; got {ci!r}")
    mine, theirs = _paired(first, second, names)
    loss_a, loss_b = mine["loss"], theirs["loss"]
    both = np.isposinf(loss_a) & np.isposinf(loss_b)
    if both.any():
        raise ValueError(
            f"the loss of {int(both.sum())} rows is infinite in {names[0]} and in {names[1]} (row "
            f"{_item(mine['id'][both.argmax()])!r}), "
            "which has no difference; score both with a smallest probability, such as zero=1e-6"
        )
    difference = loss_a - loss_b
    n = len(difference)
    weight = np.ones(n) if mine["weight"] is None else mine["weight"]
    with np.errstate(invalid="ignore"):
        total, share = weight * difference, weight
        if mine["cluster"] is not None:
            _, place = np.unique(mine["cluster"], return_inverse=True)
            total, share = (np.bincount(place.reshape(-1), part) for part in (total, share))
        mean = ratio(total, share)
        low, high = (float(end) for end in mean.interval(level))
        value = float(mean.value)
    if not np.isfinite(value):
        low = high = value
    p_value, test = _p_value(mean, total, share)
    order = np.argsort(-difference, kind="stable")[: first.options.worst]
    regressions = [
        Regression(_item(mine["id"][k]), float(loss_a[k]), float(loss_b[k])) for k in order if difference[k] > 0
    ]
    return Comparison(
        difference=value,
        ci=(low, high),
        se=float(mean.se),
        p_value=p_value,
        test=test,
        share_better=float(weight @ (difference < 0) / weight.sum()),
        share_worse=float(weight @ (difference > 0) / weight.sum()),
        n=n,
        clusters=None if mine["cluster"] is None else len(total),
        level=level,
        loss_a=float(weight @ loss_a / weight.sum()),
        loss_b=float(weight @ loss_b / weight.sum()),
        worst_regressions=tuple(regressions),
        names=names,
    )


def _p_value(mean: Any, total: Any, share: Any) -> tuple[float, Literal["permutation", "transformed t"]]:
    """Return the two-sided p-value of no difference, and the test it is from."""
    from scipy.special import stdtr
    from scipy.stats import permutation_test

    n = len(total)
    if n == 1 or not np.isfinite(mean.value):
        return 1.0 if n == 1 else float("nan"), "permutation" if n <= SMALL else "transformed t"
    if n <= SMALL:
        found = permutation_test(
            (total,), lambda x, axis: x.sum(axis=axis) / share.sum(), permutation_type="samples", vectorized=True,
            n_resamples=_RESAMPLES, batch=256, rng=np.random.default_rng(0),
        )  # fmt: skip
        return float(found.pvalue), "permutation"
    if mean.se == 0:
        return 1.0 if mean.value == 0 else 0.0, "transformed t"
    ratio_ = bent(mean.value / mean.se, *bend_of(mean))
    return float(2.0 * stdtr(np.maximum(mean.even - 1.0, 1.0), -abs(ratio_))), "transformed t"


def _state(score: Any, name: str) -> ScoreState:
    if not isinstance(score, Score | ScoreState):
        raise TypeError(f"{name} must be a Score of crossent.score, got {type(score).__name__}")
    state = score.state if isinstance(score, Score) else score
    if state is None or state.kept is None:
        raise ValueError(f"{name} has no losses of rows to pair; score with crossent.score, or ScoreState(rows=True)")
    if not state.kept.blocks:
        raise ValueError(f"{name} has no rows")
    return state


def _paired(a: ScoreState, b: ScoreState, names: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rows of both in the same order."""
    both = " and ".join(names)
    assert a.layout is not None
    assert b.layout is not None
    classes = a.layout.classes
    if classes != b.layout.classes:
        raise ValueError(f"{both} have different classes, {list(classes)!r} and {list(b.layout.classes)!r}")
    first, second = _columns(a), _columns(b)
    named = [part["id"] is not None for part in (first, second)]
    if named[0] != named[1]:
        with_, without = names if named[0] else names[::-1]
        raise ValueError(f"{with_} has ids and {without} has none; pass id= to both, or to neither to pair by order")
    if named[0]:
        order = _matched(first["id"], second["id"], names)
        for name, part in second.items():
            second[name] = None if part is None else part[order]
    elif len(first["loss"]) != len(second["loss"]):
        raise ValueError(
            f"{names[0]} has {len(first['loss'])} rows and {names[1]} has {len(second['loss'])}; "
            "only the same rows can be compared: pass id= to pair them"
        )
    else:
        first["id"] = first["number"]
    wrong: Any = first["label"] != second["label"]
    if wrong.any():
        k = int(wrong.argmax())
        said = " and ".join(repr(classes[part["label"][k]]) for part in (first, second))
        raise ValueError(
            f"{both} have different true classes, {said} in row {_item(first['id'][k])!r}; only the same rows can be "
            "compared: pass id= to pair them if they are in different orders"
        )
    ones = np.ones(len(wrong))
    weights: list[Any] = [ones if part["weight"] is None else part["weight"] for part in (first, second)]
    wrong = weights[0] != weights[1]
    if wrong.any():
        k = int(wrong.argmax())
        said = " and ".join(f"{weight[k]:g}" for weight in weights)
        raise ValueError(f"{both} have different weights, {said} in row {_item(first['id'][k])!r}")
    first["cluster"] = _same_clusters(first, second, names)
    return first, second


def _same_clusters(a: dict[str, Any], b: dict[str, Any], names: tuple[str, str]) -> Any:
    """Return the clusters of either side, which must put the same rows together."""
    mine, theirs = a["cluster"], b["cluster"]
    if mine is None and theirs is None:
        return None
    if mine is None or theirs is None:
        with_, without = names[::-1] if mine is None else names
        raise ValueError(f"{with_} has clusters and {without} has none; give both the same")
    first, place = np.unique(mine, return_index=True)
    there = dict(zip(first.tolist(), theirs[place].tolist(), strict=True))
    wrong = np.array([there[name] for name in mine.tolist()]) != theirs
    if wrong.any() or len(np.unique(theirs)) != len(first):
        k = int(wrong.argmax())
        raise ValueError(
            f"{' and '.join(names)} have different clusters (row {_item(a['id'][k])!r}); give both the same"
        )
    return mine


def _columns(state: ScoreState) -> dict[str, Any]:
    assert state.kept is not None
    return {name: state.kept.column(name) for name in ("loss", "label", "weight", "cluster", "id", "number")}


def _matched(mine: Any, theirs: Any, called: tuple[str, str]) -> Any:
    """Return the places in `theirs` of the ids `mine`."""
    place = {_item(name): k for k, name in enumerate(theirs)}
    names = [_item(name) for name in mine]
    for who, ids, count in ((called[0], names, len(set(names))), (called[1], theirs, len(place))):
        if count < len(ids):
            seen: set[Any] = set()
            twice = next(name for name in map(_item, ids) if name in seen or seen.add(name))
            raise ValueError(
                f"the ids of {who} are not unique: {len(ids)} rows have {count}, and {twice!r} names more than one"
            )
    missing = [name for name in names if name not in place]
    if missing or len(place) != len(names):
        extra = next(iter(place.keys() - set(names)), None)
        example = f"{missing[0]!r} is in {called[0]} alone" if missing else f"{extra!r} is in {called[1]} alone"
        raise ValueError(
            f"{' and '.join(called)} do not have the same rows: {len(missing)} ids are in {called[0]} alone and "
            f"{len(place) - len(names) + len(missing)} in {called[1]} alone ({example}); "
            "compare the rows that both have"
        )
    return np.array([place[name] for name in names])


def _item(name: Any) -> Any:
    return name.item() if isinstance(name, np.generic) else name
