"""`LanguageModelScore` as JSON, as text and as HTML."""

from __future__ import annotations

import json
import math

import pytest

from tests.scoring.lm import records
from tests.scoring.lm.records import corpus, scored


def test_what_is_printed(tmp_path):
    score = scored(
        tmp_path, records.CHAT, records.COMPLETION, {"id": "<b>\x1b\ud800", "tokens": ["<i>"], "logprobs": [-9]}
    )
    strict = json.loads(score.to_json(), parse_constant=pytest.fail)
    assert strict["bounds"][1] == "inf"
    assert strict["loss"] is None
    assert strict["coverage"] == score.covered / score.tokens == 9 / 10
    text = repr(score)
    _ = text.encode()
    assert "≥" in text
    assert "\x1b" not in text
    assert "\\xa0" not in text
    table = text.split("\n\n")[0].splitlines()[1:]
    assert len({len(line) for line in table}) == 1
    page = score._repr_html_()
    assert "<b>" not in page
    assert "&lt;i&gt;" in page
    exact = scored(tmp_path, *corpus(3))
    assert "perplexity" in repr(exact)
    assert exact.bounds == (exact.loss, exact.loss)
    assert exact.to_dict()["perplexity"] == math.exp(exact.loss)
