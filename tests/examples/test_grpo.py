"""The example of reinforcement learning: with the tiny model, in a process as a user starts it, and its parts alone."""

from __future__ import annotations

import json
import math
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


def grpo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A run of the example as of somebody whose terminal is 100 columns wide."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, FOLDER / "grpo.py", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The output and the results of training the tiny model both ways."""
    out = tmp_path_factory.mktemp("grpo")
    done = grpo("--tiny", "--output", out)
    assert (done.returncode, said(done.stderr)) == (0, "")
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    logits, crossent = found["runs"]
    return SimpleNamespace(printed=done.stdout, options=found["options"], logits=logits, crossent=crossent, out=out)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("grpo")


@pytest.fixture
def untaught(program: Any) -> SimpleNamespace:
    """A policy that knows nothing, and batches of its responses; then it has changed, so that ratios are not 1."""
    options = replace(program.TINY, classes=300)
    _ = torch.manual_seed(1)
    policy = program.Policy(options)
    ids, _ = program.sampled(policy, options, torch.Generator().manual_seed(2))
    batches = {}
    rewards = torch.rand(options.prompts, options.responses, dtype=torch.float64)
    for crossent in (False, True):
        batches[crossent] = program.batch_of(policy, ids, rewards, crossent)
    with torch.no_grad():
        policy.head.add_(0.1 * torch.randn_like(policy.head))
    return SimpleNamespace(options=options, policy=policy, batches=batches, ids=ids, rewards=rewards)


def test_the_reward_rises_from_a_third_both_ways(both: SimpleNamespace):
    assert (both.logits["crossent"], both.crossent["crossent"]) == (False, True)
    for run in (both.logits, both.crossent):
        assert len(run["rewards"]) == both.options["steps"]
        assert run["rewards"][0] == pytest.approx(1 / 3, abs=0.08)
        assert run["rewards"][-1] > 0.7


def test_both_ways_begin_with_the_same_reward_and_loss(both: SimpleNamespace):
    assert both.crossent["rewards"][0] == both.logits["rewards"][0]
    assert both.crossent["losses"][0] == pytest.approx(both.logits["losses"][0], rel=0, abs=1e-5)


