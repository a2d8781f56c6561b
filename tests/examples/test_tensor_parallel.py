"""The example of a sharded head: two ranks train to the losses of one process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples"


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
