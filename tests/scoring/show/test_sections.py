"""The sections of a report about classes and slices."""

from __future__ import annotations

import re

from tests.scoring.show.pages import said, score, text_of


def test_thousand_classes_show_their_ends() -> None:
    s = score("thousand")
    there = sorted((part for part in s.per_class if part.n), key=lambda part: -part.loss)
    tables = re.findall(r'<table class="whiskers">.*?</table>', text_of("thousand"), re.DOTALL)
    shown = [re.findall(r"<bdi>(.*?)</bdi>", text) for text in tables]
    assert shown == [[p.value for p in there[:15]], [p.value for p in there[-15:]]]
    assert f"the 15 costliest of {len(there)} classes" in said("thousand")
    assert text_of("thousand").count('<tr><th scope="row"><bdi>class number') == len(there) + 30
