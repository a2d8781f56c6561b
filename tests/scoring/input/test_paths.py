"""Names as users pass them: which files they stand for, in which order, and what their folders say."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from crossent.scoring.input.paths import sources
from crossent.scoring.input.reader import FileError


def made(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_text("y,p\n1,0.5\n")
    return folder


def names(*passed: str | Path, below: Path | None = None) -> list[str]:
    found = [source.name for source in sources(passed)]
    return found if below is None else [os.path.relpath(name, below) for name in found]


def test_a_folder_stands_for_its_files_in_order_without_marks(tmp_path: Path) -> None:
    _ = made(tmp_path, "b.csv", "a.csv", "x/c.csv", "_SUCCESS", ".a.csv.crc", "_temporary/d.csv", "x/_e.csv")
    assert names(tmp_path, below=tmp_path) == ["a.csv", "b.csv", "x/c.csv"]


def test_a_folder_is_read_as_pyarrow_reads_it(tmp_path: Path) -> None:
    table = pa.table({"y": [0, 1] * 8, "p": [0.5] * 16, "lang": ["de", "en", "a b", None] * 4, "_k": [1, 2] * 8})
    pa.dataset.write_dataset(
        table, tmp_path, format="parquet",
        partitioning=pa.dataset.partitioning(pa.schema([("lang", pa.string()), ("_k", pa.int64())]), flavor="hive"),
    )  # fmt: skip
    found = sources([tmp_path])
    wanted = pa.dataset.dataset(tmp_path, format="parquet", partitioning="hive", ignore_prefixes=["."])
    assert [source.name for source in found] == sorted(wanted.files)
    folders = [pa.dataset.get_partition_keys(each.partition_expression) for each in wanted.get_fragments()]
    by_name = dict(zip(wanted.files, folders, strict=True))
    for source in found:
        assert source.folders["lang"] == by_name[source.name].get("lang")
        assert source.folders["_k"] == str(by_name[source.name]["_k"])


@pytest.mark.parametrize("pattern", ["*.csv", "**/*.csv", "[ab].csv", "?.csv", "x/*", "*"])
def test_patterns_as_the_shell_reads_them(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ = made(tmp_path, "b.csv", "a.csv", "x/c.csv", "x/y/d.csv", "_hidden.csv", ".dot.csv")
    monkeypatch.chdir(tmp_path)
    wanted = {
        "*.csv": ["a.csv", "b.csv"], "**/*.csv": ["a.csv", "b.csv", "x/c.csv", "x/y/d.csv"],
        "[ab].csv": ["a.csv", "b.csv"],
        "?.csv": ["a.csv", "b.csv"], "x/*": ["x/c.csv", "x/y/d.csv"], "*": ["a.csv", "b.csv", "x/c.csv", "x/y/d.csv"],
    }  # fmt: skip
    assert names(pattern) == wanted[pattern]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    _ = made(tmp_path, "p[0].csv", "p0.csv")
    assert names(tmp_path / "p[0].csv", below=tmp_path) == ["p[0].csv"]
    assert names(str(tmp_path / "_*.csv").replace("_*", "p*"), below=tmp_path) == ["p0.csv", "p[0].csv"]


def test_a_pattern_may_ask_for_hidden_names(tmp_path: Path) -> None:
    _ = made(tmp_path, "_a.csv", "b.csv")
    assert names(str(tmp_path / "_*.csv"), below=tmp_path) == ["_a.csv"]


def test_folders_that_are_columns(tmp_path: Path) -> None:
    _ = made(tmp_path, "lang=a%20b/day=__HIVE_DEFAULT_PARTITION__/a.csv", "=x/b.csv")
    found = {Path(source.name).name: dict(source.folders) for source in sources([tmp_path])}
    assert found == {"a.csv": {"lang": "a b", "day": None}, "b.csv": {}}


def test_urls_come_through_pathlib(tmp_path: Path) -> None:
    path = made(tmp_path, "a.csv") / "a.csv"
    assert names(f"file://{path}") == [str(path)]
    assert names(Path(f"file://{path}")) == [str(path)]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["none*.csv"], "no file matches"),
        (["a.csv", "a.csv"], "is passed twice, so its rows would count twice"),
        (["a.csv", "./x/../a.csv"], "is passed twice"),
        (["a.csv", "link.csv"], "is passed twice .as 'a.csv' too"),
        (["x", "x/c.csv"], "is passed twice"),
        (["empty"], "is a directory without files; names that begin with _ or . do not count"),
        (["delta"], "is a table of Delta, whose log says which files count"),
        (["iceberg"], "is a table of Iceberg"),
        (["-", "-"], "is passed twice"),
    ],
)
def test_what_stands_for_no_files(call: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ = made(tmp_path, "a.csv", "x/c.csv", "empty/_SUCCESS", "delta/_delta_log/0.json", "delta/a.parquet")
    _ = made(tmp_path, "iceberg/data/a.parquet", "iceberg/metadata/v1.metadata.json")
    (tmp_path / "link.csv").symlink_to("a.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=said):
        _ = sources(call)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    _ = made(tmp_path, "a.csv", "x/b.csv")
    (tmp_path / "x" / "back").symlink_to(tmp_path)
    assert names(tmp_path, below=tmp_path) == ["a.csv", "x/b.csv"]


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        _ = sources([tmp_path / "none.csv"])
