"""A score of several labels in a row as text: all together, their mean, and each label."""

from __future__ import annotations

import html
import math
from collections.abc import Hashable, Mapping

from crossent.errors import one_line, shown
from crossent.scoring.parts import Macro, ScoreValues
from crossent.scoring.show import words
from crossent.scoring.show.measures import TextRows
from crossent.scoring.show.text import aligned, html_table


def text(labels: Mapping[Hashable, ScoreValues], micro: ScoreValues, macro: Macro) -> str:
    """Return the score as aligned tables for a terminal."""
    parts = [
        _heading(labels, micro), *aligned(_headline(micro, macro), (0,)), "", "by label", *aligned(_by_label(labels)),
    ]  # fmt: skip
    return "\n".join([*parts, *([""] if micro.warnings else []), *(f"warning: {one_line(w)}" for w in micro.warnings)])


def notebook_html(labels: Mapping[Hashable, ScoreValues], micro: ScoreValues, macro: Macro) -> str:
    """Return the score as plain HTML tables for a notebook."""
    found = [f"<p><b>{html.escape(_heading(labels, micro))}</b></p>", html_table(_headline(micro, macro))]
    found += ["<p><b>by label</b></p>", html_table(_by_label(labels))]
    return "\n".join([*found, *(f"<p>warning: {html.escape(one_line(w))}</p>" for w in micro.warnings)])


def _heading(labels: Mapping[Hashable, ScoreValues], micro: ScoreValues) -> str:
    return f"{words.counted(micro.n, 'pair')} of row and label, {words.counted(len(labels), 'label')}"


def _headline(micro: ScoreValues, macro: Macro) -> TextRows:
    level = f"{100 * micro.level:g} % interval"
    places = words.places(micro.se)
    f1 = {part.value: part.f1 for part in micro.decisions.classes} if micro.decisions else {}
    accuracy = micro.decisions.accuracy.ci if micro.decisions else (math.nan, math.nan)
    area, average = micro.roc_auc, micro.average_precision
    return [
        ("", "all pairs", level, "mean of labels", level),
        (
            "loss, nats", words.number(micro.loss, places), words.interval(micro.ci, places),
            words.number(macro.loss.loss, places), words.interval(macro.loss.ci, places),
        ),
        (
            "accuracy", words.share(micro.accuracy), words.span(*map(words.share, accuracy)),
            words.share(macro.accuracy), "",
        ),
        ("F1", words.number(f1.get(micro.classes[1], 0.0)), "", words.number(macro.f1), ""),
        (
            "Brier score", words.number(micro.brier.value if micro.brier else math.nan, 4),
            words.interval(micro.brier.ci if micro.brier else (math.nan, math.nan), 4),
            words.number(macro.brier, 4), "",
        ),
        ("ROC area", words.number(math.nan if area is None else area, 4), "", words.number(macro.roc_auc, 4), ""),
        (
            "average precision", words.number(math.nan if average is None else average, 4), "",
            words.number(macro.average_precision, 4), "",
        ),
    ]  # fmt: skip


def _by_label(labels: Mapping[Hashable, ScoreValues]) -> TextRows:
    rows: TextRows = [("label", "rows", "positive", "loss, nats", "interval", "skill", "F1", "ROC area")]
    for name, score in labels.items():
        positive = sum(part.weight for part in score.per_class if part.value == score.classes[1])
        f1 = {part.value: part.f1 for part in score.decisions.classes} if score.decisions else {}
        rows.append(
            (
                shown(name), f"{score.n:,}", words.share(positive / score.weight), words.number(score.loss),
                words.interval(score.ci), words.share(score.skill), words.number(f1.get(score.classes[1], 0.0)),
                words.number(math.nan if score.roc_auc is None else score.roc_auc, 4),
            )
        )  # fmt: skip
    return rows
