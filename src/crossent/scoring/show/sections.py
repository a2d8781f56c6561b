"""Sections of a report about classes and slices: a dot with whiskers for each, and a table of all their numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from crossent.html import Markup, clipped, safe, table
from crossent.scoring.parts import ScoreValues, Slice
from crossent.scoring.show.pictures import Axis
from crossent.scoring.show.words import column, counted, number, share

_MOST = 30  # more parts than these are shown as their two ends
_END = 15
_LISTED = 1000


def classes(score: ScoreValues) -> str:
    """Return the section about the classes, costliest first."""
    if not any(part.n for part in score.per_class):
        return ""
    text = (
        "<p>Rows by true class, costliest class first. The dot is the loss, the line its interval, the broken line the "
        "loss of all rows. A wide interval means few rows; an arrowhead means that it continues.</p>"
    )
    missing = [part.value for part in score.per_class if not part.n]
    if missing:
        named = ", ".join(safe(value) for value in missing[:5])
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        verb = "has" if len(missing) == 1 else "have"
        text += f"<p>{counted(len(missing), 'class')} {verb} no rows: {named}{more}.</p>"
    return (
        f'<h2>Which classes cost most?</h2>\n{text}\n<div class="pair">{_drawn(score, "class", score.per_class)}</div>'
    )


def slices(score: ScoreValues) -> str:
    """Return the section about the slices, a card for each column."""
    columns = {name: parts for name, parts in score.by.items() if any(part.n for part in parts)}
    if not columns:
        return ""
    text = "<p>The same for the values of a column.</p>"
    if score.bins:
        some = ", ".join(f"{safe(name)} in {counted(bins, 'bin')}" for name, bins in score.bins.items())
        text += f"<p>Columns of numbers are cut into bins with about equally many rows: {some}.</p>"
    drawn = [_drawn(score, name, parts) for name, parts in columns.items()]
    return f'<h2>Where does it cost most?</h2>\n{text}\n<div class="pair">{"".join(drawn)}</div>'


def _drawn(score: ScoreValues, name: str, parts: Sequence[Slice]) -> str:
    """Return the cards of a column: one with all its parts, or two with the costliest and the cheapest of many."""
    there = [part for part in parts if part.n]
    if name not in score.bins or parts is score.per_class:  # bins are in the order of their numbers
        there.sort(key=_cost, reverse=True)
    noun = "classes" if parts is score.per_class else "values"
    if len(there) > _MOST:
        shown = [there[:_END], there[-_END:]]
        captions = [
            f"{clipped(name, 60)}: the {_END} {word} of {len(there):,} {noun}" for word in ("costliest", "cheapest")
        ]
    else:
        shown, captions = [there], [f"Loss by {clipped(name, 60)}"]
    axis = Axis.over([part for some in shown for part in some], score.loss)
    place = f' style="background-position-x:{axis.place(score.loss):.2f}%"'
    place = place if math.isfinite(score.loss) else ' class="bare"'
    cards = [
        f'<div class="card">{_whiskers(some, caption, axis, place)}{_all(score, name, there) if k == 0 else ""}</div>'
        for k, (some, caption) in enumerate(zip(shown, captions, strict=True))
    ]
    return "\n".join(cards)


def _cost(part: Slice) -> float:
    return part.loss if not math.isnan(part.loss) else -math.inf


def _whiskers(parts: Sequence[Slice], caption: str, axis: Axis, place: str) -> Markup:
    """Return a table whose rows are a label, which the page may wrap, and a picture of the loss and its interval."""
    losses = column([part.loss for part in parts])
    rows = "\n".join(
        f'<tr><th scope="row">{safe(part.value)}</th><td{place}>{axis.whisker(part)}</td><td>{loss}</td>'
        f"<td>{part.n:,}</td></tr>"
        for part, loss in zip(parts, losses, strict=True)
    )
    return Markup(
        f'<table class="whiskers"><caption>{html.escape(caption)}</caption><thead><tr><th scope="col">value</th>'
        f'<th scope="col">{axis.ticks()}</th><th scope="col">nats</th><th scope="col">rows</th></tr></thead>'
        f"\n<tbody>{rows}</tbody></table>"
    )


def _all(score: ScoreValues, name: str, parts: Sequence[Slice]) -> str:
    """Return the table of all numbers of the parts, folded away until a reader opens it."""
    listed = parts[:_LISTED]
    weight, total = score.weight, score.weight * score.loss
    losses, low, high, errors = (
        column([get(part) for part in listed])
        for get in (lambda p: p.loss, lambda p: p.ci[0], lambda p: p.ci[1], lambda p: p.se)
    )
    rows = [
        (
            safe(part.value),
            f"{part.n:,}",
            share(part.weight / weight if weight else math.nan),
            losses[k],
            low[k],
            high[k],
            errors[k],
            share(part.weight * part.loss / total) if 0 < total < math.inf else number(math.nan),
            share(part.accuracy),
        )
        for k, part in enumerate(listed)
    ]
    level = f"{100 * score.level:g} %"
    heading = ("value", "rows", "of the weight", "loss, nats", f"{level} from", "to", "standard error", "of the loss")
    which = f"the {_LISTED:,} costliest of {len(parts):,}" if len(parts) > _LISTED else f"all {len(parts):,}"
    drawn = table((*heading, "accuracy"), rows, caption=f"By {clipped(name, 60)}: {which}, costliest first")
    if len(listed) > _END:
        drawn = drawn.replace('class="scroll"', 'class="scroll tall"', 1)
    return f"<details><summary>All numbers</summary>{drawn}</details>"
