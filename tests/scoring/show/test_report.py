"""The report of a score: what it says and draws against scikit-learn, SciPy, NumPy and the score itself."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import log_loss

from crossent import html as _page
from crossent.scoring.parts import Bar, Temperature
from crossent.scoring.result import Score
from crossent.scoring.show import pictures, report
from crossent.scoring.show import words as _words
from tests.scoring.show import made

TITLE = "What did the predictions cost?"


@cache
def score(kind: str) -> Score:
    return made.KINDS[kind]()


@cache
def text_of(kind: str) -> str:
    return report.render(score(kind), title=TITLE, source="predictions.csv")


class Page(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed."""

    VOID = frozenset({"meta", "br"})
    APART = frozenset(
        {"h1", "h2", "h3", "p", "div", "td", "th", "li", "small", "text", "span", "title", "caption", "desc"}
    )

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in self.APART:
            self.pieces.append(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())


def said(kind: str) -> str:
    return Page(text_of(kind)).text


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
        assert f"expect to cost {s.entropy:.3f}" in text

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

    def test_thousand_classes_show_their_ends(self) -> None:
        s = score("thousand")
        there = sorted((part for part in s.per_class if part.n), key=lambda part: -part.loss)
        tables = re.findall(r'<table class="whiskers">.*?</table>', text_of("thousand"), re.DOTALL)
        shown = [re.findall(r"<bdi>(.*?)</bdi>", text) for text in tables]
        assert shown == [[p.value for p in there[:15]], [p.value for p in there[-15:]]]
        assert f"the 15 costliest of {len(there)} classes" in said("thousand")
        assert text_of("thousand").count('<tr><th scope="row"><bdi>class number') == len(there) + 30

    @pytest.mark.parametrize(
        ("temperature", "expected"),
        [
            (
                Temperature(1.8, 0.412, 0.377, 9, True),
                "Over-confident: dividing the logits by T = 1.80 would cut the loss from 0.412 to 0.377 (8.5 %).",
            ),
            (
                Temperature(0.5, 0.412, 0.377, 9, True),
                "Under-confident: dividing the logits by T = 0.50 would cut the loss from 0.412 to 0.377 (8.5 %).",
            ),
            (
                Temperature(1.01, 0.4, 0.3999, 9, False),
                "A temperature would not help: the best, T = 1.01, would change the loss by 0.025 %.",
            ),
            (
                Temperature(math.nan, math.inf, math.inf, 9, False),
                "No temperature can be advised, because the loss is infinite.",
            ),
        ],
    )
    def test_advice(self, temperature: Temperature, expected: str) -> None:
        assert _words.advice(temperature).replace("\xa0", " ") == expected

    @given(st.floats(-1e300, 1e300), st.integers(0, 8))
    def test_numbers_read_back(self, x: float, places: int) -> None:
        text = _words.number(x, places).replace(",", "").replace("−", "-")
        digits, _, exponent = text.partition("\xa0×\xa010")
        exponent = exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        read = float(f"{digits}e{exponent}" if exponent else digits)
        bound = 0.005 * 10.0 ** int(exponent) if exponent else 0.5 * 10.0**-places
        assert read == x or abs(read - x) <= bound * (1 + 1e-9)


class TestTextFromOutside:
    def test_every_label_is_shown_as_it_is(self) -> None:
        page = Page(report.render(score("hostile"), title=made.HOSTILE[0], source=made.HOSTILE[1]))
        text = " ".join("".join(page.pieces).split())
        for label in made.HOSTILE:
            assert " ".join(_page.plain(label).split()) in text
        assert {"script", "b"} & {tag for tag, _ in page.elements} == {"b"}

    @given(st.text(st.characters(codec=None, exclude_categories=())))
    def test_any_text_survives_the_page(self, label: str) -> None:
        parser = Page(f"<b>{_page.safe(label)}</b>")
        assert {tag for tag, _ in parser.elements} <= {"b", "bdi", "i"}
        found = "".join(parser.pieces)
        assert found == (_page.plain(label) if _page.plain(label).strip() else "empty")
        _ = found.encode("utf-8")
        kept = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]", "\ufffd", label)
        assert _page.plain(label) == (kept if len(kept) <= 200 else kept[:199] + "…")

    def test_table_escapes_what_is_not_markup(self) -> None:
        text = _page.table(("<a>", "b"), [("<c>", _page.safe("<d>"))], caption="<e>")
        assert [tag for tag, _ in Page(text).elements if tag in "abcde"] == []
        assert Page(text).text.split() == ["<e>", "<a>", "b", "<c>", "<d>"]

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


def heights(text: str) -> list[float]:
    """The heights of the bars in the picture of the losses."""
    found = []
    for path in re.findall(r'<g id="losses-bar\d+">\s*<path d="([^"]*)"', text):
        y = [float(pair.split()[1]) for pair in re.findall(r"[ML] ([-\d.]+ [-\d.]+)", path)]
        found.append(max(y) - min(y))
    return found


