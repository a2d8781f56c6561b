"""`crossent lm`: its exit codes; what it reads stands in `tests/scoring/lm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.scoring.written import run


class TestLanguageModels:
    def test_exit_codes(self, tmp_path: Path, capsys: Any) -> None:
        log = tmp_path / "log.jsonl"
        _ = log.write_text(json.dumps({"tokens": ["A", "b"], "logprobs": [-1.0, -2.0]}) + "\n")
        assert run(capsys, "lm", log, "--max-loss", "1.51").code == 0
        missed = run(capsys, "lm", log, "--max-loss", "1.49", "--json")
        assert (missed.code, missed.err.count("\n")) == (1, 1)
        assert missed.json()["loss"] == 1.5
        for arguments in ([tmp_path / "none.jsonl"], [tmp_path], [log, "--format", "nope"], [log, "--ci", "7"]):
            ran = run(capsys, "lm", *arguments)
            assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
