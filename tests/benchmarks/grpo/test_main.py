"""The suite grpo, with the tiny model of the example: what its records hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.records import read
from benchmarks.grpo.__main__ import main

pytestmark = pytest.mark.slow


def test_a_record_of_each_way_is_written(tmp_path: Path):
    main(["--tiny", "--out", str(tmp_path / "grpo.jsonl")])
    logits, crossent = read([tmp_path / "grpo.jsonl"])
    assert [logits["measure"], crossent["measure"]] == ["logits", "crossent"]
    for record in (logits, crossent):
        steps = record["options"]["steps"]
        assert all(len(record[name]) == steps for name in ("rewards", "losses", "sampling", "training"))
        assert record["run"]["commit"]
    same = logits["comparison"]["same_steps"]
    assert logits["rewards"][:same] == crossent["rewards"][:same]
    assert logits["rewards"][same : same + 1] != crossent["rewards"][same : same + 1] or same == steps
