"""The stages of the proof in their order, with the seconds that each may take: five and a quarter minutes in all.

The build of the core comes before them, and has the rest of the six minutes: 40 seconds where each of its large files
has a processor. A stage ends when the limits up to its own have passed, so that what an earlier one leaves over is
there for a later one, and none takes from another.
"""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """A stage: the module that has its `items`, its limit in seconds, and how many processes share its items."""

    name: str
    seconds: float
    about: str
    processes: int = 1


STAGES = (
    Stage("machine", 20, "versions, products, and the first kernels"),
    Stage("correct", 85, "errors beside float64, equal bits, graphs, 2³¹ logits", 4),
    Stage("ceilings", 25, "a copy, and the products of the heads"),
    Stage("logits", 60, "losses of logits, forward and backward"),
    Stage("heads", 100, "losses of linear layers: chunks, phases, memory"),
    Stage("hot", 25, "a profile of the longest kernels"),
)
"""Four processes of `correct` compile and compare at once; whatever is timed has the GPU for itself."""


def named(names: list[str] | None) -> tuple[Stage, ...]:
    """Return the stages of these names, in their order; all without names."""
    return tuple(stage for stage in STAGES if not names or stage.name in names)
