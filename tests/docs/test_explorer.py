"""The guide's interactive figure: its numbers beside crossent's, by mouse and keyboard, in every width and theme."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import crossent
from tests.browser import Browser
from tests.docs.explorer_page import (
    CLASSES,
    FLAWS,
    SCRIPT,
    SHAPES,
    STYLE,
    click,
    mouse,
    move,
    page,
    pill,
    place,
    press,
    read,
    show,
    slider,
    text,
)

pytestmark = pytest.mark.slow

TRUTHS = {
    "a label": (1, 0, 0),
    "a smoothed label": (0.9, 0.05, 0.05),
    "a teacher": (0.7, 0.2, 0.1),
    "a coin flip": (0.5, 0.5, 0),
    "all alike": (1 / 3, 1 / 3, 1 / 3),
}
PREDICTIONS = {"mostly cat": (0.7, 0.2, 0.1), "mostly bird": (0.1, 0.3, 0.6), "never a cat": (0, 0.5, 0.5)}
# where the sliders are clicked, each time beside their thumbs, which would stay where they are
PLACES = ((0.6, 0.5, 0.5), (0.02, 0.35, 0.97), (0.8, 0.21, 0.55), (1, 0, 0))
# the theme of the page (None is a page without furo) and the scheme of the system, the other one where it can be
THEMES = ((None, "light"), (None, "dark"), ("light", "dark"), ("dark", "light"), ("auto", "dark"))


def expected(p: Sequence[float], z: Sequence[float]) -> dict[str, float]:
    """All numbers of the figure, from crossent's measures and from the definitions."""
    P, Z = np.array(p, float), np.array(z, float)
    Q = np.exp(Z - Z.max())
    Q /= Q.sum()
    with np.errstate(divide="ignore"):
        surprise, ideal = -np.log(Q), -np.log(P)
    share = np.where(P > 0, P * np.where(P > 0, surprise, 0), 0)
    rows = {"z": Z, "q": Q, "p": P, "surprise": surprise, "share": share, "gradient": Q - P}
    rows |= {"length": surprise / math.log(2), "ideal": ideal / math.log(2)}
    values = {f"{name} {CLASSES[v]}": float(row[v]) for name, row in rows.items() for v in range(3)}
    for base, end in ((None, ""), (2, "-bits")):
        values[f"entropy{end}"] = float(crossent.entropy(P, base=base))
        values[f"cross{end}"] = float(crossent.cross_entropy(P, Q, base=base))
        values[f"divergence{end}"] = float(crossent.kl_divergence(P, Q, base=base))
    return values | {"length-area": values["cross-bits"], "ideal-area": values["entropy-bits"]}


def wrong(browser: Browser, p: Sequence[float], z: Sequence[float], figure: int = 0) -> list[str]:
    """The numbers that are not as they should be when p is true and z the logits."""
    shown, wanted = read(browser, figure), expected(p, z)
    assert shown.keys() == wanted.keys()
    close = {name: math.isclose(shown[name], wanted[name], rel_tol=0, abs_tol=1e-12) for name in wanted}
    return [f"{name}: {shown[name]}, not {wanted[name]}" for name in wanted if not close[name]]


def logits(q: Sequence[float]) -> list[float]:
    return [math.log(x) if x else -math.inf for x in q]


