"""The directive ```{picture} module.function: an SVG element that a function of docs/pictures draws, with a caption."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks import proof
from benchmarks.common.pages import LostSourceError


class Picture(SphinxDirective):
    """Draw a picture; the content is its caption. The `source` is the suite of benchmarks whose results it shows.

    Words that the picture computes of its results follow the caption.
    """

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[Any] = {"source": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Return the figure."""
        module, function = self.arguments[0].split(".")
        try:
            draw = getattr(import_module(f"pictures.{module}"), function)
            drawn, computed = draw(), getattr(draw, "caption", None)
            found = [computed()] if computed else []
            origin = proof.origin(self.options["source"]) if "source" in self.options else ""
        except LostSourceError as error:
            raise self.error(f"the picture {self.arguments[0]} {error}") from None
        figure = nodes.figure("", nodes.raw("", drawn, format="html"), classes=["drawn"])
        if text := " ".join([*self.content, *found, origin]).strip():
            caption = nodes.caption()
            words, _ = self.state.inline_text(text, self.lineno)
            caption += words
            figure += caption
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
