"""The part of the work that a progress bar shows grows from nothing to all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crossent.scoring.cli.lm_actions import _Track, _with_memory  # pyright: ignore[reportPrivateUsage]
from crossent.scoring.lm import Document, LogError


def test_the_part_that_is_scored_grows_to_the_whole() -> None:
    parts: list[float] = []
    track = _Track(parts.append)
    for size, end in ((10, 0.5), (30, 1.0)):
        track.begins(size, end)
    for size in (4, 6, 10, 20):
        track.scored(size)
    assert parts == sorted(parts)
    assert parts[0] == 0.2
    assert parts[1] == 0.5
    assert parts[-1] == 1.0


def test_bytes_that_are_context_do_not_make_it_wrong() -> None:
    parts: list[float] = []
    track = _Track(parts.append)
    for k in range(5):
        track.begins(10, (k + 1) / 5)
        track.scored(9)  # the first byte is context
    assert all(0.0 <= part <= 1.0 for part in parts)


def test_nothing_is_shown_without_a_terminal() -> None:
    track = _Track(None)
    track.begins(3, 1.0)
    track.scored(3)
    assert track.bytes == 3


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_full_memory_says_what_takes_less(error: Exception) -> None:
    def documents() -> Iterator[Document]:
        yield Document("a", "plain")
        raise error

    with pytest.raises(LogError, match="pass a smaller --window or --batch"):
        _ = list(_with_memory(documents()))
