"""Several labels in a row, each there or not: a score of two classes for each label, and that of all together."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossent.errors import InputError, quoted
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.arrow_numbers import Matrix
from crossent.scoring.input.classes import class_names, matched, numbers_of, of_columns
from crossent.scoring.input.labels import Coded, listing
from crossent.scoring.input.predictions import matrix
from crossent.scoring.input.series import code
from crossent.scoring.parts import BalancedLoss, Macro
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState
from crossent.scoring.sums.proportion import balanced, estimate

BY = "label"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MultilabelScore:
    """Result of scoring several labels in a row.

    `labels` has the score of each label by its name. `micro` is the score of all pairs of row and label as rows of two
    classes: its intervals take rows as clusters, and `micro.by["label"]` has the labels. `macro` are means over the
    labels, without the undefined `roc_auc` of labels that all rows or none have.
    """

    labels: Mapping[Hashable, Score]
    micro: Score
    macro: Macro

    @property
    def loss(self) -> float:
        """The mean loss of a label of a row, in nats."""
        return self.micro.loss

    @property
    def ci(self) -> tuple[float, float]:
        """The interval of the loss, whose independent parts are rows."""
        return self.micro.ci

    @property
    def n(self) -> int:
        """Number of rows that count."""
        return max((score.n for score in self.labels.values()), default=0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of all labels together."""
        return self.micro.warnings

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, using only lists, dicts, numbers and texts.

        Returns
        -------
        dict
            "micro", "macro" and "labels".

        Examples
        --------
        >>> import crossent
        >>> crossent.score([[1, 0], [0, 1]], probs=[[0.5, 0.5], [0.5, 0.5]], multilabel=True).to_dict()["micro"]["bits"]
        1.0
        """
        from crossent.scoring.show.text import json_value

        labels = {str(name): score.to_dict() for name, score in self.labels.items()}
        return {"micro": self.micro.to_dict(), "macro": json_value(self.macro), "labels": labels}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON.

        Parameters
        ----------
        indent
            Spaces of indentation, or None for one line.

        Returns
        -------
        str
            JSON, without NaN and Infinity, which JSON lacks.

        Examples
        --------
        >>> import crossent
        >>> crossent.score([[1, 0], [0, 1]], probs=[[0.5, 0.5]] * 2, multilabel=True).to_json(indent=None)[:36]
        '{"micro": {"loss": 0.693147180559945'
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False, ensure_ascii=False)

    def to_html(self, path: str | Path, *, title: str = "Loss of the predictions", source: str = "") -> Path:
        """Write the report of all labels together, with a loss for each of them.

        Parameters
        ----------
        path
            The file to write.
        title, source
            Heading of the page, and origin of the predictions.

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
        >>> path = getfixture("tmp_path") / "report.html"
        >>> found = crossent.score([[1, 0], [0, 1]], probs=[[0.5, 0.6], [0.4, 0.7]], multilabel=True)
        >>> found.to_html(path).name
        'report.html'
        """
        return self.micro.to_html(path, title=title, source=source)

    def __repr__(self) -> str:
        from crossent.scoring.show.labels import text

        return text(self.labels, self.micro, self.macro)

    def _repr_html_(self) -> str:
        from crossent.scoring.show.labels import notebook_html

        return notebook_html(self.labels, self.micro, self.macro)


class MultilabelState:
    """Score several labels in a row, in parts: `update` with each part, `finalize` to a `MultilabelScore`.

    Parameters
    ----------
    options
        Those of `ScoreState`, but `classes`.

    Examples
    --------
    >>> state = MultilabelState()
    >>> state.update([[1, 0]], probs=[[0.5, 0.5]]).update([[0, 1]], probs=[[0.5, 0.25]]).finalize().n
    2
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        flat: dict[str, Any] = {**options, "rows": False, "bins": None}
        self.flat = ScoreState(**flat)
        self.states: dict[Hashable, ScoreState] = {}
        self.seen = 0

    def update(self, y: Any, **given: Any) -> MultilabelState:
        """Add rows, y (N, L) and predictions (N, L) of each label's being there, and return the state itself.

        Where both have names, columns of the same label belong together, in any order.

        Raises
        ------
        InputError
            If the rows cannot be scored.
        """
        arguments = RowArguments(**given)
        kind, values = arguments.predictions
        truth, found = (_wide(matrix(part, name)) for part, name in ((y, "y"), (values, kind)))
        if tuple(truth.values.shape) != tuple(found.values.shape):
            raise InputError(
                f"y and {kind} must have the same shape (rows, labels), got {tuple(truth.values.shape)} and "
                f"{tuple(found.values.shape)}",
                argument="y",
            )
        n, count = truth.values.shape
        named = found.names or truth.names
        names: list[Hashable] = list(class_names(named)) if named else list(range(count))
        if found.names and truth.names:
            places = paired(truth.names, found.names, kind)
            truth = truth._replace(values=truth.values[:, places], names=[truth.names[k] for k in places])
        if self.states and list(self.states) != names:
            raise InputError(f"these rows have the labels {names}, earlier ones {list(self.states)}", argument="y")
        self._require_truths(truth.values, names)
        rest = {name: given.get(name) for name in ("weight", "by", "id")}
        cluster = given.get("cluster")
        for k, name in enumerate(names):
            state = self.states.setdefault(name, ScoreState(**self.options))
            _ = state.update(truth.values[:, k], **{kind: found.values[:, k]}, cluster=cluster, **rest)
        together = Coded(np.arange(n), range(self.seen, self.seen + n)) if cluster is None else code(cluster, "cluster")
        weight = given.get("weight")
        _ = self.flat.update(
            truth.values.reshape(-1),
            **{kind: found.values.reshape(-1)},
            cluster=Coded(np.repeat(together.codes, count), together.values),
            weight=None if weight is None else np.repeat(np.asarray(weight), count),
            by={BY: np.tile(np.array([str(name) for name in names], object), n).tolist()},
            id=[f"{row}: {name}" for row in range(self.seen, self.seen + n) for name in names],
        )
        self.seen += n
        return self

    def _require_truths(self, y: Any, names: list[Hashable]) -> None:
        """Raise unless each number is 0 or 1, or missing, or to be ignored."""
        ignored = [label for label in self.flat.options.ignore if isinstance(label, int | float)]
        numbers = np.asarray(y, float)
        wrong = np.argwhere(~((numbers == 0) | (numbers == 1) | np.isnan(numbers) | np.isin(numbers, ignored)))
        if len(wrong):
            row, k = wrong[0].tolist()
            raise InputError(
                f"label {quoted(names[k])} of row {self.seen + row} is {numbers[row, k]:g}, neither 0 nor 1 "
                f"({len(wrong)} in total); y has a column for each label, which is 1 where a row has it",
                argument="y",
            )

    def finalize(self) -> MultilabelScore:
        """Return the score of the rows so far.

        Raises
        ------
        InputError
            If no row counts.
        """
        micro = self.flat.finalize()
        scores = {name: state.finalize() for name, state in self.states.items()}
        loss = estimate(balanced(self.flat.sums.by[BY].totals), micro.level)
        return MultilabelScore(
            scores,
            micro,
            Macro(
                BalancedLoss(loss.value, loss.ci, loss.se),
                _mean(score.accuracy for score in scores.values()),
                _mean(score.brier.value for score in scores.values() if score.brier),
                _mean(_f1(score) for score in scores.values()),
                _mean(score.roc_auc for score in scores.values()),
                _mean(score.average_precision for score in scores.values()),
            ),
        )


