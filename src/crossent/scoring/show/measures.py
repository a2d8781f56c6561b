"""Rows and tables of text about a score's measures beside its loss: answers, order, squares and thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from crossent.errors import shown
from crossent.scoring.parts import Confusion, Estimate, ScoreValues, Threshold
from crossent.scoring.show import words

TextRows = list[tuple[str, ...]]
"""Rows of a table, the heading among them; every row has the same number of cells."""
MATRIX = 10
"""Classes whose confusion is a matrix of text; of more the most frequent mistakes are listed."""
_MOST = 12
_TENTHS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
"""Thresholds that are listed; a report and JSON have more."""


class TextTable(NamedTuple):
    """A table and its title."""

    title: str
    rows: TextRows


def measure_rows(score: ScoreValues, convert: Callable[[float], float], unit: str) -> TextRows:
    """Return rows of the headline: accuracy and means over classes with intervals, areas and the Brier score."""
    found = score.decisions
    if found is None:
        return [("accuracy", words.share(score.accuracy), "")]
    rows: TextRows = [("accuracy", words.share(score.accuracy), _shares(found.accuracy))]
    if len(found.classes) > 1:
        rows.append(("balanced accuracy", words.share(found.balanced_accuracy.value), _shares(found.balanced_accuracy)))
    if score.balanced_loss is not None and len(score.per_class) > 1:
        loss, low, high, se = map(convert, (score.balanced_loss.loss, *score.balanced_loss.ci, score.balanced_loss.se))
        places = words.places(se)
        rows.append((f"balanced loss, {unit}", words.number(loss, places), words.interval((low, high), places)))
    if score.brier is not None:
        places = words.places(score.brier.se)
        rows.append(("Brier score", words.number(score.brier.value, places), words.interval(score.brier.ci, places)))
    return rows + _area_rows(score)


def _shares(found: Estimate) -> str:
    return words.span(*(words.share(end) for end in found.ci))


def _area_rows(score: ScoreValues) -> TextRows:
    rows: TextRows = []
    for name, value, within in areas(score):
        if not math.isnan(value):
            rows.append((name, words.number(value, 4), within))
    return rows


def areas(score: ScoreValues) -> list[tuple[str, float, str]]:
    """Return the names, the values, and a note on each of the two areas under curves; [] if there are none."""
    if score.roc_auc is None or score.average_precision is None:
        return []
    auc = max((each.auc_within for each in score.ranking if not math.isnan(each.auc_within)), default=0.0)
    average = max((each.average_precision_within for each in score.ranking if not math.isnan(each.auc)), default=0.0)
    of = f"of class {shown(score.classes[1])}" if len(score.classes) == 2 else "each class against the rest, mean"
    return [
        ("ROC area", score.roc_auc, _note(of, auc)),
        ("average precision", score.average_precision, _note(of, average)),
    ]


def _note(of: str, within: float) -> str:
    return f"{of}, ± {words.number(within, 4)} at most" if within > 0 else of


def measure_tables(score: ScoreValues) -> list[TextTable]:
    """Return the tables of the classes as answers, of their confusion, and of thresholds."""
    found: list[TextTable] = []
    decisions = score.decisions
    if decisions is None or len(decisions.classes) < 2:
        return found
    curves = {each.value: each for each in score.ranking}
    errors = {each.value: each.ece for each in score.class_reliability}
    listed = (
        sorted(decisions.classes, key=lambda part: part.f1)[:_MOST]
        if len(decisions.classes) > _MOST
        else decisions.classes
    )
    title = "predicted classes" + (
        f": the {_MOST} of {len(decisions.classes)} with the least F1" if len(listed) < len(decisions.classes) else ""
    )
    head = ("class", "rows", "precision", "recall", f"recall, {100 * score.level:g} % interval", "F1")
    head += ("ROC area", "calibration error") if errors else ()
    rows: TextRows = [head]
    for part in listed:
        cells = (
            shown(part.value), f"{part.n:,}", words.share(part.precision), words.share(part.recall),
            words.span(*map(words.share, part.recall_ci)), words.number(part.f1),
        )  # fmt: skip
        if errors:
            auc = curves[part.value].auc if part.value in curves else math.nan
            cells += (words.number(auc, 4), words.share(errors.get(part.value, math.nan)))
        rows.append(cells)
    found.append(TextTable(title, rows))
    found += _confusion(score, decisions.confusion)
    return found + _thresholds(score)


def _confusion(score: ScoreValues, confusion: Confusion) -> list[TextTable]:
    """Return the matrix of few classes, or the most frequent mistakes of many; nothing without a mistake."""
    if not confusion.mistakes:
        return []
    if confusion.counts and len(score.classes) <= MATRIX:
        rows: TextRows = [("", *(shown(value) for value in score.classes))]
        rows += [
            (shown(value), *(f"{count:,}" for count in counts))
            for value, counts in zip(score.classes, confusion.counts, strict=True)
        ]
        return [TextTable("confusion matrix: true class (down), predicted class (across)", rows)]
    rows = [("true class", "predicted class", "rows")]
    rows += [(shown(part.label), shown(part.predicted), f"{part.n:,}") for part in confusion.mistakes[:_MOST]]
    return [TextTable("the most frequent mistakes", rows)]


def _thresholds(score: ScoreValues) -> list[TextTable]:
    found = score.thresholds
    if found is None:
        return []
    listed = {part.threshold: (part, "") for part in found.table if part.threshold in _TENTHS}
    listed[found.calibrated.threshold] = (found.calibrated, "best if calibrated")
    listed[found.best.threshold] = (
        found.best, "best in these rows and if calibrated" if found.best == found.calibrated else "best in these rows",
    )  # fmt: skip
    rows: TextRows = [("threshold", "precision", "recall", "F1", "cost of a row", "")]
    rows += [_threshold(part, note) for part, note in sorted(listed.values(), key=lambda pair: pair[0].threshold)]
    costs = f"a false positive costs {found.fp:g}, a false negative {found.fn:g}"
    return [TextTable(f"thresholds for class {shown(score.classes[1])}: {costs}", rows)]


def _threshold(part: Threshold, note: str) -> tuple[str, ...]:
    return (
        threshold_of(part), words.share(part.precision), words.share(part.recall), words.number(part.f1),
        words.number(part.cost, 4), note,
    )  # fmt: skip


def threshold_of(part: Threshold) -> str:
    """Return a threshold as text.

    Examples
    --------
    >>> threshold_of(Threshold(0.25, 0.5, 0.5, 0.5, 1.0)), threshold_of(Threshold(math.inf, 0.5, 0.5, 0.5, 1.0))
    ('0.25', 'above all')
    """
    return "above all" if math.isinf(part.threshold) else f"{part.threshold:.4g}"
