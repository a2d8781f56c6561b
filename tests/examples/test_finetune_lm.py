"""The fine-tuning example: with the tiny model, in a process as a user starts it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.examples.said import said

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples"
STEPS = 6


def finetune(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A run of the example as of somebody whose terminal is 100 columns wide."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, FOLDER / "finetune_lm.py", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The output and the results of training both ways."""
    out = tmp_path_factory.mktemp("lm")
    sizes = ("--steps", str(STEPS), "--batch", "2", "--length", "64")
    done = finetune("--tiny", *sizes, "--output", out)
    assert (done.returncode, said(done.stderr)) == (0, "")
    without, fused = json.loads((out / "results.json").read_text(encoding="utf-8"))["runs"]
    return SimpleNamespace(printed=done.stdout, without=without, fused=fused, out=out)


def test_crossent_changes_no_loss(both: SimpleNamespace):
    assert (both.without["fused"], both.fused["fused"]) == (False, True)
    assert len(both.fused["losses"]) == STEPS
    assert both.fused["losses"] == pytest.approx(both.without["losses"], rel=0, abs=1e-4)
    for moment in ("before", "after"):
        assert both.fused[moment] == pytest.approx(both.without[moment], rel=0, abs=1e-4)


def test_a_random_model_knows_nothing_and_learns(both: SimpleNamespace):
    assert both.without["before"] == pytest.approx(math.log(257), abs=0.1)
    assert both.without["after"] < both.without["before"] - 0.1


def test_the_table_holds_what_was_measured(both: SimpleNamespace):
    rows = {line[:36].strip(): line[36:].split() for line in both.printed.splitlines()}
    runs = (both.without, both.fused)
    assert rows["held-out loss before, nats per token"[:36]][-2:] == [f"{run['before']:.4f}" for run in runs]
    assert rows["perplexity after"] == [f"{math.exp(run['after']):.2f}" for run in runs]
    assert rows["tokens per second"] == [f"{run['tokens_per_second']:.0f}" for run in runs]
    if sys.platform == "linux":
        assert rows["peak memory"] == [text for run in runs for text in (f"{run['peak'] / 1e6:.0f}", "MB")]
    else:
        assert rows["peak memory"] == ["not", "measured"] * 2


def test_the_losses_are_drawn(both: SimpleNamespace):
    from matplotlib.image import imread

    picture = imread(both.out / "losses.png")
    assert picture.shape == (540, 1350, 4)
    assert len({tuple(pixel) for pixel in picture[::5, ::5].reshape(-1, 4).tolist()}) > 3


def test_one_way_alone_and_the_whole_model(both: SimpleNamespace, tmp_path: Path):
    sizes = ("--steps", "1", "--batch", "2", "--length", "64")
    done = finetune("--tiny", *sizes, "--only", "with", "--train", "all", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["runs"]
    # the same weights and the same first batch, whatever is trained and however many steps there will be
    assert run["losses"] == pytest.approx(both.without["losses"][:1], rel=0, abs=1e-4)
    assert "without crossent" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--model", "nowhere.gguf"), "there is no file nowhere.gguf"),
        (("--tiny", "--output", __file__), "name a directory with --output"),
    ],
)
def test_a_mistake_is_named_in_one_line(arguments: tuple[str, ...], text: str, tmp_path: Path):
    output = () if "--output" in arguments else ("--output", tmp_path)
    done = finetune(*arguments, *output)
    assert done.returncode == 2
    assert done.stderr.startswith("finetune_lm: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_package_is_named_with_its_command(smollm2: Any, monkeypatch: pytest.MonkeyPatch):
    program = import_module("finetune_lm")
    monkeypatch.setattr(program, "find_spec", lambda name: None if name in {"gguf", "rich"} else "there")
    with pytest.raises(smollm2.UsageError, match=r"gguf and rich are not installed: pip install '\.\[examples\]'"):
        program.require("torch", "gguf", "rich")


def test_no_paragraph_is_both_trained_on_and_held_out(smollm2: Any):
    program = import_module("finetune_lm")
    _, tokenizer = smollm2.tiny(0)
    tokens, held_out, prompt = program.split_text(tokenizer)
    known, hidden = (
        {paragraph for topic in tokenizer.decode(part).split("<|endoftext|>") for paragraph in topic.split("\n\n")}
        for part in (tokens, held_out)
    )
    assert (known & hidden) - {""} == set()
    assert 0.05 < len(held_out) / (len(tokens) + len(held_out)) < 0.15
    assert tokenizer.decode(held_out).count(prompt) == 1
