"""Files of JSON: columns that change their kind, names that occur twice, and lines that are damaged."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crossent
from crossent.errors import UsageError
from crossent.scoring.cli.actions import score_file
from crossent.scoring.input import json_files
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.columns import columns
from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import FileError
from tests.scoring.cli.runs import compared_files


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def read(path, names, texts=()):
    found = [portion.batch.to_pydict() for portion in open_table(path).batches(names, texts)]
    return {name: [value for batch in found for value in batch[name]] for name in names}


def scored(tmp_path, *rows, **roles):
    (tmp_path / "a.jsonl").write_text(lines(*rows))
    return score_file(tmp_path / "a.jsonl", columns("y", RowArguments(probs="p", **roles)), {})


@pytest.mark.parametrize(
    "values",
    [
        [None, 1, 0], [1, 0.0, 1.0], [True, 0, 1], [0, True, 1.0], [0.5, 1, 2**53 + 1], [2**63, 1],
        [-(2**80), 2**70 - 1],
        [10**90, "a"], ["1", 1, None], ["a", True, 0.5, None, 2**64], [None, None], ["2026-01-02", "x"], ["", None],
        [1.5, float("nan"), float("inf")],
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("begun", [[], [0], [None] * 150, ["x"]], ids=["", "after 0", "after gaps", "after text"])
def test_columns_hold_what_each_line_says(values, begun, tmp_path):
    """As Python's own `json` reads them, exactly; whole numbers of more than 76 digits are text."""
    values = [*begun, *values]
    (tmp_path / "a.jsonl").write_text(lines(*({"y": value, "p": 0.5} for value in values)))
    found = read(tmp_path / "a.jsonl", ["y", "p"], ["y"])
    wanted = [str(value) if isinstance(value, int) and abs(value) >= 10**76 else value for value in values]
    assert all(a == b or (a != a and b != b) for a, b in zip(found["y"], wanted, strict=True)), found
    assert found["p"] == [0.5] * len(values)


@settings(deadline=None)
@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab1.\u00fc"), min_size=1))
def test_values_of_any_kind_in_one_column(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    path.write_text(lines(*({"y": value} for value in values)))
    found = read(path, ["y"], ["y"])["y"]
    for a, b in zip(found, values, strict=True):
        assert a == b or (a != a and b != b) or a == str(b)


@pytest.mark.parametrize(
    "values", [[None, 1, 0.5], [1, 0.25], [0, 0.5, None], [True, 0.5], [0.5, float("nan")]], ids=str
)
def test_numbers_are_floats_whatever_comes_first(values, tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(*({"p": value} for value in values)))
    found = read(tmp_path / "a.jsonl", ["p"])["p"]
    np.testing.assert_array_equal(np.array(found, float), np.array(values, float))


def test_lists_after_gaps_and_of_whole_numbers(tmp_path):
    rows = [{"p": None}, {}, {"p": [1, 0]}, {"p": [0.5, 0.5]}, {"p": [True, None]}]
    (tmp_path / "a.jsonl").write_text(lines(*rows))
    assert read(tmp_path / "a.jsonl", ["p"])["p"] == [None, None, [1.0, 0.0], [0.5, 0.5], [1.0, None]]


def test_labels_that_change_their_kind_are_the_same_classes(tmp_path):
    labels, p = [1, 0.0, True, "1", "0", 1.0], [0.5, 0.25, 0.75, 0.5, 0.25, 0.5]
    found = scored(tmp_path, *({"y": y, "p": q} for y, q in zip(labels, p, strict=True)))
    assert abs(found.loss - crossent.score([1, 0, 1, 1, 0, 1], probs=p).loss) < 1e-15


def test_slices_are_those_of_their_values_in_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "_BLOCK", 64)
    values = [1, 1.0, 2, 2.5, 2, None, 1] * 9
    found = scored(tmp_path, *({"y": k % 2, "p": 0.5, "g": value} for k, value in enumerate(values)), by=["g"])
    assert {part.value: part.n for part in found.by["g"]} == {None: 9, 1: 27, 2: 18, 2.5: 9}


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_blocks_of_any_size(size, end, tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "_BLOCK", size)
    rows = [{"y": k, "p": k / 64, "t": "ü\\n" * (k % 5)} for k in range(33)]
    text = (end or "\n").join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    found = read(tmp_path / "a.jsonl.gz", ["y", "p", "t"], ["y", "t"])
    assert found == {name: [row[name] for row in rows] for name in "ypt"}


