"""Runs the code of a page: its blocks from top to bottom, in one folder and one namespace.

`python` with >>> is a doctest, without it a script; `sh` goes to bash, and a `text` right after it is all that it
prints. Blocks whose language is a directive of Sphinx, in braces, are pictures and tables.
"""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
HIDDEN = ("_build", "_static", "decisions")
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if not {*HIDDEN} & {*p.relative_to(ROOT / "docs").parts}),
]
SHARED = (".venv", "benchmarks", "examples")
"""Folders of a checkout that lie beside the blocks of a page when they run."""
LANGUAGES = ("python", "sh", "text")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS

# The suite itself is what `make test` runs. What `make demo` writes is where the page's next lines look for it.
SHELL = f"""make() {{
  case "$1" in
    test) command make --no-print-directory -C '{ROOT}' -n test >/dev/null ;;
    demo) command make --no-print-directory -C '{ROOT}' demo && cp -r '{ROOT}/demo-output' . ;;
    *) echo "a page runs make $1, which nobody has allowed for" >&2; return 1 ;;
  esac
}}
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page and the line where it begins."""

    language: str
    text: str
    line: int


class FailedError(AssertionError):
    """A block did not do what its page says."""


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    tokens = [token for token in MarkdownIt("commonmark").parse(text) if token.type == "fence"]
    return [Block(token.info.strip(), token.content, token.map[0] + 1) for token in tokens if token.map]


def run(text: str, name: str, folder: Path) -> None:
    """Run the blocks of a page in a folder; raise FailedError where one fails."""
    for shared in SHARED:
        if (ROOT / shared).exists():
            (folder / shared).symlink_to(ROOT / shared)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = None
    for block in blocks(text):
        where = f"{name}, line {block.line}"
        if block.language == "python":
            _python(block, names, where)
        elif block.language == "sh":
            printed = _shell(block, folder, where)
        elif block.language == "text" and printed is not None:
            _compare(printed, block.text, where)
        if block.language != "sh":
            printed = None


def _python(block: Block, names: dict[str, Any], where: str) -> None:
    if ">>>" not in block.text:
        exec(compile(block.text, where, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.text, names, where, where, block.line)
    test.globs = names  # and not a copy: the next block goes on with them
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    if runner.run(test, out=said.append, clear_globs=False).failed:
        raise FailedError("".join(said))


def _shell(block: Block, folder: Path, where: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"COLUMNS": "160", "PYTHONWARNINGS": "default"}
    for name in ("PYTEST_CURRENT_TEST", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        _ = environment.pop(name, None)
    command = ["bash", "-euo", "pipefail", "-c", SHELL + block.text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(f"{where}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _compare(printed: str, expected: str, where: str) -> None:
    """Raise unless a command printed what the page shows, where a line of three dots stands for any lines."""
    text = " ".join(printed.split())
    parts = [" ".join(part.split()) for part in expected.split("\n...\n")]
    fits, at = text.startswith(parts[0]) and text.endswith(parts[-1]), 0
    for part in parts:
        place = text.find(part, at)
        fits, at = fits and place >= 0, place + len(part)
    if not fits or (len(parts) == 1 and text != parts[0]):
        raise FailedError(f"{where}: the command printed\n{printed}")
