"""The pictures of guide/distillation.md, computed with crossent."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from crossent.torch import divergence
from pictures.drawing import DASHED, INK, MAIN, MUTED, WARM, name_lines, note, picture

V = 40
PEAKS = ((0.65, 11.0), (0.35, 28.0))
"""Shares and places of the two peaks of the teacher."""
SPREAD = 2.2
STARTS = (8.0, 17.0, 30.0)
"""Where a student begins: a divergence may have several best places nearby, and the least of them is wanted."""


class Student(NamedTuple):
    """The best student of one peak: its logits (V), and its divergence from the teacher in nats."""

    logits: Tensor
    nats: float


def bump(place: Any, spread: Any) -> Tensor:
    """Return the logits of one peak over ordered classes."""
    return -(((torch.arange(V, dtype=torch.float64) - place) / spread) ** 2) / 2


def teacher() -> Tensor:
    """Return the logits of two peaks."""
    shares = [share * bump(place, SPREAD).softmax(0) for share, place in PEAKS]
    return torch.stack(shares).sum(0).log()


@cache
def best(kind: Any, beta: float = 0.5) -> Student:
    """Return the student of one peak with the least divergence."""
    options: Any = {"kind": kind, "beta": beta} if kind == "js" else {"kind": kind}
    found: list[Student] = []
    for start in STARTS:
        place, width = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (start, 1.5))
        optimizer = torch.optim.LBFGS([place, width], max_iter=100, line_search_fn="strong_wolfe")

        def loss(place: Tensor = place, width: Tensor = width) -> Tensor:
            return divergence(bump(place, width.exp())[None], teacher()[None], **options)

        def step(optimizer: Any = optimizer, loss: Any = loss) -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        _ = optimizer.step(step)
        found.append(Student(bump(place, width.exp()).detach(), loss().item()))
    return min(found, key=lambda student: student.nats)


@picture("The best student of one peak for a teacher of two: forward spans both, reverse takes the larger one", 3.4)
def directions(figure: Figure) -> None:
    """Draw the teacher, and beside it the best student of each direction."""
    kinds = (
        ("forward", best("forward"), MAIN),
        ("js, β = 0.1", best("js", 0.1), MAIN),
        ("js, β = 0.5", best("js", 0.5), WARM),
        ("reverse", best("reverse"), WARM),
    )
    p = teacher().softmax(0).numpy()
    for axes, (name, student, colour) in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, kinds, strict=True):
        _ = axes.fill_between(range(V), p, color=MUTED, alpha=0.35, linewidth=0)
        _ = axes.plot(range(V), student.logits.softmax(0).numpy(), color=colour)
        _ = axes.set_title(f"{name}: {student.nats:.2f} nats", fontsize=9.0, color=INK)
        _ = axes.set(xticks=[], yticks=[], xlim=(0, V - 1), ylim=(0, 0.21))
    first = figure.axes[0]
    note(first, "teacher", PEAKS[0][1], p.max(), MUTED, xytext=(9, 0), va="center")
    note(first, "student", 20, 0.05, MAIN, xytext=(0, 5), ha="center")
    layout: Any = figure.get_layout_engine()
    layout.set(hspace=0.12, h_pad=0.06)


@picture("Jensen-Shannon divergence over beta, and the same divided by beta times 1 − beta: from forward to reverse")
def shares(figure: Figure) -> None:
    """Draw js over β for one pair, and what it is beside β(1 − β)."""
    beta = np.linspace(0.004, 0.996, 125)
    pair = best("forward").logits[None], teacher()[None]
    js = np.array([divergence(*pair, kind="js", beta=float(b)).item() for b in beta])
    forward, reverse = (divergence(*pair, kind=kind).item() for kind in ("forward", "reverse"))
    left, right = figure.subplots(1, 2)
    _ = left.plot(beta, js, color=MUTED)
    _ = left.set_title("js, nats", fontsize=9.0, color=INK)
    _ = right.plot(beta, js / (beta * (1 - beta)), color=INK)
    _ = right.plot([0], [forward], "o", color=MAIN, markersize=6, clip_on=False)
    _ = right.plot([1], [reverse], "o", color=WARM, markersize=6, clip_on=False)
    note(right, "forward", 0, forward, MAIN, xytext=(8, -13), va="center")
    note(right, "reverse", 1, reverse, WARM, xytext=(-9, -3), ha="right", va="center")
    _ = right.set_title("js / β(1 − β)", fontsize=9.0, color=INK)
    for axes in (left, right):
        _ = axes.set(xlabel="β", xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "½", "1"])
        axes.set_ylim(bottom=0)


@picture("The gradient shrinks with the square of the temperature; times this square it keeps its size")
def temperature(figure: Figure) -> None:
    """Draw the norm of a gradient over the temperature, and τ² times it."""
    axes = figure.add_subplot()
    random = torch.Generator().manual_seed(0)
    student, other = (2 * torch.randn(64, 1000, generator=random, dtype=torch.float64) for _ in range(2))
    tau = np.geomspace(0.5, 32, 25)
    norms = np.array([_norm(student, other, float(t)) for t in tau])
    _ = axes.loglog(tau, norms, color=WARM)
    _ = axes.loglog(tau, norms[-1] * (tau[-1] / tau) ** 2, color=MUTED, linewidth=1.2, linestyle=DASHED)
    _ = axes.loglog(tau, tau**2 * norms, color=MAIN)
    _ = axes.set(xlabel="temperature τ of both", ylabel="norm of the gradient", xlim=(tau[0], tau[-1]))
    powers = [0.5, 1, 2, 4, 8, 16, 32]
    axes.set_xticks(powers, ["½", *(f"{power}" for power in powers[1:])])
    axes.minorticks_off()
    ends = [(norms[-1], "gradient", WARM), (tau[-1] ** 2 * norms[-1], "τ² times it", MAIN)]
    name_lines(axes, ends)
    note(axes, "1/τ²", 4, norms[-1] * (tau[-1] / 4) ** 2, MUTED, xytext=(8, 2))


def _norm(student: Tensor, other: Tensor, tau: float) -> float:
    """Return the norm of the gradient of the mean divergence by the student's logits."""
    z = student.clone().requires_grad_()
    divergence(z, other, temperature=tau).backward()
    assert z.grad is not None
    return z.grad.norm().item()
