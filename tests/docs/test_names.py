"""Names on pages: files, folders and Python names exist, and decisions are listed under their titles."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest

from tests.docs.blocks import PAGES, ROOT

DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("0*.md"))
PLACES = [*PAGES, *DECISIONS]
FILE = re.compile(r"(?<![\w./])(?:torch|scoring|kernels|demo|tests|benchmarks|docs|examples|tools|cpp)/[\w./-]*\w")


def missing(text: str) -> list[str]:
    """Files and folders in a text that are neither in the project nor in the package."""
    found = FILE.findall(text)
    return [name for name in found if not ((ROOT / name).exists() or (ROOT / "src" / "crossent" / name).exists())]


def unknown(text: str) -> list[str]:
    """Names in a text that begin with `crossent.` and cannot be imported."""
    return [name for name in re.findall(r"`(crossent(?:\.\w+)+)", text) if not known(name)]


def known(name: str) -> bool:
    home, *rest = name.split(".")
    value = import_module(home)
    for part in rest:
        home = f"{home}.{part}"
        try:
            value = getattr(value, part)
        except AttributeError:
            try:
                value = import_module(home)
            except ImportError:
                return False
    return True


@pytest.mark.parametrize("page", PLACES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_on_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing("\n".join(re.findall(r"`[^`\n]+`", text))) == []
    assert unknown(text) == []


def test_files_in_the_features_of_crossent_exist() -> None:
    features = tomllib.loads((DOCS / "features.toml").read_text(encoding="utf-8"))
    reasons = [row.get("why", {}).get("crossent", "") for group in features["group"] for row in group["feature"]]
    assert len(FILE.findall("\n".join(reasons))) > 5
    assert missing("\n".join(reasons)) == []


@pytest.mark.parametrize("text", ["`torch/_rows.py`", "`crossent.score.lm`", "`crossent.torch.nothing`"])
def test_names_that_do_not_exist_are_found(text: str) -> None:
    assert missing(text) + unknown(text)


@pytest.mark.parametrize("face", ["crossent", "crossent.torch", "crossent.scoring", "crossent.scoring.lm"])
def test_public_functions_and_classes_are_on_the_pages_of_the_reference(face: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = set(re.findall(r"auto(?:function|class):: (\S+)", text))
    module = import_module(face)
    names = [name for name in module.__all__ if isinstance(getattr(module, name), type | FunctionType)]
    assert [name for name in names if not {f"{face}.{name}", f"crossent.{name}"} & shown] == []


def test_decisions_are_listed_under_their_titles() -> None:
    listed = re.findall(
        r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \|$", (DOCS / "decisions" / "README.md").read_text(), re.MULTILINE
    )
    titles = [path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for path in DECISIONS]
    assert [file for _, file, _ in listed] == [path.name for path in DECISIONS]
    assert [f"{number} {title}".lower() for number, _, title in listed] == [title.lower() for title in titles]
