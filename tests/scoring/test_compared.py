"""Units of comparisons and rankings: every loss is converted, and nothing else."""

from __future__ import annotations

import dataclasses
import math

import pytest

import crossent
from crossent.errors import InputError
from crossent.scoring.compared import in_bits
from tests.scoring.exact import near
from tests.scoring.pairs import pair

SAME = {
    "p_value",
    "p_adjusted",
    "share_better",
    "share_worse",
    "n",
    "clusters",
    "level",
    "weight",
    "value",
    "names",
    "id",
}


def test_every_loss_of_a_comparison_is_in_bits() -> None:
    y, p, q = pair()
    found = crossent.compare(crossent.score(y, probs=p, by={"g": y % 2}), crossent.score(y, probs=q))
    other = in_bits(found)

    def check(one: object, two: object, name: str = "") -> None:
        if dataclasses.is_dataclass(one):
            for field in dataclasses.fields(one):
                check(getattr(one, field.name), getattr(two, field.name), field.name)
        elif isinstance(one, dict):
            for key in one:
                check(one[key], two[key], name)
        elif isinstance(one, tuple) and name != "names":
            for a, b in zip(one, two, strict=True):
                check(a, b, name)
        elif name in SAME:
            assert one == two
        else:
            near(two, one / math.log(2))

    check(found, other)
    assert "difference, bits" in found.to_text(unit="bits")
    near(found.to_dict(unit="bits")["difference"], found.difference / math.log(2))


def test_units_have_names() -> None:
    same = crossent.score([1, 0], probs=[0.6, 0.3])
    with pytest.raises(InputError, match="unit must be 'nats' or 'bits', not 'dits'"):
        _ = crossent.compare(same, same).to_dict(unit="dits")  # pyright: ignore[reportArgumentType]
