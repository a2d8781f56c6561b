"""The report of a score: one HTML page without scripts and without anything to load from the network."""

from __future__ import annotations

import html
import math
from pathlib import Path
from string import Template
from typing import NamedTuple

from crossent.html import Markup, clipped, figure, safe, stylesheet, table, template
from crossent.outputs import write_whole
from crossent.scoring.parts import Calibration, ScoreValues, bits
from crossent.scoring.show import answers, pictures, words
from crossent.scoring.show.sections import classes, slices
from crossent.scoring.show.text import FLOORED
from crossent.scoring.show.words import counted, interval, number, share
from crossent.version import __version__


def render(score: ScoreValues, *, title: str, source: str = "") -> str:
    """Return the report as a page of HTML; equal scores give equal text.

    Parameters
    ----------
    score
        The score.
    title
        Heading of the page. Title, source and all labels are text and may hold any character.
    source
        Origin of the predictions, such as the name of a file.

    Returns
    -------
    str
        An HTML document with its style and pictures inside.
    """
    return Template(template("crossent.scoring.show", "report.html")).substitute(
        name=html.escape(clipped(title)),
        style=stylesheet(),
        title=safe(title),
        facts=_facts(score, source),
        level=_level(score),
        warnings=_warnings(score),
        cards="\n".join([*_cards(score), *(_card(*card) for card in answers.cards(score))]),
        blame=answers.blame(score),
        reliability=_reliability(score) + answers.by_class(score),
        answers=answers.answers(score),
        order=answers.order(score),
        classes=classes(score),
        slices=slices(score),
        losses=_losses(score),
        worst=_worst(score),
        numbers=_numbers(score),
        footer=_footer(score),
    )


def write(score: ScoreValues, path: str | Path, *, title: str, source: str = "") -> Path:
    """Write the report to a file, as UTF-8, and return its path."""
    path = Path(path)
    write_whole(path, render(score, title=title, source=source))
    return path


def _level(score: ScoreValues) -> str:
    """Return the level of confidence, such as 95 %."""
    return f"{100 * score.level:g}&nbsp;%"


def _facts(score: ScoreValues, source: str) -> str:
    """Return the line under the heading: rows, classes, clusters and source."""
    facts = [counted(score.n, "row"), counted(len(score.classes), "class")]
    if score.clusters is not None:
        facts.append(counted(score.clusters, "cluster"))
    spans = [f"<span>{html.escape(fact)}</span>" for fact in facts]
    return " · ".join([*spans, f"from {safe(source)}"] if source else spans)


def _warnings(score: ScoreValues) -> str:
    """Return the box of warnings, empty without warnings."""
    if not score.warnings:
        return ""
    items = "\n".join(f"<li>{html.escape(clipped(text, 2000))}</li>" for text in score.warnings)
    return (
        f'<section class="notice" aria-label="Warnings"><h2>{counted(len(score.warnings), "warning")}</h2>'
        f"<ul>\n{items}\n</ul></section>"
    )


def _cards(score: ScoreValues) -> list[str]:
    """Return the four cards at the top: loss, skill, perplexity and accuracy."""
    places = words.places(score.se)
    bits_places = words.places(bits(score.se))
    clusters = "" if score.clusters is None else f", in {counted(score.clusters, 'independent cluster')}"
    if math.isnan(score.skill):
        skill = "Undefined: always predicting the class frequencies costs nothing here, so nothing can be saved."
    else:
        skill = (
            f"{_between(score, words.span(*map(share, score.skill_ci)))} Always predicting the class frequencies costs "
            f"<b>{number(score.baseline, places)}</b> nats; the model saves this share of it."
        )
    return [
        _card(
            "Loss",
            f"{number(score.loss, places)} <small>nats</small>",
            f"{_between(score, interval(score.ci, places))} In bits <b>{number(score.bits, bits_places)}</b> "
            f"({interval(score.bits_ci, bits_places)}). If the probabilities were right, it would be "
            f"<b>{number(score.entropy, places)}</b>.{_beside_infinity(score)}",
        ),
        _card("Skill", share(score.skill), skill),
        _card(
            "Perplexity",
            words.exponential(score.loss),
            f"{_between(score, words.span(*map(words.exponential, score.ci)))} The uncertainty of a choice between "
            f"this many equally probable classes.{_finite_perplexity(score)}",
        ),
        _card(
            "Accuracy",
            share(score.accuracy),
            f"{_accuracy_between(score)}The most probable class is the true one in this share of "
            f"{counted(score.n, 'row')}{clusters}.",
        ),
    ]


