"""Parts of HTML pages: the stylesheet, escaped text, tables, and figures as inline SVG in the page's colours.

The reports of scores and of the demonstration use them. Matplotlib draws in stand-in colours; each becomes a CSS
variable of the page, so that a picture follows light and dark. Text stays text, without a font of its own. Every id
starts with the picture's name, so that pictures on one page never share an id.
"""

from __future__ import annotations

import html
import io
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import chdir, contextmanager, suppress
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crossent.errors import one_line

INK, MUTED, LINE, MAIN, WARM = (f"#0{k}0{k}0{k}" for k in range(1, 6))
_VARIABLE = {INK: "--ink", MUTED: "--muted", LINE: "--line", MAIN: "--main", WARM: "--warm"}
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar is a dollar
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
}
_LONGEST = 200  # characters of a label; the page shows three lines


def template(package: str, name: str) -> str:
    """Return the text of a file of a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def stylesheet() -> str:
    """Return the stylesheet of all pages."""
    return template("crossent", "page.css").strip()


def clipped(value: object, longest: int = _LONGEST) -> str:
    """Return a value from outside as one line of at most `longest` characters that a page may hold, not yet escaped.

    Characters that a page cannot hold, or that turn the direction of writing, are shown as Python writes them.
    """
    text = one_line(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


class Markup(str):
    """Text that is HTML already; tables escape any other text."""

    __slots__ = ()


def safe(value: object) -> Markup:
    """Return a value from outside as HTML: escaped, and with its own direction of writing.

    >>> print(safe("<b>"), safe(""), safe(None))
    <bdi>&lt;b&gt;</bdi> <i>empty</i> <i>no value</i>
    """
    if value is None:
        return Markup("<i>no value</i>")
    text = clipped(value)
    return Markup(f"<bdi>{html.escape(text)}</bdi>" if text.strip() else "<i>empty</i>")


def figure(caption: str, picture: str, note: str = "") -> str:
    """Return a card with a picture under its caption; `picture` and the `note` below it are HTML."""
    return f'<figure class="card"><figcaption>{html.escape(caption)}</figcaption>{picture}{note}</figure>'


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, texts: Sequence[int] = ()) -> Markup:
    """Return a table in a box of its own, which can be scrolled by mouse and keyboard.

    Parameters
    ----------
    heading
        One cell for each column.
    rows
        Cells of each row; the first column names the rows. Cells are escaped unless they are `Markup`.
    caption
        Title of the table.
    texts
        Numbers of the columns that hold words; the other columns are numbers, aligned to the right.
    """
    align = [' class="text"' if k in texts else "" for k in range(len(heading))]
    head = "".join(f'<th scope="col"{align[k]}>{_cell(text)}</th>' for k, text in enumerate(heading))
    body = "".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td{align[k]}>{_cell(text)}</td>" for k, text in enumerate(row[1:], 1))
        + "</tr>\n"
        for row in rows
    )
    label = html.escape(caption)
    return Markup(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(text)


def load_matplotlib() -> Any:
    """Import matplotlib without the settings of the user, which may be broken, unless it has been imported already.

    Matplotlib reads them once, when it is imported, and looks for them in the working directory first.
    """
    if "matplotlib" not in sys.modules:
        with suppress(OSError), TemporaryDirectory() as folder:  # the working directory may be gone
            (Path(folder) / "matplotlibrc").touch()
            with chdir(folder):
                return import_module("matplotlib")
    return import_module("matplotlib")


@contextmanager
def own_style(name: str, **more: Any) -> Generator[None, None, None]:
    """Let matplotlib draw in the style of the pages, with `more` settings, for any settings of the user."""
    matplotlib = load_matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name, **more})
        yield


def svg(drawn: Any, name: str, title: str, description: str = "") -> str:
    """Return a matplotlib figure as an SVG element in the size, font and colours of the page.

    Parameters
    ----------
    drawn
        The figure.
    name
        Beginning of every id in the element.
    title, description
        Texts that a screen reader reads.
    """
    file = io.StringIO()
    drawn.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', text)
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text[text.index(">") + 1 :], flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'\b(?:xlink:)?href="#', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for colour, variable in _VARIABLE.items():
        body = body.replace(colour, f"var({variable})")
    label, more = html.escape(title), html.escape(description)
    described = f' aria-describedby="{name}-description"' if description else ""
    return (
        f'<svg class="plot" role="img" aria-label="{label}"{described} {box.group() if box else ""}>'
        f"<title>{label}</title>"
        + (f'<desc id="{name}-description">{more}</desc>' if description else "")
        + f"{body.strip()}\n"
    )
