"""The report of the demonstration as its readers see it."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from crossent.demo import data, numbers, report, train
from tests.demo.runs import nothing, read
from tests.page import Page


@pytest.fixture(scope="module")
def html(finished: Any) -> str:
    return (finished.out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


class TestPage:
    def test_is_well_formed(self, page: Page) -> None:
        assert page.open == []

    def test_asks_nothing_of_the_network(self, html: str, page: Page) -> None:
        for _, attributes in page.elements:
            for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                assert attributes.get(name, "#").startswith("#")
        assert re.findall(r"url\((?!#)", html) == []
        assert "@import" not in html
        assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}

    def test_ids_are_unique_and_references_resolve(self, html: str, page: Page) -> None:
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        wanted = {a["href"][1:] for _, a in page.elements if "href" in a} | set(re.findall(r"url\(#([^)]*)\)", html))
        assert wanted
        assert wanted <= set(ids)

    def test_all_pictures_are_there_and_described(self, page: Page) -> None:
        shown = [attributes for tag, attributes in page.elements if tag == "svg"]
        kinds = [attributes["class"] for attributes in shown]
        assert (kinds.count("plot"), kinds.count("pixels"), len(kinds)) == (6, 12, 18)
        assert all(attributes["aria-label"] and attributes["role"] == "img" for attributes in shown)
        assert all(re.fullmatch(r"0 0 [\d.]+ [\d.]+", attributes["viewbox"]) for attributes in shown)

    def test_colours_are_the_pages_own(self, html: str) -> None:
        defined = set(re.findall(r"(--\w+):", html))
        assert set(re.findall(r"var\((--\w+)\)", html)) == defined
        body = html[html.index("<body>") :]
        assert re.findall(r"#[0-9a-fA-F]{6}\b", body) == []
        assert html.count("prefers-color-scheme: dark") == 1

    def test_says_the_numbers(self, finished: Any, page: Page) -> None:
        for name in ("predictions.csv", "predictions_breast_cancer.csv"):
            _, _, y, p = read(finished.out / name)
            loss = log_loss(y, p)
            assert f"{loss:.3f} nats per test row, {loss / math.log(2):.3f} bits" in page.text
            assert f"{loss:.6f}" in page.text
        assert re.search(r"\bnan\b|\binf\b|\$\w", page.text) is None

    def test_the_gallery_shows_the_most_expensive_digits(self, finished: Any, page: Page) -> None:
        _, ids, y, p = read(finished.out / "predictions.csv")
        q = p[np.arange(len(y)), y]
        expected = [f"digit-{ids[k]}" for k in np.argsort(q)[:12]]
        assert [a["id"] for tag, a in page.elements if tag == "svg" and a["class"] == "pixels"] == expected
        assert f"{-math.log(q.min()):.2f} nats" in page.text

    def test_one_epoch_is_enough_for_a_page(self) -> None:
        tasks = (data.digits(7), data.breast_cancer(7))
        fits = [train.fit(task, epochs=1, seed=7, on_epoch=nothing) for task in tasks]
        text = report.render(
            numbers.textbook(),
            fits,
            [numbers.summarise(fit) for fit in fits],
            [numbers.scale_curves(fit) for fit in fits],
            seed=7,
        )
        page = Page(text)
        assert "--seed 7" in page.text
        assert "lowest at the end" in page.text
