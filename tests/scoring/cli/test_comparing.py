"""Models among files and columns: which are compared, which are ranked, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossent
from crossent.errors import UsageError
from crossent.scoring.cli.comparing import Columns, Model, kind_of, models
from tests.scoring.pairs import pair
from tests.scoring.written import run, same, saved


def files(folder: Path) -> dict[str, Any]:
    """Write three models of the same rows: a file each, and all in one; return what they hold."""
    y, p, q = pair()
    r = (p + q + 0.1) / (p + q + 0.1).sum(axis=1, keepdims=True)
    lang = np.random.default_rng(0).choice(["de", "en"], len(y))
    models = {"a": p, "b": q, "c": r}
    for name, m in models.items():
        _ = saved(folder / f"{name}.parquet", {"y": y, "lang": lang, **{f"p_{k}": m[:, k] for k in range(3)}})
    wide = {f"{name}_{k}": m[:, k] for name, m in models.items() for k in range(3)}
    _ = saved(folder / "all.parquet", {"y": y, "lang": lang, **wide})
    names = ("0", "1", "2")
    return {name: crossent.score(y, probs=m, by={"lang": lang}, classes=names) for name, m in models.items()}


def test_models_are_files_or_columns() -> None:
    probs = Columns("probs", ["p_*"])
    assert models(["x", "y"], probs) == [Model("x", "x", "probs", "p_*"), Model("y", "y", "probs", "p_*")]
    assert models(["x", "y"], None) == [Model("x", "x", "probs", None), Model("y", "y", "probs", None)]
    own = Columns("logits", ["a_*", "b_*"])
    assert models(["x"], own) == [Model("a", "x", "logits", "a_*"), Model("b", "x", "logits", "b_*")]
    assert models(["x", "y"], own) == [Model("x", "x", "logits", "a_*"), Model("y", "y", "logits", "b_*")]
    assert [model.name for model in models(["x"], Columns("probs", ["a", "a_*"]))] == ["a", "a_*"]
    assert [model.name for model in models(["x", "x", "y"], probs)] == ["x (1)", "x (2)", "y"]
    for given, columns, part in (
        (["x"], probs, "two files, or repeat --probs"),
        (["x", "y", "z"], own, "once for all 3 files, or once for each; got 2"),
    ):
        with pytest.raises(UsageError, match=part):
            _ = models(given, columns)
    with pytest.raises(ValueError, match="pass one of --probs and --logits"):
        _ = kind_of(["p"], ["z"], None)


def test_columns_of_one_file(tmp_path: Path, capsys: Any) -> None:
    scores = files(tmp_path)
    named = ("compare", tmp_path / "all.parquet", "--label", "y", "--by", "lang", "--json")
    ran = run(capsys, *named, "--probs", "b_*", "--probs", "a_*")
    assert (ran.code, ran.err) == (0, "")
    same(ran.json(), crossent.compare(scores["b"], scores["a"]).to_dict())
    ran = run(capsys, *named, *(f"--probs={name}_*" for name in "abc"))
    same(ran.json(), crossent.rank(scores).to_dict())


def test_three_files_are_ranked(tmp_path: Path, capsys: Any) -> None:
    scores = files(tmp_path)
    three = [tmp_path / f"{name}.parquet" for name in "abc"]
    ran = run(capsys, "compare", *three, "--label", "y", "--probs", "p_*", "--bits", "--json")
    wanted = crossent.rank({str(path): score for path, score in zip(three, scores.values(), strict=True)})
    same(ran.json(), wanted.to_dict(unit="bits"))
    ran = run(capsys, "compare", *three, "--label", "y", "--probs", "p_*", "--max-regression", "0.1")
    assert (ran.code, "for two models" in ran.err) == (2, True)


def test_pages(tmp_path: Path, capsys: Any) -> None:
    _ = files(tmp_path)
    three = [tmp_path / f"{name}.parquet" for name in "abc"]
    for given in (three, three[:2]):
        page = tmp_path / f"{len(given)}.html"
        ran = run(capsys, "compare", *given, "--label", "y", "--probs", "p_*", "--html", page)
        assert (ran.code, ran.err) == (0, f"wrote {page}\n")
        text = page.read_text(encoding="utf-8")
        assert text.startswith("<!DOCTYPE html>")
        assert "<script" not in text


def test_thresholds_are_in_the_unit_of_the_losses(tmp_path: Path, capsys: Any) -> None:
    scores = files(tmp_path)
    over = crossent.compare(scores["b"], scores["a"]).difference
    two = (tmp_path / "b.parquet", tmp_path / "a.parquet", "--label", "y", "--probs", "p_*")
    assert over > 0
    for options, code in (((over * 1.1,), 0), ((over * 0.9,), 1), ((over * 1.1, "--bits"), 1)):
        assert run(capsys, "compare", *two, "--max-regression", *options).code == code


def test_logs_are_compared_by_document(tmp_path: Path, capsys: Any) -> None:
    for name, shift in (("a", 0.0), ("b", 0.25)):
        lines = [f'{{"id": "d{k}", "tokens": ["x", "y"], "logprobs": [-{k + 1}.0, -{0.5 + shift}]}}' for k in range(9)]
        _ = (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    logs = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    ran = run(capsys, "compare", "--lm", *logs, "--json")
    assert ran.code == 0, ran.err
    assert ran.json()["per_token"]["difference"] == pytest.approx(-0.125)
    ran = run(capsys, "compare", "--lm", *logs, "--label", "y")
    assert (ran.code, "--lm compares logs and takes only --ci" in ran.err) == (2, True)
    ran = run(capsys, "compare", "--lm", *logs, *logs)
    assert (ran.code, "--lm compares two logs, got 4" in ran.err) == (2, True)
