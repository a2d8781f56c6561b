"""The picture of the README is what the newest results draw, losses included."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.common import pages
from benchmarks.common.records import Record, read, write
from docs.pictures import readme
from tests.browser import PICTURE_FLAWS, Browser
from tests.docs.results import remove

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]


@pytest.mark.parametrize("scheme", readme.SCHEMES)
def test_the_picture_is_of_the_newest_results(scheme: str) -> None:
    file = readme.FOLDER / f"readme-{scheme}.svg"
    assert file.read_text(encoding="utf-8") == readme.draw(scheme), "run `python -m docs.pictures.readme`"


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    _, of_suite = readme.processor()
    case = of_suite["linear"]["gpt2-head"]
    row = "".join(readme._row(case, "a head", 0, readme._colours()["light"]))
    bars = [float(width) for width in re.findall(r'width="([\d.]+)" height="11"', row)]
    times, sizes = case["both"]["median_seconds"], case["memory"]["extra_bytes"]
    assert bars[0] / bars[1] == pytest.approx(times["crossent"] / times["eager"], rel=1e-3)
    assert bars[2] / bars[3] == pytest.approx(sizes["crossent"] / sizes["eager"], rel=1e-3)


def test_it_says_where_and_when_and_in_how_many_cases_torch_is_faster() -> None:
    name, of_suite = readme.processor()
    said = " ".join(texts(readme.draw("light")))
    run = next(iter(of_suite["linear"].values()))["both"]["run"]
    assert f"{name}, {run['machine']['cores']} cores" in said
    assert run["date"][:10] in said
    assert f"torch {run['versions']['torch']}" in said
    cases = [case["both"]["speedup_over"] for cases in of_suite.values() for case in cases.values()]
    for rival, words in (("eager", "torch is faster in"), ("compile", "torch.compile in")):
        ratios = [of[rival] for of in cases if rival in of]
        assert f"{words} {sum(x < 1 for x in ratios)} of {len(ratios)}" in said


def copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Record], None], without: str = "", kind: str = ""
) -> None:
    """Let pages read a copy of the results, changed; as another class of processors, the copy lies beside them."""
    results = folder / "results"
    results.mkdir()
    for path in pages.RESULTS.glob("*.jsonl"):
        records = [record for record in read([path]) if record.get("case") != without]
        for record in records:
            change(record)
        write(results / path.name.replace("linux-", f"linux-{kind}"), records)
        if kind:
            _ = shutil.copy(path, results)
    monkeypatch.setattr(pages, "RESULTS", results)


def test_where_torch_is_faster_its_bar_is_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(record: Record) -> None:
        if record.get("measure") == "both":
            record["median_seconds"]["crossent"] = 2.0

    copied(tmp_path, monkeypatch, slower)
    _, of_suite = readme.processor()
    row = "".join(readme._row(of_suite["everyday"]["table-2"], "a table", 0, readme._colours()["dark"]))
    ours, theirs, *_ = (float(width) for width in re.findall(r'width="([\d.]+)" height="11"', row))
    assert ours == readme.LONGEST > theirs


def later(record: Record) -> None:
    """Make a record one of tomorrow, and of a processor that no results are of."""
    record["run"]["date"] = "2099-01-01T00:00:00+00:00"
    record["run"]["machine"] |= {"cpu": "Hygon", "vendor": "Hygon", "isa": "avx2", "widest": "avx2", "amx": False}


def test_of_two_classes_the_later_one_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(tmp_path, monkeypatch, later, kind="hygon-")
    assert "Hygon, AVX2, " in " ".join(texts(readme.draw("light")))


def test_a_class_that_lacks_a_case_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = readme.processor()
    copied(tmp_path, monkeypatch, later, without="gpt2-head", kind="hygon-")
    assert readme.processor()[0] == before


def test_without_results_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove("linear", tmp_path, monkeypatch)
    with pytest.raises(pages.LostSourceError, match="linear"):
        _ = readme.draw("light")


def test_both_schemes_have_their_own_colours() -> None:
    light, dark = (set(re.findall(r'fill="(#\w+)"', readme.draw(scheme))) for scheme in readme.SCHEMES)
    assert len(light) == len(dark) == 5
    assert not light & dark


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 900])
def test_texts_do_not_overlap_or_leave_the_picture(browser: Browser, tmp_path: Path, width: int) -> None:
    page = tmp_path / "page.html"
    _ = page.write_text(f"<body style='margin:0'>{readme.draw('light')}</body>", encoding="utf-8")
    browser.open(page, width=width)
    assert browser.evaluate(f"{PICTURE_FLAWS}('svg', 0)") == []


def test_the_picture_is_where_the_readme_shows_it(tmp_path: Path) -> None:
    text = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    for scheme in readme.SCHEMES:
        file = readme.FOLDER / f"readme-{scheme}.svg"
        assert f'"{file.relative_to(pages.ROOT).as_posix()}"' in text
        _ = shutil.copy(file, tmp_path)
        assert ElementTree.parse(tmp_path / file.name).getroot().tag == f"{SVG}svg"