def _wide(found: Matrix) -> Matrix:
    """Return a matrix whose numbers are (N, L), of a single label too."""
    return found if found.values.ndim == 2 else found._replace(values=found.values.reshape(-1, 1))


def paired(truths: Sequence[str], predictions: Sequence[str], kind: str) -> list[int]:
    """Return the place among the columns of y of the label of each column of predictions.

    Names are compared without their common beginning and end. If the names of either side only number its columns, from
    0 or 1, the columns pair by position.

    Raises
    ------
    InputError
        If the names are of different labels.

    Examples
    --------
    >>> paired(["y_cat", "y_dog"], ["p_dog", "p_cat"], "probs"), paired(["cat", "dog"], ["p0", "p1"], "probs")
    ([1, 0], [0, 1])
    """
    mine, theirs = of_columns(truths), of_columns(predictions)
    counts = [[str(k + first) for k in range(len(truths))] for first in (0, 1)]
    found = matched(theirs.names, mine.names)
    if found is None:  # one side may have a beginning that the other has cut off
        known = numbers_of(mine)
        forms = [(name, *(theirs.others[k] if theirs.others else ())) for k, name in enumerate(theirs.names)]
        places = [{place for form in each for place in known.find(form)} for each in forms]
        whole = all(len(each) == 1 for each in places) and len(set().union(*places)) == len(truths)
        found = [each.pop() for each in places] if whole else None
    if found is None and (len(truths) == 1 or list(mine.names) in counts or list(theirs.names) in counts):
        found = list(range(len(truths)))
    if found is None:
        raise InputError(
            f"the columns of y name the labels {listing(mine.names)}, the columns of {kind} name "
            f"{listing(theirs.names)}; name both alike, such as y_cat and p_cat",
            argument=kind,
        )
    return found


def _f1(score: Score) -> float:
    """Return the F1 of the label's being there, 0 if it is neither there nor predicted, as in scikit-learn."""
    found = {part.value: part.f1 for part in score.decisions.classes} if score.decisions else {}
    return found.get(score.classes[1], 0.0)


def _mean(values: Any) -> float:
    there = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(there)) if there else float("nan")


def score_labels(y: Any, options: Mapping[str, Any], given: Mapping[str, Any]) -> MultilabelScore:
    """Return the score of several labels in a row, of the arguments of `score`."""
    if options.get("classes") is not None:
        raise InputError("each of several labels has the classes 0 and 1; leave classes out", argument="classes")
    return (
        MultilabelState(**{name: value for name, value in options.items() if name != "classes"})
        .update(y, **given)
        .finalize()
    )
