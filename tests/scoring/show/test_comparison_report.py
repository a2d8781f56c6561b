"""Pages of comparisons and rankings: their numbers, any names as text, nothing to load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossent
from crossent.scoring.comparison import between
from crossent.scoring.show.words import number
from tests.scoring.pairs import pair

EVIL = '<script>alert("x")</script>'


def scores() -> dict[str, crossent.Score]:
    y, p, q = pair(noise=1.5)
    group = np.random.default_rng(0).choice([EVIL, "b"], len(y))
    return {
        EVIL: crossent.score(y, probs=p, by={EVIL: group}),
        "second": crossent.score(y, probs=q),
        "third": crossent.score(y, probs=(p + q) / 2),
    }


def sound(text: str) -> None:
    assert text.startswith("<!DOCTYPE html>")
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!#)', text)


def test_a_comparison(tmp_path: Path) -> None:
    a, b = list(scores().values())[:2]
    found = between(a, b, names=(EVIL, "old.csv"))
    text = found.to_html(tmp_path / "c.html").read_text(encoding="utf-8")
    sound(text)
    assert number(found.difference, 3) in text
    assert "NEW is better: the interval lies below 0." in text
    for part in found.by[EVIL]:
        assert number(part.difference, 3)[:4] in text
    assert text.count("<tr>") >= len(found.worst_regressions)


@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_a_ranking(unit: Any, tmp_path: Path) -> None:
    found = crossent.rank(scores())
    text = found.to_html(tmp_path / "r.html", unit=unit, title=EVIL).read_text(encoding="utf-8")
    sound(text)
    assert f"in {unit}" in text
    assert text.count("<circle") == len(found.models) + len(found.pairs)


def test_the_answer_in_a_sentence(tmp_path: Path) -> None:
    same = crossent.score([1, 0, 1, 0], probs=[0.5, 0.25, 0.75, 0.5])
    other = crossent.score([1, 0, 1, 0], probs=[0.75, 0.5, 0.5, 0.25])
    one = crossent.score([1], probs=[0.5]), crossent.score([1], probs=[0.75])
    for pair_of, said in (
        ((same, other), "These rows show no difference between the two"),
        (one, "There is no interval: it needs two or more independent rows or clusters"),
    ):
        text = crossent.compare(*pair_of).to_html(tmp_path / "c.html").read_text(encoding="utf-8")
        assert said in text


def test_an_infinite_difference_has_a_page(tmp_path: Path) -> None:
    a, b = crossent.score([1, 0], probs=[0.0, 0.5]), crossent.score([1, 0], probs=[0.5, 0.5])
    sound(crossent.compare(a, b).to_html(tmp_path / "c.html").read_text(encoding="utf-8"))