class TestNumbers:
    @pytest.mark.parametrize(
        ("name", "nats", "said"), [("mostly cat", -math.log(0.7), "0.357"), ("mostly bird", -math.log(0.1), "2.303")]
    )
    def test_the_worked_example(self, browser: Browser, tmp_path: Path, name: str, nats: float, said: str) -> None:
        show(browser, page(tmp_path))
        click(browser, pill(name))
        assert read(browser)["cross"] == pytest.approx(nats, rel=0, abs=1e-15)
        assert text(browser, "cross") == said
        assert f"costs {said} nats" in browser.evaluate("document.querySelector('.words').textContent")
        assert wrong(browser, (1, 0, 0), logits(PREDICTIONS[name])) == []

    @pytest.mark.parametrize("truth", TRUTHS)
    def test_are_crossents_wherever_the_sliders_stand(self, browser: Browser, tmp_path: Path, truth: str) -> None:
        show(browser, page(tmp_path))
        click(browser, pill(truth))
        for places in PLACES:
            z = move(browser, places)
            assert wrong(browser, TRUTHS[truth], z) == []
            shown = read(browser)
            assert shown["cross"] == pytest.approx(shown["entropy"] + shown["divergence"], rel=0, abs=1e-12)
            assert sum(shown[f"gradient {name}"] for name in CLASSES) == pytest.approx(0, abs=1e-12)
        assert z == [6, -6, -6]

    @pytest.mark.parametrize("truth", TRUTHS)
    @pytest.mark.parametrize("name", PREDICTIONS)
    def test_of_every_preset(self, browser: Browser, tmp_path: Path, truth: str, name: str) -> None:
        show(browser, page(tmp_path))
        click(browser, pill(name))
        click(browser, pill(truth))
        assert wrong(browser, TRUTHS[truth], logits(PREDICTIONS[name])) == []

    @pytest.mark.parametrize("truth", TRUTHS)
    def test_q_can_be_p(self, browser: Browser, tmp_path: Path, truth: str) -> None:
        show(browser, page(tmp_path))
        click(browser, pill(truth))
        click(browser, pill("q = p"))
        p = TRUTHS[truth]
        assert wrong(browser, p, logits(p)) == []
        assert [text(browser, name) for name in ("divergence", *(f"gradient {v}" for v in CLASSES))] == ["0"] * 4
        assert "q is p, so the gradient is 0" in browser.evaluate("document.querySelector('.words').textContent")

    def test_nothing_is_clipped(self, browser: Browser, tmp_path: Path) -> None:
        show(browser, page(tmp_path))
        click(browser, pill("never a cat"))
        names = ("surprise cat", "share cat", "cross", "divergence-bits", "length cat", "length-area", "ideal dog")
        assert [text(browser, name) for name in names] == ["∞"] * 7
        assert [text(browser, f"{name} cat") for name in ("z", "q", "gradient")] == ["−∞", "0 %", "−1.000"]
        assert browser.evaluate(slider(0) + ".value") == "-6"
        assert "the cost is infinite" in browser.evaluate("document.querySelector('.words').textContent")
        click(browser, slider(0), 0.5)
        assert wrong(browser, (1, 0, 0), [0, *logits((0.5, 0.5))]) == []
        _ = move(browser, (1, 0, 0))  # a confident right answer costs little, not nothing
        assert text(browser, "cross") == "1.2 × 10⁻⁵"
        assert text(browser, "q cat") == "99.999 %"

    def test_steps_go_downhill_by_the_gradient(self, browser: Browser, tmp_path: Path) -> None:
        show(browser, page(tmp_path))
        click(browser, pill("a teacher"))
        click(browser, pill("mostly bird"))
        costs = [read(browser)["cross"]]
        for _ in range(5):
            before = read(browser)
            click(browser, pill("one step downhill"))
            z = [before[f"z {name}"] - before[f"gradient {name}"] for name in CLASSES]
            assert wrong(browser, TRUTHS["a teacher"], z) == []
            costs.append(read(browser)["cross"])
        assert all(after < before for before, after in pairwise(costs))

    def test_of_two_figures_are_independent(self, browser: Browser, tmp_path: Path) -> None:
        show(browser, page(tmp_path, figures=2))
        click(browser, pill("all alike", 1))
        click(browser, pill("never a cat", 1))
        click(browser, slider(2, 1), 1)
        assert wrong(browser, (1, 0, 0), logits(PREDICTIONS["mostly cat"]), 0) == []
        assert wrong(browser, TRUTHS["all alike"], [-math.inf, math.log(0.5), 6], 1) == []
        assert browser.evaluate("document.querySelectorAll('input:checked').length") == 2
        assert browser.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == 6


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("truth", ["a label", "a teacher", "a coin flip"])
def test_shapes_have_the_sizes_of_the_numbers(browser: Browser, tmp_path: Path, truth: str, width: int) -> None:
    show(browser, page(tmp_path), width=width)
    click(browser, pill(truth))
    click(browser, pill("mostly bird"))
    value, shapes, p = read(browser), browser.evaluate(SHAPES), TRUTHS[truth]
    pixel = 2 / 100  # the narrowest of them is a hundred pixels wide or high
    (nats, bits), begin = (ticks[-1] for ticks in shapes["axes"]), 0.0
    for v, name in enumerate(CLASSES):
        row, pull = shapes["rows"][v], value[f"gradient {name}"]
        assert [row["q"], row["p"]] == pytest.approx([value[f"q {name}"], p[v]], abs=pixel)
        assert row["pull"] == pytest.approx([0.5 + min(pull, 0) / 2, abs(pull) / 2], abs=pixel)
        for kind, plot in zip(("length", "ideal"), shapes["plots"], strict=True):
            if p[v]:
                assert plot["bars"][v] == pytest.approx([begin, p[v], value[f"{kind} {name}"] / bits], abs=pixel)
                if plot["marks"]:
                    assert plot["marks"][v] == pytest.approx([begin, p[v], value[f"ideal {name}"] / bits], abs=pixel)
            else:
                assert plot["bars"][v][1] == 0
        begin += p[v]
    stack = [[0, value["entropy"] / nats], [value["entropy"] / nats, value["divergence"] / nats]]
    assert shapes["stack"] == [pytest.approx(part, abs=pixel) for part in stack]
    assert (
        max(value["cross"] / nats, *(value[f"length {v}"] / bits for v, share in zip(CLASSES, p, strict=True) if share))
        <= 1
    )
    assert all(np.allclose(np.diff(ticks), ticks[1]) for ticks in shapes["axes"])