def test_both_ways_have_the_same_gradient(program: Any, untaught: SimpleNamespace):
    torch.testing.assert_close(untaught.batches[True].old, untaught.batches[False].old, rtol=0, atol=1e-5)
    found = {}
    for crossent, batch in untaught.batches.items():
        untaught.policy.zero_grad()
        loss = program.loss_of(untaught.policy, batch, crossent)
        loss.backward()
        found[crossent] = [loss.detach(), *(p.grad for p in untaught.policy.parameters())]
    assert abs(found[False][0].item()) > 1e-3
    for ours, theirs in zip(found[True], found[False], strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-8


@pytest.mark.parametrize("crossent", [False, True])
def test_the_loss_is_that_of_the_paper(program: Any, untaught: SimpleNamespace, crossent: bool):
    """In NumPy's float64: the mean over responses of the means over tokens of min(r A, clip(r) A), with its sign."""
    options, batch = untaught.options, untaught.batches[crossent]
    with torch.no_grad():
        hidden = untaught.policy(batch.ids)[:, :-1].double().numpy()
    logits = hidden @ untaught.policy.head.detach().double().numpy().T
    log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = untaught.ids[:, 1:].numpy()
    ratio = np.exp(np.take_along_axis(log_q, labels[..., None], -1)[..., 0] - batch.old.double().numpy())
    rewards = untaught.rewards.numpy()
    centered = rewards - rewards.mean(1, keepdims=True)
    advantage = (centered / rewards.std(1, ddof=1, keepdims=True)).reshape(-1, 1)
    gain = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    assert 0 < (np.clip(ratio, 0.8, 1.2) != ratio).mean() < 1
    assert gain.shape == (options.prompts * options.responses, options.length)
    assert program.loss_of(untaught.policy, batch, crossent).item() == pytest.approx(-gain.mean(1).mean(), abs=1e-5)


def test_a_reward_counts_the_tokens_that_are_three_more(program: Any):
    ids = torch.tensor(
        [[14, 1, 4, 7], [0, 3, 5, 8], [2, 21, 8, 9]]
    )  # of 16 numbers: 21 is none, and none is three more
    assert program.reward_of(ids, 16).tolist() == pytest.approx([1, 2 / 3, 0])


def test_a_lesson_counts_by_one_two_and_three(program: Any):
    steps = program.lesson(program.TINY, torch.Generator().manual_seed(0)).diff() % program.TINY.numbers
    assert sorted(steps.unique().tolist()) == [1, 2, 3]


def test_tokens_are_drawn_as_often_as_they_are_probable(program: Any):
    q, n = torch.tensor([0.5, 0.0, 0.2, 0.3]), 100_000
    found = program.drawn(q.log().expand(n, 4), torch.Generator().manual_seed(0))
    assert found.shape == (n, 1)
    shares = torch.bincount(found.flatten(), minlength=4) / n
    assert shares[1] == 0
    assert all(
        abs(a - b) < 5 * math.sqrt(b * (1 - b) / n) for a, b in zip(shares.tolist(), q.tolist(), strict=True) if b
    )


def test_the_table_holds_what_was_measured(both: SimpleNamespace):
    rows = {line[:28].strip(): line[28:].split() for line in both.printed.splitlines()}
    runs = (both.logits, both.crossent)
    assert rows["mean reward, first step"] == [f"{run['rewards'][0]:.3f}" for run in runs]
    assert rows["mean reward, last step"] == [f"{run['rewards'][-1]:.3f}" for run in runs]
    assert rows["CPU seconds a step: the rest"] == [f"{np.median(run['training']):.2f}" for run in runs]
    if sys.platform == "linux":
        assert rows["peak memory"] == [text for run in runs for text in (f"{run['peak'] / 1e6:.0f}", "MB")]
        assert all(run["peak"] >= run["resting"] > 0 for run in runs)
    else:
        assert rows["peak memory"] == ["not", "measured"] * 2


@pytest.mark.parametrize(
    ("rewards", "same", "words"),
    [([0.25, 0.5, 0.75], 3, "In all 3 steps"), ([0.25, 0.5, 0.8], 2, "the same in the first 2 of 3 steps")],
)
def test_it_says_how_long_the_rewards_are_the_same(program: Any, rewards: list[float], same: int, words: str):
    from rich.console import Console

    seconds = [1.0, 1.0, 1.0]
    runs = [
        program.Run(False, [0.25, 0.5, 0.75], seconds, seconds, [4.0, 2.0, 3.0], 100, 500),
        program.Run(True, rewards, seconds, seconds, seconds, 100, 200),
    ]
    assert program.compared(runs) == (same, 0.25, 3.0)
    console = Console(width=120)
    with console.capture() as printed:
        program.show(console, runs)
    assert words in printed.get()
    assert "0.25 × the memory of the steps, 3.00 × the speed" in printed.get()


def test_rewards_memory_and_time_are_drawn(both: SimpleNamespace):
    from matplotlib.image import imread

    picture = imread(both.out / "rewards.png")
    assert picture.shape == (540, 1350, 4)
    colours = {tuple(pixel) for pixel in (255 * picture[::3, ::3, :3]).round().astype(int).reshape(-1, 3).tolist()}
    assert {(0xE2, 0xB4, 0x88), (0x1F, 0x5F, 0xA8), (0xC9, 0xC9, 0xC9)} <= colours


def test_a_directory_that_cannot_be_is_named_in_one_line():
    done = grpo("--tiny", "--output", __file__)
    assert done.returncode == 2
    assert done.stderr.startswith("grpo: cannot write to ")
    assert "name a directory with --output" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_training_that_dies_is_named_with_what_to_do(program: Any, tmp_path: Path):
    from rich.progress import Progress

    file = tmp_path / "taught.pt"  # the processes find no weights, and say so
    with pytest.raises(
        import_module("smollm2").UsageError, match="the training with all logits ended with exit code 1"
    ):
        program.train_live(Progress(disable=True), program.TINY, file)


def test_weights_with_code_in_them_are_not_read(program: Any, tmp_path: Path):
    import pickle

    class Code:
        def __reduce__(self) -> Any:
            return (print, ("run",))

    file = tmp_path / "taught.pt"
    torch.save({"head": Code()}, file)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        program.train_here(replace(program.TINY, steps=1), False, file, None)
