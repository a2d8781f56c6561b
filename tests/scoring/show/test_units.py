"""Scores in bits: every loss, wherever it stands, and nothing else."""

from __future__ import annotations

import json
import math

import pytest

from tests.scoring.exact import flat
from tests.scoring.results import SCORES

IN_NATS = {
    "loss", "ci", "se", "baseline", "entropy", "miscalibration", "discrimination", "uncertainty", "scaled", "histogram",
}  # fmt: skip


@pytest.mark.parametrize("name", SCORES)
def test_json_in_bits(name):
    """Every loss divided by log 2, and nothing else."""
    result = SCORES[name]()
    nats, bits = (flat(json.loads(result.to_json(unit=unit))) for unit in ("nats", "bits"))
    assert (nats.pop(".unit"), bits.pop(".unit")) == ("nats", "bits")
    assert nats.keys() == bits.keys()
    for path, value in nats.items():
        of_bar = path.startswith(".histogram") and not path.endswith("weight")
        field = path.rsplit(".", 1)[1].split("[")[0]
        lossy = of_bar or (field in IN_NATS and not path.startswith((".histogram", ".decisions", ".brier")))
        if isinstance(value, float) and lossy:
            assert bits[path] == pytest.approx(value / math.log(2), rel=1e-15), path
        else:
            assert bits[path] == value, path
    with pytest.raises(ValueError, match="unit must be 'nats' or 'bits', not 'dits'"):
        result.to_dict(unit="dits")
