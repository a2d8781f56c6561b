"""The call of two layers: its second layer, its chunks, its padding, and all of it once more in plain operations."""

from __future__ import annotations

import torch

from crossent.spec import Scores, Target
from crossent.torch.operators.linear_call import LinearCall
from crossent.torch.operators.linear_pair_call import OPERANDS, LinearPairCall, PackedPair, PairWants, pair_of_layers
from crossent.torch.operators.pair import TeacherScores, pair_stats
from crossent.torch.ranks.shards import NO_RANKS
from crossent.torch.sources.source import Wanted
from tests.torch import teaching

N, V, D, D2 = 6, 9, 4, 3


def call_of(dtype=torch.float64, *, columns=V, teacher_columns=V, index=None, **how):
    """A call of two layers, with other numbers of columns than classes where there is padding."""
    number = None if columns == teacher_columns == V else V
    index = torch.arange(N) if index is None else index
    leaves = [
        torch.randn(*s, dtype=dtype).requires_grad_() for s in ((N, D), (columns, D), (N, D2), (teacher_columns, D2))
    ]
    target = Target(index, ignore_index=-100, num_classes=number)
    head = LinearCall(leaves[0], leaves[1], None, 1, target, Scores(0.7), NO_RANKS)
    options = {"beta": 0.3, "chunk_bytes": 2**20} | how
    return LinearPairCall(head, leaves[2], leaves[3], None, TeacherScores(teacher_temperature=1.5), **options), leaves


def test_the_teacher_is_a_layer_of_the_same_rows():
    index = torch.tensor([0, -100, 2, -100, 4, 5])
    call, (_, _, x, weight) = call_of(index=index)
    head = call.teacher_head
    assert head.input is x
    assert head.linear_weight is weight
    assert head.scores.temperature == 1.5
    packed = PackedPair.of(call)
    assert packed.student.source.size == packed.teacher.source.size == 4
    assert packed.teacher.places.tolist() == [0, 2, 4, 5]


def test_padding_of_either_is_left_out():
    call, _ = call_of(columns=11, teacher_columns=10)
    packed = PackedPair.of(call)
    assert packed.student.source.classes == packed.teacher.source.classes == V
    assert [costs.logits for costs in call.costs] == [V, V]


def test_a_chunk_holds_whole_rows_of_both():
    call, _ = call_of(chunk_bytes=3 * 2 * V * 8)
    assert call.rows_at_once(spare=False) == 3
    assert call.rows_at_once(spare=True) == 2
    assert call_of(chunk_bytes=1)[0].rows_at_once(spare=False) == 1
    assert call_of(chunk_bytes=2**30)[0].rows_at_once(spare=False) == N


def test_all_logits_at_once_are_those_of_the_layers():
    call, (x, weight, y, other) = call_of()
    found = pair_stats(pair_of_layers(call))
    want = teaching.statistics(x @ weight.T, y @ other.T, temperature=0.7, teacher_temperature=1.5, beta=0.3)
    for name in ("kl", "reverse_kl", "js", "lse", "teacher_lse", "entropy", "teacher_entropy"):
        torch.testing.assert_close(getattr(found, name), want[name])


def test_which_operands_want_a_gradient():
    wants = [name in {"input", "prob", "teacher_bias"} for name in OPERANDS]
    found = PairWants(*wants).heads
    assert found.student == Wanted(input=True)
    assert found.teacher == Wanted(linear_bias=True)
    assert found.both
    assert not PairWants(*[True] * 5).heads.both


def test_operands_are_replaced_by_name():
    call, _ = call_of()
    other = [None if x is None else x + 1 for x in call.operands]
    copy = call.with_operands(other)
    assert len(other) == len(OPERANDS)
    assert copy.head.input is other[0]
    assert copy.head.linear_weight is other[1]
    assert copy.teacher_input is other[5]
    assert copy.teacher_weight is other[6]
    assert copy.teacher is call.teacher
