"""`crossent lm`: its exit codes and options; what it reads stands in `tests/scoring/lm`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.scoring.lm.model.tiny import bytewise, model
from tests.scoring.written import run

ROWS = [{"id": k, "tokens": ["A", "b"], "logprobs": [-1.0, -2.0 - k], "lang": "de" if k else "en"} for k in range(3)]


def log(path: Path, name: str = "log.jsonl") -> Path:
    file = path / name
    _ = file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tokenizer = bytewise(bos=True)
    model(len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


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

    def test_bits_slices_and_several_files(self, tmp_path: Path, capsys: Any) -> None:
        one = log(tmp_path)
        nats, bits = (run(capsys, "lm", one, "--json", *more).json() for more in ([], ["--bits"]))
        assert bits["loss"] == pytest.approx(nats["loss"] / math.log(2))
        assert bits["unit"] == "bits"
        assert "loss per token (bits)" in run(capsys, "lm", one, "--bits").out
        missed = run(capsys, "lm", one, "--bits", "--max-loss", "2.8")
        assert "2.88539 bits, is above --max-loss 2.8" in missed.err
        slices = run(capsys, "lm", one, "--by", "lang", "--json").json()["by"]["lang"]
        assert [(part["value"], part["documents"]) for part in slices] == [("en", 1), ("de", 2)]
        several = run(capsys, "lm", one, log(tmp_path, "other.jsonl"), "--json").json()
        assert [part["value"] for part in several["by"]["task"]] == ["log", "other"]
        refused = run(capsys, "lm", one, "--by", "nope")
        assert (refused.code, refused.err.count("\n")) == (2, 1)

    def test_a_report_is_written(self, tmp_path: Path, capsys: Any) -> None:
        page = tmp_path / "page.html"
        ran = run(capsys, "lm", log(tmp_path), "--html", page)
        assert (ran.code, ran.err.strip()) == (0, f"wrote {page}")
        assert "Loss of log.jsonl" in page.read_text(encoding="utf-8")
        assert run(capsys, "lm", log(tmp_path), "--html", log(tmp_path)).code == 2


class TestModel:
    def test_texts_are_scored_by_a_model(self, folder: Path, tmp_path: Path, capsys: Any) -> None:
        text, objects = tmp_path / "a.txt", tmp_path / "b.jsonl"
        _ = text.write_text("hello there")
        _ = objects.write_text('{"text": "one", "k": 1}\n{"text": "two", "k": 2}\n')
        options = ("--model", folder, "--window", "8", "--stride", "4", "--batch", "2", "--json")
        ran = run(capsys, "lm", text, objects, *options)
        assert (ran.code, ran.err) == (0, "")
        found = ran.json()
        assert (found["documents"], found["tokens"], found["bytes"]) == (3, 17, 17)
        assert found["sources"] == ["model"]
        assert found["facts"][0].startswith("windows of 8 tokens, the tokenizer's BOS in each; each after the first")
        by = run(capsys, "lm", objects, "--by", "k", *options).json()["by"]["k"]
        assert [part["value"] for part in by] == ["1", "2"]
        page = tmp_path / "page.html"
        assert run(capsys, "lm", text, *options, "--html", page).code == 0
        assert f"Loss of a.txt under {folder.name}" in page.read_text(encoding="utf-8")

    def test_what_is_left_out_is_said(self, folder: Path, tmp_path: Path, capsys: Any) -> None:
        files = [tmp_path / name for name in ("empty.txt", "mark.txt", "plain.txt")]
        for file, data in zip(files, (b"", b"\xef\xbb\xbfHello", b"Hello"), strict=True):
            _ = file.write_bytes(data)
        found = run(capsys, "lm", *files, "--model", folder, "--json").json()
        assert (found["documents"], found["tokens"], found["bytes"]) == (2, 10, 10)
        said = " ".join(found["warnings"])
        assert "1 record without a scored token, left out" in said
        assert "1 record of a text that begins with a byte-order mark, which is left out" in said
        refused = run(capsys, "lm", files[0], "--model", folder)
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert "no scored token in 1 text: they are empty" in refused.err

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--window", "8"], "--window needs --model"),
            (["--text-key", "a"], "--text-key needs --model"),
            (["--model", "nowhere/model"], "crossent does not look up hub names: download the model first"),
            (["--model", "FOLDER", "--window", "100"], "window must be at most 64"),
            (["--model", "FOLDER", "--stride", "0"], "stride must lie between"),
            (["--model", "FOLDER", "--format", "chat"], "--format is for logs"),
            (["--model", "FOLDER", "--by", "lang"], "is a text, which has no 'lang'"),
            (["--model", "FOLDER", "--text-key", "a"], "not JSON"),
        ],
    )
    def test_what_does_not_fit_is_one_line(
        self, folder: Path, tmp_path: Path, capsys: Any, options: list[str], said: str
    ) -> None:
        text = tmp_path / "a.txt"
        _ = text.write_text("hello")
        ran = run(capsys, "lm", text, *(folder if option == "FOLDER" else option for option in options))
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert said in ran.err
