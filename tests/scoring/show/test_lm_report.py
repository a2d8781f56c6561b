"""The report of a language model: a whole page, whatever the score, with its numbers and nothing from outside in it."""

from __future__ import annotations

import re

import pytest

from crossent.scoring.show import lm_report
from tests.page import Page
from tests.scoring.show.lm_made import HOSTILE, MADE


@pytest.fixture(params=MADE)
def kind(request):
    return request.param


def test_every_page_is_whole_and_loads_nothing(kind):
    text = lm_report.render(MADE[kind](), title=HOSTILE, source=HOSTILE)
    page = Page(text)
    assert page.open == []
    tags = {name for name, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "img"}
    assert not re.search(r"(?:src|href)=[\"'](?!#)", text)
    assert "<script" not in text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_equal_scores_give_equal_pages(kind):
    assert lm_report.render(MADE[kind](), title="t") == lm_report.render(MADE[kind](), title="t")


def test_the_numbers_are_those_of_the_score():
    score = MADE["plain"]()
    text = Page(lm_report.render(score, title="t", source="log.jsonl")).text
    for number in (score.loss, score.bits_per_byte, score.ci[0], score.by["lang"][0].loss, score.worst_tokens[0].loss):
        assert f"{number:.4f}" in text
    assert score.facts[0] in text
    assert "from log.jsonl" in text
    for title in (
        "Loss per token by position",
        "Share of the tokens by loss",
        "Documents by loss",
    ):
        assert title in text


def test_tokens_outside_the_log_are_said_to_be_bounded():
    text = Page(lm_report.render(MADE["bounded"](), title="t")).text
    assert "≥" in text
    assert "Coverage" in text


def test_questions_have_cards_of_their_own():
    text = Page(lm_report.render(MADE["questions"](), title="t")).text
    assert "Loss over the choices" in text
    assert "Accuracy" in text
    assert "by task" in text


def test_it_is_written_to_a_file(tmp_path):
    path = MADE["one"]().to_html(tmp_path / "page.html", title="My page")
    assert "<h1><bdi>My page</bdi></h1>" in path.read_text(encoding="utf-8")
