"""The demonstration's numbers against scikit-learn, SciPy and NumPy; its page and files as their readers see them."""

from __future__ import annotations

import csv
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss

from crossent import demo
from crossent.demo import data, numbers, pictures, report, train

EPOCHS, SEED = 12, 0


def nothing(*_: float) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of the whole demonstration: what it printed and the files it wrote."""
    out = tmp_path_factory.mktemp("demo") / "made" / "here"
    printed = io.StringIO()
    paths = demo.run(out, seed=SEED, epochs=EPOCHS, console=Console(file=printed, width=100))
    return SimpleNamespace(out=out, printed=printed.getvalue(), paths=paths)


@pytest.fixture(scope="module", params=[data.digits, data.breast_cancer])
def fit(request: pytest.FixtureRequest) -> train.Fit:
    """A fit of each task, trained apart from the run of `finished`."""
    return train.fit(request.param(SEED), epochs=EPOCHS, seed=SEED, on_epoch=nothing)


def csv_name(fit: train.Fit) -> str:
    return "predictions_breast_cancer.csv" if fit.task.binary else "predictions.csv"


def read(path: Path) -> tuple[list[str], Any, Any, Any]:
    """Return header, id, y and probabilities (N, C) of a file of predictions."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    table = np.array([[float(value) for value in row] for row in rows])
    p = table[:, 2:]
    return header, table[:, 0].astype(int), table[:, 1].astype(int), p if p.shape[1] > 1 else np.hstack([1 - p, p])


class TestTextbook:
    def test_costs_are_the_logarithms(self) -> None:
        for cost, q in zip(numbers.textbook(), (0.7, 0.1), strict=True):
            assert (cost.measure, cost.one_hot, cost.index) == pytest.approx((-math.log(q),) * 3, rel=1e-15, abs=0)
            assert cost.bits == pytest.approx(-math.log2(q), rel=1e-15, abs=0)

    def test_they_are_printed_three_ways(self, finished: Any) -> None:
        for prediction, nats, bits in (("[0.7, 0.2, 0.1]", "0.357", "0.515"), ("[0.1, 0.3, 0.6]", "2.303", "3.322")):
            (line,) = [line for line in finished.printed.splitlines() if line.startswith(prediction)]
            assert line.removeprefix(prediction).split() == [nats] * 3 + [bits]


class TestData:
    @pytest.mark.parametrize("make", [data.digits, data.breast_cancer])
    @pytest.mark.parametrize("seed", [0, 5])
    def test_split_and_scale(self, make: Any, seed: int) -> None:
        task = make(seed)
        train_rows, test_rows = task.train, task.test
        assert sorted([*train_rows.id, *test_rows.id]) == list(range(len(train_rows.y) + len(test_rows.y)))
        shares = [np.bincount(rows.y, minlength=len(task.classes)) / len(rows.y) for rows in (train_rows, test_rows)]
        assert np.abs(shares[0] - shares[1]).max() < 1 / len(test_rows.y) + 1 / len(train_rows.y)
        assert np.abs(train_rows.x.mean(axis=0)).max() < 1e-12
        deviation = train_rows.x.std(axis=0)
        assert np.all((np.abs(deviation - 1) < 1e-12) | (deviation == 0))
        assert np.abs(test_rows.x.mean(axis=0)).max() > 1e-3  # the test rows had no say in the scale

    def test_seed_decides_the_split(self) -> None:
        assert not np.array_equal(data.digits(0).test.id, data.digits(1).test.id)

    def test_pictures_are_those_of_the_test_rows(self) -> None:
        table: Any = load_digits()
        task = data.digits(3)
        np.testing.assert_array_equal(task.pictures * 16, table.images[task.test.id])


