"""`crossent score` and `crossent compare` against the functions of the same names, on the same numbers."""

from __future__ import annotations

import decimal
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import crossent
from tests.scoring.written import LISTS, SCALARS, columns, fresh, lists, predictions, run, same, saved

Y, P = predictions()
NAMES = ("0", "1", "2")
ANIMALS = np.array(["cat", "dog", "emu"])
GROUPS = np.random.default_rng(5)
MORE = {
    "w": GROUPS.random(len(Y)) + 0.5,
    "doc": GROUPS.integers(0, 40, len(Y)),
    "lang": GROUPS.choice(["de", "en", "fr"], len(Y)),
    "split": GROUPS.choice(["test", "train"], len(Y)),
    "name": np.array([f"row-{k}" for k in range(len(Y))]),
}
# y = [1, 0, 2] over these costs 0.69049112401021968491 nats (mpmath), 0.99616813 bits
THREE = {"y": [1, 0, 2], "p_0": [0.2, 0.6, 0.6], "p_1": [0.7, 0.2, 0.1], "p_2": [0.1, 0.2, 0.3]}
NATS = 0.69049112401021968491


def scored(path: Path, capsys: Any, *options: object, probs: str = "p_*") -> Any:
    ran = run(capsys, "score", path, "--label", "y", "--probs", probs, "--json", *options)
    assert (ran.code, ran.err) == (0, "")
    return ran.json()


def table(path: Path, **made: Any) -> Path:
    return saved(path / "t.parquet", made)


class TestFormats:
    @pytest.mark.parametrize("name", SCALARS)
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