def _accuracy_between(score: ScoreValues) -> str:
    """Return the sentence with the interval of the accuracy, empty if there is none."""
    if score.decisions is None:
        return ""
    return f"{_between(score, words.span(*map(share, score.decisions.accuracy.ci)))} "


def _beside_infinity(score: ScoreValues) -> str:
    """Return sentences on the finite losses if the loss is infinite, and on the loss at some floors."""
    found = score.finite
    if found is None:
        return ""
    places = words.places(found.se)
    others = (
        f" The other {counted(found.n, 'row')} cost <b>{number(found.loss, places)}</b> nats "
        f"({interval(found.ci, places)})."
    )
    floors = ", ".join(
        f"<b>{number(floor.loss, places)}</b> at {words.probability(floor.zero)}" for floor in found.floors
    )
    return f"{others if found.n else ''} With a floor on the probability, the loss of all rows is {floors}."


def _finite_perplexity(score: ScoreValues) -> str:
    if score.finite is None or not score.finite.n:
        return ""
    return f" Of the other {counted(score.finite.n, 'row')}: <b>{words.exponential(score.finite.loss)}</b>."


def _between(score: ScoreValues, text: str) -> str:
    """Return a sentence with an interval."""
    return "No interval." if text == "no interval" else f"{_level(score)} interval <b>{text}</b>."


def _card(heading: str, value: str, text: str) -> str:
    """Return a card with a number and a text below it."""
    return f'<div class="card"><h3>{heading}</h3><div class="figure">{value}</div><p>{text}</p></div>'


def _reliability(score: ScoreValues) -> str:
    """Return the section about calibration: the reliability diagram beside the decomposition."""
    calibration = score.calibration
    if calibration is None and not any(part.n for part in score.reliability):
        return ""
    key = (
        f'<ul class="key"><li><i class="dot main"></i>rows of a bin, with Wilson’s {_level(score)} interval</li>'
        '<li><i class="warm"></i>best increasing curve (isotonic)</li><li><i class="dashed"></i>as predicted</li></ul>'
    )
    if len(score.classes) != 2 or (calibration and calibration.of == "top label"):
        caption = "Probability of the most probable class"
    else:
        caption = f"Probability of the positive class, {clipped(score.classes[1], 60)}"
    drawn = figure(caption, pictures.reliability(score), key)
    return (
        "<h2>Can the probabilities be believed?</h2>\n<p>Of all rows with a probability of 70&nbsp;%, 70&nbsp;% "
        "should come true. Then the points lie on the broken line. Points below it are over-confident, points above "
        f'it under-confident.</p>\n<div class="pair">\n{drawn}\n{_decomposition(calibration)}\n</div>'
    )


def _decomposition(calibration: Calibration | None) -> str:
    """Return the card of the parts of the loss and of the temperature."""
    if calibration is None:
        return ""
    c = calibration
    terms = (("", c.loss, "loss"), ("= ", c.miscalibration, "miscalibration"))
    terms += (("− ", c.discrimination, "discrimination"), ("+ ", c.uncertainty, "uncertainty"))
    shown = "".join(f"<span>{sign}{number(value)}<small>{name}</small></span>" for sign, value, name in terms)
    advice = html.escape(words.no_advice(c.no_temperature))
    if c.temperature is not None:
        advice = f"<b>{html.escape(words.advice(c.temperature))}</b>"
        if c.temperature.n:
            advice += f" Fitted to {counted(c.temperature.n, 'row')}."
    return (
        f'<div class="card"><h3>Parts of the loss</h3><p>For the question “{words.question(c)}”, in nats:</p>'
        f'<div class="sum">{shown}</div>'
        "<p><b>Miscalibration</b> is the cost of wrong probabilities: the isotonic curve would save it. "
        "<b>Discrimination</b> is the saving from different probabilities for different rows. <b>Uncertainty</b> is "
        "the cost of predicting the average for every row.</p>"
        f"<p>{advice}</p><p>The expected calibration error of the bins is {share(c.ece)}. It depends on the bins; the "
        "miscalibration does not.</p></div>"
    )


