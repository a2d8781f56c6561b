"""Files of the commands: formats, kinds of columns, and arguments spelled as options."""

from __future__ import annotations

import decimal
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import crossent
from crossent.errors import Argument
from crossent.scoring.cli.reading import as_option
from tests.scoring.cli.runs import ANIMALS, MORE, NAMES, P, Y, score, scored, table
from tests.scoring.written import LISTS, PACKED, SCALARS, columns, lists, predictions, run, same, saved


class TestSpelling:
    """Hints name options of the command, which can be pasted into a shell."""

    @pytest.mark.parametrize(
        ("name", "value", "option"),
        [
            ("ignore", 5, "--ignore 5"),
            ("ignore", -100, "--ignore -100"),
            ("ignore", math.nan, "--ignore nan"),
            ("ignore", None, "--ignore nan"),
            ("ignore", True, "--ignore True"),
            ("ignore", [math.nan, "no one"], "--ignore nan --ignore 'no one'"),
            ("ignore", "it's $HOME", "--ignore 'it'\"'\"'s $HOME'"),
            ("ignore", "", "--ignore ''"),
            ("ignore", [], "--ignore"),
            ("normalize", True, "--normalize"),
            ("classes", ["a", "b"], "--classes a,b"),
            ("classes", ["a b", "c"], "--classes 'a b,c'"),
            ("zero", 1e-6, "--zero 1e-6"),
            ("max_loss", 0.5, "--max-loss 0.5"),
            ("id", ..., "--id"),
        ],
    )
    def test_of_arguments(self, name: str, value: Any, option: str) -> None:
        assert as_option(Argument(name, value)) == option
        words = shlex.split(option)
        assert words[0] == f"--{name.replace('_', '-')}"
        if isinstance(value, str):
            assert words[1:] == [value]

    @pytest.mark.parametrize("label", ["by=3", "ignore=float('nan')", "normalize=True", "a, b", "id= "])
    def test_labels_that_look_like_arguments_come_through_untouched(
        self, label: str, tmp_path: Path, capsys: Any
    ) -> None:
        path = saved(tmp_path / "a.parquet", {**columns(Y[:3], P[:3]), "y": ["0", "0", label]})
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*")
        hint = f"use --ignore {shlex.quote(label)} to skip such rows, or --classes to name the columns"
        assert ran.err == (
            f"crossent: {path}: label {label!r} (row 2, 1 row in total) is not one of the 3 classes ['0', '1', '2']; "
            f"{hint}\n"
        )
        pasted = shlex.split(hint)[1:3]
        assert scored(path, capsys, *pasted)["n"] == 2

    def test_of_warnings_in_text_and_report(self, tmp_path: Path, capsys: Any) -> None:
        path, report = saved(tmp_path / "a.csv", {"y": [1, 0], "p": [0.0, 0.5]}), tmp_path / "a.html"
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--html", report)
        warnings = "; ".join(scored(path, capsys, probs="p")["warnings"])
        for said in (ran.out, report.read_text("utf-8"), warnings):
            assert "pass --zero 1e-6, for example," in said
            assert "zero=" not in said


class TestFormats:
    @pytest.mark.parametrize("name", [*SCALARS, *PACKED])
    def test_a_column_for_each_class(self, name: str, tmp_path: Path, capsys: Any) -> None:
        same(scored(saved(tmp_path / name, columns(Y, P)), capsys), score(Y, classes=NAMES))

    @pytest.mark.parametrize("name", LISTS)
    def test_a_column_of_lists(self, name: str, tmp_path: Path, capsys: Any) -> None:
        same(scored(saved(tmp_path / name, lists(Y, P)), capsys, probs="p"), score(Y))

    def test_npy(self, tmp_path: Path, capsys: Any) -> None:
        for name, value in {"y": Y, "p": P, "w": MORE["w"]}.items():
            np.save(tmp_path / f"{name}.npy", value)
        same(scored(tmp_path / "p.npy", capsys, "--weight", "w", probs="p"), score(Y, weight=MORE["w"]))

    def test_logits_and_log_probabilities(self, tmp_path: Path, capsys: Any) -> None:
        for option, numbers in {"logits": 3 * np.log(P) + 1, "logprobs": np.log(P)}.items():
            path = saved(tmp_path / "a.csv", columns(Y, numbers, stem="z_"))
            ran = run(capsys, "score", path, "--label", "y", f"--{option}", "z_*", "--json")
            assert (ran.code, ran.err) == (0, "")
            same(ran.json(), crossent.score(Y, **{option: numbers}, classes=NAMES).to_dict())

    def test_of_many_batches(self, tmp_path: Path, capsys: Any) -> None:
        y, p = predictions(150_000, 2, seed=3)
        wanted = crossent.score(y, probs=p[:, 1]).to_dict()
        for end in ("parquet", "csv"):
            path = saved(tmp_path / f"a.{end}", {"y": y, "p": p[:, 1]})
            same(scored(path, capsys, probs="p"), wanted)


