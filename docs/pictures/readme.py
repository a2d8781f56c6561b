"""The picture of the README, drawn from benchmarks/results: `python -m docs.pictures.readme` writes it.

The README is read where nothing is built, so its picture is two files of docs/images, one for light and one for dark
pages. A test compares them with what the newest results draw.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from benchmarks.common import pages
from benchmarks.common.grid import at, duration, number
from benchmarks.common.records import Record, by_case
from crossent.html import stylesheet

CASES = (
    ("everyday", "table-2", "Table, 2 classes"),
    ("everyday", "table-10", "Table, 10 classes"),
    ("everyday", "images-19", "Images, 19 classes"),
    ("logits", "gpt2", "GPT-2's logits"),
    ("linear", "gpt2-head", "GPT-2's head"),
    ("linear", "smollm2-head-bf16", "SmolLM2's head, bfloat16"),
)
"""Suite, case and title of the rows."""
SUITES = tuple(dict.fromkeys(suite for suite, _, _ in CASES))
SCHEMES = ("light", "dark")
FOLDER = pages.ROOT / "docs" / "images"

WIDTH, MARGIN = 480, 14
COLUMN = (WIDTH - 2 * MARGIN) / 2
LONGEST = 140.0
"""Length of the longest bar of a case."""
THICK, HEAD, ROW, TITLE = 11, 82, 53, 17
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif'

Cases = dict[str, dict[str, Record]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity of a case: what crossent, torch eager and torch.compile take, and these numbers in words."""

    ours: float
    eager: float
    compiled: float | None
    texts: tuple[str, str]


def processor() -> tuple[str, dict[str, Cases]]:
    """Return the class of processors to draw, and its results by suite: of classes with every case, the latest."""
    found = {suite: pages.by_processor(suite) for suite in SUITES}
    of_class = {
        name: {suite: by_case(found[suite][name]) for suite in SUITES}
        for name in found[SUITES[0]]
        if name == pages.processor_of(name) and all(name in of for of in found.values())
    }
    whole = {name: of for name, of in of_class.items() if all("memory" in of[s].get(case, {}) for s, case, _ in CASES)}
    if not whole:
        raise pages.LostSourceError(f"has lost its source: no class of processors has results of {', '.join(SUITES)}")
    latest = max(whole, key=lambda name: min(run["date"] for run in _runs(whole[name])))
    return latest, whole[latest]


def draw(scheme: str) -> str:
    """Return the picture for light or dark pages as a file of SVG."""
    name, of_suite = processor()
    colours = _colours()[scheme]
    height = HEAD + ROW * len(CASES) + 15 * len(_notes(name, of_suite)) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="{html.escape(FONT)}">',
        "<title>Time and memory of losses: crossent beside torch</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{colours["card"]}"/>',
        *_head(colours),
    ]
    for k, (suite, case, title) in enumerate(CASES):
        parts += _row(of_suite[suite][case], title, HEAD + ROW * k, colours)
    for k, text in enumerate(_notes(name, of_suite)):
        parts.append(_text(MARGIN, HEAD + ROW * len(CASES) + 13 + 15 * k, text, colours["muted"], 11))
    return "\n".join([*parts, "</svg>\n"])


def _head(colours: dict[str, str]) -> Iterator[str]:
    yield _text(MARGIN, 24, "The loss alone, forward and backward", colours["ink"], 14, bold=True)
    x = MARGIN
    for text, colour, wide, room in (
        ("crossent", "main", 11, 85),
        ("torch, eager", "warm", 11, 108),
        ("torch.compile, where measured", "ink", 2, 0),
    ):
        yield _rectangle(x, 37, wide, 11, colours[colour])
        yield _text(x + wide + 6, 47, text, colours["ink"], 12)
        x += room
    for k, text in enumerate(("Time", "Extra memory at the peak")):
        yield _text(MARGIN + k * COLUMN, 70, text, colours["muted"], 12)


