"""The report of a score: what it says and draws against scikit-learn, SciPy, NumPy and the score itself."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from crossent import html
from crossent.scoring.show import report
from tests.page import Page
from tests.scoring.show import made
from tests.scoring.show.pages import TITLE, said, score, text_of


@pytest.mark.parametrize("kind", made.KINDS)
class TestEveryPage:
    def test_is_well_formed(self, kind: str) -> None:
        page = Page(text_of(kind))
        assert page.open == []
        assert [tag for tag, _ in page.elements].count("h1") == 1

    def test_asks_nothing_of_the_network_and_runs_nothing(self, kind: str) -> None:
        page = Page(text_of(kind))
        assert not {"script", "link", "iframe", "object", "embed", "base", "img"} & {tag for tag, _ in page.elements}
        for _, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                assert attributes.get(name, "#").startswith("#")
        assert re.findall(r"url\((?!#)|@import", text_of(kind)) == []

    def test_ids_are_unique_and_references_resolve(self, kind: str) -> None:
        page = Page(text_of(kind))
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        wanted = set(re.findall(r"url\(#([^)]*)\)", text_of(kind)))
        for _, attributes in page.elements:
            wanted |= {attributes["xlink:href"][1:]} if "xlink:href" in attributes else set()
            wanted |= {attributes["aria-describedby"]} if "aria-describedby" in attributes else set()
        assert wanted <= set(ids)

    def test_pictures_and_tables_can_be_read_without_eyes_or_mouse(self, kind: str) -> None:
        page = Page(text_of(kind))
        tags = [tag for tag, _ in page.elements]
        outer = [attributes for tag, attributes in page.elements if tag == "svg" and "class" in attributes]
        assert outer
        assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in outer)
        assert tags.count("title") == 1 + len(outer)
        assert tags.count("caption") == tags.count("table") > 0
        assert all(attributes["scope"] in {"col", "row"} for tag, attributes in page.elements if tag == "th")
        boxes = [a for _, a in page.elements if a.get("class", "").split(" ")[0] == "scroll"]
        assert len(boxes) == tags.count("table") - text_of(kind).count('<table class="whiskers">')
        assert all((a["tabindex"], a["role"]) == ("0", "region") and a["aria-label"] for a in boxes)

    def test_colours_are_the_pages_own(self, kind: str) -> None:
        text = text_of(kind)
        assert set(re.findall(r"var\((--\w+)\)", text)) == set(re.findall(r"(--\w+):", text))
        assert re.findall(r"[=:]\s*[\"']?#[0-9a-fA-F]{3,8}\b", text[text.index("<body>") :]) == []

    def test_says_nothing_that_is_not_a_number(self, kind: str) -> None:
        assert re.search(r"\b(nan|inf|None|True|False)\b", said(kind)) is None

    def test_same_score_gives_the_same_page(self, kind: str) -> None:
        assert report.render(score(kind), title=TITLE, source="predictions.csv") == text_of(kind)


class TestNumbersSaid:
    def test_loss_is_scikit_learns(self) -> None:
        y, logits = made.drawn(1500, 2)
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        loss = log_loss(y, p)
        assert f"Loss {loss:.3f} nats" in said("binary")
        assert f"In bits {loss / math.log(2):.3f} " in said("binary")
        assert f"Perplexity {math.exp(loss):.3f} " in said("binary")
        assert f"{loss:.6f}" in said("binary")

    def test_headlines_are_the_scores(self) -> None:
        s, text = score("ten"), said("ten")
        assert f"95 % interval {s.ci[0]:.3f} to {s.ci[1]:.3f}" in text
        assert f"Skill {s.skill:.1%} 95 % interval {s.skill_ci[0]:.1%} to {s.skill_ci[1]:.1%}" in text.replace(
            "\xa0%", "%"
        ).replace(" %", "%").replace("95%", "95 %")
        for words in ("900 rows", "10 classes", "45 clusters", "from predictions.csv", *s.warnings):
            assert words in text
        assert f"costs {s.baseline:.3f} nats" in text
        assert f"If the probabilities were right, it would be {s.entropy:.3f}" in text

    def test_decomposition_adds_up_as_written(self) -> None:
        terms = r"([\d.]+) loss = ([\d.]+) miscalibration − ([\d.]+) discrimination \+ ([\d.]+) uncertainty"
        found = re.search(terms, said("ten"))
        assert found
        loss, *terms = map(float, found.groups())
        assert loss == pytest.approx(terms[0] - terms[1] + terms[2], abs=4 * 0.0005)

    def test_infinite_loss(self) -> None:
        text = said("infinite")
        assert "Loss ∞ nats" in text
        assert "stand apart on the right" in text
        assert ">∞</text>" in text_of("infinite")
        assert 'class="bare"' in text_of("infinite")

    def test_one_class_has_no_skill(self) -> None:
        assert "Skill – Undefined" in said("one_class")
        assert "1 class has no rows: no." in said("one_class")

    def test_missing_parts_leave_no_empty_section(self) -> None:
        assert "Where does it cost most" not in said("binary")
        assert "Can the probabilities be believed" not in said("one_class")
        bare = replace(score("binary"), worst=(), histogram=(), per_class=(), reliability=(), calibration=None)
        assert re.findall(r"<h2>(.*?)</h2>", report.render(bare, title="")) == ["All numbers"]


class TestTextFromOutside:
    def test_every_label_is_shown_as_it_is(self) -> None:
        page = Page(report.render(score("hostile"), title=made.HOSTILE[0], source=made.HOSTILE[1]))
        text = " ".join("".join(page.pieces).split())
        for label in made.HOSTILE:
            assert " ".join(html.clipped(label).split()) in text
        assert {"script", "b"} & {tag for tag, _ in page.elements} == {"b"}

    @pytest.mark.slow
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, 1e-300, 1e300])
    def test_any_number_gives_a_page(self, value: float) -> None:
        whole = made.score_of(*made.drawn(30, 3))
        names = ("loss", "se", "weight", "baseline", "skill", "entropy", "accuracy", "ci", "skill_ci")
        pair = (value, value)
        scores = [replace(whole, **{name: pair if name.endswith("ci") else value}) for name in names]
        calibration = whole.calibration
        assert calibration is not None
        assert calibration.temperature is not None
        for name in ("loss", "miscalibration", "discrimination", "uncertainty", "ece"):
            scores.append(replace(whole, calibration=replace(calibration, **{name: value})))
        for name in ("value", "loss", "scaled"):
            changed = replace(calibration.temperature, **{name: value})
            scores.append(replace(whole, calibration=replace(calibration, temperature=changed)))
        for name in ("loss", "weight", "ci", "se", "accuracy"):
            part = replace(whole.per_class[0], **{name: pair if name == "ci" else value})
            scores.append(replace(whole, per_class=(part, *whole.per_class[1:])))
        for changed in scores:
            assert Page(report.render(changed, title="")).open == []


def test_written_file_is_the_page(tmp_path: Path) -> None:
    path = report.write(score("hostile"), tmp_path / "report.html", title=TITLE, source="predictions.csv")
    assert path.read_bytes().decode() == text_of("hostile")


def test_nothing_of_matplotlib_is_changed_or_loaded_early() -> None:
    code = "import sys, crossent.scoring.show.report; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    _ = report.render(score("single"), title="")
    assert dict(mpl.rcParams) == before