class TestColumns:
    @pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.decimal128(20, 12)])
    def test_of_kinds_of_numbers(self, kind: Any, tmp_path: Path, capsys: Any) -> None:
        if pa.types.is_decimal(kind):
            cells = [[decimal.Decimal(f"{value:.12f}") for value in row] for row in P.T]
            stored = np.array(cells, dtype=np.float64).T
        else:
            stored = P.astype(kind.to_pandas_dtype())
            cells = list(stored.T)
        made = {f"p_{k}": pa.array(cell, kind) for k, cell in enumerate(cells)}
        wanted = crossent.score(Y, probs=stored, classes=NAMES).to_dict()
        same(scored(table(tmp_path, y=Y, **made), capsys), wanted)

    def test_of_whole_numbers(self, tmp_path: Path, capsys: Any) -> None:
        hard = np.eye(3, dtype=np.int64)[Y]
        found = scored(table(tmp_path, **columns(Y, hard)), capsys)
        same(found, crossent.score(Y, probs=hard, classes=NAMES).to_dict())
        assert found["loss"] == 0

    @pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
    @pytest.mark.parametrize("number", [pa.float32(), pa.float64()])
    def test_of_kinds_of_lists(self, kind: str, number: Any, tmp_path: Path, capsys: Any) -> None:
        stored = P.astype(number.to_pandas_dtype())
        types = {"list": pa.list_(number), "large_list": pa.large_list(number), "fixed": pa.list_(number, 3)}
        path = table(tmp_path, y=Y, p=pa.array(stored.tolist(), types[kind]))
        same(scored(path, capsys, probs="p"), crossent.score(Y, probs=stored).to_dict())

    @pytest.mark.parametrize("kind", ["string", "dictionary", "large_string", "string_view"])
    def test_labels_are_the_names_of_columns(self, kind: str, tmp_path: Path, capsys: Any) -> None:
        labels = pa.array(ANIMALS[Y].tolist())
        if kind == "dictionary":
            labels = labels.dictionary_encode()
        elif kind != "string":
            labels = labels.cast(getattr(pa, kind)())
        made = {**columns(Y, P, ANIMALS), "y": labels}
        wanted = crossent.score(ANIMALS[Y], probs=P, classes=ANIMALS.tolist()).to_dict()
        same(scored(table(tmp_path, **made), capsys), wanted)

    def test_columns_may_stand_in_any_order(self, tmp_path: Path, capsys: Any) -> None:
        order = [2, 0, 1]
        made = columns(ANIMALS[Y], P[:, order], ANIMALS[order])
        found = scored(saved(tmp_path / "a.csv", dict(reversed(made.items()))), capsys)
        wanted = score(ANIMALS[Y], classes=ANIMALS.tolist())
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-13)
        assert found["accuracy"] == wanted["accuracy"]

    @pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
    def test_labels_that_are_words_for_numbers(self, end: str, tmp_path: Path, capsys: Any) -> None:
        for labels in ([f"{value}.0" for value in Y], [str(value) for value in Y], Y.astype(float)):
            path = saved(tmp_path / f"a.{end}", columns(np.asarray(labels), P))
            assert scored(path, capsys)["loss"] == score(Y, classes=NAMES)["loss"]

    @pytest.mark.parametrize("end", ["csv", "jsonl", "parquet", "npz"])
    def test_labels_that_are_true_or_false(self, end: str, tmp_path: Path, capsys: Any) -> None:
        made = {"y": Y > 0, "p": 1 - P[:, 0]}
        found = scored(saved(tmp_path / f"a.{end}", made), capsys, probs="p")
        wanted = crossent.score((Y > 0).astype(int), probs=1 - P[:, 0]).to_dict()
        for key in ("loss", "ci", "skill", "accuracy", "calibration"):
            same(found[key], wanted[key], key)

    @pytest.mark.parametrize("end", ["csv", "parquet"])
    def test_one_column_of_the_positive_class(self, end: str, tmp_path: Path, capsys: Any) -> None:
        words = np.array(["neg", "pos"])[(Y > 0).astype(int)]
        path = saved(tmp_path / f"a.{end}", {"y": words, "chance": 1 - P[:, 0]})
        found = scored(path, capsys, "--classes", "neg,pos", probs="chance")
        same(found, crossent.score(words, probs=1 - P[:, 0], classes=["neg", "pos"]).to_dict())

    def test_csv_as_spreadsheets_write_it(self, tmp_path: Path, capsys: Any) -> None:
        plain = saved(tmp_path / "a.csv", {**columns(Y, P), "name": MORE["name"]})
        head, _, rest = plain.read_text().partition("\n")
        quoted = ",".join(f'"{name}"' for name in head.split(",")) + "\n" + rest
        wanted = scored(plain, capsys)
        for text in (quoted, head + "\n" + rest.rstrip("\n")):
            for data in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode()):
                _ = plain.write_bytes(data)
                assert scored(plain, capsys) == wanted


def test_fields_of_an_npy_are_columns(tmp_path: Path, capsys: Any) -> None:
    path, table = tmp_path / "table.npy", np.zeros(len(Y), [("y", np.int8), ("p", np.float32, (3,))])
    table["y"], table["p"] = Y, P
    np.save(path, table)
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--json")
    same(json.loads(ran.out), crossent.score(Y, probs=table["p"]).to_dict())
