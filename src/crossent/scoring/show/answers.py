"""Sections of a report about answers and their order: cards, confusion, curves, thresholds, calibration by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crossent.html import Markup, clipped, figure, safe, table
from crossent.scoring.parts import Decided, Estimate, Ranking, ScoreValues, Threshold
from crossent.scoring.show import curves, words
from crossent.scoring.show.measures import threshold_of
from crossent.scoring.show.words import counted, interval, number, share

_MATRIX = 12
_LISTED = 30
_TALL = 15  # rows of a table that scrolls
_STRONGEST = 45  # percent of the colour in a cell of the matrix


def cards(score: ScoreValues) -> list[tuple[str, str, str]]:
    """Return heading, value and text of the cards about answers: means over classes, areas and the Brier score."""
    found: list[tuple[str, str, str]] = []
    decisions, level = score.decisions, f"{100 * score.level:g}&nbsp;%"
    if decisions is not None and len(decisions.classes) > 1:
        balanced = decisions.balanced_accuracy
        text = f"{_between(level, words.span(*map(share, balanced.ci)))} The mean over the classes of their recall"
        if score.balanced_loss is not None:
            places = words.places(score.balanced_loss.se)
            text += f"; that of their losses is <b>{number(score.balanced_loss.loss, places)}</b> nats"
            text += f" ({interval(score.balanced_loss.ci, places)})"
        text += f". The mean of their F1 is <b>{number(decisions.f1)}</b>."
        found.append(("Balanced accuracy", share(balanced.value), text))
    if score.roc_auc is not None and not math.isnan(score.roc_auc):
        within = max((each.auc_within for each in score.ranking if not math.isnan(each.auc)), default=0.0)
        off = f" Read from a grid: off by {number(within, 4)} at most." if within else ""
        two = len(score.classes) == 2
        what = "of a random positive and a random negative row, the positive one has the larger probability"
        rest = (
            "of a random row of a class and a random other row, the first has the larger probability of the class; "
            "mean over the classes"
        )
        found.append(("ROC area", number(score.roc_auc, 4), f"The probability that, {what if two else rest}.{off}"))
        average = score.average_precision
        if average is not None:
            text = "The precision at all thresholds, weighted by the recall that each one adds"
            text += "." if two else ": the mean over the classes, each against the rest."
            found.append(("Average precision", number(average, 4), text))
    if score.brier is not None:
        places = words.places(score.brier.se)
        text = _between(level, interval(score.brier.ci, places))
        text += f" {_brier_parts(score)}"
        found.append(("Brier score", number(score.brier.value, places), text))
    return found


def _brier_parts(score: ScoreValues) -> str:
    found = score.brier
    if found is None or found.miscalibration is None or found.discrimination is None or found.uncertainty is None:
        return "The mean squared error of the probabilities."
    parts = (
        f"<b>{number(found.miscalibration, 4)}</b> miscalibration − <b>{number(found.discrimination, 4)}</b> "
        f"discrimination + <b>{number(found.uncertainty, 4)}</b> uncertainty"
    )
    return f"The mean squared error of the probabilities: {parts}."


def _between(level: str, text: str) -> str:
    return "No interval." if text == "no interval" else f"{level} interval <b>{text}</b>."


def blame(score: ScoreValues) -> str:
    """Return the section about rows with an infinite loss: the floors, and which rows they are."""
    found = score.finite
    if found is None or not found.blame:
        return ""
    count = sum(part.n for part in found.blame)
    places = words.places(found.se)
    rows = [
        (safe(part.value), f"{part.n:,}", f"{part.rows:,}", share(part.n / part.rows))
        for part in sorted(found.blame, key=lambda part: -part.n)[:_LISTED]
    ]
    heading = ("true class", "rows with probability 0", "rows of the class", "share")
    floors = [(words.probability(floor.zero), number(floor.loss, places)) for floor in found.floors]
    named = ", ".join(safe(each) for each in found.ids)
    more = f" and {count - len(found.ids):,} more" if count > len(found.ids) else ""
    return (
        f"<h2>Why is the loss infinite?</h2>\n<p>The true class of {counted(count, 'row')} got probability 0, as if it "
        "were impossible. A floor on the probability makes the loss finite, and the floor then decides how large it "
        "is.</p>\n"
        f'<div class="pair"><div class="card">{table(heading, rows, caption="Rows that got probability 0")}'
        f"<details><summary>Which rows</summary><p>{named}{more}</p></details></div>"
        f'<div class="card">{table(("floor", "loss of all rows, nats"), floors, caption="Floors")}</div>'
        "</div>"
    )


def answers(score: ScoreValues) -> str:
    """Return the section about the most probable classes as answers."""
    found = score.decisions
    if found is None or len(found.classes) < 2:
        return ""
    text = (
        "<p>The answer is the most probable class. <b>Precision</b> is the share of right answers among the answers of "
        "a class, <b>recall</b> the share of right answers among the rows of a class.</p>"
    )
    return (
        f'<h2>Which classes are mistaken for which?</h2>\n{text}\n<div class="pair">{_confusion(score)}</div>'
        f"{_by_class(score, found.classes)}"
    )


def _confusion(score: ScoreValues) -> str:
    assert score.decisions is not None
    confusion, cards = score.decisions.confusion, ""
    if confusion.counts and len(score.classes) <= _MATRIX:
        cards = f'<div class="card">{_matrix(score)}</div>'
    elif confusion.counts:
        caption = "Answers (across) to the rows of each class (down)"
        cards = figure(caption, curves.grid(confusion, len(score.classes)))
    if confusion.mistakes and len(score.classes) > 2:
        rows = [(safe(part.label), safe(part.predicted), f"{part.n:,}") for part in confusion.mistakes[:10]]
        heading = ("true class", "answer", "rows")
        cards += f'<div class="card">{table(heading, rows, caption="The most frequent mistakes", texts=(1,))}</div>'
    return cards


def _matrix(score: ScoreValues) -> Markup:
    """Return the matrix as a table, each cell shaded by its share of the rows of its true class."""
    assert score.decisions is not None
    rows: list[tuple[str, ...]] = []
    for k, (value, counts) in enumerate(zip(score.classes, score.decisions.confusion.counts, strict=True)):
        whole = max(sum(counts), 1)
        cells = [
            Markup(
                f'<span class="cell {"right" if j == k else "wrong"}" '
                f'style="--part:{_STRONGEST * count / whole:.1f}%">{count:,}</span>'
            )
            for j, count in enumerate(counts)
        ]
        rows.append((safe(value), *cells))
    heading = ("", *(safe(value) for value in score.classes))
    drawn = table(heading, rows, caption="Rows by true class (down) and answer (across)")
    return Markup(drawn.replace('class="scroll"', 'class="scroll matrix"', 1))


def _by_class(score: ScoreValues, classes: Sequence[Decided]) -> Markup:
    by_value = {each.value: each for each in score.ranking}
    errors = {each.value: each.ece for each in score.class_reliability}
    several = len(score.classes) > 2 and bool(by_value)
    listed = sorted(classes, key=lambda part: part.f1)[:_LISTED] if len(classes) > _LISTED else classes
    rows: list[tuple[str, ...]] = []
    for part in listed:
        row = (
            safe(part.value), f"{part.n:,}", share(part.precision), share(part.recall),
            words.span(*map(share, part.recall_ci)), number(part.f1),
        )  # fmt: skip
        if several:
            curve = by_value[part.value]
            row += (number(curve.auc, 4), number(curve.average_precision, 4), share(errors[part.value]))
        rows.append(row)
    heading = ("class", "rows", "precision", "recall", f"{100 * score.level:g} % interval", "F1")
    heading += ("ROC area", "average precision", "calibration error") if several else ()
    which = f": the {_LISTED} of {len(classes):,} with the least F1" if len(classes) > _LISTED else ""
    drawn = table(heading, rows, caption=f"Answers by class{which}")
    return Markup(drawn.replace('class="scroll"', 'class="scroll tall"', 1)) if len(rows) > _TALL else drawn


def order(score: ScoreValues) -> str:
    """Return the section about curves, and about thresholds of two classes."""
    drawn = [each for each in score.ranking if each.roc]
    if not drawn:
        return ""
    worst = min(drawn, key=lambda each: each.auc)
    two = len(score.classes) == 2
    of = f"class {clipped(score.classes[1], 60)}" if two else f"{counted(len(drawn), 'class')}, each against the rest"
    note = "" if two or len(drawn) == 1 else _key(worst, f"area {number(worst.auc, 4)}, the least")
    pictures = (
        figure(f"True over false positives: {of}", curves.roc(drawn, worst), note),
        figure(f"Precision over recall: {of}", curves.precision_recall(drawn, worst), note),
    )
    text = (
        "<p>As the threshold falls, more rows are taken as positive: rightly (upwards) and wrongly (to the right). On "
        "the broken line, probabilities carry no information.</p>"
    )
    return (
        f'<h2>How well are the classes separated?</h2>\n{text}\n<div class="pair">{"".join(pictures)}</div>'
        f"{_thresholds(score)}"
    )


def _key(worst: Ranking, note: str) -> str:
    return (
        f'<ul class="key"><li><i class="main"></i>a class</li><li><i class="warm"></i>{safe(worst.value)}: {note}</li>'
        "</ul>"
    )


def _thresholds(score: ScoreValues) -> str:
    found = score.thresholds
    if found is None:
        return ""
    marked = {
        found.calibrated.threshold: "best if calibrated",
        found.best.threshold: "best in these rows",
    }
    listed = {part.threshold: part for part in (*found.table, found.calibrated, found.best)}
    if found.best.threshold == found.calibrated.threshold:
        marked[found.best.threshold] = "best in these rows and if calibrated"
    rows = [
        (*_threshold(part), marked.get(part.threshold, ""))
        for part in sorted(listed.values(), key=lambda part: part.threshold)
    ]
    heading = ("threshold", "precision", "recall", "F1", "cost of a row", "")
    text = (
        f"<p>A false positive costs <b>{found.fp:g}</b> here, a false negative <b>{found.fn:g}</b>. If the "
        f"probabilities are calibrated, <b>{number(found.calibrated.threshold)}</b> is the best threshold, the first "
        f"cost divided by the sum of both. The best threshold in these rows is chosen from many, so new rows will cost "
        "a little more.</p>"
    )
    caption = f"Thresholds for class {clipped(score.classes[1], 60)}"
    return f"<h2>Which threshold costs least?</h2>\n{text}\n{table(heading, rows, caption=caption, texts=(5,))}"


def _threshold(part: Threshold) -> tuple[str, ...]:
    return (
        threshold_of(part), share(part.precision), share(part.recall), number(part.f1), number(part.cost, 4),
    )  # fmt: skip


def by_class(score: ScoreValues) -> str:
    """Return the card about the calibration of each class, nothing for two classes, which have one probability."""
    parts = [each for each in score.class_reliability if each.bins]
    if not parts:
        return ""
    worst = max(parts, key=lambda each: each.ece)
    note = (
        f'<ul class="key"><li><i class="main"></i>a class</li><li><i class="warm"></i>{safe(worst.value)}: '
        f"calibration error {share(worst.ece)}, the largest</li></ul>"
    )
    rows = [(safe(each.value), share(each.ece)) for each in sorted(parts, key=lambda each: -each.ece)[:8]]
    drawn_errors = table(("class", "calibration error"), rows, caption="The largest calibration errors")
    mean = math.fsum(each.ece for each in parts) / len(parts)
    text = (
        '<div class="card"><h3>The probability of each class</h3><p>The diagram above is of the most probable class '
        "of each row. This one is of every class in all rows: of the rows with a probability of 10&nbsp;% for a "
        "class, a tenth should be of that class. The mean calibration error of the classes is "
        f"<b>{share(mean)}</b>.</p>{drawn_errors}</div>"
    )
    drawn = figure("Each class against the rest", curves.class_reliability(parts, worst), note)
    return f'<div class="pair">\n{drawn}\n{text}\n</div>'


def number_rows(score: ScoreValues) -> list[tuple[str, str, str, str]]:
    """Return rows of the table of all numbers: name, value, interval and meaning."""
    rows: list[tuple[str, str, str, str]] = []
    if score.balanced_loss is not None:
        loss = score.balanced_loss
        rows.append(("balanced loss, nats", number(loss.loss, 6), interval(loss.ci, 6), "mean over the classes"))
    if score.decisions is not None:
        rows.append(("balanced accuracy", *_estimate(score.decisions.balanced_accuracy), "mean recall of the classes"))
        rows.append(("F1", number(score.decisions.f1, 6), "", "mean over the classes"))
    if score.brier is not None:
        ends = interval(score.brier.ci, 6)
        rows.append(("Brier score", number(score.brier.value, 6), ends, "mean squared error of the probabilities"))
    if score.roc_auc is not None and score.average_precision is not None:
        of = "of the positive class" if len(score.classes) == 2 else "each class against the rest, mean"
        rows.append(("ROC area", number(score.roc_auc, 6), "", of))
        rows.append(("average precision", number(score.average_precision, 6), "", of))
    return rows


def _estimate(found: Estimate) -> tuple[str, str]:
    return share(found.value), words.span(*map(share, found.ci))
