"""Arguments of the row functions: dtypes that kernels read, arrays that stand in for absent ones, tasks remembered."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossent.kernels.backend import BiasedLogits, Cotangents, LossScale, RowOutputs
from crossent.kernels.triton import arguments
from crossent.kernels.triton.arguments import call_of, cotangents_of, gathered, is_in_place, outputs_of
from crossent.kernels.triton.scores import HAS_TEMPERATURES
from crossent.kernels.triton.tiles import HAS_ENTROPY, HAS_LOSS, HAS_SQUARE
from crossent.spec import LARGEST_SCALE, LEAST_SCALE, Scores, Target
from tests.kernels.triton.calls import DEVICE, INF, NAN
from tests.kernels.triton.test_task import task_of


def test_absent_arrays_have_a_stand_in_and_no_flag():
    task = task_of(4, 10)
    loss, g = torch.empty(4), torch.ones(4)
    outputs = outputs_of(task, RowOutputs(loss=loss))
    assert outputs.arrays == (loss, task.spare, task.spare)
    assert outputs.flags == HAS_LOSS
    assert cotangents_of(task, Cotangents(g, None, g)).flags == HAS_LOSS | HAS_ENTROPY
    assert cotangents_of(task, LossScale(g)).flags == HAS_LOSS
    assert cotangents_of(task, LossScale(g, g)).flags == HAS_LOSS | HAS_SQUARE
    double = torch.ones(8, dtype=torch.float64)
    steps = cotangents_of(task, Cotangents(double[0].expand(4), None, double[::2])).steps
    assert (steps.loss, steps.lse, steps.entropy) == (0, 0, 2)  # the first is one number for all rows


@pytest.mark.parametrize(
    ("task", "given", "narrow", "want"),
    [
        (task_of(4, 10), torch.float32, True, torch.float32),
        (task_of(4, 10), torch.float16, True, torch.float32),
        (task_of(4, 10), torch.float64, True, torch.float64),
        (task_of(4, 10, smoothing=0.1), torch.float32, True, torch.float64),
        (task_of(4, 10, dtype=torch.float64), torch.float32, True, torch.float64),
        (task_of(4, 10, scores=Scores(1.0, 5.0)), torch.float32, True, torch.float64),
        (task_of(4, 1000), torch.bfloat16, False, torch.float64),
    ],
)
def test_cotangents_have_one_dtype_that_holds_them(task, given, narrow, want):
    loss, entropy = torch.rand(4).to(given), torch.ones(4, dtype=torch.float16)
    for others, dtype in (((), want), ((None, entropy), torch.float64)):
        arrays = cotangents_of(task, Cotangents(loss, *others), narrow=narrow).arrays
        assert {x.dtype for x in arrays} == {dtype}
        assert torch.equal(arrays.loss.double(), loss.double())
    (none,) = {x.dtype for x in cotangents_of(task, Cotangents(), narrow=narrow).arrays}  # of no other kernel
    assert none == (torch.float32 if narrow and task.is_usual else torch.float64)


def test_logits_of_several_classes_are_gathered_before_the_gradient_replaces_them():
    for shape in ((4, 10), (2, 10, 2)):
        logits, index = torch.randn(shape), torch.tensor([[0, 9], [3, 3], [-5, 8], [99, 1]])
        call = call_of(logits, Target(index, torch.ones(4, 2)), Scores())
        assert not is_in_place(call, torch.empty(shape))
        assert is_in_place(call, logits)
        rows = logits if len(shape) == 2 else logits.movedim(1, 2).reshape(4, 10)
        assert torch.equal(gathered(call, logits), rows.gather(1, index.clamp(0, 9)))
    one = call_of(logits, Target(torch.zeros(4).long(), smoothing=0.1), Scores())
    teacher = logits.clone()
    assert is_in_place(call, teacher, teacher)
    assert not is_in_place(call, logits, teacher)
    assert not is_in_place(one, logits)  # its one logit is read before anything is written


def test_calls_that_are_alike_have_one_task():
    logits, labels = torch.empty(4, 1000), torch.zeros(4, dtype=torch.long)
    first = call_of(logits, Target(labels), Scores())
    assert call_of(torch.empty(4, 1000), Target(labels.int()), Scores()).task is first.task
    memory = torch.empty(4 * 1001 + 1)
    others = [
        call_of(logits[:3], Target(labels[:3]), Scores()), call_of(logits.bfloat16(), Target(labels), Scores()),
        call_of(memory[:4004].view(4, 1001)[:, :1000], Target(labels), Scores()),
        call_of(memory[1:4001].view(4, 1000), Target(labels), Scores()),  # begins elsewhere
        call_of(logits, Target(labels, weight=torch.ones(1000)), Scores()),
        call_of(logits, Target(labels, smoothing=0.1), Scores()),
        call_of(logits, Target(labels, ignore_index=3), Scores()),
        call_of(logits, Target(labels, first_class=1, num_classes=2000), Scores()),
        call_of(logits, Target(labels, num_classes=2000), Scores()),
        call_of(logits, Target(labels), Scores(0.5)), call_of(logits, Target(labels), Scores(1.0, 5.0)),
        call_of(logits, Target(labels), Scores(row_temperature=torch.ones(4))),
        call_of(logits, Target(labels[:, None], torch.ones(4, 1)), Scores()),
        call_of(logits, Target(labels[:, None].expand(4, 2), torch.ones(4, 2)), Scores()),
        call_of(logits, Target(prob=logits), Scores()), call_of(logits, Target(prob=logits.half()), Scores()),
        call_of(logits, Target(prob=memory[1:4001].view(4, 1000)), Scores()),
        call_of(BiasedLogits(logits, torch.ones(1000)), Target(labels), Scores()),
        call_of(BiasedLogits(logits, torch.ones(1000).half()), Target(labels), Scores()),
        call_of(BiasedLogits(logits, memory[1:1001]), Target(labels), Scores()),
    ]  # fmt: skip
    tasks = [first.task, *(call.task for call in others)]
    assert len({id(task) for task in tasks}) == len(tasks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step", [0, 1, 3])
def test_temperatures_of_rows_stand_beside_their_reciprocals(step, dtype):
    wrong = (0.0, -1.0, 9e-16, 1e-15 * (1 - 2.0**-52), 1e15 * (1 + 2.0**-52), 2e15, INF, -INF, NAN)
    given = torch.tensor([1e-15, 1e15, 1.0, 1 / 3, 0.7, *wrong, *range(1, 300)], dtype=torch.float64).to(dtype)
    given = (given[:1] if step == 0 else given.repeat_interleave(step)).to(DEVICE)
    given = given.expand(300) if step == 0 else given[::step]
    N = len(given)
    call = call_of(torch.empty(N, 5, device=DEVICE), Target(torch.zeros(N).long().to(DEVICE)), Scores(1.0, None, given))
    T = given.cpu().double().numpy()
    T = np.where((T >= LEAST_SCALE) & (T <= LARGEST_SCALE), T, NAN)
    np.testing.assert_array_equal(call.arrays.own.cpu().numpy(), np.stack([1 / T, T], 1))
    assert call.task.flags & HAS_TEMPERATURES


def test_rows_of_one_temperature_and_no_rows_have_no_temperatures_of_their_own():
    one = call_of(torch.empty(4, 5), Target(torch.zeros(4).long()), Scores(0.7))
    assert one.arrays.own is one.task.spare_sums
    assert not one.task.flags & HAS_TEMPERATURES
    none = call_of(torch.empty(0, 5), Target(torch.zeros(0).long()), Scores(row_temperature=torch.empty(0)))
    assert none.arrays.own.shape == (0, 2)


def test_tasks_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(arguments, "_MOST_TASKS", 3)
    arguments.forget()
    for rows in range(1, 9):
        _ = call_of(torch.empty(rows, 5), Target(torch.zeros(rows).long()), Scores())
        assert len(arguments._tasks) <= 3


@pytest.mark.parametrize(("dtype", "of_target", "wide", "want"), [
    (torch.bfloat16, torch.bfloat16, False, torch.bfloat16), (torch.bfloat16, torch.float32, False, torch.float32),
    (torch.bfloat16, torch.float16, False, torch.float32), (torch.float32, torch.bfloat16, False, torch.float32),
    (torch.float64, torch.float32, True, torch.float64),  # which is never wide
    (torch.float32, torch.bfloat16, True, torch.bfloat16), (torch.bfloat16, torch.float16, True, torch.float16),
])  # fmt: skip
def test_probabilities_of_other_dtypes_are_copied_unless_rows_are_contiguous(dtype, of_target, wide, want):
    columns = 1000 if wide else 50
    prob = torch.rand(4, columns).to(of_target)
    call = call_of(torch.empty(4, columns, dtype=dtype), Target(prob=prob), Scores())
    assert call.arrays.prob.dtype == want
    assert (call.arrays.prob is prob) == (want == of_target)
    assert torch.equal(call.arrays.prob.double(), prob.double())
