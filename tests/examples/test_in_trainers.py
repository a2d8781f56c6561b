"""The examples in frameworks' trainers: the losses with crossent are those without, and nobody reads logits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples"
WATCHED = """
import runpy, sys
from crossent.torch.lazy.logits import LazyLogits

def read(logits):
    raise AssertionError("somebody read the logits")

LazyLogits.numbers = read
sys.path.insert(0, FOLDER)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def losses_of(example: str, tmp_path: Path, launcher: tuple[str, ...], *arguments: str) -> list[list[float]]:
    """What an example prints: for each step the loss with crossent and the loss without."""
    watched = tmp_path / "watched.py"
    _ = watched.write_text(WATCHED.replace("FOLDER", repr(str(FOLDER))), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *launcher, watched, FOLDER / f"{example}.py", *arguments],
        capture_output=True, encoding="utf-8", check=False, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return [[float(x) for x in row[1:]] for row in rows if len(row) == 3 and row[0].isdigit()]


@pytest.mark.parametrize(
    ("example", "launcher", "arguments", "rows"),
    [
        ("in_fabric", (), ("--steps", "11"), 3),
        ("in_lightning", (), ("--batches", "22"), 4),
        ("in_accelerate", TORCHRUN, ("--steps", "11"), 3),
    ],
)
def test_a_trainer_with_crossent_goes_where_it_goes_without(
    example: str, launcher: tuple[str, ...], arguments: tuple[str, ...], rows: int, tmp_path: Path
) -> None:
    losses = losses_of(example, tmp_path, launcher, *arguments)
    assert len(losses) == rows
    assert all(ours == pytest.approx(without, abs=1e-4) for ours, without in losses)
    assert losses[-1][0] < losses[0][0] - 0.3


def test_the_sharded_example_says_how_to_start_it() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    command = [sys.executable, FOLDER / "in_accelerate.py"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    assert done.returncode == 2
    assert "start it with torchrun: torchrun --nproc-per-node 2 examples/in_accelerate.py" in done.stderr