class TestOptions:
    @pytest.mark.parametrize("end", ["csv", "parquet", "jsonl"])
    def test_all_columns_at_once(self, end: str, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / f"a.{end}", {**columns(Y, P), **MORE})
        by = ("--by", "lang", "--by", "split")
        found = scored(path, capsys, "--weight", "w", "--cluster", "doc", "--id", "name", *by)
        wanted = crossent.score(
            Y,
            probs=P,
            classes=NAMES,
            weight=MORE["w"],
            cluster=MORE["doc"],
            by={"lang": MORE["lang"], "split": MORE["split"]},
            id=MORE["name"],
        )
        same(found, wanted.to_dict())
        assert found["clusters"] == len(set(MORE["doc"]))
        assert list(found["by"]) == ["lang", "split"]
        assert found["worst"][0]["id"].startswith("row-")

    @pytest.mark.parametrize(
        ("given", "options"),
        [
            (["--ci", "0.8"], {"ci": 0.8}),
            (["--worst", "0"], {"worst": 0}),
            (["--worst", "3"], {"worst": 3}),
            (["--zero", "0.01"], {"zero": 0.01}),
            (["--zero", "inf"], {}),
            (["--ignore", "2"], {"ignore": "2"}),
            (["--ignore", "2", "--ignore", "0"], {"ignore": ["0", "2"]}),
            (["--classes", "2,1,0"], {"classes": ("2", "1", "0")}),
        ],
    )
    def test_means_the_argument(self, given: Any, options: Any, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", columns(Y, P))
        same(scored(path, capsys, *given), score([str(label) for label in Y], **{"classes": NAMES, **options}))

    @pytest.mark.parametrize("end", ["csv", "jsonl", "parquet", "npz"])
    def test_ignore_in_every_format(self, end: str, tmp_path: Path, capsys: Any) -> None:
        labels = np.where(np.arange(len(Y)) % 5, Y, -100)
        wanted = crossent.score(labels, probs=P, ignore=-100, classes=[0, 1, 2]).to_dict()
        for y in (labels, labels.astype(float)):
            found = scored(saved(tmp_path / f"a.{end}", columns(y, P)), capsys, "--ignore", "-100")
            assert found["n"] == wanted["n"] == len(Y) - len(Y) // 5
            assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-13)

    @pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
    def test_missing_labels_can_be_ignored(self, end: str, tmp_path: Path, capsys: Any) -> None:
        labels = [None if k % 5 == 0 else str(value) for k, value in enumerate(Y)]
        path = saved(tmp_path / f"a.{end}", columns(np.array(labels, dtype=object), P))
        assert scored(path, capsys, "--ignore", "nan")["n"] == len(Y) - len(Y) // 5

    def test_normalize(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", columns(Y, 3 * P))
        same(
            scored(path, capsys, "--normalize"), crossent.score(Y, probs=3 * P, classes=NAMES, normalize=True).to_dict()
        )

    def test_an_infinite_loss_is_strict_json(self, tmp_path: Path, capsys: Any) -> None:
        p = P.copy()
        p[7] = np.eye(3)[(Y[7] + 1) % 3]
        found = scored(saved(tmp_path / "a.csv", columns(Y, p)), capsys)
        assert found["loss"] == "inf"
        assert found["worst"][0]["id"] == 7

    def test_bits_are_bits_everywhere(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", THREE)
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", "--bits")
        assert (ran.code, ran.err) == (0, "")
        assert f"{NATS / math.log(2):.3f}" in ran.out
        assert "nats" not in ran.out

    def test_the_table_says_what_the_json_says(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", {**columns(Y, P), **MORE})
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", "--by", "lang", "--id", "name")
        assert (ran.code, ran.err) == (0, "")
        found = scored(path, capsys, "--by", "lang", "--id", "name")
        for wanted in (f"{found['loss']:.3f}", f"{found['ci'][0]:.3f}", f"{len(Y)} rows", "by lang", "de"):
            assert wanted in ran.out
        assert found["worst"][0]["id"] in ran.out
        assert "\x1b" not in ran.out

    def test_html(self, tmp_path: Path, capsys: Any) -> None:
        path, report = saved(tmp_path / "a.csv", columns(Y, P)), tmp_path / "deep.html"
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", "--html", report, "--json")
        assert (ran.code, ran.err) == (0, f"{report}\n")
        same(ran.json(), score(Y, classes=NAMES))
        page = report.read_text("utf-8")
        assert page.lstrip().lower().startswith("<!doctype html")
        assert "<svg" in page
        assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?!#|data:)[^\"'#\s>]+|url\((?!['\"]?(?:#|data:))", page)
        assert not re.findall(r"<script|<link|@import", page)


class TestThresholds:
    @pytest.mark.parametrize(
        ("options", "code"),
        [
            (["--max-loss", NATS + 1e-9], 0),
            (["--max-loss", NATS - 1e-9], 1),
            (["--max-loss", NATS / math.log(2) - 1e-9, "--bits"], 1),
            (["--max-loss", NATS / math.log(2) + 1e-9, "--bits"], 0),
            (["--min-skill", 0.3714], 0),
            (["--min-skill", 0.3716], 1),  # 1 − 0.69049112 / log 3 = 0.37148
            (["--min-skill", 0.9, "--max-loss", 0.1], 1),
        ],
    )
    @pytest.mark.parametrize("form", [[], ["--json"]])
    def test_of_a_score(self, options: Any, code: int, form: Any, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", THREE)
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", *form, *options)
        assert ran.code == code
        assert "0.6904911240102" in ran.out if form else "3 rows" in ran.out
        if code:
            assert ran.err.startswith("crossent: ")
            assert ran.err.count("\n") == 1
            assert all(option in ran.err for option in options if str(option) in ("--max-loss", "--min-skill"))
        else:
            assert ran.err == ""

    def test_of_a_skill_that_does_not_exist(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", {"y": [1, 1], "p": [0.5, 0.75]})
        ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--min-skill", "0.1")
        assert ran.code == 1
        assert "skill" in ran.err

    def test_of_a_comparison(self, tmp_path: Path, capsys: Any) -> None:
        new, old = saved(tmp_path / "new.csv", THREE), saved(tmp_path / "old.csv", {**THREE, "p_1": [0.7, 0.2, 0.1]})
        worse = saved(tmp_path / "worse.csv", {**THREE, "p_0": [0.5, 0.6, 0.6], "p_1": [0.4, 0.2, 0.1]})
        rise = math.log(0.7 / 0.4) / 3
        for files, limit, code in (
            ((new, old), 0, 0),
            ((worse, old), rise - 1e-9, 1),
            ((worse, old), rise + 1e-9, 0),
            ((old, worse), 0, 0),
        ):
            ran = run(capsys, "compare", *files, "--label", "y", "--probs", "p_*", "--max-regression", limit)
            assert ran.code == code
            assert ran.out
            assert ran.err.count("\n") == code
            assert ("--max-regression" in ran.err) == bool(code)


class TestCompare:
    @pytest.mark.parametrize("ends", [("csv", "parquet"), ("jsonl", "arrow"), ("npz", "tsv")])
    def test_shuffled_rows_are_paired_by_id(self, ends: Any, tmp_path: Path, capsys: Any) -> None:
        order = np.random.default_rng(9).permutation(len(Y))
        flat = (P + 0.2) / 1.6
        new = saved(tmp_path / f"new.{ends[0]}", {**columns(Y, P), "name": MORE["name"]})
        old = saved(tmp_path / f"old.{ends[1]}", {**columns(Y[order], flat[order]), "name": MORE["name"][order]})
        ran = run(capsys, "compare", new, old, "--label", "y", "--probs", "p_*", "--on", "name", "--json")
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


def test_fields_of_an_npy_are_columns(tmp_path: Path, capsys: Any) -> None:
    path, table = tmp_path / "table.npy", np.zeros(len(Y), [("y", np.int8), ("p", np.float32, (3,))])
    table["y"], table["p"] = Y, P
    np.save(path, table)
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--json")
    same(json.loads(ran.out), crossent.score(Y, probs=table["p"]).to_dict())


class TestLanguageModels:
    def test_exit_codes(self, tmp_path: Path, capsys: Any) -> None:
        log = tmp_path / "log.jsonl"
        _ = log.write_text(json.dumps({"tokens": ["A", "b"], "logprobs": [-1.0, -2.0]}) + "\n")
        assert run(capsys, "lm", log, "--max-loss", "1.51").code == 0
        missed = run(capsys, "lm", log, "--max-loss", "1.49", "--json")
        assert (missed.code, missed.err.count("\n")) == (1, 1)
        assert missed.json()["loss"] == 1.5
        for arguments in ([tmp_path / "none.jsonl"], [tmp_path], [log, "--format", "nope"], [log, "--ci", "7"]):
            ran = run(capsys, "lm", *arguments)
            assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)


def test_a_process_of_its_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.csv", THREE)
    arguments = ("score", path, "--label", "y", "--probs", "p_*", "--max-loss")
    good, missed = fresh(*arguments, 1, "--json"), fresh(*arguments, 0.1)
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["loss"] == pytest.approx(NATS, rel=1e-13)
    assert (missed.returncode, missed.stderr.count("\n")) == (1, 1)
    assert "3 rows" in missed.stdout


def score(y: Any, **options: Any) -> Any:
    return crossent.score(y, probs=P, **options).to_dict()
