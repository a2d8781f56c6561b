"""The directive {command} NAME: usage and options of a command, read from the command itself."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from benchmarks.common import pages
from crossent.cli import application


class Command(SphinxDirective):
    """Usage, description and options of `crossent NAME`, as text and a table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return usage, description and options."""
        name = self.arguments[0]
        app: Any = get_command(application())
        if name not in app.commands:
            raise self.error(f"there is no command {name}; there are {', '.join(app.commands)}")
        command = app.commands[name]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["crossent", name, *(p.name.upper() for p in arguments), "[OPTIONS]"])
        lines = [[f"`{p.name.upper()}`", _help(p)] for p in arguments]
        lines += [[", ".join(f"`{name}`" for name in p.opts), _help(p)] for p in command.params if p not in arguments]
        text = f"    {usage}\n\n{command.help}\n\n{pages.markdown(['', ''], lines, words=2) if lines else ''}"
        return self.parse_text_to_nodes(text)


def _help(parameter: Any) -> str:
    default = parameter.default
    said = f" Default: {default}." if default not in (None, False, ()) and "required" not in str(default) else ""
    return f"{parameter.help or ''}{said}{' Required.' if parameter.required else ''}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("command", Command)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