class TestForEverybody:
    def test_keyboard_reaches_and_moves_everything(self, browser: Browser, tmp_path: Path) -> None:
        show(browser, page(tmp_path))
        reached = []
        for _ in range(9):  # the choice of p, five buttons, three sliders
            press(browser, "Tab", 9)
            reached.append(browser.evaluate("document.activeElement.labels?.[0]?.textContent ?? 'button'"))
            ring = "getComputedStyle((e => e.type == 'radio' ? e.nextSibling : e)(document.activeElement))"
            assert browser.evaluate(ring + ".outlineStyle") == "solid"
        assert reached == ["a label1 · 0 · 0", *["button"] * 5, *CLASSES]
        press(browser, "ArrowRight", 39)
        assert browser.evaluate(slider(2) + ".value") == "-2.2"
        assert wrong(browser, (1, 0, 0), [math.log(0.7), math.log(0.2), -2.2]) == []
        said = browser.evaluate(slider(2) + ".getAttribute('aria-valuetext')")
        assert said == f"logit −2.20, probability {text(browser, 'q bird')}"
        press(browser, "Home", 36)
        assert read(browser)["z bird"] == -6
        _ = browser.evaluate("document.querySelector('[type=radio]').focus()")
        press(browser, "ArrowRight", 39)
        assert wrong(browser, TRUTHS["a smoothed label"], [math.log(0.7), math.log(0.2), -6]) == []

    def test_inputs_are_labelled_and_shapes_are_silent(self, browser: Browser, tmp_path: Path) -> None:
        show(browser, page(tmp_path))
        assert browser.evaluate("[...document.querySelectorAll('input')].every(e => e.labels.length == 1)")
        assert browser.evaluate("[...document.querySelectorAll('fieldset')].every(e => e.firstChild.matches('legend'))")
        shapes = ".bar, .fill, .mark, .swatch, .axis, .plot"
        assert browser.evaluate(f"[...document.querySelectorAll('{shapes}')].every(e => e.closest('[aria-hidden]'))")
        assert browser.evaluate("document.querySelector('noscript')") is None

    def test_the_sentence_waits_until_the_slider_is_let_go(self, browser: Browser, tmp_path: Path) -> None:
        show(browser, page(tmp_path))
        words = "document.querySelector('[aria-live=polite]')"
        before, box = browser.evaluate(words + ".textContent"), place(browser, slider(0))
        x, y = box["left"] + box["width"] * 0.3, box["top"] + box["height"] / 2
        for last in (x, x + box["width"] / 2):  # back to where it was, and elsewhere
            mouse(browser, "mousePressed", x, y)
            mouse(browser, "mouseMoved", x + box["width"] / 4, y)
            assert browser.evaluate(words + ".ariaBusy") == "true"
            mouse(browser, "mouseMoved", last, y)
            mouse(browser, "mouseReleased", last, y)
            assert browser.evaluate(words + ".ariaBusy") is None
        after = browser.evaluate(words + ".textContent")
        assert after != before
        for name in ("cross", "cross-bits", "entropy", "divergence"):
            assert text(browser, name) in after

    def test_nothing_moves_by_itself_where_that_is_not_wanted(self, browser: Browser, tmp_path: Path) -> None:
        moving = (
            "[...document.querySelectorAll('.explorer *')].some(e => getComputedStyle(e).transitionDuration != '0s')"
        )
        for motion, wanted in (("reduce", False), ("no-preference", True)):
            show(browser, page(tmp_path), motion=motion)
            assert browser.evaluate(moving) is wanted


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
@pytest.mark.parametrize(("theme", "scheme"), THEMES)
def test_nothing_overflows_overlaps_or_fades(
    browser: Browser, tmp_path: Path, theme: str | None, scheme: str, width: int
) -> None:
    path = page(tmp_path, theme=theme)
    show(browser, path, width=width, scheme=scheme)
    assert browser.evaluate(FLAWS) == []
    for truth, name in (("all alike", "never a cat"), ("a coin flip", "mostly bird"), ("a label", "q = p")):
        click(browser, pill(truth))
        click(browser, pill(name))
        assert browser.evaluate(FLAWS) == []
    for truth, places in zip(("a teacher", "all alike", "a coin flip", "a smoothed label"), PLACES, strict=True):
        click(browser, pill(truth))
        _ = move(browser, places)
        assert browser.evaluate(FLAWS) == []
    dark = scheme == "dark" if theme in {None, "auto"} else theme == "dark"
    paper = browser.evaluate("getComputedStyle(document.querySelector('.explorer')).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 300) == dark
    assert sorted(browser.requests) == sorted(file.as_uri() for file in (path, SCRIPT, STYLE))
    assert browser.console == []


@pytest.mark.parametrize(
    ("style", "flaw"),
    [
        (".explorer { width: 900px }", "the page scrolls sideways"),
        (".explorer .pill { width: 3rem; white-space: nowrap }", "beyond its box"),
        (".explorer .bits { margin-top: -1rem }", "overlap"),
        (".explorer .words { color: #888 }", "contrast"),
        (".explorer .words { opacity: .6 }", "contrast"),
    ],
)
def test_flaws_are_found(browser: Browser, tmp_path: Path, style: str, flaw: str) -> None:
    show(browser, page(tmp_path))
    _ = browser.evaluate(
        f"document.body.append(Object.assign(document.createElement('style'), {{textContent: '{style}'}}))"
    )
    assert any(found.startswith(flaw) for found in browser.evaluate(FLAWS))


class TestFiles:
    def test_the_script_is_plain_and_short(self) -> None:
        source = SCRIPT.read_text()
        assert len(source.splitlines()) < 400
        assert '"use strict";' in source
        assert re.findall(r"innerHTML|\beval\b|Function\(|fetch|https?:|\bimport\b|\bstyle:|Storage", source) == []

    def test_the_style_is_the_figures_alone(self, browser: Browser, tmp_path: Path) -> None:
        show(browser, page(tmp_path))
        walk = "rules => [...rules].flatMap(rule => rule.selectorText ?? walk(rule.cssRules))"
        sheet = f"(e => (e.replaceSync({json.dumps(STYLE.read_text())}), e))(new CSSStyleSheet())"
        rules = browser.evaluate(f"(() => {{ const walk = {walk}; return walk({sheet}.cssRules); }})()")
        found = [one for rule in rules for one in re.split(r", (?![^(]*\))", rule)]
        assert len(found) > 50
        assert [one for one in found if not re.match(r'(body\[data-theme="(light|dark)"\] )?\.explorer\b', one)] == []


@pytest.mark.parametrize(
    ("right", "mistake"),
    [
        ("q.map((x, i) => x - p[i])", "q.map((x, i) => p[i] - x)"),
        ("nats / Math.LN2", "nats * Math.LN2"),
        ("share === 0 ? 0 : share * number", "share * number"),
        ("times(x, ideal[i])", "times(x, surprise[i])"),
        ("surprise[i] - ideal[i]", "surprise[i]"),
        ("peak - x + logTotal", "Math.max(1e-3, peak - x + logTotal)"),
        ("x - gradient[i])", "x + gradient[i])"),
        ("i === 0, () => {", "i === 0, () => { z[0] = 0;"),
    ],
)
def test_mistakes_do_not_pass(browser: Browser, tmp_path: Path, right: str, mistake: str) -> None:
    source = SCRIPT.read_text()
    assert source.count(right) == 1
    script = tmp_path / "mutant.js"
    _ = script.write_text(source.replace(right, mistake))
    show(browser, page(tmp_path, script=script))
    bad = wrong(browser, (1, 0, 0), logits(PREDICTIONS["mostly cat"]))
    before = read(browser)
    click(browser, pill("one step downhill"))
    bad += wrong(browser, (1, 0, 0), [before[f"z {name}"] - before[f"gradient {name}"] for name in CLASSES])
    bad += wrong(browser, (1, 0, 0), move(browser, (1, 0, 0)))
    click(browser, pill("a coin flip"))
    bad += wrong(browser, (0.5, 0.5, 0), [6, -6, -6])
    click(browser, pill("never a cat"))
    bad += wrong(browser, (0.5, 0.5, 0), [-math.inf, *logits((0.5, 0.5))])
    assert bad
