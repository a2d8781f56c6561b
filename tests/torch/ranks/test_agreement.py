"""The check that all ranks make the same call: when it is made, and what it says."""

from __future__ import annotations

import os

import pytest
import torch.distributed as dist

from crossent.torch.ranks import agreement
from crossent.torch.ranks.agreement import check_agreement, debugging
from crossent.torch.ranks.shards import NO_RANKS, Ranks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("value", "on"), [("1", True), ("0", False), ("", False)])
def test_calls_are_checked_while_debugging(monkeypatch, value, on):
    monkeypatch.setenv("CROSSENT_VALIDATE", value)
    assert debugging() == on


def test_torch_s_own_way_to_debug(monkeypatch):
    monkeypatch.delenv("CROSSENT_VALIDATE", raising=False)
    before = dist.get_debug_level()
    try:
        for level in (dist.DebugLevel.OFF, dist.DebugLevel.INFO, dist.DebugLevel.DETAIL):
            dist.set_debug_level(level)
            assert debugging() == (level == dist.DebugLevel.DETAIL)
    finally:
        dist.set_debug_level(before)


def test_nobody_is_asked_where_there_is_nobody(monkeypatch):
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")
    check_agreement(NO_RANKS, 3, {"reduction": "mean"})


def test_nobody_is_asked_unless_debugging(monkeypatch):
    monkeypatch.delenv("CROSSENT_VALIDATE", raising=False)
    check_agreement(Ranks(("no such group",)), 3, {"reduction": "mean"})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, 2], "1 on rank 0 and 2 on rank 1"),
        (["mean", "sum", "mean"], "'mean' on ranks 0, 2 and 'sum' on rank 1"),
        ([None, None, 3.0], "None on ranks 0, 1 and 3.0 on rank 2"),
    ],
)
def test_each_value_is_named_with_its_ranks(values, text):
    assert agreement._by_rank(values, list(range(len(values)))) == text


def test_ranks_are_those_of_the_world():
    assert agreement._by_rank(["a", "b"], [4, 7]) == "'a' on rank 4 and 'b' on rank 7"


def asked(group, rows, facts, of_rows):
    rank = dist.get_rank(group)
    names = (group.group_name,)
    os.environ["CROSSENT_VALIDATE"] = "1"
    try:
        check_agreement(
            Ranks(*((), names) if of_rows else (names, ())), rows[rank], {k: v[rank] for k, v in facts.items()}
        )
    except ValueError as error:
        return str(error)
    finally:
        del os.environ["CROSSENT_VALIDATE"]
    return ""


SAME = {"reduction": ("mean", "mean", "mean"), "softcap": (None, None, None)}


@pytest.mark.parametrize("of_rows", [False, True])
def test_ranks_that_agree_are_left_alone(ranks, of_rows):
    assert ranks.run(3, asked, (5, 5, 5), SAME, of_rows) == [""] * 3


@pytest.mark.parametrize("of_rows", [False, True])
def test_every_fact_that_differs_is_named_on_every_rank(ranks, of_rows):
    facts = {**SAME, "z_loss": (0.0, 0.1, 0.0), "the dtype": ("float32", "float32", "float64")}
    want = (
        "the ranks of a group must make the same call, but z_loss is 0.0 on ranks 0, 2 and 0.1 on rank 1; "
        "the dtype is 'float32' on ranks 0, 1 and 'float64' on rank 2"
    )
    assert ranks.run(3, asked, (5, 5, 5), facts, of_rows) == [want] * 3


def test_ranks_of_other_rows_may_have_other_numbers_of_them(ranks):
    assert ranks.run(3, asked, (5, 6, 5), SAME, True) == [""] * 3
    texts = ranks.run(3, asked, (5, 6, 5), SAME, False)
    assert all("the number of rows is 5 on ranks 0, 2 and 6 on rank 1" in text for text in texts)
