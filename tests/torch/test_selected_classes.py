"""Several classes a row: how they are read from what callers pass, and the statistics in the shape of the rows."""

from __future__ import annotations

import pytest
import torch

from crossent.spec import NO_CLASS, Scores
from crossent.torch.call.arguments import NOT_SHARDED
from crossent.torch.call.layout import layout_of
from crossent.torch.selected_classes import SelectedClasses, reshaped, rows_arguments, selected_of_logits
from tests.torch import logq

CPU = torch.device("cpu")


def test_classes_become_a_matrix_with_a_mark_for_entries_that_are_left_out():
    layout = layout_of(torch.randn(6, 9))
    for dtype in (torch.int16, torch.int64, torch.uint64):
        classes = torch.tensor([[[0, 8], [7, 7], [3, 1]], [[7, 2], [4, 5], [6, 7]]]).to(dtype)
        given = SelectedClasses.of(classes, torch.Size((2, 3)), CPU, 7, "logits")
        assert not given.single
        matrix = given.flat(torch.Size((2, 3))).matrix(layout)
        assert matrix.shape == (6, 2)
        assert torch.equal(matrix == NO_CLASS, (classes.long() == 7).view(6, 2))
        assert torch.equal(matrix[matrix != NO_CLASS], classes.long()[classes.long() != 7])
    assert given.rows(layout).index is not None
    assert SelectedClasses.of(torch.zeros(2, 3).long(), torch.Size((2, 3)), CPU, -100, "logits").single


def test_an_ignore_index_that_is_no_whole_number_is_refused():
    with pytest.raises(TypeError, match="ignore_index"):
        _ = SelectedClasses.of(torch.zeros(3, 1).long(), torch.Size((3,)), CPU, 0.5, "logits")


@pytest.mark.parametrize("rows", [(), (4,), (2, 3)])
def test_statistics_have_the_shape_of_the_rows(rows):
    z, classes = torch.randn(*rows, 5, dtype=torch.float64), torch.randint(5, (*rows, 2))
    shape = torch.Size(rows)
    given = SelectedClasses.of(classes, shape, CPU, -100, "logits").flat(shape)
    flat = z if not rows else z.reshape(-1, 5)
    found = reshaped(selected_of_logits(rows_arguments(flat, given, Scores(), NOT_SHARDED)), shape)
    for name, want in logq.statistics(z, classes).items():
        torch.testing.assert_close(getattr(found, name), want)