class TestTraining:
    def test_starts_at_equal_probabilities(self, fit: train.Fit) -> None:
        first = math.log(len(fit.task.classes))
        assert (fit.train_curve[0], fit.test_curve[0]) == pytest.approx((first, first), rel=1e-14)

    def test_one_value_per_epoch_and_the_loss_falls(self, fit: train.Fit) -> None:
        assert len(fit.train_curve) == len(fit.test_curve) == EPOCHS + 1
        assert fit.train_curve[-1] < 0.2 * fit.train_curve[0]
        assert fit.test_curve[-1] < 0.2 * fit.test_curve[0]

    def test_same_as_with_torchs_losses(self, fit: train.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train, "CrossEntropyLoss", torch.nn.CrossEntropyLoss)
        monkeypatch.setattr(train, "BCEWithLogitsLoss", torch.nn.BCEWithLogitsLoss)
        rival = train.fit(fit.task, epochs=EPOCHS, seed=SEED, on_epoch=nothing)
        np.testing.assert_allclose(fit.train_curve, rival.train_curve, rtol=1e-9)
        np.testing.assert_allclose(fit.test_curve, rival.test_curve, rtol=1e-9)

    def test_leaves_torch_as_it_was(self, fit: train.Fit) -> None:
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        again = train.fit(fit.task, epochs=1, seed=SEED, on_epoch=nothing)
        assert torch.equal(before, torch.get_rng_state())
        assert torch.get_num_threads() == threads
        assert again.train_curve == fit.train_curve[:2]

    def test_seed_decides_the_order(self, fit: train.Fit) -> None:
        other = train.fit(fit.task, epochs=1, seed=SEED + 1, on_epoch=nothing)
        assert other.train_curve[1] != fit.train_curve[1]

    def test_reports_every_epoch(self, fit: train.Fit) -> None:
        seen: list[tuple[float, float]] = []
        _ = train.fit(fit.task, epochs=2, seed=SEED, on_epoch=lambda *losses: seen.append(losses))
        assert seen == list(zip(fit.train_curve[1:3], fit.test_curve[1:3], strict=True))


class TestNumbers:
    def test_summary_against_scikit_learn_on_the_file(self, fit: train.Fit, finished: Any) -> None:
        _, _, y, p = read(finished.out / csv_name(fit))
        summary = numbers.summarise(fit)
        frequencies = np.bincount(fit.task.train.y) / len(fit.task.train.y)
        guess = np.tile(frequencies, (len(y), 1))
        assert summary.rows == len(y)
        assert summary.loss == pytest.approx(log_loss(y, p), rel=1e-12)
        assert summary.log_loss == pytest.approx(log_loss(y, p), rel=1e-12)
        assert summary.guess == pytest.approx(log_loss(y, guess), rel=1e-12)
        assert summary.accuracy == pytest.approx((p.argmax(axis=1) == y).mean(), rel=1e-15)
        assert summary.skill == pytest.approx(1 - log_loss(y, p) / log_loss(y, guess), rel=1e-12)
        assert summary.bits == pytest.approx(-np.log2(p[np.arange(len(y)), y]).mean(), rel=1e-12)
        assert summary.typical == pytest.approx(np.prod(p[np.arange(len(y)), y] ** (1 / len(y))), rel=1e-12)

    def test_probabilities_against_scipy(self, fit: train.Fit) -> None:
        logits, y = fit.test_logits, fit.task.test.y
        p = numbers.probabilities(logits)
        if logits.ndim == 1:
            np.testing.assert_allclose(p, expit(logits), rtol=1e-14)
            np.testing.assert_allclose(numbers.truth_probability(logits, y), expit(np.where(y, logits, -logits)))
        else:
            np.testing.assert_allclose(p, np.exp(log_softmax(logits, axis=1)), rtol=1e-13)
            np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-15)
            np.testing.assert_array_equal(numbers.truth_probability(logits, y), p[np.arange(len(y)), y])

    def test_truth_keeps_its_digits_where_one_minus_p_would_not(self) -> None:
        small = numbers.truth_probability(np.array([-40.0, 40.0]), np.array([1, 0]))
        np.testing.assert_allclose(small, 4.248354255291589e-18, rtol=1e-15)

    def test_loss_is_minus_log_likelihood_per_row(self, fit: train.Fit) -> None:
        for identity in numbers.identities(fit):
            assert identity.difference < 1e-14
            assert identity.loss == pytest.approx(-identity.log_likelihood / identity.rows, rel=1e-13)

    def test_identity_fails_on_other_labels(self, fit: train.Fit) -> None:
        y = fit.task.test.y
        swapped = (y + 1) % len(fit.task.classes)
        loss, total = train.mean_loss(fit.test_logits, y), numbers.log_likelihood(fit.test_logits, swapped)
        assert numbers.Identity("", len(y), loss, total).difference > 1

    def test_family_has_its_best_where_scipy_finds_it(self, fit: train.Fit) -> None:
        family = numbers.family(fit)
        logits, y = fit.test_logits, fit.task.test.y
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)

        def loss(scale: float) -> float:
            return -log_softmax(scale * logits, axis=1)[np.arange(len(y)), y].mean()

        best: Any = minimize_scalar(loss, bounds=(numbers.SCALES[0], numbers.SCALES[-1]), method="bounded")
        assert family.smallest_loss == family.largest_likelihood == pytest.approx(best.x, abs=0.0101)
        np.testing.assert_allclose(family.losses, [loss(scale) for scale in numbers.SCALES], rtol=1e-12)
        np.testing.assert_allclose(family.losses, -family.log_likelihoods / family.rows, rtol=1e-12)

    def test_row_costs_are_finite_where_the_probability_is_not(self) -> None:
        np.testing.assert_allclose(numbers.row_costs(np.array([[0.0, 2000.0]]), np.array([0])), [2000.0])
        np.testing.assert_allclose(numbers.row_costs(np.array([-2000.0]), np.array([1])), [2000.0])


