"""The model on paper of a head whose classes several ranks hold; tests/parallel counts the bytes that ranks do send."""

from __future__ import annotations

import pytest

from benchmarks.linear.shards import LLAMA, RANKS, Head, cost, table


def test_one_rank_sends_nothing_and_does_all_of_the_products():
    alone = cost(Head(rows=10, features=4, classes=100), 1)
    assert (alone.flops, alone.sent, alone.messages) == (8 * 10 * 4 * 100, 0.0, 0)


def test_ranks_share_products_and_weight_and_send_up_to_twice_the_sums():
    some, more = cost(LLAMA, 8), cost(LLAMA, 16)
    assert some.flops == 2 * more.flops
    assert some.weight == 2 * more.weight
    sums = 2 * (40 * LLAMA.rows + 16 + 4 * LLAMA.rows * LLAMA.features)
    assert some.sent == pytest.approx(7 / 8 * sums)
    assert cost(LLAMA, 8, sequence_parallel=True).sent < some.sent


def test_the_table_has_a_line_for_each_number_of_ranks():
    assert [line.split()[1] for line in table().splitlines()[2:]] == [str(n) for n in RANKS]
