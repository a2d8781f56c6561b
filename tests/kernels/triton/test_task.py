"""How a call is shared out on a GPU: a function of shapes, strides and dtypes alone, seen on tensors without memory."""

from __future__ import annotations

import pytest
import torch

from crossent.kernels.triton.scores import HAS_CAP
from crossent.kernels.triton.task import Task
from crossent.kernels.triton.tiles import HAS_ENTROPY, HAS_LOSS, HAS_LSE, HAS_SQUARE, HAS_WEIGHT
from crossent.spec import Scores, Target


def task_of(*shape, dtype=torch.float32, scores=Scores(), **options):  # noqa: B008  frozen
    logits = torch.empty(shape, dtype=dtype)
    rows = shape[0] * (shape[2] if len(shape) == 3 else 1)
    target = Target(torch.zeros(rows, dtype=torch.long), **options)
    return Task.of(logits, target, scores)


@pytest.mark.parametrize(
    ("shape", "dtype", "wide"),
    [
        ((4, 50_000), torch.bfloat16, True),
        ((4, 1000), torch.float32, True),
        ((4, 64), torch.float32, False),  # short rows lie side by side
        ((4, 1000), torch.float64, False),
        ((2, 1000, 50), torch.float32, False),  # classes are apart
    ],
)
def test_contiguous_rows_of_many_classes_are_read_by_whole_accesses(shape, dtype, wide):
    tile = task_of(*shape, dtype=dtype).tile()
    assert tile.wide == wide
    assert tile.U * dtype.itemsize == 16 or not wide
    for size in (tile.R, tile.M, tile.U):
        assert size & (size - 1) == 0  # Triton's shapes are powers of two


@pytest.mark.parametrize("columns", [1000, 50_000])
@pytest.mark.parametrize(("hip", "threads"), [(None, 32), ("6.4", 64)])
def test_threads_of_wide_tiles_have_a_whole_access_each(monkeypatch, columns, hip, threads):
    monkeypatch.setattr(torch.version, "hip", hip)
    for dtype in (torch.bfloat16, torch.float32):
        tile = task_of(4, columns, dtype=dtype).tile()
        assert tile.warps * threads <= tile.M * tile.U // 16  # lanes of the statistics, which have sixteen columns


def test_rows_that_begin_differently_from_those_of_the_gradient_are_read_one_by_one():
    task, grad = task_of(4, 1000), torch.empty(4, 1001)[:, :1000]
    assert task.tile(task.axes.placed(torch.empty(4, 1000))).wide
    assert not task.tile(task.axes.placed(grad)).wide


@pytest.mark.parametrize("rows", [1, 7, 64, 513, 5000])
@pytest.mark.parametrize("columns", [100, 16_384, 50_257, 300_000])
def test_parts_cover_the_columns_and_are_not_too_short(rows, columns):
    task = task_of(rows, columns)
    tile = task.tile()
    number, span = task.parts(tile, 16_384)
    width = columns + (tile.U if tile.wide else 0)
    assert (number - 1) * span < width <= number * span
    assert span % (tile.M * tile.U) == 0
    assert number == 1 or span >= 16_384
    assert number == 1 or rows < 513  # enough rows fill the GPU by themselves
    alone = task_of(1, columns)
    assert task.fixed_parts(tile, 16_384) == alone.parts(alone.tile(), 16_384)  # whose sums are merged alike


def test_flags_say_what_the_target_has():
    assert task_of(4, 10).flags == 0
    assert task_of(4, 10, weight=torch.ones(10)).flags == HAS_WEIGHT
    assert task_of(4, 10, scores=Scores(1.0, 5.0)).flags == HAS_CAP


def topk(*shape, scores=Scores()):  # noqa: B008  frozen
    return Task.of(torch.empty(shape), Target(torch.zeros(4, 2, dtype=torch.long), torch.ones(4, 2)), scores)


def test_targets_that_are_nothing_but_classes_have_kernels_of_their_own():
    capped = Scores(1.0, 30.0)
    for task in (task_of(4, 10), task_of(4, 10, scores=capped), topk(4, 10)):
        assert not task.measured
    assert task_of(4, 10, smoothing=0.1).measured
    assert Task.of(torch.empty(4, 10), Target(prob=torch.empty(4, 10)), Scores()).measured


def test_one_class_a_row_and_no_class_are_worked_on_apart_from_several():
    dense = Task.of(torch.empty(4, 10), Target(prob=torch.empty(4, 10)), Scores())
    assert (task_of(4, 10).named_at_once(1), dense.named_at_once(1)) == (1, 0)
    assert topk(4, 10).named_at_once(1) > topk(4, 10).named_at_once(64) > 1
    assert (task_of(4, 10).row_tile.U, dense.row_tile.U) == (1, 0)
    assert topk(4, 10).row_tile.U > 1


def test_few_classes_have_a_thread_a_row_or_eight_of_them():
    assert task_of(4, 10).few_tile.M == task_of(2, 60, 50).few_tile.M == 1
    assert task_of(4, 60).few_tile.M == 8
    rare = task_of(4, 60, dtype=torch.float64), task_of(4, 60, scores=Scores(1.0, 5.0))
    assert {task.few_tile.M for task in rare} == {1}


def kernel(task, flags):
    """What a kernel of the gradient is made for: the kind of cotangents, and whether there is a measure."""
    kind = task.kind_of_gradient(task.tile(), flags)
    return kind, task.measured_by(task.tile(), kind)


def test_kernels_of_long_rows_do_no_more_for_a_column_than_they_have_to():
    index, dense = task_of(4, 1000), Task.of(torch.empty(4, 1000), Target(prob=torch.empty(4, 1000)), Scores())
    assert kernel(index, HAS_LOSS) == (0, False)
    assert kernel(index, HAS_LSE) == kernel(index, HAS_LOSS | HAS_SQUARE) == (1, False)
    assert kernel(index, HAS_LOSS | HAS_LSE | HAS_ENTROPY) == (2, False)
    assert kernel(task_of(4, 1000, scores=Scores(1.0, 5.0)), HAS_LOSS) == (0, False)
    # what lse costs a row and not a column is no kernel of its own for rarer targets
    assert kernel(dense, HAS_LOSS) == kernel(dense, HAS_LSE) == kernel(task_of(4, 1000, smoothing=0.1), HAS_LOSS)
    assert kernel(dense, HAS_LOSS) == (1, True)


def test_rarer_calls_share_a_kernel_where_rows_are_not_long():
    usual, whole = task_of(4, 10), (2, True)
    assert kernel(usual, HAS_LOSS) == (0, False)
    assert kernel(usual, HAS_LSE) == kernel(usual, HAS_ENTROPY) == whole
    for rare in (
        task_of(4, 10, smoothing=0.1), task_of(4, 10, dtype=torch.float64), task_of(4, 10, scores=Scores(1.0, 5.0)),
        topk(4, 10),
    ):  # fmt: skip
        assert kernel(rare, HAS_LOSS) == whole
        assert rare.measured_by(rare.tile())


def test_more_classes_than_a_gpu_counts_are_refused():
    with pytest.raises(ValueError, match=r"2\*\*31 classes"):
        _ = Task.of(torch.empty(1, device="meta").expand(1, 2**31), Target(torch.zeros(1).long()), Scores())
