"""The directive ```{picture} module.function: an SVG element that a function of docs/pictures draws, with a caption."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks.pages import LostSourceError


class Picture(SphinxDirective):
    """Draw a picture; the content is its caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[Any] = {}

    def run(self) -> list[nodes.Node]:
        """Return the figure."""
        module, function = self.arguments[0].split(".")
        try:
            drawn = getattr(import_module(f"pictures.{module}"), function)()
        except LostSourceError as error:
            raise self.error(f"the picture {self.arguments[0]} {error}") from None
        figure = nodes.figure("", nodes.raw("", drawn, format="html"), classes=["drawn"])
        if self.content:
            caption = nodes.caption()
            found, _ = self.state.inline_text(" ".join(self.content), self.lineno)
            caption += found
            figure += caption
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
