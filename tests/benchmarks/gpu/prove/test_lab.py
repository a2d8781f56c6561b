"""The items of a stage: each is recorded, whatever becomes of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.gpu.device import Host
from benchmarks.gpu.prove import lab
from benchmarks.gpu.prove.lab import Item, Lab


def good() -> Iterator[dict[str, Any]]:
    yield {"value": 1}
    yield {"value": 2}


def bad() -> Iterator[dict[str, Any]]:
    yield {"value": 3}
    raise ValueError("/some/where/else went wrong")


def ran(items: list[Item], **how: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    here = Lab(Host(), True, time.monotonic() + how.pop("seconds", 100), **how)
    lab.run(items, here, records.append)
    return [r for r in records if r["status"] != "begun"]


def test_an_item_that_raises_is_recorded_and_the_others_go_on() -> None:
    found = ran([Item("a", bad), Item("b", good)])
    assert [(r["case"], r["status"]) for r in found] == [("a", "ok"), ("a", "failed"), ("b", "ok"), ("b", "ok")]
    assert found[1]["reason"] == "ValueError: else went wrong"  # no path of the machine
    assert [r.get("value") for r in found] == [3, None, 1, 2]


def test_nothing_is_begun_after_the_deadline() -> None:
    assert [(r["case"], r["status"]) for r in ran([Item("a", good)], seconds=0)] == [("a", "not started")]


def test_processes_share_the_items() -> None:
    items = [Item(name, good) for name in "abcde"]
    each = [{r["case"] for r in ran(items, share=share, shares=2)} for share in range(2)]
    assert each == [{"a", "c", "e"}, {"b", "d"}]


@pytest.mark.parametrize(
    ("share", "status"), [(0.5, None), (1.0, None), (1.01, "failed"), (math.inf, "failed"), (math.nan, "failed")]
)
def test_an_error_is_wrong_beyond_what_is_allowed(share: float, status: str | None) -> None:
    found = lab.verdict({"loss": 0.1, "gradient": share})
    assert found.get("status") == status
    assert status is None or "gradient" in found["reason"]


def test_the_largest_share_counts_and_nan_is_larger_than_any() -> None:
    assert lab.together(iter([{"a": 1.0}, {"a": 3.0, "b": 2.0}, {"a": 2.0}])) == {"a": 3.0, "b": 2.0}
    for parts in ([{"a": math.nan}, {"a": 1.0}], [{"a": 1.0}, {"a": math.nan}]):
        assert math.isnan(lab.together(iter(parts))["a"])


@pytest.mark.parametrize(("contender", "status"), [("crossent", "failed"), ("eager", "missing")])
def test_a_rival_that_fails_does_not_fail_the_proof(contender: str, status: str) -> None:
    assert lab.beside({"contender": contender, "status": "failed", "reason": "out of memory"})["status"] == status
