"""The example of distillation: with the tiny teacher, in a process as a user starts it, and its parts alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.examples.said import said

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples"


def distill(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A run of the example as of somebody whose terminal is 100 columns wide."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, FOLDER / "distill.py", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The output and the results of distilling the tiny teacher both ways."""
    out = tmp_path_factory.mktemp("distill")
    done = distill("--tiny", "--output", out)
    assert (done.returncode, said(done.stderr)) == (0, "")
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    logits, crossent = found["runs"]
    return SimpleNamespace(printed=done.stdout, found=found, logits=logits, crossent=crossent, out=out)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("distill")


def operands() -> list[torch.Tensor]:
    """States (B, T, D) and heads of a student and of a wider teacher, in float32."""
    random = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 6), (300, 6), (2, 5, 9), (300, 9)]
    made = [torch.randn(shape, generator=random) for shape in shapes]
    return [x.requires_grad_() for x in made[:2]] + made[2:]


def in_float64(kind: str, states: Any, head: Any, teacher_states: Any, teacher_head: Any) -> float:
    """The divergence by its definition, in NumPy."""
    p, q = (np.exp(x.double().numpy() @ w.double().numpy().T) for x, w in (
        (teacher_states, teacher_head), (states.detach(), head.detach()),
    ))  # fmt: skip
    p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
    m = (p + q) / 2

    def kl(a: Any, b: Any) -> float:
        return (a * np.log(a / b)).sum(-1).mean()

    return {"forward": kl(p, q), "reverse": kl(q, p), "js": (kl(p, m) + kl(q, m)) / 2}[kind]


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_both_ways_are_the_divergence_by_its_definition(program: Any, kind: str):
    wanted = in_float64(kind, *operands())
    found = {}
    for crossent, loss_of in program.LOSSES.items():
        given = operands()
        loss = loss_of(kind, *given)
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
        found[crossent] = torch.autograd.grad(loss, given[:2])
    for ours, theirs in zip(found[True], found[False], strict=True):
        assert theirs.norm() > 0
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_the_student_comes_near_its_teacher_both_ways(both: SimpleNamespace):
    assert (both.logits["crossent"], both.crossent["crossent"]) == (False, True)
    for run in (both.logits, both.crossent):
        assert len(run["losses"]) == both.found["options"]["steps"]
        assert run["after"] < run["before"] / 3
        assert 0 < run["agreement"] < 1


def test_the_losses_of_the_first_steps_agree(program: Any, both: SimpleNamespace):
    assert both.found["comparison"]["difference"] <= program.TOLERANCE
    first = list(zip(both.logits["losses"], both.crossent["losses"], strict=True))[: program.FIRST]
    assert max(abs(a - b) for a, b in first) == both.found["comparison"]["difference"]
    assert "The losses of the first 5 steps agree" in " ".join(both.printed.split())


def test_the_table_holds_what_was_measured(both: SimpleNamespace):
    rows = {line[:34].strip(): line[34:].split() for line in both.printed.splitlines()}
    runs = (both.logits, both.crossent)
    assert rows["held-out divergence before, nats"] == [f"{run['before']:.3f}" for run in runs]
    assert rows["held-out divergence after"] == [f"{run['after']:.3f}" for run in runs]
    assert rows["CPU seconds a step: the loss"] == [f"{np.median(run['loss']):.2f}" for run in runs]
    if sys.platform == "linux":
        assert rows["peak memory"] == [text for run in runs for text in (f"{run['peak'] / 1e6:.0f}", "MB")]
        assert all(run["peak"] >= run["resting"] > 0 for run in runs)
    else:
        assert rows["peak memory"] == ["not", "measured"] * 2


@pytest.mark.parametrize(("last", "words"), [(1.5, "steps agree"), (1.6, "DO NOT AGREE")])
def test_it_says_whether_the_losses_agree(program: Any, last: float, words: str):
    from rich.console import Console

    ones = [1.0, 1.0, 1.0]
    runs = [
        program.Run(False, [3.0, 2.0, 1.5], ones, [4.0, 2.0, 3.0], 3.0, 1.5, 0.5, 100, 500),
        program.Run(True, [3.0, 2.0, last], ones, ones, 3.0, 1.5, 0.5, 100, 200),
    ]
    assert program.compared(runs) == (pytest.approx(last - 1.5), 0.25, 3.0)
    console = Console(width=200)
    with console.capture() as printed:
        program.show(console, replace(program.TINY, steps=3), runs)
    assert words in printed.get()
    assert "0.25 × the memory of the steps, 3.00 × the speed" in printed.get()


def test_a_student_has_the_vocabulary_of_its_teacher_and_depends_on_the_seed(program: Any):
    weights = [
        program.student_of(replace(program.TINY, seed=seed), 257).get_output_embeddings().weight for seed in (0, 0, 1)
    ]
    assert weights[0].shape == (257, program.TINY.features)
    assert bool((weights[0] == weights[1]).all())
    assert not bool((weights[0] == weights[2]).any())


def test_windows_are_pieces_of_the_text(program: Any):
    found = program.windows_of(torch.arange(1000), program.TINY, 3, seed=0)
    assert found.shape == (3, program.TINY.tokens // program.TINY.length, program.TINY.length)
    assert bool((found.diff() == 1).all())
    assert len(found[..., 0].unique()) > 1


def test_divergences_memory_and_time_are_drawn(both: SimpleNamespace):
    from matplotlib.image import imread

    picture = imread(both.out / "divergences.png")
    assert picture.shape == (540, 1350, 4)
    colours = {tuple(pixel) for pixel in (255 * picture[::3, ::3, :3]).round().astype(int).reshape(-1, 3).tolist()}
    assert {(0xE2, 0xB4, 0x88), (0x1F, 0x5F, 0xA8), (0xC9, 0xC9, 0xC9)} <= colours


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", __file__], "name a directory with --output"),
        (["--tokens", "100"], "--tokens 100 is not a whole number of windows; pass a multiple of 64"),
    ],
)
def test_a_mistake_is_named_in_one_line(arguments: list[str], words: str):
    done = distill("--tiny", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("distill: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_training_that_dies_is_named_with_what_to_do(program: Any, tmp_path: Path):
    from rich.progress import Progress

    file = tmp_path / "lessons.pt"  # the processes find no lessons, and say so
    with pytest.raises(
        import_module("smollm2").UsageError, match="the training with all logits ended with exit code 1"
    ):
        program.train_live(Progress(disable=True), program.TINY, file)