class TestPictures:
    @given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0.5, 0.999))
    def test_wilsons_interval_is_scipys(self, n: int, part: float, level: float) -> None:
        k = round(part * n)
        expected = binomtest(k, n).proportion_ci(level, method="wilson")
        np.testing.assert_allclose(pictures.wilson(k / n, n, level), expected, rtol=1e-10, atol=1e-12)

    def test_points_lie_where_the_bins_say(self) -> None:
        drawn = re.search(r'<g id="reliability-bins">.*?</g>\s*</g>', text_of("ten"), re.DOTALL)
        assert drawn
        points = np.array(
            [[float(x) for x in pair] for pair in re.findall(r'<use [^>]*x="([-\d.]+)" y="([-\d.]+)"', drawn.group())]
        )
        bins = [part for part in score("ten").reliability if part.n]
        told = np.array([[part.predicted, part.observed] for part in bins])
        assert points.shape == told.shape
        for axis in range(2):
            fitted = np.polyval(np.polyfit(told[:, axis], points[:, axis], 1), told[:, axis])
            assert np.abs(fitted - points[:, axis]).max() <= 1e-6  # six decimal places are written

    def test_plot_draws_the_same_on_axes_of_its_own_or_on_those_given(self) -> None:
        bins = [part for part in score("binary").reliability if part.n]
        given = Figure().add_subplot()
        assert pictures.plot(score("binary"), given) is given
        for axes in (given, pictures.plot(score("binary"))):
            (points,) = [line for line in axes.lines if line.get_gid() == "bins"]
            assert points.get_xydata().tolist() == [[part.predicted, part.observed] for part in bins]
        pyplot.close("all")

    @pytest.mark.parametrize("apart", [0, 7])
    def test_bars_are_as_high_as_octaves_are_full(self, apart: int) -> None:
        cost = np.random.default_rng(3).lognormal(-2, 2, 3000)
        octaves = np.floor(np.log2(cost))
        counts, _ = np.histogram(octaves, np.arange(octaves.min(), octaves.max() + 2))
        expected = [*counts, apart] if apart else [*counts]
        bars = (*made.bars_of(cost), *([Bar(math.inf, math.inf, float(apart))] if apart else []))
        assert [bar.weight for bar in pictures.grouped(bars)] == expected
        drawn = np.array(heights(report.render(replace(score("ten"), histogram=bars), title="")))
        # six decimal places are written of either end of each bar
        np.testing.assert_allclose(
            drawn / drawn.sum() * sum(expected), expected, atol=2e-6 * len(drawn) / drawn.sum() * 3000
        )

    @given(st.lists(st.floats(1e-12, 700), min_size=1))
    def test_bars_are_few_equally_wide_and_hold_every_row(self, cost: list[float]) -> None:
        bars = pictures.grouped(made.bars_of(np.array(cost)))
        inner = [bar for bar in bars if bar.low > 0]
        assert sum(bar.weight for bar in bars) == len(cost)
        assert len(inner) <= 41  # one more where the widest bars do not start with the first octave
        assert len({bar.high / bar.low for bar in inner}) <= 1
        assert all(left.high == right.low for left, right in pairwise(inner))

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
    def test_quantiles_are_numpys_but_for_the_width_of_a_bar(self, part: float) -> None:
        cost = np.random.default_rng(0).exponential(size=5000)
        found = pictures.quantile(made.bars_of(cost), part)
        assert abs(math.log(found / np.quantile(cost, part, method="inverted_cdf"))) <= math.log(1.25)

    def test_quantile_at_the_ends(self) -> None:
        assert pictures.quantile(score("infinite").histogram, 0.9999) == math.inf
        assert pictures.quantile(score("perfect").histogram, 0.5) == 0

    def test_dots_lie_where_the_losses_are(self) -> None:
        s = score("ten")
        parts = sorted(s.per_class, key=lambda part: -part.loss)
        axis = pictures.Axis.over(parts, s.loss)
        drawn = [float(x) for x in re.findall(r'<circle cx="([\d.]+)%"', text_of("ten"))][: len(parts)]
        np.testing.assert_allclose(
            np.array(drawn) / 100 * axis.top, [part.loss for part in parts], atol=5e-5 * axis.top
        )

    @given(st.floats(1e-9, 1e4))
    def test_axis_has_a_few_numbers_in_order(self, loss: float) -> None:
        axis = pictures.Axis.over([], loss)
        ticks = [float(x) for x in re.findall(r">([\d.e+-]+)</text>", axis.ticks())]
        assert 2 <= len(ticks) <= 5
        assert ticks == sorted(set(ticks))
        assert ticks[-1] <= axis.top

    def test_nothing_of_matplotlib_is_changed_or_loaded_early(self) -> None:
        code = "import sys, crossent.scoring.show.report; print('matplotlib' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False"]
        import matplotlib as mpl

        before = dict(mpl.rcParams)
        _ = report.render(score("single"), title="")
        assert dict(mpl.rcParams) == before


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_for_small_text(scheme: int) -> None:
    palettes = [
        dict(re.findall(r"--(\w+): (#\w{6})", line)) for line in _page.stylesheet().splitlines() if "--ink: #" in line
    ]
    palette = {name: luminance(colour) for name, colour in palettes[scheme].items()}
    for text in ("ink", "muted", "main", "warm"):
        for ground in ("paper", "card"):
            high, low = sorted((palette[text], palette[ground]), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2, criterion 1.4.3


def test_written_file_is_the_page(tmp_path: Path) -> None:
    path = report.write(score("hostile"), tmp_path / "report.html", title=TITLE, source="predictions.csv")
    assert path.read_bytes().decode() == text_of("hostile")
