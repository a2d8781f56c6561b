"""All commands of scoring, in the order of the help."""

from __future__ import annotations

from typing import Any

from crossent.scoring.cli import calibrate, compare, lm, score
from crossent.scoring.cli.options import Require


def add(app: Any, require: Require) -> None:
    """Add the commands to a typer application; `require` raises for missing packages."""
    for command in (score, compare, calibrate, lm):
        command.add(app, require)
