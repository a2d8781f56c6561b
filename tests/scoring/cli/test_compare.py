"""`crossent compare` against the function of the same name, on the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossent
from tests.scoring.cli.runs import MORE, NAMES, P, Y
from tests.scoring.written import columns, run, same, saved


class TestCompare:
    @pytest.mark.slow
    @pytest.mark.parametrize("option", ["--id", "--on"])
    @pytest.mark.parametrize("ends", [("csv", "parquet"), ("jsonl", "arrow"), ("npz", "tsv")])
    def test_shuffled_rows_are_paired_by_id(self, ends: Any, option: str, tmp_path: Path, capsys: Any) -> None:
        order = np.random.default_rng(9).permutation(len(Y))
        flat = (P + 0.2) / 1.6
        new = saved(tmp_path / f"new.{ends[0]}", {**columns(Y, P), "name": MORE["name"]})
        old = saved(tmp_path / f"old.{ends[1]}", {**columns(Y[order], flat[order]), "name": MORE["name"][order]})
        ran = run(capsys, "compare", new, old, "--label", "y", "--probs", "p_*", option, "name", "--json")
        assert (ran.code, ran.err) == (0, "")
        a = crossent.score(Y, probs=P, id=MORE["name"], classes=NAMES)
        b = crossent.score(Y, probs=flat, id=MORE["name"], classes=NAMES)
        wanted = crossent.compare(a, b).to_dict()
        found = ran.json()
        same(found, wanted)
        assert found["loss_a"] == pytest.approx(a.loss, rel=1e-13)

    def test_rows_in_order(self, tmp_path: Path, capsys: Any) -> None:
        flat = (P + 0.2) / 1.6
        a, b = saved(tmp_path / "a.csv", columns(Y, P)), saved(tmp_path / "b.csv", columns(Y, flat))
        ran = run(capsys, "compare", a, b, "--label", "y", "--probs", "p_*", "--json", "--ci", "0.9", "--worst", "3")
        assert (ran.code, ran.err) == (0, "")
        wanted = crossent.compare(*(crossent.score(Y, probs=p, classes=NAMES, ci=0.9, worst=3) for p in (P, flat)))
        same(ran.json(), wanted.to_dict())

    def test_refuses_what_is_not_paired(self, tmp_path: Path, capsys: Any) -> None:
        made = {**columns(Y, P), "name": MORE["name"]}
        a = saved(tmp_path / "a.csv", made)
        b = saved(tmp_path / "b.csv", {name: column[:-1] for name, column in made.items()})
        c = saved(tmp_path / "c.csv", {**made, "y": (Y + 1) % 3})
        for files, options in (((a, b), ()), ((a, b), ("--on", "name")), ((a, c), ()), ((b, c), ("--on", "name"))):
            ran = run(capsys, "compare", *files, "--label", "y", "--probs", "p_*", *options)
            assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
            assert ran.err.startswith("crossent: ")
            assert ("pass --id to pair them" in ran.err) == (options == ())