class TestFiles:
    def test_three_files_and_their_paths_printed(self, finished: Any) -> None:
        assert sorted(path.name for path in finished.out.iterdir()) == sorted(path.name for path in finished.paths)
        assert all(str(path) in finished.printed for path in finished.paths)

    def test_predictions_come_back_bit_for_bit(self, fit: train.Fit, finished: Any) -> None:
        header, ids, y, p = read(finished.out / csv_name(fit))
        assert header == ["id", "y", *(["p"] if fit.task.binary else [f"p_{k}" for k in range(10)])]
        np.testing.assert_array_equal(ids, fit.task.test.id)
        np.testing.assert_array_equal(y, fit.task.test.y)
        expected = numbers.probabilities(fit.test_logits)
        np.testing.assert_array_equal(p[:, 1] if fit.task.binary else p, expected)

    def test_printed_numbers(self, finished: Any) -> None:
        for title, name in (("Digits", "predictions.csv"), ("Breast cancer", "predictions_breast_cancer.csv")):
            _, _, y, p = read(finished.out / name)
            loss = log_loss(y, p)
            line = next(
                line for line in finished.printed.splitlines() if line.startswith(title) and line.count("%") == 2
            )
            found = line.removeprefix(title).split()
            assert found[:4] == [str(len(y)), f"{loss:.4f}", f"{loss / math.log(2):.4f}", f"{loss:.4f}"]

    def test_a_file_in_the_way_stops_it_before_anything_is_trained(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(train, "fit", None)
        blocked = tmp_path / "file"
        _ = blocked.write_text("mine")
        with pytest.raises(FileExistsError):
            _ = demo.run(blocked, seed=0, epochs=1)
        assert blocked.read_text() == "mine"


class Page(HTMLParser):
    """Collects what the tests ask of a page: elements, attributes, ids, text, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


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

    def test_same_results_give_the_same_page(self, fit: train.Fit) -> None:
        summary = numbers.summarise(fit)
        assert pictures.penalty_curve(fit, summary) == pictures.penalty_curve(fit, summary)

    def test_one_epoch_is_enough_for_a_page(self) -> None:
        tasks = (data.digits(7), data.breast_cancer(7))
        fits = [train.fit(task, epochs=1, seed=7, on_epoch=nothing) for task in tasks]
        text = report.render(
            numbers.textbook(),
            fits,
            [numbers.summarise(fit) for fit in fits],
            [numbers.family(fit) for fit in fits],
            seed=7,
        )
        page = Page(text)
        assert "--seed 7" in page.text
        assert "lowest at the end" in page.text


class TestPictures:
    def test_pixels_draw_every_level_once(self) -> None:
        image = np.random.default_rng(0).integers(0, 17, (8, 8)) / 16
        found = np.zeros((8, 8))
        for tag, attributes in Page(pictures.pixels(image, "x", 'a "4" & more')).elements:
            if tag == "path":
                for column, row in re.findall(r"M(\d) (\d)h1v1h-1z", attributes["d"]):
                    assert found[int(row), int(column)] == 0
                    found[int(row), int(column)] = float(attributes["fill-opacity"])
        np.testing.assert_array_equal(found, image)

    def test_spread_keeps_order_and_gap(self) -> None:
        rng = np.random.default_rng(1)
        for _ in range(50):
            heights = rng.random(5)
            placed = np.array(pictures.spread(heights.tolist(), 0.1))
            assert np.all(-np.diff(np.sort(placed)[::-1]) >= 0.1 - 1e-12)
            np.testing.assert_array_equal(np.argsort(placed), np.argsort(heights))
            assert placed.max() == heights.max()

    def test_spread_leaves_alone_what_is_apart(self) -> None:
        assert pictures.spread([0.1, 0.9, 0.5], 0.2) == [0.1, 0.9, 0.5]
