"""Names in files: classes, slices, clusters and ids that look like no value, like arguments, or like nothing."""

from __future__ import annotations

import json
import shlex
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from crossent.errors import Argument
from crossent.scoring.cli.reading import as_option
from tests.scoring.exact import close, exact_mean, made, softmax
from tests.scoring.written import run, saved

Y, Z = made(8, 60, 3)
P = softmax(Z)
CLASSES = ("nan", "None", "x")
LABELS = [CLASSES[k] for k in Y]
TRUE = P[np.arange(60), Y]
FORMATS = [".csv", ".csv.gz", ".tsv", ".jsonl", ".parquet", ".arrow", ".npz"]


def columns(names: Any = CLASSES, **more: Any) -> dict[str, Any]:
    return {**{f"p_{name}": P[:, k] for k, name in enumerate(names)}, "y": [names[k] for k in Y], **more}


def scored(path: Any, capsys: Any, *options: str) -> Any:
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", "--json", *options)
    assert (ran.code, ran.err) == (0, "")
    return ran.json()


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("names", [CLASSES, ("NA", "null", "n/a"), ("NaN", "NULL", "#N/A")], ids=lambda names: names[0])
def test_classes_named_like_no_value(ending: str, names: tuple[str, ...], tmp_path: Any, capsys: Any) -> None:
    path = saved(tmp_path / f"a{ending}", columns(names))
    found = scored(path, capsys)
    close(found["loss"], exact_mean(TRUE))
    assert [part["value"] for part in found["per_class"]] == list(names)
    assert [part["n"] for part in found["per_class"]] == np.bincount(Y).tolist()


@pytest.mark.parametrize("ending", FORMATS)
def test_slices_clusters_and_ids_named_like_no_value(ending: str, tmp_path: Any, capsys: Any) -> None:
    words = ["NA", "nan", "None", "null", "x"]
    groups = [words[k % 5] for k in range(60)]
    path = saved(tmp_path / f"a{ending}", columns(g=groups, name=[f"{g}{k}" for k, g in enumerate(groups)]))
    found = scored(path, capsys, "--by", "g", "--cluster", "g", "--id", "name")
    assert found["clusters"] == 5
    losses = {part["value"]: part["loss"] for part in found["by"]["g"]}
    assert set(losses) == set(words)
    for k, word in enumerate(words):
        close(losses[word], exact_mean(TRUE[k::5]))


def test_rows_without_a_label_where_a_class_is_called_nan(tmp_path: Any, capsys: Any) -> None:
    """The hint leaves out the rows without a label, and not the class."""
    labels: list[str | None] = [*LABELS[:-2], None, None]
    table = pa.table({**columns(), "y": pa.array(labels)})
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(table, path)
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*")
    assert "'y' has no value" in ran.err
    hint = ran.err.split("or pass ")[1].split(" to skip")[0]
    close(scored(path, capsys, *shlex.split(hint))["loss"], exact_mean(TRUE[:-2]))


@pytest.mark.parametrize("option", ["nan", "NaN", ""])
def test_rows_without_a_label_among_numbers(option: str, tmp_path: Any, capsys: Any) -> None:
    texts = ["NA", "", "nan", "None"]
    path = saved(tmp_path / "a.csv", {**columns((0, 1, 2)), "y": [*Y[:-4].tolist(), *texts]})
    assert "'y' has no value" in run(capsys, "score", path, "--label", "y", "--probs", "p_*").err
    found = scored(path, capsys, "--ignore", option)
    close(found["loss"], exact_mean(TRUE[:-4]))


def test_a_text_is_ignored_as_it_is_written(tmp_path: Any, capsys: Any) -> None:
    names = ("cat", "dog", "emu")
    path = saved(tmp_path / "a.csv", {**columns(names), "y": [*(names[k] for k in Y[:-1]), "NA"]})
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*")
    assert "label 'NA' (row 59" in ran.err
    hint = ran.err.split("use ")[1].split(" to skip")[0]
    close(scored(path, capsys, *shlex.split(hint))["loss"], exact_mean(TRUE[:-1]))


@pytest.mark.parametrize("ending", FORMATS)
def test_na_says_which_texts_are_no_value(ending: str, tmp_path: Any, capsys: Any) -> None:
    names = ("cat", "dog", "emu")
    groups = ["unknown" if k % 3 == 0 else "a" for k in range(60)]
    labels = [*(names[k] for k in Y[:-1]), "unknown"]
    path = saved(tmp_path / f"a{ending}", {**columns(names), "y": labels, "g": groups})
    found = scored(path, capsys, "--by", "g", "--na", "unknown", "--ignore", "")
    close(found["loss"], exact_mean(TRUE[:-1]))
    assert {part["value"] for part in found["by"]["g"]} == {"a", None}


def test_na_of_numbers(tmp_path: Any, capsys: Any) -> None:
    path = saved(tmp_path / "a.parquet", {**columns((0, 1, 2)), "y": [*Y[:-1].tolist(), 9]})
    close(scored(path, capsys, "--na", "9", "--ignore", "nan")["loss"], exact_mean(TRUE[:-1]))


#: classes and columns that look like arguments of a call or of a shell, or like marks of a page
ODD = [
    "by=3",
    "ignore=nan",
    "normalize=True",
    "--by",
    "zero=1e-6",
    "[red]x[/red]",
    "<b>x</b>",
    "$HOME",
    "%s {0}",
]


