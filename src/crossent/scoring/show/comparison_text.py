"""Comparisons and rankings as aligned tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from crossent.errors import shown
from crossent.scoring.compared import ComparisonValues, RankingValues, SliceDifference
from crossent.scoring.parts import Unit
from crossent.scoring.show import words
from crossent.scoring.show.text import aligned

_MOST = 20


def called(found: ComparisonValues) -> tuple[str, str]:
    """Return the names of the two sides: NEW and OLD of two files, else a and b."""
    return ("NEW", "OLD") if found.names != ("a", "b") else found.names


def chance(p: float) -> str:
    """Return a p-value with four decimal places; smaller ones are shown as less than that.

    >>> chance(0.0312), chance(3e-9), chance(float("nan"))
    ('0.0312', '<0.0001', '–')
    """
    return "<0.0001" if p < 0.0001 else words.number(p, 4)


def comparison_text(found: ComparisonValues, unit: Unit = "nats") -> str:
    """Return a comparison as text; its losses are in this unit already."""
    places = words.places(found.se)
    a, b = called(found)
    table = [
        ("", "", f"{100 * found.level:g} % interval"),
        (f"difference, {unit}", words.number(found.difference, places), words.interval(found.ci, places)),
        (f"loss of {a}, {unit}", words.number(found.loss_a, places), ""),
        (f"loss of {b}, {unit}", words.number(found.loss_b, places), ""),
        ("p-value", chance(found.p_value), "chance of a difference this large if the models are equal"),
        (f"{a} is better", words.share(found.share_better), "of the rows"),
        (f"{a} is worse", words.share(found.share_worse), "of the rows"),
    ]
    said = [f"{a} minus {b}: {_rows(found.n, found.clusters)}, paired"]
    if found.names != (a, b):
        said.append(f"{a} is {shown(found.names[0])}, {b} is {shown(found.names[1])}")
    said += aligned(table, (0, 2))
    for name, parts in found.by.items():
        said += ["", *_slices(name, parts, a, unit)]
    if found.worst_regressions:
        head = ("row", f"{a}, {unit}", f"{b}, {unit}", "difference")
        worst = [(shown(r.id), *(words.number(x) for x in (r.a, r.b, r.difference))) for r in found.worst_regressions]
        said += ["", "rows with the largest increase in loss", *aligned([head, *worst])]
    return "\n".join(said)


def _rows(n: int, clusters: int | None) -> str:
    return words.counted(n, "row") + ("" if clusters is None else f" in {words.counted(clusters, 'cluster')}")


def _slices(name: str, parts: Sequence[SliceDifference], a: str, unit: Unit) -> list[str]:
    """Return the table of a column, largest increase in loss first."""
    listed = sorted(parts, key=lambda part: -part.difference)
    title = f"by {shown(name)}, largest increase first"
    if len(listed) > _MOST:
        title += f": {_MOST} of {len(listed)}"
    rows = [
        (
            shown(part.value), f"{part.n:,}", words.number(part.difference), words.interval(part.ci),
            chance(part.p_value), chance(part.p_adjusted),
        )
        for part in listed[:_MOST]
    ]  # fmt: skip
    head = (
        shown(name),
        "rows",
        f"difference, {unit}",
        "interval",
        "p-value",
        f"p-value, corrected for {words.counted(len(parts), 'slice')}",
    )
    return [title, *aligned([head, *rows])]


def ranking_text(found: RankingValues, unit: Unit = "nats") -> str:
    """Return a ranking as text; its losses are in this unit already."""
    best = {pair.b: pair for pair in found.pairs if pair.a == found.models[0].name}
    models = [
        (
            str(model.rank), shown(model.name), words.number(model.loss, 4), words.interval(model.ci, 4), model.letters,
            "" if model.name not in best else words.number(-best[model.name].difference, 4),
            "" if model.name not in best else _negative(best[model.name].ci),
        )
        for model in found.models
    ]  # fmt: skip
    pairs = [
        (
            shown(pair.a), shown(pair.b), words.number(pair.difference, 4), words.interval(pair.ci, 4),
            chance(pair.p_adjusted),
        )
        for pair in found.pairs
    ]  # fmt: skip
    head = (
        "rank",
        "model",
        f"loss, {unit}",
        f"{100 * found.level:g} % interval",
        "ties",
        "loss above the best",
        "its interval",
    )
    said = [
        f"{words.counted(len(found.models), 'model')} of {_rows(found.n, found.clusters)}, paired",
        *aligned([head, *models], (1, 3, 4, 6)),
        "",
        ties(found),
    ]
    if len(found.models) > 2:
        said += ["", "all pairs, the better model first"]
        said += aligned([("first model", "minus", f"difference, {unit}", "interval", "p-value"), *pairs], (0, 1, 3))
    return "\n".join(said)


def ties(found: RankingValues) -> str:
    """Return the meaning of the letters, and of the level for many comparisons."""
    said = "Models that share a letter cannot be distinguished."
    if len(found.pairs) > 1:
        said += (
            f" The intervals of the {len(found.pairs)} pairs have a level of {100 * found.pair_level:.4g} % each, so "
            "all "
            f"of them hold together at {100 * found.level:g} %; p-values are multiplied by {len(found.pairs)}."
        )
    return said


def _negative(ends: tuple[float, float]) -> str:
    return words.interval((0.0 - ends[1], 0.0 - ends[0]), 4)