def _losses(score: ScoreValues) -> str:
    """Return the section about the losses of rows: their distribution beside its quantiles."""
    if not any(bar.weight > 0 for bar in score.histogram):
        return ""
    key = '<ul class="key"><li><i class="ink dashed"></i>the loss, which is the mean</li></ul>'
    if not 0 < score.loss < math.inf:
        key = ""
    drawn = figure("Share of the rows by loss", pictures.losses(score), key)
    return (
        "<h2>How is the loss spread over the rows?</h2>\n<p>The loss is a mean, and a few costly rows can outweigh "
        "many cheap ones. The axis is logarithmic: equal steps are equal factors. Its upper edge shows the "
        f'probability of the true class.</p>\n<div class="pair">{drawn}{_quantiles(score)}</div>'
    )


def _quantiles(score: ScoreValues) -> str:
    """Return the card of the losses that the costliest rows exceed."""
    parts = [part for part in (0.5, 0.1, 0.01, 0.001) if part * score.n >= 1 or part == 0.5]
    costs = [pictures.quantile(score.histogram, 1 - part) for part in parts]
    rows = [
        (f"{100 * part:g} %", _about(cost), _about(math.exp(-cost))) for part, cost in zip(parts, costs, strict=True)
    ]
    what = "rows" if score.weight == score.n else "weight"
    heading = (f"of the {what}", "loss at least, nats", "true class at most")
    text = "Read from the bars of the picture, so rounded to them."
    if math.isinf(score.loss):
        text += " Rows whose true class got probability 0 have an infinite loss and stand apart on the right."
    drawn = table(heading, rows, caption="Loss of the costliest rows, approximately")
    return f'<div class="card"><h3>The costliest rows</h3>{drawn}<p>{text}</p></div>'


def _about(x: float) -> str:
    """Return a number with about two digits."""
    return number(x) if not math.isfinite(x) or x <= 0 else number(x, min(max(1 - math.floor(math.log10(x)), 0), 4))


def _worst(score: ScoreValues) -> str:
    """Return the section of the costliest rows."""
    if not score.worst:
        return ""
    cost = words.column([row.loss for row in score.worst])
    rows = [
        (
            safe(row.id),
            loss,
            safe(row.label),
            number(row.probability, 4),
            safe(row.predicted),
            number(row.confidence, 4),
        )
        for row, loss in zip(score.worst, cost, strict=True)
    ]
    heading = ("row", "loss, nats", "true class", "its probability", "most probable", "its probability")
    return (
        "<h2>The costliest rows</h2>\n<p>A confident wrong prediction has the largest loss. Look at these rows first: "
        "some may have wrong labels.</p>\n"
        + table(heading, rows, caption=f"The costliest {counted(len(rows), 'row')}, costliest first", texts=(2, 4))
    )


class NumberRow(NamedTuple):
    """A row of the table of all numbers."""

    name: str
    value: str
    meaning: str
    interval: str = ""


