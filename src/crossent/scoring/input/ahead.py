"""One step ahead: the next item of an iterator is made by another thread while this one is worked on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the items; worthwhile where making one takes time without holding Python's lock."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_next, items)
        while (found := coming.result()) is not None:
            coming = pool.submit(_next, items)
            yield found[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None
