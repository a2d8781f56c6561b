"""Every shell and Python block of the README and of the pages of docs runs, and says what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import LANGUAGES, PAGES, ROOT, FailedError, blocks, run

pytestmark = pytest.mark.slow


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page.read_text(encoding="utf-8"), name(page), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_escapes_by_its_language(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        assert block.language in LANGUAGES or block.language.startswith("{"), f"{name(page)}, line {block.line}"


FENCE = "```"


@pytest.mark.parametrize(
    "text",
    [
        f"{FENCE}python\n>>> 1 + 1\n3\n{FENCE}",
        f"{FENCE}python\nx = 1\n{FENCE}\n\n{FENCE}python\n>>> x\n2\n{FENCE}",
        f"{FENCE}python\nraise AssertionError\n{FENCE}",
        f"{FENCE}sh\nfalse | true\n{FENCE}",
        f"{FENCE}sh\necho one\n{FENCE}\n\nwhich prints\n\n{FENCE}text\ntwo\n{FENCE}",
        f"{FENCE}sh\nmake love\n{FENCE}",
    ],
)
def test_a_block_that_fails_is_found(text: str, tmp_path: Path) -> None:
    with pytest.raises((FailedError, AssertionError)):
        run(text, "a page", tmp_path)
