"""`crossent doctor --model`: its options, its exit codes, and that it is `crossent.torch.explain`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

import crossent.torch as F
from crossent import cli
from tests.absent import run_without

os.environ["HF_HUB_OFFLINE"] = "1"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import torch\n\ndef head():\n    return torch.nn.Linear(8, 53)\n\ndef none():\n    return torch.nn.ReLU()\n"
    _ = (tmp_path / "models_of_a_user.py").write_text(text)
    monkeypatch.chdir(tmp_path)


def test_it_prints_the_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--model", "models_of_a_user:head", "--batch", "3", "--length", "5"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    with torch.device("meta"):
        model = torch.nn.Linear(8, 53)
    assert out == f"{F.explain(model, batch=3, length=5)}\n"


def test_a_model_that_would_train_with_all_logits_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--model", "models_of_a_user:none"]) == 1
    assert "cannot fuse it: no module in ReLU has get_output_embeddings()" in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dtype", "bfloat16", "--device", "cuda", "--json"]
    assert cli.run(["doctor", "--model", "models_of_a_user:head", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dtype"], found["device"], found["batch"], found["fuses"]) == ("bfloat16", "cuda", 8, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nothing"], "crossent: 'nothing' does not exist; --model takes a folder"),
        (["--model", "models_of_a_user:other"], "has no attribute 'other'"),
        (["--json"], "crossent: --batch, --length, --dtype, --device and --json need --model MODEL"),
        (["--length", "7"], "need --model MODEL"),
        (["--model", "models_of_a_user:head", "--batch", "0"], "batch"),
        (["--model", "models_of_a_user:head", "--dtype", "int8"], "dtype"),
        (["--model"], "--model"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_without_torch() -> None:
    done = run_without("torch", "doctor", "--model", "models_of_a_user:head")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "crossent: doctor --model needs torch, which is not installed: pip install 'crossent[torch]'\n"
    )


def test_the_help_says_what_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("--model", "--batch", "--length", "--dtype", "--device", "--json", "imported"):
        assert word in out
