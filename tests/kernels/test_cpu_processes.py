"""The core in processes that end or fork: a daemon thread in a kernel at the end, forked children."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

DAEMON = """
import sys, threading, time
import numpy as np
from crossent.kernels import cpu
from crossent.spec import Scores, Target
if "torch" in sys.argv:
    import torch
    import crossent.torch
    crossent.torch.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert cpu.threads() == "lent by torch"
z, target, record = np.zeros((64, 32768), np.float32), Target(np.zeros(64, np.int64)), np.zeros((5, 64))
def work():
    while True:
        cpu.row_stats(z, target, Scores(), record)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
"""

FORK = """
import multiprocessing
import torch
import crossent.torch as F
from crossent.kernels import cpu

torch.set_num_threads(2)
z, y = torch.zeros(512, 4096), torch.arange(512)

def gradient():
    logits = z.detach().requires_grad_()
    F.cross_entropy(logits, y, reduction="sum").backward()
    return logits.grad.numpy()

def child(queue, generations):
    assert cpu.threads() != "lent by torch"
    found = gradient()
    assert abs(found[3, 3] - (1 / 4096 - 1)) < 1e-6 and abs(found[3, 4] - 1 / 4096) < 1e-9
    if generations > 1:
        grandchild = context.Process(target=child, args=(queue, generations - 1))
        grandchild.start()
        grandchild.join()
        assert grandchild.exitcode == 0
    queue.put(generations)

context = multiprocessing.get_context("fork")
gradient()
assert cpu.threads() == "lent by torch"
queue = context.Queue()
first = context.Process(target=child, args=(queue, 3))
first.start()
first.join(60)
assert first.exitcode == 0, first.exitcode
print(sorted(queue.get(timeout=5) for _ in range(3)))
"""


def run(program: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("threads", ["own", "torch"])
@pytest.mark.parametrize("time", range(10))
def test_a_daemon_thread_in_a_kernel_lets_the_process_end(time: int, threads: str) -> None:
    assert run(DAEMON, threads) == (0, ""), time


def test_forked_children_compute_with_threads_of_their_own() -> None:
    assert run(FORK) == (0, "[1, 2, 3]\n")