def _numbers(score: ScoreValues) -> str:
    """Return the table of all numbers."""
    places = max(words.places(score.se), 6)

    def nats(x: float) -> str:
        return number(x, places)

    rows = [
        NumberRow("rows", f"{score.n:,}", "rows with a positive weight"),
        NumberRow("weight", f"{score.weight:,.10g}", "sum of the weights of the rows"),
        NumberRow(
            "clusters", words.NONE if score.clusters is None else f"{score.clusters:,}", _meaning_of_clusters(score)
        ),
        NumberRow("loss, nats", nats(score.loss), "mean of −log q", interval(score.ci, places)),
        NumberRow("standard error", nats(score.se), "of the loss, in nats"),
        *_finite_rows(score, places),
        NumberRow("loss, bits", nats(score.bits), "the loss divided by log 2", interval(score.bits_ci, places)),
        NumberRow(
            "perplexity",
            words.exponential(score.loss),
            "e to the loss",
            words.span(*map(words.exponential, score.ci)),
        ),
        NumberRow("baseline, nats", nats(score.baseline), "loss of always predicting the class frequencies"),
        NumberRow("skill", share(score.skill), "1 − loss / baseline", words.span(*map(share, score.skill_ci))),
        NumberRow("entropy, nats", nats(score.entropy), "expected loss if the probabilities were right"),
        NumberRow(
            "accuracy",
            share(score.accuracy),
            "fraction of rows whose most probable class is the true one",
            words.span(*map(share, score.decisions.accuracy.ci)) if score.decisions else "",
        ),
        *(NumberRow(name, value, meaning, ends) for name, value, ends, meaning in answers.number_rows(score)),
        NumberRow("least probability", _zero(score), "smaller probabilities count as this one"),
        *_calibration_rows(score.calibration, places),
    ]
    return table(
        ("", "value", f"{100 * score.level:g} % interval", "meaning"),
        [(row.name, row.value, row.interval, row.meaning) for row in rows],
        caption="The numbers of this report with more digits",
        texts=(3,),
    ).replace('class="scroll"', 'class="scroll meanings"', 1)


def _finite_rows(score: ScoreValues, places: int) -> list[NumberRow]:
    """Return the rows about the finite losses if the loss is infinite."""
    found = score.finite
    if found is None:
        return []
    others = f"of the {counted(found.n, 'row')} with a finite loss"
    floors = [
        NumberRow(
            f"loss at {words.probability(floor.zero)}, nats",
            number(floor.loss, places),
            FLOORED,
        )
        for floor in found.floors
    ]
    return [NumberRow("finite loss, nats", number(found.loss, places), others, interval(found.ci, places)), *floors]


def _meaning_of_clusters(score: ScoreValues) -> str:
    """Return the meaning of the number of clusters."""
    return "every row is independent" if score.clusters is None else "independent groups of rows"


def _zero(score: ScoreValues) -> str:
    """Return the smallest probability charged."""
    return "none" if isinstance(score.zero, str) else number(score.zero, 6)


def _calibration_rows(calibration: Calibration | None, places: int) -> list[NumberRow]:
    """Return the rows about calibration in the table of all numbers."""
    if calibration is None:
        return []
    c = calibration
    rows = [
        NumberRow("binary loss, nats", number(c.loss, places), f"for the question “{words.question(c)}”"),
        NumberRow("miscalibration, nats", number(c.miscalibration, places), "saved by following the isotonic curve"),
        NumberRow(
            "discrimination, nats",
            number(c.discrimination, places),
            "saved by different probabilities for different rows",
        ),
        NumberRow("uncertainty, nats", number(c.uncertainty, places), "loss of predicting the average"),
        NumberRow("calibration error", share(c.ece), "mean distance of the bins from the diagonal"),
    ]
    if (t := c.temperature) is not None:
        rows += [
            NumberRow("temperature", number(t.value), f"the best divisor of the logits, from {counted(t.n, 'row')}"),
            NumberRow("loss before it, nats", number(t.loss, places), "of these rows, unchanged"),
            NumberRow("loss after it, nats", number(t.scaled, places), "of these rows with their logits divided"),
        ]
    return rows


def _footer(score: ScoreValues) -> Markup:
    """Return the last lines: version and methods."""
    independent = "rows" if score.clusters is None else "clusters"
    return Markup(
        f"Made by crossent {__version__}. Probabilities are not clipped"
        + ("" if isinstance(score.zero, str) else f", except below {number(score.zero, 6)}")
        + f". Intervals of losses are Hall’s (1992), corrected for skewness, and take {independent} as independent of "
        "each other; those of the bins are Wilson’s (1927) and take rows as independent."
    )