@pytest.mark.parametrize("odd", ODD)
def test_names_that_look_like_arguments_are_printed_as_they_are(odd: str, tmp_path: Any, capsys: Any) -> None:
    names = (odd, "b", "c")
    path = saved(tmp_path / "a.parquet", {"weight=kg": TRUE, **columns(names)})
    probs = ["--probs", "p_*"]
    ran = run(capsys, "score", path, "--label", "y", *probs, "--weight", "weight=kg", "--json")
    assert (ran.code, ran.err) == (0, "")
    close(ran.json()["loss"], float(-(TRUE * np.log(TRUE)).sum() / TRUE.sum()), 1e-12)
    assert [part["value"] for part in ran.json()["per_class"]] == list(names)
    table = run(capsys, "score", path, "--label", "y", *probs).out
    assert odd in table
    path = saved(tmp_path / "b.parquet", {"weight=kg": -TRUE, **columns(names), "y": [odd, "q", *("b" * 58)]})
    assert repr(odd) in run(capsys, "score", path, "--label", "y", *probs).err
    ran = run(capsys, "score", path, "--label", odd, *probs)
    assert ran.code == 2
    assert f"--label: there is no column {odd!r}" in ran.err


def test_a_column_named_like_an_argument_is_printed_as_it_is(tmp_path: Any, capsys: Any) -> None:
    path = saved(tmp_path / "a.parquet", {"weight=kg": TRUE, **columns()})
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", "--weight", "weight=k")
    assert "--weight: there is no column 'weight=k'; did you mean 'weight=kg'?" in ran.err


def test_columns_in_another_order_are_compared(tmp_path: Any, capsys: Any) -> None:
    names = ("cat", "dog", "emu")
    new = saved(tmp_path / "a.parquet", columns(names))
    q = np.roll(P, 1, axis=1)  # another model, whose columns are written in another order
    old = saved(tmp_path / "b.csv", {"p_emu": q[:, 2], "y": [names[k] for k in Y], "p_dog": q[:, 1], "p_cat": q[:, 0]})
    ran = run(capsys, "compare", new, old, "--label", "y", "--probs", "p_*", "--json")
    assert (ran.code, ran.err) == (0, "")
    close(json.loads(ran.out)["difference"], exact_mean(TRUE) - exact_mean(q[np.arange(60), Y]), 1e-12)


def test_a_class_with_a_comma(tmp_path: Any, capsys: Any) -> None:
    names = ("cat, black", "dog", "emu")
    path = saved(tmp_path / "a.parquet", {"y": [names[k] for k in Y], "p": P.tolist()})
    spelled = as_option(Argument("classes", list(names)))
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p", "--json", *shlex.split(spelled))
    assert (ran.code, ran.err) == (0, "")
    close(ran.json()["loss"], exact_mean(TRUE))


def test_no_value_and_its_names_look_different_in_tables(tmp_path: Any, capsys: Any) -> None:
    groups = ["None", None, "", "a"] * 15
    table = pa.table({**columns(("cat", "dog", "emu")), "g": pa.array(groups)})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    call = ("score", tmp_path / "a.parquet", "--label", "y", "--probs", "p_*", "--by", "g")
    text = run(capsys, *call, "--html", tmp_path / "a.html").out.split("by g\n")[1].split("\n\n")[0]
    assert [line.split("  ")[0] for line in text.splitlines()[1:]] == ["''", "a", "None", "(no value)"]
    page = (tmp_path / "a.html").read_text("utf-8")
    assert all(name in page for name in ("<i>no value</i>", "<i>empty</i>", "<bdi>None</bdi>"))
    losses = {part["value"]: part["loss"] for part in json.loads(run(capsys, *call, "--json").out)["by"]["g"]}
    for k, name in enumerate(groups[:4]):
        close(losses[name], exact_mean(TRUE[k::4]))


def test_a_cell_that_reads_like_a_message_is_printed_as_it_is(tmp_path: Any, capsys: Any) -> None:
    """pyarrow counts columns in its errors; a number in a cell counts none."""
    made = {**columns(("cat", "dog", "emu")), "p_dog": [*P[:-1, 1], "CSV column #99"]}
    path = saved(tmp_path / "a.csv", made)
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*")
    assert ran.code == 2
    assert "In column 'p_dog'" in ran.err
    assert "CSV column #99" in ran.err


def test_the_hint_about_empty_cells_keeps_texts(tmp_path: Any, capsys: Any) -> None:
    """A text nan that is no class is another mistake, which must not be left out with the empty cells."""
    names = ("cat", "dog", "emu")
    path = saved(tmp_path / "a.csv", {**columns(names), "y": ["", "nan", *(names[k] for k in Y[2:])]})
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*")
    hint = shlex.split(ran.err.split("or pass ")[1].split(" to skip")[0])
    assert hint == ["--ignore", ""]
    ran = run(capsys, "score", path, "--label", "y", "--probs", "p_*", *hint)
    assert "label 'nan' (row 1, 1 row in total) is not one of" in ran.err
    close(scored(path, capsys, *hint, "--ignore", "nan")["loss"], exact_mean(TRUE[2:]))
