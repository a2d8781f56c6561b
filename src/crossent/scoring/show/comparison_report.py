"""The pages of a comparison and of a ranking: one HTML file each, without scripts and anything from the network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from string import Template

from crossent.html import Markup, clipped, figure, safe, stylesheet, table, template
from crossent.outputs import write_whole
from crossent.scoring.compared import ComparisonValues, RankingValues, SliceDifference
from crossent.scoring.parts import Interval, Unit
from crossent.scoring.show import words
from crossent.scoring.show.comparison_pictures import Around, distribution
from crossent.scoring.show.comparison_text import called, chance, ties
from crossent.scoring.show.words import counted, interval, number, share
from crossent.version import __version__

_LISTED = 30


def write_comparison(found: ComparisonValues, path: Path, title: str, unit: Unit) -> Path:
    """Write the page of a comparison, whose losses are in this unit already, and return its path."""
    a, b = called(found)
    body = [_notice(found, a, unit), _cards(found, unit), _spread(found, a, b, unit)]
    body += [_slices(name, parts, a, unit) for name, parts in (("class", found.per_class), *found.by.items())]
    body += [_regressions(found, a, b, unit)]
    lead = (
        f"The loss of a row is −log&nbsp;<i>q</i> of its true class. The difference is the loss of {safe(a)} minus "
        f"that of {safe(b)}, in {unit}: below 0, {safe(a)} is better."
    )
    facts = [_rows(found.n, found.clusters)]
    if found.names != (a, b):
        facts += [f"{a} is {safe(found.names[0])}", f"{b} is {safe(found.names[1])}"]
    return _write(path, title or f"{found.names[0]} compared with {found.names[1]}", facts, lead, body, found.clusters)


def write_ranking(found: RankingValues, path: Path, title: str, unit: Unit) -> Path:
    """Write the page of a ranking, whose losses are in this unit already, and return its path."""
    lead = (
        f"The loss of a row is −log&nbsp;<i>q</i> of its true class, in {unit}; the loss of a model is the mean. "
        f"Models are compared row by row. {html.escape(ties(found))}"
    )
    body = [_models(found, unit), _pairs(found, unit)]
    facts = [counted(len(found.models), "model"), _rows(found.n, found.clusters)]
    return _write(
        path, title or f"{counted(len(found.models), 'model')} ranked by loss", facts, lead, body, found.clusters
    )


def _write(path: Path, title: str, facts: Sequence[str], lead: str, body: Sequence[str], clusters: int | None) -> Path:
    independent = "rows" if clusters is None else "clusters"
    text = Template(template("crossent.scoring.show", "comparison.html")).substitute(
        name=html.escape(clipped(title)),
        style=stylesheet(),
        title=safe(title),
        facts=" · ".join(f"<span>{fact}</span>" for fact in facts),
        lead=lead,
        body="\n\n".join(part for part in body if part),
        footer=f"Made by crossent {__version__}. Intervals of the paired differences are Hall’s (1992), corrected for "
        f"skewness, and take {independent} as independent; p-values follow the same rule.",
    )
    write_whole(path, text)
    return path


def _rows(n: int, clusters: int | None) -> str:
    return counted(n, "row") + ("" if clusters is None else f" in {counted(clusters, 'cluster')}")


def _notice(found: ComparisonValues, a: str, unit: Unit) -> str:
    """Return the answer in one sentence."""
    low, high = found.ci
    if high < 0:
        said = f"{a} is better: the interval lies below 0."
    elif low > 0:
        said = f"{a} is worse: the interval lies above 0."
    elif low <= 0 <= high:
        said = "These rows show no difference between the two: the interval holds 0."
    else:
        said = "There is no interval: it needs two or more independent rows or clusters."
    worse = [
        (name, part)
        for name, parts in (("class", found.per_class), *found.by.items())
        for part in parts
        if len(parts) > 1 and part.difference > 0 and part.p_adjusted < 1.0 - found.level
    ]
    if worse:
        listed = ", ".join(f"{safe(name)} {safe(part.value)}" for name, part in worse[:5])
        said += f" Its loss is higher in {counted(len(worse), 'slice')}, beyond chance: {listed}."
    return f'<section class="notice" aria-label="Answer"><p>{said}</p></section>'


def _cards(found: ComparisonValues, unit: Unit) -> str:
    places = words.places(found.se)
    a, b = map(html.escape, called(found))
    level = f"{100 * found.level:g}&nbsp;% interval"
    cards = [
        ("Difference", f"{number(found.difference, places)} <small>{unit}</small>",
         f"{level} <b>{interval(found.ci, places)}</b>."),
        (
            "p-value",
            html.escape(chance(found.p_value)),
            "The probability of a difference this large if the models were equal.",
        ),
        (f"Loss of {a}", f"{number(found.loss_a, places)} <small>{unit}</small>",
         f"{b} has <b>{number(found.loss_b, places)}</b>."),
        (
            f"{a} is better",
            share(found.share_better),
            f"In this share of the rows; worse in <b>{share(found.share_worse)}</b>.",
        ),
    ]  # fmt: skip
    drawn = "\n".join(
        f'<div class="card"><h3>{heading}</h3><div class="figure">{value}</div><p>{text}</p></div>'
        for heading, value, text in cards
    )
    return f'<section aria-label="Headline numbers" class="four">\n{drawn}\n</section>'


def _spread(found: ComparisonValues, a: str, b: str, unit: Unit) -> str:
    if not found.histogram:
        return ""
    key = (
        f'<ul class="key"><li><i class="dot main"></i>{html.escape(a)} is better</li><li><i class="dot warm"></i>'
        f'{html.escape(a)} is worse</li><li><i class="ink dashed"></i>the mean</li></ul>'
    )
    drawn = figure("Share of the rows by their difference", distribution(found.histogram, found.difference, unit), key)
    return (
        "<h2>How is the difference spread over the rows?</h2>\n<p>The first and the last bar hold everything beyond "
        "them. "
        f"Many rows a little better and a few much worse may have the same mean as the reverse.</p>\n"
        f'<div class="pair">{drawn}</div>'
    )


def _slices(name: str, parts: Sequence[SliceDifference], a: str, unit: Unit) -> str:
    """Return the section of a column, largest increase in loss first."""
    if len(parts) < 2:
        return ""
    order = sorted(parts, key=lambda part: -part.difference)
    listed = order if len(order) <= _LISTED else [*order[: _LISTED // 2], *order[-_LISTED // 2 :]]
    axis = Around.over([part.difference for part in listed], [part.ci for part in listed], unit)
    numbers = words.column([part.difference for part in listed])
    drawn = _whiskers(
        f"Difference by {clipped(name, 60)}",
        axis,
        [(safe(part.value), part.difference, part.ci, text, html.escape(chance(part.p_adjusted)))
         for part, text in zip(listed, numbers, strict=True)],
        ("value", unit, "p-value"),
    )  # fmt: skip
    cut = "" if len(listed) == len(order) else f" Only the two ends of {len(order):,} values are shown."
    return (
        f"<h2>Where did it change, by {safe(name)}?</h2>\n<p>The largest increase comes first; the broken line is 0. "
        f"p-values allow for all {counted(len(order), 'slice')}.{cut}</p>\n"
        f'<div class="pair"><div class="card">{drawn}</div></div>'
    )


def _whiskers(
    caption: str, axis: Around, rows: Sequence[tuple[str, float, Interval, *tuple[str, ...]]], head: Sequence[str]
) -> Markup:
    """Return a table of names, dots with whiskers, and numbers."""
    zero = f' style="background-position-x:{axis.place(0.0):.2f}%"' if axis.low < 0.0 < axis.high else ' class="bare"'
    body = "\n".join(
        f'<tr><th scope="row">{name}</th><td{zero}>{axis.whisker(value, ends)}</td>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for name, value, ends, *cells in rows
    )
    first, *others = head
    return Markup(
        f'<table class="whiskers"><caption>{html.escape(caption)}</caption><thead><tr><th scope="col">{first}</th>'
        f'<th scope="col">{axis.ticks()}</th>'
        + "".join(f'<th scope="col">{other}</th>' for other in others)
        + f"</tr></thead>\n<tbody>{body}</tbody></table>"
    )


def _regressions(found: ComparisonValues, a: str, b: str, unit: Unit) -> str:
    if not found.worst_regressions:
        return ""
    rows = [(safe(r.id), number(r.a), number(r.b), number(r.difference)) for r in found.worst_regressions]
    heading = ("row", f"{a}, {unit}", f"{b}, {unit}", "difference")
    drawn = table(heading, rows, caption=f"The {counted(len(rows), 'row')} with the largest increase in loss")
    return f"<h2>Rows with the largest increase in loss</h2>\n{drawn}"


def _models(found: RankingValues, unit: Unit) -> str:
    axis = Around.over([m.loss for m in found.models], [m.ci for m in found.models], unit, zero=False)
    numbers = words.column([model.loss for model in found.models])
    drawn = _whiskers(
        "Models, best first",
        axis,
        [(safe(model.name), model.loss, model.ci, text, str(model.rank), html.escape(model.letters))
         for model, text in zip(found.models, numbers, strict=True)],
        ("model", unit, "rank", "ties"),
    )  # fmt: skip
    return (
        "<h2>Which model is best?</h2>\n<p>The dot is the loss, the line its own interval. Models with overlapping "
        "intervals may still differ clearly, because they are compared row by row.</p>\n"
        f'<div class="pair"><div class="card">{drawn}</div></div>'
    )


def _pairs(found: RankingValues, unit: Unit) -> str:
    axis = Around.over([pair.difference for pair in found.pairs], [pair.ci for pair in found.pairs], unit)
    numbers = words.column([pair.difference for pair in found.pairs])
    drawn = _whiskers(
        "Better minus worse model",
        axis,
        [(f"{safe(pair.a)} minus {safe(pair.b)}", pair.difference, pair.ci, text, html.escape(chance(pair.p_adjusted)))
         for pair, text in zip(found.pairs, numbers, strict=True)],
        ("pair", unit, "p-value"),
    )  # fmt: skip
    return (
        "<h2>Which models differ?</h2>\n<p>Two models differ if the interval leaves out 0, the broken line.</p>\n"
        f'<div class="pair"><div class="card">{drawn}</div></div>'
    )