def _row(case: dict[str, Record], title: str, y: float, colours: dict[str, str]) -> Iterator[str]:
    shape = " × ".join(f"{n:,}" for n in case["both"]["shape"])
    yield (
        f'<text x="{MARGIN}" y="{y + 11:g}" font-size="12.5" fill="{colours["ink"]}">{html.escape(title)}'
        f'<tspan dx="7" fill="{colours["muted"]}">{shape}</tspan></text>'
    )
    for k, panel in enumerate((_time(case), _memory(case))):
        x, unit = MARGIN + k * COLUMN, LONGEST / max(panel.ours, panel.eager, panel.compiled or 0.0)
        for place, (value, text, colour) in enumerate(
            zip((panel.ours, panel.eager), panel.texts, ("main", "warm"), strict=True)
        ):
            top = y + TITLE + place * (THICK + 3)
            yield _rectangle(x, top, max(1.0, value * unit), THICK, colours[colour])
            end = value if place == 0 else max(value, panel.compiled or 0.0)
            yield _text(x + end * unit + 6, top + 10, text, colours[colour], 12)
        if panel.compiled is not None:
            left = x + max(0.0, panel.compiled * unit - 2)
            yield _rectangle(left, y + TITLE + THICK + 2, 2, THICK + 3, colours["ink"])


def _time(case: dict[str, Record]) -> Panel:
    median = case["both"]["median_seconds"]
    return Panel(
        median["crossent"],
        median["eager"],
        median.get("compile"),
        (duration(median["crossent"]), duration(median["eager"])),
    )


def _memory(case: dict[str, Record]) -> Panel:
    memory = case["memory"]
    extra, least = memory["extra_bytes"], memory["resolution_bytes"]
    words = [
        f"less than {number(least / 1e6)} MB" if extra[who] < least else f"{number(extra[who] / 1e6)} MB"
        for who in ("crossent", "eager")
    ]
    return Panel(extra["crossent"], extra["eager"], extra.get("compile"), (words[0], words[1]))


def _notes(name: str, of_suite: dict[str, Cases]) -> list[str]:
    """Return where and how it was measured, and in how many cases of the suites torch is faster."""
    runs = _runs(of_suite)
    days = sorted({run["date"][:10] for run in runs})
    versions = [f"{of} {' and '.join(sorted({run['versions'][of] for run in runs}))}" for of in ("torch", "crossent")]
    eager, compiled = (_lost(of_suite, rival) for rival in ("eager", "compile"))
    threads = {case["both"]["threads"] for suite in ("logits", "linear") for case in of_suite[suite].values()}
    return [
        f"{name}, {runs[0]['machine']['cores']} cores; {' to '.join(dict.fromkeys((days[0], days[-1])))}.",
        f"{', '.join(versions)}; float32 where no type is named.",
        f"Tables and images: CPU time of one thread. GPT-2 and SmolLM2: {max(threads)} threads.",
        "Extra memory: beyond the inputs and the gradients.",
        f"Of all cases measured, torch is faster in {eager}, torch.compile in {compiled}.",
    ]


def _lost(of_suite: dict[str, Cases], rival: str) -> str:
    ratios = [at(case["both"], "speedup_over", rival) for cases in of_suite.values() for case in cases.values()]
    measured = [ratio for ratio in ratios if ratio is not None]
    return f"{sum(ratio < 1 for ratio in measured)} of {len(measured)}"


def _runs(of_suite: dict[str, Cases]) -> list[Record]:
    return [next(iter(cases.values()))["both"]["run"] for cases in of_suite.values()]


def _colours() -> dict[str, dict[str, str]]:
    """Return the colours of the pages for light and dark."""
    found = re.finditer(r":root \{[^}]*?(--paper[^}]*)\}", stylesheet())
    blocks = [dict(re.findall(r"--(\w+): (#\w+)", match[1])) for match in islice(found, 2)]
    return dict(zip(SCHEMES, blocks, strict=True))


def _text(x: float, y: float, text: str, colour: str, size: float, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.4g}" y="{y:g}" font-size="{size:g}" fill="{colour}"{weight}>{html.escape(text)}</text>'


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.4g}" y="{y:g}" width="{width:.4g}" height="{height:g}" fill="{colour}"/>'


if __name__ == "__main__":
    for scheme in SCHEMES:
        _ = (FOLDER / f"readme-{scheme}.svg").write_text(draw(scheme), encoding="utf-8")
    print("written to docs/images: readme-light.svg, readme-dark.svg")
