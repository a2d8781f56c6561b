"""Where the numbers of the pages come from: result files, and nowhere else."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import proof
from benchmarks.common import pages
from tests.docs.blocks import PAGES, ROOT
from tests.docs.results import DRAWN

DOCS = ROOT / "docs"
SHOWN = {page: page.read_text(encoding="utf-8") for page in PAGES}


def test_results_are_of_commits() -> None:
    """And not of something between two commits, which nobody can measure again."""
    for suite in {table.suite for table in proof.TABLES.values()} | {"scaling", "growth"}:
        if pages.exists(suite):
            commits = {record["run"]["commit"] for record in pages.records(suite)}
            assert all(re.fullmatch(r"[0-9a-f]{12}", str(commit)) for commit in commits), (suite, commits)


def test_what_no_gpu_has_measured_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    for name in ("gpu-logits", "gpu-linear"):
        lines = proof.table(name).splitlines()
        assert all(proof.NOT_MEASURED in line for line in lines[2:])


def test_every_table_and_picture_is_shown_and_none_is_of_nothing() -> None:
    text = "\n".join(SHOWN.values())
    assert set(re.findall(r"```\{measured\} (\S+)", text)) == {*proof.TABLES, *proof.MODELS}
    shown = re.findall(r"```\{picture\} (\S+)", text)
    assert len(shown) == len(set(shown))
    drawn = {f"{path.stem}.{name}" for path in (DOCS / "pictures").glob("*.py") for name in functions(path)}
    assert set(shown) == drawn


def functions(path: Path) -> list[str]:
    """The functions of a module that draw: with @picture, or by returning one of the report's pictures."""
    text = path.read_text(encoding="utf-8")
    return re.findall(r"^@picture\([^@]*?^def (\w+)", text, re.MULTILINE | re.DOTALL) + re.findall(
        r"^def ([a-z]\w*)\(\) -> str:", text, re.MULTILINE
    )


NUMBER = r"\d[\d.,]*(?:\s*(?:to|–|-)\s*\d[\d.,]*)?\s*"
MEASURED = re.compile(
    rf"(?:{NUMBER}(?:ms|µs|ns|s|seconds?|minutes?|GB/s|MB/s|MB|GB|kB|[Tt]flops?|Tflop/s|GFLOP/s|million rows/s)\b"
    rf"|{NUMBER}(?:×|times)\s+(?:faster|slower|as fast|as long|torch|less|more)|×\s*faster)"
)
ALLOWED = {
    "docs/guide/one-hot.md": ["4.2 GB"],  # 8192 · 128256 · 4 bytes
    "docs/guide/sharded-heads.md": ["400 Tflop", "200 GB/s", "5 µs"],  # assumptions of a model that is computed
}
"""Text that looks like a measurement, and is arithmetic or an assumption."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_measured_number_is_typed_by_hand(page: Path) -> None:
    text = re.sub(r"```.*?```", "", SHOWN[page], flags=re.DOTALL)  # what blocks compute is checked by running them
    typed = [match.group() for match in MEASURED.finditer(text)]
    allowed = ALLOWED.get(str(page.relative_to(ROOT)), [])
    assert [number for number in typed if number.strip() not in allowed] == []


@pytest.mark.parametrize(
    "text", ["takes 130 to 134 ms", "3.8 times faster", "reads 3.03 GB", "2.3 × as long", "4 times torch eager"]
)
def test_typed_numbers_are_found(text: str) -> None:
    assert MEASURED.search(text)


def test_features_name_the_versions_that_are_installed() -> None:
    """Cells were read in one version each; where a new one is pinned they have to be read again."""
    features = tomllib.loads((DOCS / "features.toml").read_text(encoding="utf-8"))
    versions = {library["key"]: library.get("version") for library in features["library"]}
    for key, package in (("torch", "torch"), ("sklearn", "scikit-learn"), ("torchmetrics", "torchmetrics")):
        assert versions[key] == metadata.version(package).partition("+")[0]


def test_every_cell_of_features_has_its_evidence() -> None:
    """A line of its own, or for a "no" the places where it would be, with the day on which they were read."""
    features = tomllib.loads((DOCS / "features.toml").read_text(encoding="utf-8"))
    for library in features["library"]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", library["looked"])
        assert library["read"]
        assert library.get("docs", "https://").startswith("https://")
    for group in features["group"]:
        for row in group["feature"]:
            cells = {library["key"]: row[library["key"]] for library in features["library"]}
            without = {key for key, cell in cells.items() if cell.startswith(("yes", "part"))} - row["why"].keys()
            assert not without, row["name"]


def test_tests_that_features_name_are_there() -> None:
    text = (DOCS / "features.toml").read_text(encoding="utf-8")
    named = re.findall(r"tests/[\w/]+(?:\.py)?", text)
    assert named
    assert all((ROOT / name).exists() for name in named)


def test_pictures_of_results_say_where_they_come_from() -> None:
    text = "\n".join(SHOWN.values())
    for suite, names in DRAWN.items():
        assert all(f"```{{picture}} {name}\n:source: {suite}\n" in text for name in names)
    assert len(re.findall("^:source:", text, re.MULTILINE)) == sum(map(len, DRAWN.values()))
    files = (DOCS / "pictures").glob("*.py")
    modules = {path.stem for path in files if "from benchmarks" in path.read_text(encoding="utf-8")}
    shown_as_files = {"readme"}  # whose picture names its results itself
    assert modules == {name.partition(".")[0] for names in DRAWN.values() for name in names} | shown_as_files


def test_every_feature_says_something_of_every_library() -> None:
    features = tomllib.loads((DOCS / "features.toml").read_text(encoding="utf-8"))
    keys = {library["key"] for library in features["library"]}
    for group in features["group"]:
        for feature in group["feature"]:
            assert keys <= feature.keys()
            assert feature.get("why", {}).keys() <= keys
            assert all(feature[key].startswith(("yes", "no", "part", "–")) for key in keys), feature["name"]
    shown = SHOWN[DOCS / "proof.md"]
    assert re.findall(r"```\{features\} (.+)", shown) == [group["title"] for group in features["group"]]
