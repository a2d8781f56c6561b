"""States that are damaged, or of another version: a clear error when they are read, and never a wrong number."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest

import crossent
from crossent.errors import InputError
from tests.scoring.refusals import P, Y

WORDS = r"this is no pickled ScoreState of crossent .*: it is damaged, or of another version; score the rows again"


def state(**options: Any) -> crossent.ScoreState:
    rows = {"by": {"g": np.arange(len(Y)) % 2}, "cluster": np.arange(len(Y)) // 2}
    return crossent.ScoreState(**options).update(Y, probs=P, **rows)


@pytest.mark.parametrize("options", [{}, {"rows": True}, {"zero": 1e-6, "ignore": "x", "worst": 3}])
def test_a_whole_state_survives(options: dict[str, Any]) -> None:
    for again in (pickle.loads(pickle.dumps(state(**options))), copy.deepcopy(state(**options))):
        assert again.finalize().to_dict() == state(**options).finalize().to_dict()
        assert again.merge(state(**options)).finalize().n == 2 * len(Y)
    assert pickle.loads(pickle.dumps(crossent.ScoreState())).update(Y, probs=P).finalize().n == len(Y)


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.pop("options"),
        lambda parts: parts.pop("sums"),
        lambda parts: parts.pop("_whole"),
        lambda parts: parts.update(more=1),
        lambda parts: parts.update(options={"ci": 0.95}),
        lambda parts: parts.update(sums=None),
        lambda parts: parts.update(_whole="yes"),
        lambda parts: vars(parts["sums"]).pop("details"),
        lambda parts: vars(parts["sums"]).update(seen="7"),
        lambda parts: vars(parts["sums"]).update(new_sum=0),
        lambda parts: vars(parts["sums"]).update(by=[]),
        lambda parts: vars(parts["sums"]).update(notes=None),
        lambda parts: vars(parts["sums"].clusters).clear(),
        lambda parts: object.__setattr__(parts["options"], "ci", 95),
    ],
)
def test_what_is_no_state_of_this_version(change: Any) -> None:
    parts = dict(copy.deepcopy(vars(state())))
    _ = change(parts)
    with pytest.raises(InputError, match=WORDS):
        crossent.ScoreState.__new__(crossent.ScoreState).__setstate__(parts)
    for other in (None, [], ({}, {"sums": 1})):
        with pytest.raises(InputError, match=WORDS):
            crossent.ScoreState.__new__(crossent.ScoreState).__setstate__(other)


def test_damaged_bytes_of_a_checkpoint_are_refused_or_read() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="the adapter's own package, which make test installs")
    assert torchmetrics
    import torch

    from crossent.scoring.adapters.torchmetrics import _decoded

    whole, dice = pickle.dumps(state()), random.Random(0)
    read = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        data = data[: dice.choice([len(data), len(data), dice.randrange(1, len(data))])]
        try:
            found = _decoded(torch.frombuffer(data, dtype=torch.uint8))
        except (InputError, pickle.UnpicklingError):
            continue
        read += 1
        assert isinstance(found, crossent.ScoreState)
    assert read < 400
