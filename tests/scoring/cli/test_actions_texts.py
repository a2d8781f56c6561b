"""Texts of files in messages, tables and pages: one line, cut at 60 characters, and nothing that a terminal acts on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scoring.written import run

LONG = "x" * 100_000
EVIL = "\x1b[2J\x1b]0;title\x07\u202eabc\u2066\r\x08\x9b31m\u2028"
NAMED = ("--label", "y", "--probs", "p_0,p_1")


def table(path: Path, y: list[Any], more: dict[str, list[Any]] | None = None, p: str = "p_1") -> Path:
    """Write a table of two classes as jsonl, which holds any text."""
    columns = {"y": y, "p_0": [0.5] * len(y), p: [0.5] * len(y), **(more or {})}
    rows = zip(*columns.values(), strict=True)
    _ = path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return path


def line(capsys: Any, *arguments: object) -> str:
    ran = run(capsys, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert ran.err[:-1].isprintable()
    return ran.err


@pytest.mark.parametrize("text", [LONG, EVIL, EVIL * 1000])
class TestMessages:
    def test_a_label(self, text: str, tmp_path: Path, capsys: Any) -> None:
        path = table(tmp_path / "a.jsonl", ["0", text])
        assert len(line(capsys, "score", path, *NAMED).replace(str(path), "")) < 500

    def test_names_of_columns(self, text: str, tmp_path: Path, capsys: Any) -> None:
        path = table(tmp_path / "a.jsonl", [0, 1], p=f"p_{text}")
        for options in (NAMED, ("--label", "Y", "--probs", "p_*"), ("--label", f"p_{text}", "--probs", "p_*")):
            assert len(line(capsys, "score", path, *options).replace(str(path), "")) < 600

    def test_options(self, text: str, tmp_path: Path, capsys: Any) -> None:
        path = table(tmp_path / "a.jsonl", [0, 1])
        for options in (["--zero", text], ["--classes", text], ["--weight", text], ["--max-memory", text]):
            assert len(line(capsys, "score", path, *NAMED, *options).replace(str(path), "")) < 600

    def test_ids_and_classes_of_pairs(self, text: str, tmp_path: Path, capsys: Any) -> None:
        a = table(tmp_path / "a.jsonl", [0, 1], {"k": ["a", text]})
        b = table(tmp_path / "b.jsonl", [0, 1], {"k": ["a", f"{text}!"]})
        twice = table(tmp_path / "c.jsonl", [0, 1], {"k": [text, text]})
        other = table(tmp_path / "d.jsonl", [1, 0], {"k": ["a", text]})
        for second in (b, twice, other):
            said = line(capsys, "compare", a, second, *NAMED, "--on", "k")
            assert len(said.replace(str(a), "").replace(str(second), "")) < 600

    def test_logs(self, text: str, tmp_path: Path, capsys: Any) -> None:
        path = tmp_path / "log.jsonl"
        for record in ({"logprobs": [text]}, {"logprobs": text}, {text: 1}, {"logprobs": [-1], "tokens": text}):
            _ = path.write_text(json.dumps(record))
            assert len(line(capsys, "lm", path).replace(str(path), "")) < 600


@pytest.mark.parametrize("text", [LONG, EVIL, EVIL * 1000])
def test_tables_and_pages(text: str, tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path / "a.jsonl", [0, 1, 1], {"k": [text, "b", "c"], "g": [text, "e", "e"]})
    report = tmp_path / "r.html"
    ran = run(capsys, "score", path, *NAMED, "--id", "k", "--by", "g", "--html", report)
    assert ran.code == 0
    assert all(each.isprintable() or each.replace("\xa0", "").isprintable() for each in ran.out.split("\n"))
    assert max(map(len, ran.out.split("\n"))) < 400
    page = report.read_text(encoding="utf-8")
    assert not set(page) & set("\x1b\x07\u202e\u2066\x08\x9b\u2028")
    assert len(page) < 200_000
    worse = table(tmp_path / "b.jsonl", [0, 1, 1], {"k": [text, "b", "c"]}, p="p_1")
    _ = worse.write_text(worse.read_text().replace('"p_0": 0.5, "p_1": 0.5', '"p_0": 0.25, "p_1": 0.75', 1))
    ran = run(capsys, "compare", worse, path, *NAMED, "--on", "k")
    assert ran.code == 0
    assert max(map(len, ran.out.split("\n"))) < 400
    assert all(each.isprintable() or each.replace("\xa0", "").isprintable() for each in ran.out.split("\n"))


@pytest.mark.parametrize("command", ["score", "compare", "lm"])
def test_names_of_files(command: str, tmp_path: Path, capsys: Any) -> None:
    name = f"{EVIL.replace(chr(0x2028), '')}.jsonl"
    path = table(tmp_path / name, ["0", "what"])
    options = () if command == "lm" else NAMED
    files = [path, path] if command == "compare" else [path]
    assert "\\x1b[2J" in line(capsys, command, *files, *options)
    assert "\\x1b[2J" in line(capsys, command, *(each.with_suffix(".parquet") for each in files), *options)
    if command == "score":
        good, report = table(tmp_path / name, ["0", "1"]), tmp_path / f"{EVIL[:5]}.html"
        ran = run(capsys, "score", good, *NAMED, "--html", report)
        assert ran.code == 0
        assert ran.err[:-1].isprintable()
        assert not set(report.read_text(encoding="utf-8")) & set("\x1b\x07\u202e\u2066\x08\x9b")