def test_a_name_that_occurs_twice(tmp_path):
    unused = '{"y": 1, "p": 0.5, "z": 1, "z": {"a": 1}}'
    assert scored(tmp_path, unused, unused.replace("1", "0", 1)).n == 2
    for line in ('{"y": 1, "p": 0.5, "y": 0}', '{"y": 1, "p": 0.5, "p": 1}'):
        with pytest.raises(UsageError, match=r"line 2: the name '[yp]' occurs twice"):
            _ = scored(tmp_path, '{"y": 1, "p": 0.5}', line)


DAMAGED = {
    "not JSON": ('{"y": 1, "p": }', r"line 4: not JSON \(Expecting value"),
    "two on a line": ('{"y": 1, "p": 0.5}, {}', "line 4: not JSON"),
    "no object": ("[1, 0.5]", "line 4: not an object"),
    "deep": ('{"y": ' + "[" * 100_000, "line 4: not JSON"),
    "a number of text": ('{"y": 1, "p": "half"}', "line 4: column 'p' holds \"half\", which is not a number"),
    "a list of texts": ('{"y": 1, "p": ["a"]}', r'line 4: column .p. holds \["a"\], which is not a number'),
    "a list among numbers": (
        '{"y": 1, "p": [0.5, 0.5]}',
        r"line 4: column 'p' holds \[0.5, 0.5\], which",
    ),
    "an object": ('{"y": 1, "p": {"a": 1}}', "line 4: column 'p' holds {\"a\": 1}, which is not a number"),
    "an object as a label": ('{"y": {"a": 1}, "p": 0.5}', "line 4: column 'y' holds a list or an object"),
    "a list among labels": ('{"y": [1, 0], "p": 0.5}', "line 4: column 'y' holds a list or an object"),
    "too large a number": ('{"y": 1, "p": 1e400}', "line 4: not JSON .*1e400 is more than a float holds"),
    "half a pair of surrogates": ('{"y": "\\ud800", "p": 0.5}', "surrogate"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_wrong_is_said_with_its_place(case, tmp_path):
    line, words = DAMAGED[case]
    with pytest.raises(UsageError, match=words) as caught:
        _ = scored(tmp_path, {"y": 1, "p": 0.5}, "", {"y": 0, "p": 0.5}, line)
    assert str(tmp_path / "a.jsonl") in str(caught.value)


def test_one_hot_labels(tmp_path):
    with pytest.raises(UsageError, match=r"column 'y' holds list.*one-hot.*argmax"):
        _ = scored(tmp_path, *({"y": [k, 1 - k], "p": 0.5} for k in (0, 1, 1)))
    assert scored(tmp_path, *({"y": [k], "p": 0.5} for k in (0, 1, 1))).n == 3


def test_a_line_without_end(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"p": 0.5}\n{"p": "' + b"x" * (json_files.LONGEST + 9))
    with pytest.raises(FileError, match="a line is longer than 16 MiB"):
        _ = read(tmp_path / "a.jsonl", ["p"])


def test_far_ids_are_paired(tmp_path):
    ids, rng = [2**63 + k for k in range(20)], np.random.default_rng(0)
    p = rng.random(20)
    for name, order in (("a", range(20)), ("b", range(19, -1, -1))):
        rows = [{"id": ids[k], "y": k % 2, "p": p[k]} for k in order]
        (tmp_path / f"{name}.jsonl").write_text(lines(*rows))
    found = compared_files(tmp_path / "a.jsonl", tmp_path / "b.jsonl", "p", "id")
    assert (found.n, found.difference) == (20, 0.0)
    assert not math.isnan(found.p_value)
