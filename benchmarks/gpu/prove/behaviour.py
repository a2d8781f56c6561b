"""What only a GPU can get wrong: bits that differ from run to run, graphs, waiting, large indices; errors of heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.records import Record
from benchmarks.gpu.cases import ErrorCase
from benchmarks.gpu.prove.lab import Lab, verdict
from benchmarks.gpu.trial import errors
from crossent.torch import cross_entropy, linear_cross_entropy

REPEATS = 100
ROUNDED_TWICE, OF_LOSS = 2 * 2.0**-9, 1e-6
"""Errors that are allowed to a head in bfloat16: its gradients of logits and of operands are rounded once each."""


def bits(lab: Lab) -> Iterator[Record]:
    """Yield whether losses and gradients have the same bits at every call."""
    for dtype in (torch.bfloat16, torch.float32):
        logits, label = rows(lab, (lab.pick(32, 3), lab.pick(128256, 4608)), dtype)
        x, weight, target = head_of(lab, (lab.pick(512, 6), lab.pick(128, 8), lab.pick(5003, 67)), dtype)

        def run(arguments: Any = (logits, label, x, weight, target)) -> tuple[Tensor, ...]:
            logits, label, x, weight, target = arguments
            loss = cross_entropy(logits, label)
            linear = linear_cross_entropy(x, weight, target, chunk_bytes=lab.pick(2**22, 2**10))
            return loss, *torch.autograd.grad(loss, logits), linear, *torch.autograd.grad(linear, (x, weight))

        first, done, wrong = run(), 0, 0
        while done < lab.pick(REPEATS, 1) and lab.left > 0:
            wrong += not all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))
            done += 1
        record: Record = {"dtype": str(dtype).removeprefix("torch."), "repeats": done}
        if wrong:
            record |= {"status": "failed", "reason": f"{wrong} of {done} calls gave other bits"}
        elif done == 0:
            record |= {"status": "not started", "reason": "the stage had used up its seconds"}
        yield record


def graphs(lab: Lab) -> Iterator[Record]:
    """Yield whether replayed losses of logits and of a head have the same bits, for other numbers and cotangents."""
    shape = lab.pick(64, 3), lab.pick(50257, 4103)
    logits, label = rows(lab, shape, torch.bfloat16)
    x, weight, target = head_of(lab, (lab.pick(256, 6), lab.pick(64, 8), lab.pick(5003, 67)), torch.bfloat16)

    cotangent = torch.ones((), device=lab.device.device)

    def of_logits() -> tuple[Tensor, ...]:
        loss = cross_entropy(logits, label)
        return loss, *torch.autograd.grad(loss, logits, cotangent)

    def of_head() -> tuple[Tensor, ...]:
        loss = linear_cross_entropy(x, weight, target)
        return loss, *torch.autograd.grad(loss, (x, weight), cotangent)

    for case, call, changed in (("logits", of_logits, logits), ("head", of_head, x)):
        captured = lab.device.captured(call)
        with torch.no_grad():
            _ = changed.copy_(changed.flip(0))
            _ = cotangent.mul_(-0.37)
        _ = captured.replay()
        lab.device.wait()
        kept = [result.detach().clone() for result in captured.results]
        same = all(torch.equal(a, b) for a, b in zip(kept, call(), strict=True))
        record: Record = {"of": case}
        yield record | ({} if same else {"status": "failed", "reason": f"a replayed loss of {case} gave other bits"})


def waiting(lab: Lab) -> Iterator[Record]:
    """Yield that no call waits for the device once its kernels are compiled."""
    logits, label = rows(lab, (lab.pick(128, 3), lab.pick(5003, 67)), torch.float32)
    x, weight, target = head_of(lab, (lab.pick(128, 6), lab.pick(64, 8), lab.pick(5003, 67)), torch.bfloat16)

    def step() -> None:
        cross_entropy(logits, label, label_smoothing=0.1).backward()
        linear_cross_entropy(x, weight, target).backward()
        linear_cross_entropy(x, weight, target, reduction="none").sum().backward()

    step()
    with lab.device.never_waiting():
        step()
    yield {}


def large(lab: Lab) -> Iterator[Record]:
    """Yield the errors of the last row of more than 2³¹ logits."""
    N, V = lab.pick(2**15 + 8, 3), lab.pick(2**16, 4608)
    logits = torch.zeros(N, V, dtype=torch.bfloat16, device=lab.device.device)
    label = torch.full((N,), 7, device=lab.device.device)
    logits[-1, 7] = 5.0
    losses = cross_entropy(logits.requires_grad_(), label, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    ends = logits.detach()[[0, -1]].double()
    exact = functional.cross_entropy(ends, label[:2], reduction="none")
    q = ends.softmax(1)
    q[:, 7] -= 1
    found = {
        "loss": float(((losses.detach()[[0, -1]].double() - exact).abs() / (1e-6 * exact)).max()),
        "gradient": float(((gradient[[0, -1]].double() - q).abs() / (2.0**-8 * q.abs() + 1e-9)).max()),
    }
    yield {"shape": [N, V], "dtype": "bfloat16", **verdict(found)}


def head(lab: Lab, N: int, V: int, dtype: str) -> Iterator[Record]:
    """Yield the errors of a head's loss and gradients beside float64, and those of whoever else computes it."""
    case = ErrorCase("head", "", lab.pick(N, 12), lab.pick(512, 16), lab.pick(V, 70), dtype, parts=(1, 4))
    of = {r["contender"]: r for r in errors(case, lab.device) if r["status"] != "missing"}
    failed = {name: r["reason"] for name, r in of.items() if r["status"] == "failed"}
    measured = {name: r["errors"] for name, r in of.items() if r["status"] == "ok"}
    rival = measured.get("eager", {})
    found = {
        f"{what} of {name}": error / allowed(what, dtype, rival)
        for name, each in measured.items()
        if name.startswith("crossent")
        for what, error in each.items()
    }
    record: Record = {**case.describe(), "errors": measured, **verdict(found)}
    if any(name.startswith("crossent") for name in failed) or not found:
        record |= {"status": "failed", "reason": "; ".join(f"{name}: {why}" for name, why in failed.items())}
    yield record


def allowed(what: str, dtype: str, rival: dict[str, float]) -> float:
    """Return the error that a head's loss or gradient may have; in float32, twice the one of who holds all logits."""
    if what == "loss":
        return OF_LOSS
    return ROUNDED_TWICE if dtype == "bfloat16" else 2 * rival.get(what, 0.0) + 2.0**-22


def rows(lab: Lab, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return logits and class indices."""
    random = torch.Generator(lab.device.device).manual_seed(0)
    logits = torch.randn(shape, generator=random, device=lab.device.device).mul_(3).to(dtype).requires_grad_()
    return logits, torch.randint(shape[1], shape[:1], generator=random, device=lab.device.device)


def head_of(lab: Lab, shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return input and weight of a head, and class indices."""
    N, D, V = shape
    random = torch.Generator(lab.device.device).manual_seed(0)
    x = torch.randn((N, D), generator=random, device=lab.device.device).to(dtype).requires_grad_()
    weight = torch.randn((V, D), generator=random, device=lab.device.device).div_(D**0.5).to(dtype).requires_grad_()
    return x, weight, torch.randint(V, (N,), generator=random, device=lab.device.device)
