"""The reports of scores of every kind, each made once."""

from __future__ import annotations

from functools import cache

from crossent.scoring.result import Score
from crossent.scoring.show import report
from tests.page import Page
from tests.scoring.show import made

TITLE = "What did the predictions cost?"


@cache
def score(kind: str) -> Score:
    return made.KINDS[kind]()


@cache
def text_of(kind: str) -> str:
    return report.render(score(kind), title=TITLE, source="predictions.csv")


def said(kind: str) -> str:
    return Page(text_of(kind)).text
