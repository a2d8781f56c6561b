"""A comparison as text and as JSON, in nats and in bits."""

from __future__ import annotations

import json
import math

from crossent.scoring.lm import compare_logs
from tests.scoring.lm.test_pairs import document


def found():
    a = [document(f"d{k}", [1.0 + k, 2.0]) for k in range(4)]
    b = [document(f"d{k}", [1.5 + 0.5 * k, 2.25]) for k in range(4)]
    return compare_logs(a, b)


def test_json_in_nats_and_bits():
    nats, bits = (json.loads(found().to_json(unit=unit)) for unit in ("nats", "bits"))
    assert (nats["loss_unit"], bits["loss_unit"]) == ("nats", "bits")
    for name in ("per_token", "per_byte", "per_document"):
        assert math.isclose(bits[name]["difference"] * math.log(2), nats[name]["difference"])
        assert bits[name]["p_value"] == nats[name]["p_value"]
    assert nats["accuracy"] is None
    assert nats["share_better"] == bits["share_better"]
    worst = nats["worst_regressions"][0], bits["worst_regressions"][0]
    assert math.isclose(worst[1]["a"] * math.log(2), worst[0]["a"])


def test_the_text_says_differences_intervals_and_the_worst():
    text = found().to_text()
    assert text.splitlines()[0] == "a minus b: 4 documents, paired"
    assert "nats per token" in text
    assert "bits per byte" in text
    assert "documents with the largest increase in loss" in text
    assert "d3" in text.splitlines()[-1] or "d3" in text
    assert "bits per token" in found().to_text(unit="bits")
    assert repr(found()) == text


def test_main_is_the_difference_per_unit():
    assert found().main is not None
    assert found().main == found().per_token
