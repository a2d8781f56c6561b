"""One step ahead: all items in their order, no more than one early, and errors where they belong."""

from __future__ import annotations

import threading

import pytest

from crossent.scoring.input.ahead import ahead


@pytest.mark.parametrize("n", [0, 1, 5])
def test_items_come_in_their_order(n):
    assert list(ahead(iter(range(n)))) == list(range(n))


def test_items_may_be_none():
    assert list(ahead(iter([None, 0, None]))) == [None, 0, None]


def test_one_item_is_made_while_another_is_worked_on():
    made, main = [], threading.get_ident()
    second = threading.Event()

    def items():
        for k in range(4):
            made.append((k, threading.get_ident() == main))
            if k == 1:
                second.set()
            yield k

    found = ahead(items())
    assert next(found) == 0
    assert second.wait(10)
    assert next(found) == 1
    assert list(found) == [2, 3]
    assert [k for k, _ in made] == [0, 1, 2, 3]
    assert not any(here for _, here in made)


def test_no_more_than_one_item_is_made_early():
    made = []
    found = ahead(made.append(k) or k for k in range(9))
    assert next(found) == 0
    found.close()
    assert len(made) <= 2


def test_an_error_is_raised_where_its_item_would_be():
    def items():
        yield 1
        raise OSError("no more")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="no more"):
        next(found)
