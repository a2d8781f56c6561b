"""The pictures of guide/measure.md."""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np
from matplotlib.figure import Figure

import crossent
from pictures.drawing import DASHED, INK, MAIN, MUTED, WARM, name_lines, note, picture
from pictures.zen import LETTERS, TEXT, counts


@picture("The surprise of a probability: 1 bit at one half, 2 at a quarter, without bound")
def surprise(figure: Figure) -> None:
    """Draw −log₂ q."""
    axes = figure.add_subplot()
    q = np.geomspace(2.0**-7, 1.0, 400)
    _ = axes.plot(q, -np.log2(q), color=MAIN)
    for power, text in (
        (1, "one half: 1 bit"),
        (2, "one in four: 2 bits"),
        (3, "one in eight: 3"),
        (6, "one in 64: 6"),
    ):
        _ = axes.plot([2.0**-power], [power], "o", color=WARM, markersize=5)
        note(axes, text, 2.0**-power, power, xytext=(7, 2))
    _ = axes.set(xlabel="probability q of what happened", ylabel="surprise, bits", xlim=(-0.01, 1.02), ylim=(-0.1, 7.1))


@picture("The entropy of a coin: 0 bits where one side is certain, 1 bit where both are equally probable")
def coin(figure: Figure) -> None:
    """Draw the entropy of a coin, and what a fixed belief of 0.8 costs: a line that touches it."""
    axes = figure.add_subplot()
    p = np.linspace(0.0, 1.0, 401)
    sides = np.stack([p, 1.0 - p], 1)
    _ = axes.plot(p, crossent.entropy(sides, base=2), color=MAIN)
    _ = axes.plot(p, crossent.cross_entropy(sides, [0.8, 0.2], base=2), color=WARM)
    _ = axes.plot([0.8], [crossent.entropy([0.8, 0.2], base=2)], "o", color=INK, markersize=5)
    note(axes, "equal where p = q", 0.8, 0.72, xytext=(-4, -18), ha="right")
    note(axes, "H(p, q), q = (0.8, 0.2)", 0.1, 2.12, WARM, xytext=(6, 4))
    note(axes, "H(p)", 0.13, 0.56, MAIN, xytext=(6, -6))
    _ = axes.set(xlabel="probability p of the first side", ylabel="bits", xlim=(0, 1), ylim=(0, 2.5))


@picture("Cross-entropy while the prediction moves: the entropy, and the divergence above it")
def parts(figure: Figure) -> None:
    """Draw H(p, q) = H(p) + KL(p ‖ q) while q moves from the uniform distribution through p to one class."""
    axes = figure.add_subplot()
    p = np.array([0.7, 0.2, 0.1])
    first = np.linspace(0.12, 0.985, 300)
    q = np.stack([first, (1 - first) * 2 / 3, (1 - first) / 3], 1)  # the others stay two to one, as in p
    floor, cost = float(crossent.entropy(p)), crossent.cross_entropy(p, q)
    _ = axes.fill_between(first, 0, floor, color=MUTED, alpha=0.25, linewidth=0)
    _ = axes.fill_between(first, floor, cost, color=WARM, alpha=0.3, linewidth=0)
    _ = axes.plot(first, cost, color=MAIN)
    _ = axes.axhline(floor, color=INK, linewidth=1.0, linestyle=DASHED)
    _ = axes.plot([0.7], [floor], "o", color=MAIN, markersize=5, clip_on=False)
    note(axes, f"H(p) = {floor:.3f} nats", 0.13, floor / 2, xytext=(0, -3))
    note(axes, "KL(p ‖ q)", 0.16, 0.9, WARM, xytext=(0, 0))
    note(axes, "q = p", 0.7, floor, MAIN, xytext=(0, -13), ha="center")
    _ = axes.set(xlabel="probability that q gives to the first class (p gives 0.7)", ylabel="nats", xlim=(0.12, 0.985))
    _ = axes.set(ylim=(0, 1.9))


@picture(
    "Bits for the second half of the Zen of Python under three models of its first half",
    2.9,
)
def text(figure: Figure) -> None:
    """Draw what three models, which know the first half of a text, spend on its second half."""
    axes = figure.add_subplot()
    half = len(TEXT) // 2
    known, coded = TEXT[:half], TEXT[half:]
    single = counts(known)
    pairs = {a: {b: 1.0 / 8 * single[b] / sum(single.values()) * 100 for b in LETTERS} for a in LETTERS}
    for a, b in pairwise(known):
        pairs[a][b] += 1.0
    costs = {
        "all letters alike": [np.log2(len(LETTERS))] * len(coded),
        "their frequencies": [-np.log2(single[c] / sum(single.values())) for c in coded],
        "from the letter before": [
            -np.log2(pairs[a][c] / sum(pairs[a].values())) for a, c in zip(known[-1] + coded, coded, strict=False)
        ],
    }
    ends = []
    for (name, bits), colour in zip(costs.items(), (MUTED, MAIN, WARM), strict=True):
        line = list(accumulate(bits, initial=0.0))
        _ = axes.plot(line, color=colour)
        ends.append((line[-1], f"{name}\n{line[-1] / len(coded):.2f} bits a letter", colour))
    _ = axes.set(xlabel="letters coded", ylabel="bits", xlim=(0, len(coded)), ylim=(0, None))
    name_lines(axes, ends, gap=0.16)
