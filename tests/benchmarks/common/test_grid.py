"""Tables of text, and numbers in few digits."""

from __future__ import annotations

import doctest

import pytest

from benchmarks.common import grid


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (0.25, "250 ms"), (4.56e-5, "45.6 µs"), (None, "–")]
)
def test_durations_are_printed_with_three_digits(seconds: float | None, text: str):
    assert grid.duration(seconds) == text


def test_cells_stand_below_their_heads_words_at_the_left_and_numbers_at_the_right():
    groups = (("", ("case", "shape")), ("times", ("forward", "both")))
    lines = grid.draw(groups, [["gpt2", "1×2", "1.00", "10.0"], ["imagenet", "3", "0.5", "7"]])
    assert lines == [
        "                │ times",
        "case      shape │ forward  both",
        "gpt2      1×2   │    1.00  10.0",
        "imagenet  3     │     0.5     7",
    ]


@pytest.mark.parametrize(("extra", "text"), [(12_300_000, "12.3"), (1000, "<0.26"), (None, "–")])
def test_memory_below_the_resolution_says_so(extra: int | None, text: str):
    memory = {"resolution_bytes": 2**18, "extra_bytes": {"crossent": extra}}
    assert grid.size(memory, "crossent", 1e6) == text


def test_small_numbers_are_written_as_the_example_says():
    assert doctest.testmod(grid).attempted > 0
    assert doctest.testmod(grid).failed == 0
