"""A score as text: an aligned table for terminals, plain HTML for notebooks, numbers for JSON."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.errors import one_line, shown
from crossent.scoring.parts import ScoreValues, Slice, bits
from crossent.scoring.show import words
from crossent.scoring.show.measures import TextRows, TextTable, measure_rows, measure_tables


@dataclass(frozen=True, slots=True)
class LossUnit:
    """A unit of losses: its name, and how many nats it is."""

    name: str
    nats: float

    def of(self, nats: float) -> float:
        """Return nats in this unit."""
        return nats / self.nats


FLOORED = "if smaller probabilities counted as this"
NATS, BITS = LossUnit("nats", 1.0), LossUnit("bits", math.log(2))
_BLAMED = 5  # classes
_MOST = 12  # most parts in a table: the ones with the largest losses
_WIDEST = 60  # characters of a cell


def text(score: ScoreValues, *, in_bits: bool = False) -> str:
    """Return the score as aligned tables for a terminal, with its parts, worst rows and warnings."""
    unit = BITS if in_bits else NATS
    parts = [heading(score), *aligned(headline(score, in_bits=in_bits), (0, 2)), "", *sentences(score, unit)]
    for title, rows in tables(score, unit):
        parts += ["", title, *aligned(rows)]
    return "\n".join([*parts, *([""] if score.warnings else []), *(f"warning: {one_line(w)}" for w in score.warnings)])


def notebook_html(score: ScoreValues) -> str:
    """Return the score as plain HTML tables for a notebook."""
    found = [f"<p><b>{html.escape(heading(score))}</b></p>", html_table(headline(score))]
    found += [f"<p>{html.escape(sentence)}</p>" for sentence in sentences(score)]
    for title, rows in tables(score):
        found += [f"<p><b>{html.escape(title)}</b></p>", html_table(rows)]
    return "\n".join([*found, *(f"<p>warning: {html.escape(one_line(w))}</p>" for w in score.warnings)])


def heading(score: ScoreValues) -> str:
    """Return one line about the rows that were scored: their number, clusters and classes."""
    clusters = "" if score.clusters is None else f" in {words.counted(score.clusters, 'cluster')}"
    return f"{words.counted(score.n, 'row')}{clusters}, {words.counted(len(score.classes), 'class')}"


def headline(score: ScoreValues, *, in_bits: bool = False) -> TextRows:
    """Return the table of the whole score with intervals; `in_bits` converts losses from nats."""
    convert = bits if in_bits else float
    places = words.places(convert(score.se))
    unit = "bits" if in_bits else "nats"
    between = tuple(convert(end) for end in score.ci)
    rows: TextRows = [
        ("", "", f"{100 * score.level:g} % interval"),
        (f"loss, {unit}", words.number(convert(score.loss), places), words.interval(between, places)),  # pyright: ignore[reportArgumentType]
    ]
    rows += _beside_infinity(score, BITS if in_bits else NATS)
    if not in_bits:
        rows.append(("loss, bits", words.number(score.bits, places), words.interval(score.bits_ci, places)))
    ends = [words.exponential(end) for end in score.ci]
    skill = words.span(*(words.share(end) for end in score.skill_ci))
    return [
        *rows,
        ("perplexity", words.exponential(score.loss), words.span(*ends)),
        ("skill", words.share(score.skill), skill),
        (f"baseline, {unit}", words.number(convert(score.baseline), places), "always predicting the class frequencies"),
        (f"entropy, {unit}", words.number(convert(score.entropy), places), "expected loss if calibrated"),
        *measure_rows(score, convert, unit),
    ]


def _beside_infinity(score: ScoreValues, unit: LossUnit) -> TextRows:
    """Return rows about the finite losses if the loss is infinite, and about the loss at some floors."""
    found = score.finite
    if found is None:
        return []
    places = words.places(unit.of(found.se))
    ends = words.interval((unit.of(found.ci[0]), unit.of(found.ci[1])), places)
    others = f"  of the other {words.counted(found.n, 'row')}"
    return [
        *_blamed(score),
        *([(others, words.number(unit.of(found.loss), places), ends)] if found.n else []),
        *(
            (f"  at a floor of {words.probability(floor.zero)}", words.number(unit.of(floor.loss), places), FLOORED)
            for floor in found.floors
        ),
    ]


def _blamed(score: ScoreValues) -> TextRows:
    """Return a row for each class whose rows got probability 0, those with most rows first."""
    found = score.finite
    if found is None:
        return []
    blame = sorted(found.blame, key=lambda part: -part.n)[:_BLAMED]
    return [
        (f"  rows of class {shown(part.value)}", f"{part.n:,}", f"of {part.rows:,} got probability 0") for part in blame
    ]


def sentences(score: ScoreValues, unit: LossUnit = NATS) -> list[str]:
    """Return sentences about the calibration, none if there is none."""
    found = score.calibration
    if found is None:
        return []
    terms = (found.loss, found.miscalibration, found.discrimination, found.uncertainty)
    loss, *parts = (words.number(unit.of(term)) for term in terms)
    whole = f"loss {loss} {unit.name} = miscalibration {parts[0]} − discrimination {parts[1]} + uncertainty {parts[2]}"
    about = f"Calibration ({words.question(found)})"
    if found.of == "positive class":
        about = f"Calibration of class {shown(score.classes[1])}"
    error = f"expected calibration error {words.share(found.ece)}"
    said = [f"{about}: {whole}; {error}."]
    if found.temperature is None:
        return [*said, words.no_advice(found.no_temperature)]
    scaled = {name: unit.of(getattr(found.temperature, name)) for name in ("loss", "scaled")}
    return [*said, words.advice(dataclasses.replace(found.temperature, **scaled))]


def tables(score: ScoreValues, unit: LossUnit = NATS) -> list[TextTable]:
    """Return the tables of classes, slices and the rows with the largest loss."""
    found: list[TextTable] = []
    if len(score.per_class) > 1:
        found.append(_parts("class", score.per_class, unit))
    found += [_parts(name, parts, unit, score.bins.get(name, 0)) for name, parts in score.by.items()]
    found += measure_tables(score)
    if score.worst:
        head = ("row", f"loss, {unit.name}", "true class", "of true class", "predicted", "of predicted")
        rows = [
            (
                shown(row.id), words.number(unit.of(row.loss)), shown(row.label), words.share(row.probability),
                shown(row.predicted), words.share(row.confidence),
            )
            for row in score.worst
        ]  # fmt: skip
        title = f"the {words.counted(len(rows), 'row')} with the largest loss, with the probability"
        found.append(TextTable(f"{title} of the true and of the predicted class", [head, *rows]))
    return found


def _parts(name: str, parts: Sequence[Slice], unit: LossUnit, bins: int = 0) -> TextTable:
    """Return the table of the classes, or of the values of a column, or of bins of its numbers."""
    listed, title = list(parts), f"by {shown(name)}"
    title += f": {words.counted(bins, 'bin')} with about equally many rows" if bins else ""
    if len(parts) > _MOST:
        listed = sorted(parts, key=lambda part: -part.loss)[:_MOST]
        title = f"{title}: the {_MOST} of {len(parts)} with the largest loss"
    head = (shown(name), "rows", f"loss, {unit.name}", "interval", "accuracy")
    rows = [
        (
            shown(part.value), f"{part.n:,}", words.number(unit.of(part.loss)),
            words.interval((unit.of(part.ci[0]), unit.of(part.ci[1]))),
            words.share(part.accuracy),
        )
        for part in listed
    ]  # fmt: skip
    return TextTable(title, [head, *rows])


def aligned(rows: Sequence[tuple[str, ...]], left: Sequence[int] = (0,)) -> list[str]:
    """Return rows as lines of equal columns; columns numbered in `left` are aligned left, the others right."""
    cells = [[cell if len(cell) <= _WIDEST else cell[: _WIDEST - 1] + "…" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(_put(*cell, k in left) for k, cell in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]


def _put(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def html_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as an HTML table without a style, which a notebook adds."""

    def cells(row: Sequence[str], tag: str) -> str:
        rest = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row[1:])
        return f'<tr><th style="text-align: left">{html.escape(row[0])}</th>{rest}</tr>'

    return f"<table>{cells(rows[0], 'th')}{''.join(cells(row, 'td') for row in rows[1:])}</table>"


def json_value(value: Any) -> Any:
    """Return dataclasses, tuples and numbers as JSON can hold them: NaN as None, infinities as "inf" and "-inf"."""
    if type(value) is float and math.isfinite(value):  # nearly all are: curves have thousands
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [json_value(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, int | float | bool | None) else str(value)
