"""Sums of all rows: blocks of any size give the same, values are numbered once, and layouts must agree."""

from __future__ import annotations

import numpy as np
import pytest

import crossent
from crossent.errors import InputError
from crossent.scoring.input.arguments import RowArguments, ScoreOptions
from crossent.scoring.input.batch import batch
from crossent.scoring.input.series import code
from crossent.scoring.sums import row_sums
from crossent.scoring.sums.row_sums import Numbering, RowSums
from tests.scoring.exact import assert_same, made


@pytest.mark.parametrize("size", [1, 7, 64])
def test_blocks_of_any_size(size, monkeypatch):
    y, z = made(0, 150, 3)
    weight, cluster = np.arange(150) % 4, np.arange(150) // 5
    wanted = crossent.score(y, logits=z, weight=weight, cluster=cluster, by=y)
    monkeypatch.setattr(row_sums, "BLOCK", size)
    assert_same(crossent.score(y, logits=z, weight=weight, cluster=cluster, by=y), wanted)


def test_values_get_numbers_in_the_order_in_which_they_come():
    first, second = Numbering(), Numbering()
    assert first.of(code(["b", "a", "b"], "by")).tolist() == [0, 1, 0]
    assert first.of(code(["c", "a"], "by")).tolist() == [2, 1]
    assert second.of(code(["d", "c"], "by")).tolist() == [0, 1]
    assert first.of_other(second).tolist() == [3, 2]
    assert len(first) == 4


def rows(y, **columns):
    return batch(y, RowArguments(**columns), ScoreOptions())


def test_rows_are_counted_and_seen():
    sums = RowSums(ScoreOptions())
    assert (sums.n, sums.seen, sums.layout) == (0, 0, None)
    sums.add(rows([1, 0, 1], probs=[0.5, 0.5, 0.25], weight=[1.0, 0.0, 2.0]))
    assert (sums.n, sums.seen, sums.notes.weightless) == (2, 3, 1)
    np.testing.assert_allclose(sums.totals.overall().value, (np.log(2) + 2 * np.log(4)) / 3)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"logits": [0.5]}, "predictions were 'probs' and are 'logits'"),
        ({"probs": [[0.5, 0.5]]}, "columns of predictions were 'one' and are 'many'"),
        ({"probs": [[0.5, 0.3, 0.2]]}, r"classes were \(0, 1\) and are \(0, 1, 2\)"),
        ({"probs": [0.5], "cluster": ["a"]}, "clusters were False and are True"),
        ({"probs": [0.5], "by": {"a": [1]}}, r"by were \[\] and are \['a'\]"),
        ({"probs": [0.5], "id": ["a"]}, "ids were False and are True"),
    ],
)
def test_layouts_must_agree(columns, words):
    sums = RowSums(ScoreOptions())
    sums.add(rows([1], probs=[0.5]))
    with pytest.raises(ValueError, match=f"these rows do not match earlier ones: {words}"):
        sums.add(rows([1], **columns))


def test_options_about_what_the_rows_lack_are_refused():
    y, p = np.array([0, 1, 0, 1]), np.array([0.25, 0.5, 0.75, 0.5])
    with pytest.raises(InputError, match=r"bins of 'b', but the slices are by \['a'\]; name the column in by= too"):
        crossent.score(y, probs=p, by={"a": y}, bins={"b": 3})
    with pytest.raises(InputError, match="bins of 'b', but there are no slices"):
        crossent.score(y, probs=p, bins={"b": 3})
    with pytest.raises(InputError, match="column 'a' holds no numbers to cut into bins"):
        crossent.score(y, probs=p, by={"a": list("abab")}, bins={"a": 3})
    three = np.full((4, 3), 1 / 3)
    with pytest.raises(InputError, match="need two classes, and these rows have 3; leave them out"):
        crossent.score(y, probs=three, costs={"fn": 5})
    assert crossent.score(y, probs=three, costs={"fn": 1}).thresholds is None
