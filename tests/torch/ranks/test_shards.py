"""Shards: which columns are classes, where a rank's columns lie, and what is said where the numbers do not fit."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from crossent.torch.ranks.shards import NO_RANKS, NO_SHARDS, Ranks, Shards, held, missing_classes, shards_of


@pytest.mark.parametrize("num_classes", [1, 5, 8, 12, 13, 24])
@pytest.mark.parametrize("columns", [1, 3, 8])
def test_every_class_is_held_once(columns, num_classes):
    firsts = range(0, 24, columns)
    classes = [first + k for first in firsts for k in range(held(columns, first, num_classes))]
    assert classes == list(range(num_classes))


def test_without_a_number_of_classes_all_columns_are_classes():
    assert held(5, 0, None) == held(5, 100, None) == 5
    assert NO_SHARDS.held(7) == 7
    assert Shards(NO_RANKS, 6, 10).held(8) == 4
    assert Shards(NO_RANKS, 16, 10).held(8) == 0


def test_weights_of_the_classes_at_hand():
    weight = torch.arange(10.0)
    assert NO_SHARDS.local(weight, 10) is weight
    assert Shards(NO_RANKS, 4, 10).local(None, 4) is None
    assert [Shards(NO_RANKS, first, 10).local(weight, 4).tolist() for first in (0, 4, 8, 12)] == [
        [0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0], [],
    ]  # fmt: skip


def test_who_is_alone():
    assert NO_RANKS.alone
    assert not Ranks(("a",)).alone
    assert not Ranks((), ("b",)).alone


# What a caller says


def test_a_call_of_one_rank():
    assert shards_of(None, None, None, 7) is NO_SHARDS
    assert shards_of(None, None, 7, 7) is NO_SHARDS
    padded = shards_of(None, None, 5, 7)
    assert (padded.ranks, padded.first_class, padded.num_classes) == (NO_RANKS, 0, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((None, 0, None), ValueError, ["first_class", "process_group="]),
        ((None, None, 8), ValueError, ["num_classes is 8", "7 classes", "process_group"]),
        ((None, -1, None), ValueError, ["first_class", "less than 0", "-1"]),
        ((None, None, 0), ValueError, ["num_classes", "less than 1", "0"]),
        (("world", None, None), TypeError, ["process_group", "ProcessGroup", "str"]),
    ],
)
def test_wrong_arguments_of_one_rank(arguments, error, words):
    with pytest.raises(error) as caught:
        _ = shards_of(*arguments, 7)
    for word in words:
        assert word in str(caught.value)


def test_a_mesh_in_place_of_a_group_is_told_how_to_get_one():
    class Mesh:
        def get_group(self):
            raise AssertionError

    with pytest.raises(TypeError, match=r"got Mesh; use mesh.get_group\(\)"):
        _ = shards_of(Mesh(), None, None, 7)


def test_missing_classes_say_what_is_wrong():
    assert "hold 7 classes together, not 8;" in str(missing_classes(7, 8))
    assert "the shards overlap;" in str(missing_classes(8, 8))


def described(group, arguments, columns):
    shards = shards_of(group, *arguments, columns)
    return shards.ranks.groups == (group.group_name,), shards.first_class, shards.num_classes


@pytest.mark.slow
def test_shards_are_equal_and_in_the_order_of_the_ranks(ranks):
    assert ranks.run(3, described, (None, None), 4) == [(True, 0, 12), (True, 4, 12), (True, 8, 12)]
    assert ranks.run(3, described, (None, 10), 4) == [(True, 0, 10), (True, 4, 10), (True, 8, 10)]
    assert ranks.run(2, described, (7, 9), 4) == [(True, 7, 9)] * 2


def alone(group, arguments, columns):
    try:
        shards = shards_of(group, *arguments, columns)
    except ValueError as error:
        return str(error)
    return shards.ranks.alone, shards.first_class, shards.num_classes


@pytest.mark.slow
def test_a_group_of_one_rank_needs_nobody(ranks):
    assert ranks.run(1, alone, (None, None), 4) == [(True, 0, 4)]
    assert ranks.run(1, alone, (None, 3), 4) == [(True, 0, 3)]
    (text,) = ranks.run(1, alone, (None, 9), 4)
    assert "hold 4 classes together, not 9" in text


def outside(_group):
    first = dist.new_group([0])  # made by all ranks; torch returns a number to the others
    if dist.get_rank() == 0:
        return ""
    with pytest.raises((TypeError, ValueError), match="process_group") as caught:
        _ = shards_of(first, None, None, 4)
    return str(caught.value)


@pytest.mark.slow
def test_a_rank_outside_of_the_group_is_told_so(ranks):
    first, *others = ranks.run(4, outside)
    assert first == ""
    assert all(others)
