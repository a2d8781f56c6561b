"""The sections of a report about classes and slices."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from crossent.scoring.show import sections
from tests.scoring.show.pages import said, score, text_of


def test_thousand_classes_show_their_ends() -> None:
    s = score("thousand")
    there = sorted((part for part in s.per_class if part.n), key=lambda part: -part.loss)
    tables = re.findall(r'<table class="whiskers">.*?</table>', text_of("thousand"), re.DOTALL)
    shown = [re.findall(r"<bdi>(.*?)</bdi>", text) for text in tables]
    assert shown == [[p.value for p in there[:15]], [p.value for p in there[-15:]]]
    assert f"the 15 costliest of {len(there)} classes" in said("thousand")
    assert text_of("thousand").count('<tr><th scope="row"><bdi>class number') == len(there) + 30


def test_classes_without_rows_are_named_up_to_five() -> None:
    made = score("ten")
    empty = [replace(part, value=f"<c{k}>", n=0) for k, part in enumerate(made.per_class[:7])]
    found = sections.classes(replace(made, per_class=(*empty, *made.per_class[7:])))
    named = ", ".join(f"<bdi>&lt;c{k}&gt;</bdi>" for k in range(5))
    assert f"7 classes have no rows: {named} and 2 more." in found


def test_all_numbers_of_a_slice_are_those_of_the_score() -> None:
    made = score("ten")
    rows = re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", sections.slices(made).split("All numbers")[-1], re.DOTALL)
    cells = {found[0]: found[1:] for found in (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows)}
    assert len(cells) == len(made.by["split"])
    for part in made.by["split"]:
        n, _, loss, low, high, se, of_the_loss, accuracy = cells[f"<bdi>{part.value}</bdi>"]
        assert int(n) == part.n
        read = [float(x) for x in (loss, low, high, se)]
        assert read == pytest.approx([part.loss, *part.ci, part.se], abs=5e-4)
        share = 100 * part.weight * part.loss / (made.weight * made.loss)
        assert of_the_loss == f"{share:.1f}\xa0%"
        assert accuracy == f"{100 * part.accuracy:.1f}\xa0%"


def test_nothing_is_written_of_what_has_no_rows() -> None:
    made = score("ten")
    none = tuple(replace(part, n=0) for part in made.per_class)
    assert sections.classes(replace(made, per_class=none)) == ""
    assert sections.slices(replace(made, by={"split": none})) == ""
