"""The threads that torch lends to the core: their number, their callers, and processes forked off."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import crossent.torch as F
from crossent.kernels import cpu


def everything():
    """Losses and gradients of calls large enough to be shared by threads."""
    rng = torch.Generator().manual_seed(0)
    results = []
    for shape in ((3000, 1000), (20, 30_000), (8, 21, 64, 65)):
        for dtype in (torch.float32, torch.bfloat16):
            z = torch.randn(shape, generator=rng).to(dtype).requires_grad_()
            y = torch.randint(shape[1], (shape[0], *shape[2:]), generator=rng)
            p = torch.rand(shape, generator=rng)
            for target in (y, p):
                loss, stats = F.cross_entropy(z, target, label_smoothing=0.1, return_stats=True)
                results += [loss, stats.lse, stats.entropy, *torch.autograd.grad(loss + stats.entropy.sum(), z)]
    x, t = torch.randn(300_000, generator=rng, requires_grad=True), torch.rand(300_000, generator=rng)
    loss = F.binary_cross_entropy_with_logits(x, t)
    return [*results, loss, *torch.autograd.grad(loss, x)]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything()
        for threads in (2, 3):
            torch.set_num_threads(threads)
            for a, b in zip(alone, everything(), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_threads_are_torch_s_own():
    _ = F.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert "torch" in cpu.threads()


def test_calls_from_many_python_threads():
    from concurrent.futures import ThreadPoolExecutor

    z, y = torch.randn(500, 700), torch.randint(700, (500,))

    def call(k):
        x = (z + k).requires_grad_()
        loss = F.cross_entropy(x, y, label_smoothing=0.1 * (k % 2))
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    want = [call(k) for k in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for (a, b), (c, d) in zip(pool.map(call, [k % 8 for k in range(40)]), want * 5, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


FORK = """
import os
import torch
import crossent.torch as F

torch.set_num_threads(2)
torch.manual_seed(0)
z, y = torch.randn(3000, 2000, requires_grad=True), torch.randint(2000, (3000,))

def compute():
    loss = F.cross_entropy(z, y)
    return loss.item(), torch.autograd.grad(loss, z)[0]

value, grad = compute()
for _ in range(2):
    child = os.fork()
    if child == 0:
        record = F.cross_entropy(z.detach(), y, reduction="none")
        os._exit(0 if abs(record.mean().item() - value) < 1e-5 else 3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    again, same = compute()
    assert again == value and torch.equal(same, grad)
print("survived")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_a_forked_child_computes_after_torch_lent_its_threads():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stdout == "survived\n", (done.returncode, done.stderr[-2000:])
